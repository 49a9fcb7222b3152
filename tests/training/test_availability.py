"""Waiting for a server: every answer it may give, and the ends of patience."""

import http.server
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from service.repository import VersionFolder
from tests.training.local_webhook import hanging
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


def test_wait_goes_on_when_a_load_failed_without_a_verdict():
    """A disk that stumbled, or a loading process that ended, is tried again by the server: so is it waited for."""
    said = {1: status("END", "load-error: OSError while loading; it is tried again"), 2: status("LOADING")}
    said[3] = status("END", "file-unreadable: saved_model.pb")
    with server_saying(lambda look: said.get(look, status("AVAILABLE"))) as (address, asked):
        availability.wait_available(address, VERSION, 10, poll_seconds=0.01)
    assert 4 == len(asked)


def test_wait_says_what_the_server_said_last_when_the_time_is_over():
    """Whoever reads the log knows why: state and reason of the last answer."""
    with (
        server_saying(lambda _: status("END", "load-error: MemoryError while loading; it is tried again")) as (
            address,
            _,
        ),
        pytest.raises(WaitError, match=r"not within 0\.05 s; last answer: END, load-error: MemoryError"),
    ):
        availability.wait_available(address, VERSION, 0.05, poll_seconds=0.01)


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"no HTTP at all\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{",
        b"HTTP/1.1 200 OK\r\n\r\n[1]",
        b'HTTP/1.1 200 OK\r\n\r\n{"models": [{"name": "small"}]}',
    ],
)
def test_wait_takes_no_broken_answer_for_an_end(said):
    """A server that is restarted in the middle of an answer, or another program on its port, is asked again."""
    with hanging(said, hangs_up=True) as (address, asked), pytest.raises(WaitError, match="was interrupted"):
        availability.wait_available(address, VERSION, 60.0, poll_seconds=0.01, stop=lambda: len(asked) > 2)
    assert len(asked) > 2


def test_wait_gives_an_answer_up_that_comes_drop_by_drop(monkeypatch):
    """Bytes that trickle in keep the connection alive, and not the job."""
    monkeypatch.setattr(availability, "_ANSWER_SECONDS", 0.1)
    with (
        hanging(b"HTTP/1.1 200 OK\r\n\r\n", b" ") as (address, _),
        pytest.raises(WaitError, match=r"its answer took more than 0\.1 s"),
    ):
        availability.wait_available(address, VERSION, 0.05, poll_seconds=0.01)


def test_wait_fails_when_the_time_is_over():
    """A server that is not there is waited for, and then told of."""
    with pytest.raises(WaitError, match="is published, but"):
        availability.wait_available("http://127.0.0.1:9", VERSION, 0.05, poll_seconds=0.01)


def test_wait_ends_when_the_job_is_interrupted():
    """A signal ends the wait; the version stays published."""
    with pytest.raises(WaitError, match="interrupted"):
        availability.wait_available("http://127.0.0.1:9", VERSION, 600, stop=lambda: True, poll_seconds=0.01)
