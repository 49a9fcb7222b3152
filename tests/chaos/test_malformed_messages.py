"""Spoilt PredictRequests by the hundred thousand: refused as the caller's fault or, where they mean rows, exact."""

import functools
import logging
import re
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import psutil
import pytest

from service.protos import tensorflow_serving as protos
from tests.chaos.body_judge import OCTETS
from tests.chaos.malformed_messages import MeaninglessError, MessageCorpus, bombs, filled, judge, named
from tests.chaos.plain_http import Connection
from tests.end_to_end.server_process import ROOT, ServerProcess
from tests.service.quadratic_servers import serve
from tests.service.quadratic_versions import make_service

SEED = 2026
NUM_CHANNELS = 4
SECONDS = 30.0
PREDICT = "/tensorflow.serving.PredictionService/Predict"
REFUSALS = {"INVALID_ARGUMENT", "NOT_FOUND", "FAILED_PRECONDITION", "UNIMPLEMENTED", "OUT_OF_RANGE"}
INSIDE = re.compile(r"Traceback|\.py\b|/usr/|/tmp/|/home/|/app/|site-packages|0x[0-9a-f]{6}|File \"")


class Examiner:
    """Sends spoilt messages and holds every answer against the judge's opinion.

    Args:
        channel: to the server.
        expect: (rows, names of outputs) -> the table of float32 that is right, score before gradient.
        model: the model's name.
        seed: of the messages.
    """

    def __init__(self, channel, expect, model, *seed):
        self.predict = channel.unary_unary(PREDICT)
        self.expect, self.model, self.seed = expect, model, seed
        self.corpus = MessageCorpus(model, *seed)
        self.num_answered = 0
        self.refusals = {}

    def examine(self, num_messages):
        """Send so many."""
        for number in range(num_messages):
            data = self.corpus.message()
            where = functools.partial(self.describe, number, data)
            try:
                answer = self.predict(data, timeout=SECONDS)
            except grpc.RpcError as error:
                self.check_refusal(data, error, where)
            else:
                self.check_answer(data, answer, where)

    def describe(self, number, data):
        """Return which message it is."""
        return f"message {number} of seed {self.seed}: {data[:1000]!r}"

    def check_refusal(self, data, error, where):
        """It has one of the codes that say that the caller must do something else, and tells little of the client."""
        code, message = error.code().name, error.details()
        assert code in REFUSALS, (code, message, where())
        assert INSIDE.search(message) is None, (message, where())
        assert len(message) < 400, (message, where())
        sent = data.decode("latin-1") + "\n" + data.decode("utf-8", "replace")
        found = [message[i : i + 41] for i in range(len(message) - 40) if message[i : i + 41] in sent]
        assert [] == found, (message, where())
        self.refusals[code] = self.refusals.get(code, 0) + 1
        if code != "OUT_OF_RANGE":
            with pytest.raises(MeaninglessError):
                judge(data, self.model)

    def check_answer(self, data, answer, where):
        """It has the bits that the rows have when they are sent plainly."""
        try:
            rows, names = judge(data, self.model)
        except MeaninglessError as error:
            raise AssertionError(("answered", where())) from error
        outputs = protos.PredictResponse.FromString(answer).outputs
        assert set(names) == set(outputs), where()
        columns = [
            np.array(outputs[name].float_val, np.float32).reshape(len(rows), -1 if len(rows) else 1) for name in names
        ]
        assert self.expect(rows, names).tobytes() == np.hstack(columns).tobytes(), where()
        self.num_answered += 1


def closed_form(rows, names):
    """Return 1/2 |x|^2 and x, in float32."""
    with np.errstate(over="ignore"):
        score = np.float32(0.5) * np.square(rows).sum(axis=1, dtype=np.float32)
    return np.hstack([score[:, None] if name == "score" else rows for name in names])


def test_spoilt_messages_are_refused_or_answered_exactly():
    """A thousand on a channel: none is a defect, and what means rows is answered with their bits."""
    service = make_service()
    service.publish("m", 1)
    with serve(service) as channel:
        examiner = Examiner(channel, closed_form, "m", SEED)
        examiner.examine(1500)
    assert 100 < examiner.num_answered < 700
    assert {"INVALID_ARGUMENT", "NOT_FOUND", "FAILED_PRECONDITION", "UNIMPLEMENTED"}.issubset(examiner.refusals)


