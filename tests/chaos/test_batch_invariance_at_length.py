"""Bits that never change, asked of real servers: 10,000 compositions for each shipped model on each engine.

A composition is one request: rows drawn from a pool, so many, in such an order, by one protocol, for one set of
outputs. Half of them are sent alone, one after another; the other half by clients at once, whose requests share
batches. Three server processes one after another answer a third each, and every answer is held to the bits that each
row had by itself in the first. The eight pairs of body and outputs take turns: each has an eighth of the lone requests
and of the others, in each process.
The short form, without servers, is `tests/contract/test_batch_invariance.py`.
"""

import collections
import functools
import http.client
import itertools
import json
import re
import shutil
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import orjson
import pyarrow as pa
import pytest

from tests.end_to_end.clients import predict, predict_request
from tests.end_to_end.server_process import ROOT, ServerProcess

MODELS = ("tumours", "colours")
PAIRS = tuple(itertools.product(("json", "octet-stream", "arrow", "grpc"), (("score",), ("score", "gradient"))))
POOL_ROWS = 256
NUM_COMPOSITIONS = 10_000
NUM_PROCESSES = 3
NUM_CLIENTS = 16
SECONDS = 60.0
SIZES = np.array([1, 1, 1, 2, 3, 4, 4, 5, 7, 8, 8, 13, 16, 17, 32, 33, 64, 65, 128, 200, 256])
"""Rows of a request; a lone one of exactly a tile's size is computed in that one tile."""


def draw_pool(model):
    """Return rows of many scales around the probe's mean, most of them as the data are."""
    with np.load(ROOT / "models" / model / "1" / "probe.npz") as probe:
        data = probe["x"]
    rng = np.random.default_rng(41)
    scales = 10.0 ** rng.choice([-2.0, 0.0, 0.0, 0.0, 1.0], (POOL_ROWS, 1))
    return (data.mean(axis=0) + data.std(axis=0) * scales * rng.standard_normal((POOL_ROWS, data.shape[1]))).astype(
        np.float32
    )


@functools.lru_cache(maxsize=64)
def around_rows(shape):
    """Return what pyarrow writes before and behind the numbers of rows: clients have little time."""
    rows = np.ones(shape, np.float32)
    column = pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), shape[1])
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, pa.schema([("x", column.type)])) as writer:
        writer.write_batch(pa.record_batch([column], names=["x"]))
    before, numbers, behind = sink.getvalue().to_pybytes().partition(rows.tobytes())
    assert numbers
    return before, behind


def write_arrow(rows):
    """Return rows as an Arrow stream of lists."""
    return rows.tobytes().join(around_rows(rows.shape))


def read_arrow(data):
    """Return the columns of an Arrow stream of one batch, the gradient's lists as flat numbers."""
    batch = pa.ipc.open_stream(data).read_next_batch()
    columns = zip(batch.schema.names, batch.columns, strict=True)
    return {name: (each.flatten() if name == "gradient" else each).to_numpy() for name, each in columns}


class Asker:
    """One connection of each protocol to a server."""

    def __init__(self, server):
        host, _, port = server.address("rest").rpartition(":")
        self.connection = http.client.HTTPConnection(host, int(port), timeout=SECONDS)
        self.channel = grpc.insecure_channel(server.address("grpc"), [("grpc.use_local_subchannel_pool", 1)])
        self.predict = predict(self.channel)

    def close(self):
        """Close both."""
        self.connection.close()
        self.channel.close()

    def ask(self, model, rows, protocol, outputs):
        """Return output name -> float32 array of the rows' answers."""
        if protocol == "grpc":
            request = predict_request(model, rows)
            request.output_filter.extend(outputs)
            tensors = self.predict(request, timeout=SECONDS).outputs
            answer = {name: np.array(tensor.float_val, np.float32) for name, tensor in tensors.items()}
        elif protocol == "json":
            document = {"instances": rows.astype(float).tolist(), "outputs": outputs}
            received = orjson.loads(self._post(model, "application/json", orjson.dumps(document)))
            answer = {name: np.array(received[name], np.float32) for name in outputs}
            assert set(outputs) == received.keys() - {"model", "version"}
        elif protocol == "arrow":
            query = "?outputs=" + ",".join(outputs)
            answer = read_arrow(self._post(model, "application/vnd.apache.arrow.stream", write_arrow(rows), query))
            assert set(outputs) == answer.keys()
        else:
            data = self._post(model, "application/octet-stream", rows.tobytes(), "?outputs=" + ",".join(outputs))
            columns = np.frombuffer(data, "<f4").reshape(len(rows), -1)
            answer = {"score": columns[:, 0], "gradient": columns[:, 1:]}
            assert (1 if outputs == ("score",) else 1 + rows.shape[1]) == columns.shape[1]
        shapes = {"score": (len(rows),), "gradient": rows.shape}
        return {name: np.ascontiguousarray(answer[name]).reshape(shapes[name]) for name in outputs}

    def _post(self, model, kind, body, query=""):
        headers = {"Content-Type": kind, "Accept": kind}
        self.connection.request("POST", f"/models/{model}/score{query}", body, headers)
        response = self.connection.getresponse()
        data = response.read()
        assert 200 == response.status, data[:200]
        return data


