"""Requests to WSGI environments, applications' answers to bytes."""

import pytest

from service.rest.request import split_target
from service.rest.request_reader import RequestReader
from service.rest.wsgi import ARRIVAL, Answer, Place, call, environment, write

PLACE = Place("127.0.0.1", 8501, "10.0.0.9")


def whole(data):
    """Return the request that bytes hold."""
    requests = []
    RequestReader(lambda _head: None, requests.append, 1 << 20).feed(data)
    return requests[0]


POST = whole(
    b"POST /models/m%2Fx/score?version=1&a=%20 HTTP/1.1\r\nHost: here\r\nContent-Type: text/csv\r\n"
    b"Content-Length: 2\r\nX-Request-ID: one\r\nX-Request-ID: two\r\nCookie: a=1\r\nCookie: b=2\r\n"
    b"X_Request_Timeout: 9\r\n\r\nab"
)


def test_environment_says_what_pep_3333_asks_for():
    """Path decoded, query as sent, headers joined, the body's length, who asks, and when it came."""
    variables = environment(POST, PLACE, 12.5)
    expected = {
        "REQUEST_METHOD": "POST",
        "SCRIPT_NAME": "",
        "PATH_INFO": "/models/m/x/score",
        "QUERY_STRING": "version=1&a=%20",
        "CONTENT_TYPE": "text/csv",
        "CONTENT_LENGTH": "2",
        "SERVER_NAME": "127.0.0.1",
        "SERVER_PORT": "8501",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "10.0.0.9",
        "HTTP_HOST": "here",
        "HTTP_X_REQUEST_ID": "one, two",
        "HTTP_COOKIE": "a=1; b=2",
        ARRIVAL: 12.5,
    }
    assert expected == {name: variables[name] for name in expected}
    assert b"ab" == variables["wsgi.input"].read()
    assert "HTTP_X_REQUEST_TIMEOUT" not in variables  # an underscore must not pass for a hyphen
    assert "HTTP_CONTENT_LENGTH" not in variables


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        (b"/a?b?c", b"/a", b"b?c"),
        (b"http://host:1/a/b?c", b"/a/b", b"c"),
        (b"HTTPS://host", b"/", b""),
        (b"http://host?c", b"/", b"c"),
        (b"*", b"*", b""),
        (b"//a", b"//a", b""),
        (b"ftp://host/a", b"ftp://host/a", b""),
    ],
)
def test_target_is_split_in_every_form(target, path, query):
    """Origin form and absolute form name a path; what is neither is a path that nobody has."""
    assert (path, query) == split_target(target)


class Pieces:
    """An answer in pieces that notes that it was closed."""

    def __init__(self, pieces):
        self.pieces = pieces
        self.is_closed = False

    def __iter__(self):
        """Yield the pieces."""
        yield from self.pieces

    def close(self):
        """Note it."""
        self.is_closed = True


def test_application_answers_in_pieces_and_by_write():
    """What it writes and what it returns are one body, and its answer is closed."""
    pieces = Pieces([b"b", b"c"])

    def app(_environ, start_response):
        start_response("201 Created", [("X-A", "1")])(b"a")
        return pieces

    assert Answer("201 Created", [("X-A", "1")], b"abc") == call(app, POST, PLACE, 0.0)
    assert pieces.is_closed


def test_application_that_fails_is_closed_too():
    """What it raises passes, and its answer is closed."""

    def fail():
        yield b"a"
        message = "no more"
        raise OSError(message)

    pieces = Pieces(fail())

    def app(_environ, start_response):
        start_response("200 OK", [])
        return pieces

    with pytest.raises(OSError, match="no more"):
        call(app, POST, PLACE, 0.0)
    assert pieces.is_closed


@pytest.mark.parametrize("count", [0, 2])
def test_application_that_breaks_the_protocol_is_a_defect(count):
    """No status, or two of them, are errors; a second one with the exception that it stands for is not."""

    def app(_environ, start_response):
        for _ in range(count):
            start_response("200 OK", [])
        return []

    with pytest.raises(RuntimeError, match="the application"):
        call(app, POST, PLACE, 0.0)

    def repaired(_environ, start_response):
        start_response("200 OK", [])
        start_response("500 Oh", [], (ValueError, ValueError(), None))
        return [b"x"]

    assert Answer("500 Oh", [], b"x") == call(repaired, POST, PLACE, 0.0)


@pytest.mark.parametrize(
    ("status", "value"),
    [
        ("200 OK", "a\r\nX-B: b"),
        ("200 OK", "a\nb"),
        ("200 OK", "\u0142"),
        ("200 OK", "a\0"),
        ("OK", "a"),
        ("99 x", "a"),
    ],
)
def test_application_whose_head_is_none_is_a_defect(status, value):
    """A line end in a header would begin another one, and a letter beyond Latin-1 cannot be sent."""

    def app(_environ, start_response):
        start_response(status, [("X-A", value)])
        return []

    with pytest.raises(RuntimeError, match="HTTP cannot carry"):
        call(app, POST, PLACE, 0.0)


def lines(data):
    """Return the head's lines without the date, and the body."""
    head, _, body = data.partition(b"\r\n\r\n")
    return [line for line in head.split(b"\r\n") if not line.startswith(b"Date: ")], body


def test_answer_is_written_with_its_length():
    """Status, headers, the length where it is not given, the date, and nothing of the connection while it stays."""
    found, body = lines(write(Answer("200 OK", [("X-A", "1")], b"abc"), POST, closes=False))
    assert ([b"HTTP/1.1 200 OK", b"X-A: 1", b"Content-Length: 3"], b"abc") == (found, body)
    given = write(Answer.of(404, [("Content-Length", "3"), ("Date", "today")], b"abc"), None, closes=True)
    expected = b"HTTP/1.1 404 Not Found\r\nContent-Length: 3\r\nDate: today\r\nConnection: close\r\n\r\nabc"
    assert expected == given


def test_answer_without_a_body_has_none():
    """To HEAD the length is told and nothing sent; 304 has neither; an old client reads that the connection stays."""
    head = whole(b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert ([b"HTTP/1.1 200 OK", b"Content-Length: 3"], b"") == lines(
        write(Answer("200 OK", [], b"abc"), head, closes=False)
    )
    assert ([b"HTTP/1.1 304 Not Modified"], b"") == lines(write(Answer.of(304, [], b""), POST, closes=False))
    old = whole(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    assert b"Connection: keep-alive" in lines(write(Answer.of(200, [], b""), old, closes=False))[0]
