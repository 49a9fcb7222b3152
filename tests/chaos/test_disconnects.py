"""Clients that go away at any byte of a request or of its answer, by FIN or by RST: nothing of them stays."""

import contextlib
import json
import socket
import struct
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from tests.chaos.conftest import address_of, errors_of
from tests.chaos.raw_cases import BODY, CHUNKED, CHUNKED_BODY, LENGTH, post
from tests.chaos.raw_http import answers
from tests.end_to_end.server_process import ROOT

NUM_THREADS = 8
SECONDS = 60.0
LONG = [pytest.mark.chaos, pytest.mark.timeout(600)]
RST = struct.pack("ii", 1, 0)
EXPECTED = float(np.load(ROOT / "models" / "colours" / "1" / "probe.npz")["score"][0])
OCTETS = np.random.default_rng(5).uniform(0.0, 255.0, (5000, 3)).astype("<f4").tobytes()
END = b"Connection: close"
GET = b"GET %s HTTP/1.1\r\nHost: x\r\n" + END + b"\r\n\r\n"

REQUESTS = {
    "json": post(LENGTH, END),
    "chunks": post(CHUNKED, END, body=CHUNKED_BODY),
    "expect": post(LENGTH, END, b"Expect: 100-continue"),
    "rows": post(b"Content-Length: %d" % len(OCTETS), END, body=OCTETS).replace(b"json", b"octet-stream"),
    "pipelined": post(LENGTH) * 5 + post(LENGTH, END),
    "page": GET % b"/page/plot.js",
    "probe": GET % b"/healthz",
    "metrics": GET % b"/metrics",
    "nowhere": GET % b"/nowhere",
    "malformed": post(b"Content-Length: +7"),
}
"""All of them end their connection, so that who reads on comes to an end."""


class Tally:
    """How many clients went away where: before their request was whole, in the answer, and after it."""

    def __init__(self):
        self.in_request = self.in_answer = self.by_rst = 0


def go_away(address, rng):
    """Be one client that goes away; return (whether in its request, how many bytes of the answer it read, by RST)."""
    data = REQUESTS[list(REQUESTS)[rng.integers(len(REQUESTS))]]
    in_request, by_rst = bool(rng.integers(2)), bool(rng.integers(2))
    num_sent = int(rng.integers(len(data))) if in_request else len(data)
    num_to_read = 0 if in_request else int(rng.integers(2000))
    num_read = 0
    with socket.create_connection(address, timeout=SECONDS) as connection:
        with contextlib.suppress(ConnectionError):  # a refused one is closed before everything is sent
            connection.sendall(data[:num_sent])
            while num_read < num_to_read:
                received = connection.recv(num_to_read - num_read)
                num_read += len(received)
                if not received:
                    break
        if by_rst:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RST)
    return in_request, num_read, by_rst


def go_away_often(address, num_clients, seed):
    """Let many go away, some at once; return the tally."""
    shares = np.array_split(np.arange(num_clients), NUM_THREADS)
    tally = Tally()
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        parts = [
            pool.submit(
                lambda share, rng: [go_away(address, rng) for _ in share], share, np.random.default_rng([seed, n])
            )
            for n, share in enumerate(shares)
        ]
        for part in parts:
            for in_request, num_read, by_rst in part.result(10 * SECONDS):
                tally.in_request += in_request
                tally.in_answer += num_read > 0
                tally.by_rst += by_rst
    return tally


@pytest.fixture(scope="module")
def server(edge_server):
    """Let the server start the threads that it starts only when somebody asks."""
    go_away_often(address_of(edge_server), 200, seed=1)
    return edge_server


def holdings(server):
    """Return what a server holds: rows in queues (0 is what `settled` waits for), threads, descriptors."""
    process = Path(f"/proc/{server.process.pid}")
    lines = server.get("/metrics")[1].decode().splitlines()
    num_rows = sum(float(line.split()[-1]) for line in lines if line.startswith("convex_queue_rows{"))
    return num_rows, len(list((process / "task").iterdir())), len(list((process / "fd").iterdir()))


def settled(server, wait_until):
    """Return what a server holds once it holds no row and nothing goes any more."""
    seen = []

    def is_settled():
        seen.append(holdings(server))
        return seen[-1][0] == 0 and len(seen) > 5 and len(set(seen[-5:])) == 1

    wait_until(is_settled, SECONDS)
    return seen[-1]


def ask(server):
    """Return status and score of the probe's row, on a connection that is closed in order."""
    with socket.create_connection(address_of(server), timeout=SECONDS) as connection:
        connection.sendall(post(LENGTH, b"Connection: close", body=BODY))
        received = b""
        while data := connection.recv(1 << 16):
            received += data
    (answer,) = answers(received)
    return answer.status, json.loads(answer.body)["score"]


@pytest.mark.parametrize("num_clients", [200, pytest.param(10_000, marks=LONG)])
def test_nothing_stays_of_clients_that_go_away(server, num_clients, wait_until, report):
    """Gone at a random byte: no row waits, threads and descriptors are as before, no error is logged, all is exact."""
    before = settled(server, wait_until)
    tally = go_away_often(address_of(server), num_clients, seed=num_clients)
    assert min(tally.in_request, tally.in_answer, tally.by_rst) > num_clients / 10
    wait_until(lambda: all(now <= then for now, then in zip(holdings(server), before, strict=True)), SECONDS)
    assert (200, [pytest.approx(EXPECTED, rel=1e-5)]) == ask(server)
    assert [] == errors_of(server)
    if num_clients > 200:
        report(gone=vars(tally), rows_threads_descriptors_before=before, after=holdings(server))
