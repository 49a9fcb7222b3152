"""Spoilt HTTP requests by the hundred thousand: 4xx in the one form or, where they mean rows, the exact answer."""

import functools
import io
import json
import logging
import re
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import psutil
import pyarrow as pa
import pytest

from service.rest.app import create_app
from tests.chaos.body_judge import ARROW, NPY, OCTETS, Judge
from tests.chaos.malformed_bodies import Corpus
from tests.chaos.plain_http import Connection
from tests.end_to_end.server_process import ROOT, ServerProcess
from tests.service.quadratic_versions import FEATURES, make_service

SEED = 2026
NUM_CONNECTIONS = 4
PATH = "/models/colours/score"
STATUSES = {"INVALID_ARGUMENT": {400, 405, 413, 415}, "NOT_FOUND": {404}, "OUT_OF_RANGE": {400}}
INSIDE = re.compile(r"Traceback|\.py\b|/usr/|/tmp/|/home/|/app/|site-packages|0x[0-9a-f]{6}|File \"")


class Examiner:
    """Sends spoilt requests and holds every answer against the judge's opinion.

    Args:
        ask: (path, headers, body) -> status, headers by lower-case name, body.
        path: of the route.
        features: names of the model's three features.
        seed: of the requests.
    """

    def __init__(self, ask, path, features, *seed):
        self.ask, self.path, self.seed = ask, path, seed
        self.corpus = Corpus(features, *seed)
        self.judge = Judge(features)
        self.num_answered = self.num_refused = 0

    def examine(self, num_requests, every=1):
        """Send so many; look for the client's data in one of `every` refusals."""
        for number in range(num_requests):
            request = self.corpus.request()
            target = f"{self.path}?{request.query}" if request.query else self.path
            status, headers, body = self.ask(target, request.headers, request.body)
            try:
                rows, names = self.judge.rows(request)
            except ValueError:
                rows = names = None
            where = functools.partial(_describe, number, self.seed, request, status, body)
            if status == 200:
                assert rows is not None, where()
                self.check_answer(rows, names, headers, body, where)
                self.num_answered += 1
            else:
                code = self.check_refusal(request, status, body, where, is_searched=number % every == 0)
                assert rows is None or code == "OUT_OF_RANGE" or not self.judge.is_sure, where()
                self.num_refused += 1

    def check_answer(self, rows, names, headers, body, where):
        """The same rows as bare float32, asked for in the same outputs, must have the very same bits."""
        table = read(headers["content-type"], body, names)
        plain = {"Content-Type": OCTETS, "Accept": OCTETS}
        status, _, expected = self.ask(f"{self.path}?outputs={','.join(names)}", plain, rows.tobytes())
        assert (200, expected) == (status, table.tobytes()), where()

    def check_refusal(self, request, status, body, where, *, is_searched):
        """A refusal has the contract's form, and tells nothing of us and little of the client."""
        error = json.loads(body)["error"]
        assert {"code", "message", "request_id"} == set(error), where()
        assert status in STATUSES.get(error["code"], ()), where()
        message = error["message"]
        assert 20 < len(message) < 300, where()
        inside = INSIDE.search(message)
        assert inside is None or inside[0] in request.data(), where()  # a column may be called 0x11e400
        if is_searched:
            sent = request.data()
            assert [] == [message[i : i + 41] for i in range(len(message) - 40) if message[i : i + 41] in sent], where()
        return error["code"]


def _describe(number, seed, request, status, body):
    return f"request {number} of seed {seed}: {request}, answered {status} {body[:300]!r}"


def read(kind, body, names):
    """Return an answer of any form as the table of float32 that bare octets would be."""
    if kind == OCTETS:
        return np.frombuffer(body, "<f4")
    if kind == NPY:
        return np.load(io.BytesIO(body), allow_pickle=False)
    if kind == ARROW:
        return read_arrow(body, names)
    document = json.loads(body)
    assert {"model", "version", *names} == set(document)
    columns = [np.float32(document[name]).reshape(len(document[name]), -1 if document[name] else 1) for name in names]
    return np.hstack(columns) if document[names[0]] else np.empty(0, np.float32)


def read_arrow(body, names):
    """Return an Arrow stream as that table."""
    table = pa.ipc.open_stream(body).read_all()
    assert names == table.column_names
    values = [table[name].combine_chunks() for name in names]
    flat = [each.flatten() if pa.types.is_fixed_size_list(each.type) else each for each in values]
    if not len(table):
        return np.empty(0, np.float32)
    return np.hstack([each.to_numpy().reshape(len(table), -1) for each in flat])