@pytest.mark.parametrize("number", range(len(bombs("m"))))
def test_bomb_in_a_message_is_no_rows_to_the_judge(number):
    """The named cases are what they should be: every one of them means nothing."""
    with pytest.raises(MeaninglessError):
        judge(bombs("m")[number], "m")


def test_judge_reads_rows_in_every_encoding():
    """The judge is no mere refuser: values, content and one value for all mean the rows that they are."""
    rows = np.float32([[1, 2, 3], [-1, 0.5, 0]])
    messages = [
        filled(named("m"), rows),
        filled(named("m"), rows, 2),
        filled(named("m"), rows, float_val=rows.ravel().tolist()),
        filled(named("m"), rows, 2, double_val=rows.ravel().tolist()),
    ]
    for message in messages:
        np.testing.assert_array_equal(rows, judge(message.SerializeToString(), "m")[0])
    splat = filled(named("m"), rows, float_val=[2.0]).SerializeToString()
    assert [[2.0] * 3] * 2 == judge(splat, "m")[0].tolist()


def examine_on_channels(server, name, num_messages):
    """Let examiners share so many messages, each on a channel of its own, and ask by REST for what is right."""

    def run(seed):
        with Connection(server.address("rest")) as connection:

            def expect(rows, names):
                path = f"/models/colours/score?outputs={','.join(names)}"
                status, _, body = connection.ask(path, {"Content-Type": OCTETS, "Accept": OCTETS}, rows.tobytes())
                assert status == 200
                return np.frombuffer(body, "<f4")

            options = [("grpc.use_local_subchannel_pool", 1)]
            with grpc.insecure_channel(server.address("grpc"), options) as channel:
                examiner = Examiner(channel, expect, "colours", *seed)
                examiner.examine(num_messages // NUM_CHANNELS)
                return examiner

    with ThreadPoolExecutor(NUM_CHANNELS) as pool:
        futures = [pool.submit(run, (SEED, name, number)) for number in range(NUM_CHANNELS)]
        return [future.result() for future in futures]


@pytest.mark.chaos
@pytest.mark.timeout(900)
def test_hundred_thousand_spoilt_messages_harm_nobody(wait_until, record_property):
    """Over sockets: no INTERNAL, no UNKNOWN, no crash, memory drifts by less than 20 MiB, bits stay."""
    server = ServerProcess(ROOT / "models")
    try:
        wait_until(server.is_ready, 120.0)
        process = psutil.Process(server.process.pid)
        good = filled(named("colours"), np.float32([[248, 249, 254], [0, 0.5, 1]])).SerializeToString()
        with grpc.insecure_channel(server.address("grpc")) as channel:
            predict = channel.unary_unary(PREDICT)
            before = protos.PredictResponse.FromString(predict(good, timeout=SECONDS))
            examine_on_channels(server, "warm", 8000)  # caches and pools reach their size
            rss = process.memory_info().rss
            started = time.monotonic()
            examiners = examine_on_channels(server, "full", 100_000)
            took = time.monotonic() - started
            drift_mib = (process.memory_info().rss - rss) / (1 << 20)
            assert before == protos.PredictResponse.FromString(predict(good, timeout=SECONDS))
        assert server.process.poll() is None
        assert [] == server.events("request failed")
    finally:
        server.kill()
    codes = {code for examiner in examiners for code in examiner.refusals}
    figures = {
        "refused": {code: sum(examiner.refusals.get(code, 0) for examiner in examiners) for code in sorted(codes)},
        "answered exactly": sum(examiner.num_answered for examiner in examiners),
        "seconds": round(took, 1),
        "drift MiB": round(drift_mib, 1),
    }
    record_property("malformed messages", figures)
    logging.getLogger(__name__).warning("malformed messages: %s", figures)
    assert 100_000 == sum(figures["refused"].values()) + figures["answered exactly"]
    assert figures["answered exactly"] > 5000
    assert drift_mib < 20
