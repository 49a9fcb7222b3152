"""Waiting for a server: every answer it may give, and the ends of patience."""

import http.server
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from service.repository import VersionFolder
from training import availability
from training.availability import WaitError


@contextmanager
def server_saying(answers: Callable[[int], object]) -> Iterator[tuple[str, list[str]]]:
    """Run a server whose n-th answer is `answers(n)` as JSON (None: 404), and give its address and the paths asked."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            answer = answers(len(asked))
            self.send_response(404 if answer is None else 200)
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def status(state: str, reason: str = "") -> object:
    """Return an answer of `GET /models`, with version 2 of `small` in a state."""
    other = {"version": 1, "state": "AVAILABLE", "reason": ""}
    small = {"name": "small", "versions": [{"version": 2, "state": state, "reason": reason}, other]}
    return {"models": [{"name": "another", "versions": [{**other, "version": 2}]}, small]}


VERSION = VersionFolder("small", 2, Path("2"))


def test_wait_returns_when_the_server_says_available():
    """Not there, not listed, loading, available: four looks."""
    said = {1: None, 2: {"models": []}, 3: status("LOADING")}
    with server_saying(lambda look: said.get(look, status("AVAILABLE"))) as (address, asked):
        availability.wait_available(address, VERSION, 10, poll_seconds=0.01)
    assert ["/models"] * 4 == asked


def test_wait_fails_at_once_when_the_server_refuses_the_version():
    """A refused version will not become available: no need to wait the time out."""
    with (
        server_saying(lambda _: status("END", "nonneg-matmul: hidden_1")) as (address, _),
        pytest.raises(WaitError, match="refused it: nonneg-matmul"),
    ):
        availability.wait_available(address, VERSION, 600, poll_seconds=0.01)


def test_wait_fails_when_the_time_is_over():
    """A server that is not there is waited for, and then told of."""
    with pytest.raises(WaitError, match="is published, but"):
        availability.wait_available("http://127.0.0.1:9", VERSION, 0.05, poll_seconds=0.01)


def test_wait_ends_when_the_job_is_interrupted():
    """A signal ends the wait; the version stays published."""
    with pytest.raises(WaitError, match="interrupted"):
        availability.wait_available("http://127.0.0.1:9", VERSION, 600, stop=lambda: True, poll_seconds=0.01)
