"""What never reaches the application is refused in the same form as what does."""

import http.client
import json
import socket

import pytest

from service.errors import Refusal
from service.rest.refusals import refuse
from service.rest.request_reader import MalformedError
from service.rest.server import HttpServer
from service.settings import Settings

TIMEOUT_SECONDS = 10.0


def never_called(_environ, _start_response):
    """Fail: the server lets nothing of this module through."""
    pytest.fail("the application was called")


@pytest.fixture
def port():
    """Return the port of a server with a small limit."""
    server = HttpServer(never_called, Settings(rest_port=0, http_threads=1, max_body_bytes=2048))
    server.start()
    yield server.port
    server.stop(TIMEOUT_SECONDS)


def send(port, data):
    """Send raw bytes and return status, headers and error of the answer."""
    with socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_SECONDS) as connection:
        connection.sendall(data)
        response = http.client.HTTPResponse(connection)
        response.begin()
        return response.status, response.headers, json.loads(response.read())["error"]


HEAD = b"POST /score HTTP/1.1\r\nHost: x\r\nX-Request-ID: id-1\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("data", "status", "found"),
    [
        (HEAD + b"Content-Length: 2049\r\n\r\n" + b"x" * 2049, 413, "larger than 2048 bytes"),
        (
            HEAD + b"Transfer-Encoding: chunked\r\n\r\n1000\r\n" + b"x" * 4096 + b"\r\n0\r\n\r\n",
            413,
            "larger than 2048",
        ),
        (HEAD + b"Expect: 100-continue\r\nContent-Length: 2049\r\n\r\n", 413, "larger than 2048"),
        (HEAD + b"Content-Length: +7\r\n\r\n", 400, "malformed HTTP"),
        (HEAD + b"Content-Length: 7\r\nContent-Length: 8\r\n\r\n", 400, "malformed HTTP"),
        (HEAD + b"Transfer-Encoding : chunked\r\n\r\n", 400, "malformed HTTP"),
        (HEAD + b"X-A: a\x00b\r\n\r\n", 400, "malformed HTTP"),
        (CHUNKED + b"0xs3cret\r\n", 400, "malformed HTTP"),
    ],
)
def test_refused_request_is_answered_in_the_native_form(port, data, status, found):
    """A body over the limit and malformed HTTP get code, sentence and request id, and nothing of what was sent."""
    received, headers, error = send(port, data)
    assert (status, "INVALID_ARGUMENT") == (received, error["code"])
    assert "application/json" == headers["Content-Type"]
    assert headers["X-Request-ID"] == error["request_id"]
    assert found in error["message"]
    assert "s3cret" not in error["message"]


@pytest.mark.parametrize(("status", "reason"), [(408, Refusal.SLOW_CLIENT), (400, None)])
def test_request_that_comes_too_slowly_is_told_as_turned_away(status, reason):
    """The metric of refusals has a reason for it; what is malformed is the client's fault, and no refusal."""
    _, answered = refuse(MalformedError(status, "m"), None, "127.0.0.1")
    assert ("INVALID_ARGUMENT", status, reason) == (answered.code, answered.status, answered.refusal)
