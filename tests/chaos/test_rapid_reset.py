"""Calls that are reset as soon as they are begun (CVE-2023-44487): nobody else notices, health is never refused."""

import itertools
import logging
import threading
import time

import grpc
import numpy as np
import psutil
import pytest

from service.rpc.server import create_server
from tests.chaos.raw_http2 import CANCEL, DATA, END_STREAM, RST_STREAM, Http2Client
from tests.end_to_end.clients import predict, predict_request, read_response
from tests.end_to_end.server_process import ROOT, ServerProcess
from tests.service.quadratic_versions import make_service

PREDICT = "/tensorflow.serving.PredictionService/Predict"
CHECK = "/grpc.health.v1.Health/Check"
SECONDS = 20.0
GROUP = 50
ROWS = np.float32([[1, 2, 3]])


class Probe(threading.Thread):
    """Asks Health and Predict in turn, each answer timed, until told to stop."""

    def __init__(self, address, model, rows):
        super().__init__(name="probe")
        self.channel = grpc.insecure_channel(address)
        self.check = self.channel.unary_unary(CHECK)
        self.predict = predict(self.channel)
        self.request, self.rows = predict_request(model, rows), rows
        self.stopping = threading.Event()
        self.failures = []
        self.seconds = {"health": [], "predict": []}
        self.answers = set()

    def run(self):
        """Ask every few milliseconds."""
        while not self.stopping.wait(0.005):
            for name, ask in (("health", self.ask_health), ("predict", self.ask_predict)):
                started = time.monotonic()
                try:
                    ask()
                except grpc.RpcError as error:
                    self.failures.append((name, error.code().name, error.details()))
                self.seconds[name].append(time.monotonic() - started)
        self.channel.close()

    def ask_health(self):
        """Check the whole server; anything but SERVING is a failure of the test."""
        assert b"\x08\x01" == self.check(b"", timeout=SECONDS)

    def ask_predict(self):
        """Ask for one row and keep the bits of the answer."""
        version, score, gradient = read_response(self.predict(self.request, timeout=SECONDS), self.rows)
        self.answers.add((version, score.tobytes(), gradient.tobytes()))


def flood(address, num_resets, pause_seconds=0.0, group=GROUP):
    """Open and reset so many Predict calls, headers alone, half a message, a whole one; return the connections."""
    clock = threading.Event()
    half = (DATA, 0, b"\0\0\0\1\0abc")
    num_connections, sent = 0, 0
    bodies = itertools.cycle([(), (half,), ((DATA, END_STREAM, b"\0\0\0\0\0"),)])
    while sent < num_resets:
        num_connections += 1
        with Http2Client(address) as client:
            try:
                while sent < num_resets and not client.went_away:
                    client.send(
                        b"".join(client.open(PREDICT, *next(bodies), (RST_STREAM, 0, CANCEL)) for _ in range(group))
                    )
                    sent += group
                    clock.wait(pause_seconds)
            except (ConnectionError, BrokenPipeError):
                continue
    return num_connections


def test_calls_that_are_reset_at_once_disturb_nobody(wait_until):
    """A thousand resets: every health check is answered, calls are answered or refused, none of any is left open."""
    service = make_service()
    service.publish("m", 1)
    service.registry.scanned()
    server = create_server(service.scorer, service.registry, service.metrics, service.settings)
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    probe = Probe(address, "m", ROWS)
    probe.start()
    try:
        wait_until(lambda: probe.answers)
        flood(address, 1000)
        num_probes = len(probe.seconds["health"])
        wait_until(lambda: len(probe.seconds["health"]) > num_probes + 2)
    finally:
        probe.stopping.set()
        probe.join(SECONDS)
        pool = server._state.thread_pool
        stopped = server.stop(None)
        assert stopped.wait(SECONDS)
        service.registry.close()
    assert [] == [failure for failure in probe.failures if failure[:2] != ("predict", "RESOURCE_EXHAUSTED")]
    assert {(1, np.float32([7]).tobytes(), ROWS.tobytes())} == probe.answers
    assert 0 == pool._crowd.num_requests


def percentile_ms(seconds, percent):
    """Return a percentile in milliseconds."""
    return round(1000 * float(np.percentile(seconds, percent)), 1)


@pytest.mark.chaos
@pytest.mark.timeout(600)
@pytest.mark.parametrize("pause_seconds", [0.0, 0.0125], ids=["as fast as it goes", "within five seconds"])
def test_twenty_thousand_resets_harm_no_probe(wait_until, record_property, pause_seconds):
    """In a server of its own: no health check is refused, memory grows by less than 16 MiB, answers keep their bits."""
    server = ServerProcess(ROOT / "models")
    try:
        wait_until(server.is_ready, 120.0)
        rows = np.arange(30, dtype=np.float32).reshape(1, 30)
        probe = Probe(server.address("grpc"), "tumours", rows)
        probe.start()
        wait_until(lambda: len(probe.seconds["health"]) >= 200, 60.0)
        calm = {name: percentile_ms(seconds, 99) for name, seconds in probe.seconds.items()}
        flood(server.address("grpc"), 2000)  # what a first flood makes once is kept
        for seconds in probe.seconds.values():
            seconds.clear()
        process = psutil.Process(server.process.pid)
        before = process.memory_info().rss
        started = time.monotonic()
        num_connections = flood(server.address("grpc"), 20_000, pause_seconds)
        took = time.monotonic() - started
        probe.stopping.set()
        probe.join(SECONDS)
        grown_mib = (process.memory_info().rss - before) / (1 << 20)
    finally:
        server.kill()
    figures = {
        "resets": 20_000,
        "seconds": round(took, 2),
        "connections": num_connections,
        "probes": len(probe.seconds["health"]),
        "calm p99 ms": calm,
        "p99 ms": {name: percentile_ms(seconds, 99) for name, seconds in probe.seconds.items()},
        "max ms": {name: percentile_ms(seconds, 100) for name, seconds in probe.seconds.items()},
        "predicts refused": len(probe.failures),
        "grown MiB": round(grown_mib, 1),
    }
    record_property("rapid reset", figures)
    logging.getLogger(__name__).warning("rapid reset: %s", figures)
    assert [] == [failure for failure in probe.failures if failure[:2] != ("predict", "RESOURCE_EXHAUSTED")]
    assert pause_seconds == 0.0 or [] == probe.failures
    assert 1 == len(probe.answers)
    assert grown_mib < 16
