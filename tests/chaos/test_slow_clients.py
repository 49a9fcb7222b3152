"""Others are answered while crowds hold connections: slow heads, slow bodies, idle ones, drips, answers unread."""

import http.client
import json
import socket
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from tests.chaos.conftest import address_of, errors_of
from tests.chaos.raw_cases import BODY
from tests.chaos.slow_crowd import Crowd

PAUSE_SECONDS = 0.02
DEADLINE_SECONDS = 60.0
MAX_P99_SECONDS = 0.1
LONG = [pytest.mark.chaos, pytest.mark.timeout(300)]
CROWDS = {
    "slow": {"slow head": 150, "slow body": 150, "idle": 1000},
    "drips": {"dripping head": 150, "dripping body": 150, "dripping chunks": 150},
    "unread": {"slow reader": 150},
    "pipelining": {"pipelining": 150},
}
SHORT = {"slow head": 15, "slow body": 15, "idle": 100, "dripping head": 15, "dripping body": 15, "dripping chunks": 15}
SHORT_UNREAD = {"slow reader": 4, "pipelining": 8}


class Asker(threading.Thread):
    """Asks one thing again and again, and notes status and latency of each answer.

    Args:
        address: host and port.
        path: what it asks.
        is_fresh: whether each request comes on a new connection.
        patience_seconds: how long it waits for one answer.
    """

    def __init__(self, address, path, *, is_fresh, patience_seconds=DEADLINE_SECONDS):
        super().__init__(name="asker")
        self.address, self.path, self.is_fresh = address, path, is_fresh
        self.patience_seconds = patience_seconds
        self.outcomes = []
        self.latencies = []
        self.stopping = threading.Event()

    def run(self):
        """Ask until told to stop."""
        connection = http.client.HTTPConnection(*self.address, timeout=self.patience_seconds)
        while not self.stopping.wait(PAUSE_SECONDS):
            started = time.monotonic()
            try:
                self.outcomes.append(self.ask(connection))
            except (OSError, http.client.HTTPException) as error:
                self.outcomes.append(repr(error))
                connection.close()
            self.latencies.append(time.monotonic() - started)
        connection.close()

    def ask(self, connection):
        """Send one request and return the status, after a look at the answer."""
        if self.path == "/score":
            connection.request("POST", self.path, BODY)
        else:
            connection.request("GET", self.path)
        response = connection.getresponse()
        answer = json.loads(response.read())
        if self.is_fresh:
            connection.close()
        return response.status if "score" in answer or "status" in answer else str(answer)


def num_descriptors(server):
    """Return how many descriptors the server has open."""
    return len(list(Path(f"/proc/{server.process.pid}/fd").iterdir()))


def ask_beside(server, sizes, seconds):
    """Return the askers after they have asked for so long while the crowd was there, and the crowd."""
    address = address_of(server)
    crowd = Crowd(address, sizes)
    askers = [Asker(address, path, is_fresh=fresh) for path in ("/healthz", "/score") for fresh in (False, True)]
    crowd.start()
    try:
        assert crowd.is_complete.wait(DEADLINE_SECONDS)
        for asker in askers:
            asker.start()
        crowd.stopping.wait(seconds)
    finally:
        for asker in askers:
            asker.stopping.set()
        for asker in askers:
            asker.join(DEADLINE_SECONDS)
        crowd.stopping.set()
        crowd.join(DEADLINE_SECONDS)
    assert crowd.failure is None
    return askers, crowd


def assert_all_were_answered(askers):
    """Every request of every asker got 200 and what it asked for, and there were some."""
    for asker in askers:
        assert {200} == set(asker.outcomes), asker.path
        assert len(asker.outcomes) >= 3


@pytest.mark.parametrize("sizes", [pytest.param(SHORT, id="sending"), pytest.param(SHORT_UNREAD, id="unread")])
def test_others_are_answered_beside_a_crowd(edge_server, sizes, wait_until):
    """With some of each kind there, every probe and every score is answered; then all descriptors are given back."""
    before = num_descriptors(edge_server)
    askers, _ = ask_beside(edge_server, sizes, 1.0)
    assert_all_were_answered(askers)
    wait_until(lambda: num_descriptors(edge_server) <= before, DEADLINE_SECONDS)
    assert [] == errors_of(edge_server)


@pytest.mark.parametrize("name", [pytest.param(name, marks=LONG) for name in CROWDS])
def test_answers_are_quick_beside_a_large_crowd(edge_server, name, wait_until, report):
    """For 20 s, kept-alive and fresh clients get every probe and score, beside who only sends with p99 under 100 ms."""
    before = num_descriptors(edge_server)
    askers, crowd = ask_beside(edge_server, CROWDS[name], 20.0)
    quantiles = {
        f"{asker.path} {'fresh' if asker.is_fresh else 'kept'}": [
            round(1e3 * float(value), 2) for value in np.quantile(asker.latencies, [0.5, 0.99, 1.0])
        ]
        for asker in askers
    }
    report(crowd=CROWDS[name], reopened=crowd.num_reopened, p50_p99_max_milliseconds=quantiles)
    assert_all_were_answered(askers)
    if name in ("slow", "drips"):  # who reads nothing asked for much before: others wait their turn meanwhile
        assert all(np.quantile(asker.latencies, 0.99) < MAX_P99_SECONDS for asker in askers)
    wait_until(lambda: num_descriptors(edge_server) <= before, DEADLINE_SECONDS)
    assert [] == errors_of(edge_server)


def test_asker_notes_that_a_server_of_one_thread_is_held_up_by_a_slow_head(wait_until):
    """A server that reads one connection after the other answers nobody beside one slow head, and the asker says so."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        asker = Asker(listener.getsockname()[:2], "/healthz", is_fresh=True, patience_seconds=0.05)
        with socket.create_connection(asker.address) as slow:
            slow.sendall(b"GET /healthz HTTP/1.1\r\n")
            connection, _ = listener.accept()  # and now it would read, until the head has an end
            with connection:
                asker.start()
                wait_until(lambda: len(asker.outcomes) > 2)
                asker.stopping.set()
                asker.join(DEADLINE_SECONDS)
    assert {"TimeoutError('timed out')"} == set(asker.outcomes)
    with pytest.raises(AssertionError):
        assert_all_were_answered([asker])