class Ledger:
    """The reference bits of a model's pool, and what was counted of the answers held to them."""

    def __init__(self, model):
        self.model = model
        self.pool = draw_pool(model)
        self.reference = {}
        self.differing = 0
        self.num_rows = 0
        self.shares = collections.Counter()
        self.lone_sizes = collections.Counter()

    def record(self, asker):
        """Take each row's bits from a request of that row alone."""
        answers = [asker.ask(self.model, self.pool[i : i + 1], "octet-stream", PAIRS[1][1]) for i in range(POOL_ROWS)]
        self.reference = {name: np.concatenate([answer[name] for answer in answers]) for name in PAIRS[1][1]}

    def count_differing(self, chosen, answer):
        """Return how many rows of an answer have another bit anywhere than their reference."""
        differs = np.zeros(len(chosen), np.bool_)
        for name, values in answer.items():
            expected = self.reference[name][chosen].view(np.uint32)
            differs |= (expected != values.view(np.uint32)).reshape(len(chosen), -1).any(axis=1)
        return int(differs.sum())

    def compose(self, asker, number):
        """Send composition `number` and return its pair, size and number of differing rows."""
        rng = np.random.default_rng(number)
        chosen = rng.integers(0, POOL_ROWS, rng.choice(SIZES))
        pair = PAIRS[number % len(PAIRS)]
        answer = asker.ask(self.model, self.pool[chosen], *pair)
        return pair, len(chosen), self.count_differing(chosen, answer)

    def note(self, results, place):
        """Count what the compositions of a process gave, "alone" or "at once"."""
        for pair, size, differing in results:
            self.shares[(*place, pair)] += 1
            self.num_rows += size
            self.differing += differing
            self.lone_sizes[size] += place[1] == "alone"


def compose_at_once(ledger, askers, numbers):
    """Send compositions by as many clients as there are askers; return what each gave."""

    def work(asker, mine):
        return [ledger.compose(asker, number) for number in mine]

    with ThreadPoolExecutor(len(askers)) as pool:
        parts = pool.map(work, askers, [numbers[index :: len(askers)] for index in range(len(askers))])
        return [result for part in parts for result in part]


def tile_rows(server, model):
    """Return the sizes of tiles that the server says it uses for a model."""
    models = json.loads(server.get("/models")[1])["models"]
    return next(status["versions"][0]["tile_rows"] for status in models if status["name"] == model)


def num_batches(server, model):
    """Return how many batches the server has computed for a model."""
    text = server.get("/metrics")[1].decode()
    lines = re.findall(rf'^convex_batch_rows_count{{[^}}]*model="{model}"[^}}]*}} ([0-9.e+]+)$', text, re.MULTILINE)
    return sum(map(float, lines))


def test_ledger_counts_every_row_with_another_bit():
    """One last bit of a score, one of a gradient's entry: two rows of three differ; none where nothing was changed."""
    ledger = Ledger("colours")
    ledger.reference = {"score": ledger.pool[:, 0].copy(), "gradient": ledger.pool.copy()}
    chosen = np.array([7, 7, 200])
    answer = {name: values[chosen] for name, values in ledger.reference.items()}
    assert 0 == ledger.count_differing(chosen, answer)
    answer["score"].view(np.uint32)[1] ^= 1
    answer["gradient"].view(np.uint32)[2, 0] ^= 1
    assert 2 == ledger.count_differing(chosen, answer)


@pytest.mark.chaos
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("engine", ["program", "tensorflow"])
def test_no_row_differs_by_a_bit_whatever_it_is_computed_with(engine, tmp_path, wait_until, record_property, capsys):
    """10,000 compositions a model, three processes, two protocols, four bodies, two sets of outputs: the same bits."""
    for model in MODELS:
        shutil.copytree(ROOT / "models" / model / "1", tmp_path / model / "1")
    ledgers = [Ledger(model) for model in MODELS]
    ladders = collections.defaultdict(set)
    num_shared_batches = num_shared_requests = 0
    for process, numbers in enumerate(np.array_split(np.arange(NUM_COMPOSITIONS), NUM_PROCESSES)):
        lone, shared = np.array_split(numbers, 2)
        server = ServerProcess(tmp_path, "--engine", engine)
        try:
            wait_until(server.is_ready, SECONDS)
            askers = [Asker(server) for _ in range(NUM_CLIENTS)]
            for ledger in ledgers:
                ladders[ledger.model].add(tuple(tile_rows(server, ledger.model)))
                if process == 0:
                    ledger.record(askers[0])
                ledger.note(compose_at_once(ledger, askers[:1], lone), (process, "alone"))
                before = num_batches(server, ledger.model)
                ledger.note(compose_at_once(ledger, askers, shared), (process, "at once"))
                num_shared_batches += num_batches(server, ledger.model) - before
                num_shared_requests += len(shared)
            for asker in askers:
                asker.close()
            assert 0 == server.terminate()
        finally:
            server.kill()
    for ledger in ledgers:
        (ladder,) = ladders[ledger.model]  # the same in each process
        used = sorted(set(ladder) & set(ledger.lone_sizes))
        figures = f"{NUM_COMPOSITIONS} compositions, {ledger.num_rows} rows, {ledger.differing} differ; tiles {used}"
        record_property(f"{engine} {ledger.model}", figures)
        with capsys.disabled():
            print(f"\n{engine} {ledger.model}: {figures}")  # noqa: T201  (for who runs it)
        assert 0 == ledger.differing
        assert 3 <= len(used)
        assert NUM_COMPOSITIONS == ledger.shares.total()
        places = itertools.product(range(NUM_PROCESSES), ("alone", "at once"), PAIRS)
        assert NUM_COMPOSITIONS // 6 // len(PAIRS) - 1 <= min(ledger.shares[*place] for place in places)
        assert POOL_ROWS == len(np.unique(ledger.reference["score"]))
    assert num_shared_batches < 0.9 * num_shared_requests  # or clients at once would show nothing