def test_spoilt_requests_are_refused_or_answered_exactly():
    """A thousand through the application itself: none is a defect, and what means rows is answered with their bits."""
    service = make_service()
    service.publish("m", 1)
    client = create_app(service.scorer, service.registry, service.metrics, service.settings).test_client()

    def ask(path, headers, body):
        response = client.post(path, data=body, headers=headers)
        return response.status_code, {name.lower(): value for name, value in response.headers.items()}, response.data

    examiner = Examiner(ask, "/models/m/score", FEATURES, SEED)
    examiner.examine(1200)
    assert 100 < examiner.num_answered < 600 < examiner.num_refused


def test_examiner_notices_a_wrong_answer_and_one_that_tells_too_much():
    """Other bits, an answer to nonsense, a 500, a path or the client's data in a message: each fails it."""
    request = Corpus(FEATURES, 1).outside()
    refusal = {"code": "INVALID_ARGUMENT", "message": "x" * 30, "request_id": "1"}
    answers = [
        (200, {"content-type": OCTETS}, b"\0\0\0\0"),
        (500, {}, json.dumps({"error": refusal | {"code": "INTERNAL"}}).encode()),
        (400, {}, json.dumps({"error": refusal | {"message": "in /usr/lib/python3 something failed"}}).encode()),
        (
            400,
            {},
            json.dumps({"error": refusal | {"message": f"received {request.body.decode('latin-1')[:60]}"}}).encode(),
        ),
        (400, {}, json.dumps({"error": refusal}).encode()),
    ]
    for answer in answers:
        with pytest.raises(AssertionError):
            Examiner(lambda *_request, answer=answer: answer, "/", FEATURES, 1).examine(200)


def examine_on_connections(address, name, num_requests):
    """Let examiners share so many requests, each on a connection of its own; return also how many."""

    def run(seed):
        with Connection(address) as connection:
            examiner = Examiner(connection.ask, PATH, ("red", "green", "blue"), *seed)
            examiner.examine(num_requests // NUM_CONNECTIONS, every=8)
            return examiner, connection.num_opened

    with ThreadPoolExecutor(NUM_CONNECTIONS) as pool:
        futures = [pool.submit(run, (SEED, name, number)) for number in range(NUM_CONNECTIONS)]
        examiners, num_opened = zip(*(future.result() for future in futures), strict=True)
    return examiners, sum(num_opened)


def ask_plainly(address):
    """Return status and bits of the answer to two good rows."""
    rows = np.float32([[248, 249, 254], [0, 0.5, 1]])
    with Connection(address) as connection:
        status, _, body = connection.ask(PATH, {"Content-Type": OCTETS, "Accept": OCTETS}, rows.tobytes())
        return status, body


@pytest.mark.chaos
@pytest.mark.timeout(900)
def test_hundred_thousand_spoilt_requests_harm_nobody(wait_until, record_property):
    """Over sockets, on connections kept alive: no 5xx, no crash, memory drifts by less than 20 MiB, bits stay."""
    server = ServerProcess(ROOT / "models")
    try:
        wait_until(server.is_ready, 120.0)
        address = server.address("rest")
        process = psutil.Process(server.process.pid)
        before = ask_plainly(address)
        examine_on_connections(address, "warm", 8000)  # caches and pools reach their size
        rss = process.memory_info().rss
        started = time.monotonic()
        examiners, num_opened = examine_on_connections(address, "full", 100_000)
        took = time.monotonic() - started
        drift_mib = (process.memory_info().rss - rss) / (1 << 20)
        assert before == ask_plainly(address)
        assert server.process.poll() is None
        assert [] == server.events("request failed")
    finally:
        server.kill()
    figures = {
        "refused": sum(examiner.num_refused for examiner in examiners),
        "answered exactly": sum(examiner.num_answered for examiner in examiners),
        "seconds": round(took, 1),
        "drift MiB": round(drift_mib, 1),
        "connections": num_opened,
    }
    record_property("malformed bodies", figures)
    logging.getLogger(__name__).warning("malformed bodies: %s", figures)
    assert 200 == before[0]
    assert 100_000 == figures["refused"] + figures["answered exactly"]
    assert figures["answered exactly"] > 5000
    assert drift_mib < 20
