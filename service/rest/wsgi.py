"""A whole request to the WSGI application and its answer back to bytes (PEP 3333).

Above: `connection`, which has read the request and writes the answer. Below: `request_reader`'s request.
"""

import dataclasses
import functools
import http
import io
import re
import sys
import time
import urllib.parse
from collections.abc import Callable, Iterable, Sequence
from email.utils import formatdate
from typing import TYPE_CHECKING, Any

from service.rest.request import Head, Request

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

ARRIVAL = "convex_scoring.arrival_seconds"
"""Monotonic time at which the request was there whole."""

SCORED = re.compile(rb"(?:/models/([A-Za-z0-9_-]{1,64}))?/score")
"""Paths at which scores are asked for, of the default model or of one that may exist."""

_REQUEST = "convex_scoring.request"

_BODILESS = frozenset({204, 304})
_OWN_NAMES = {b"content-type": "CONTENT_TYPE", b"content-length": None, b"transfer-encoding": None}
_STATUS = re.compile(r"[2-5][0-9]{2} ")
_LINE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_REASONS = {status.value: status.phrase for status in http.HTTPStatus}


def status_line(status: int) -> str:
    """Return a status as WSGI wants it, such as "200 OK"."""
    return f"{status} {_REASONS.get(status, '')}"


@dataclasses.dataclass(slots=True)
class Answer:
    """What is written back.

    Args:
        status: code and reason, such as "200 OK".
        headers: names and values, without those of the connection.
        body: all of it.
    """

    status: str
    headers: Sequence[tuple[str, str]]
    body: bytes

    @classmethod
    def of(cls, status: int, headers: Sequence[tuple[str, str]], body: bytes) -> "Answer":
        """Return the answer with a status given by its code."""
        return cls(status_line(status), headers, body)


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a request came in.

    Args:
        host: the server's address.
        port: the server's port.
        client: the client's address.
    """

    host: str
    port: int
    client: str


def call(app: "WSGIApplication", request: Request, place: Place, arrival_seconds: float) -> Answer:
    """Return the application's answer to a whole request.

    Raises:
        Exception: what the application raised, or a WSGI protocol that it broke.
    """
    started: list[tuple[str, list[tuple[str, str]]]] = []
    written: list[bytes] = []

    def start_response(
        status: str, headers: list[tuple[str, str]], exc_info: Any = None, /
    ) -> Callable[[bytes], object]:
        if started and exc_info is None:
            message = "the application began its answer twice"
            raise RuntimeError(message)
        started[:] = [(status, headers)]
        return written.append

    pieces: Iterable[bytes] = app(environment(request, place, arrival_seconds), start_response)
    try:
        written.extend(pieces)
    finally:
        close = getattr(pieces, "close", None)
        if close is not None:
            close()
    if not started:
        message = "the application gave no status"
        raise RuntimeError(message)
    answer = Answer(*started[0], b"".join(written))
    _check_head(answer)
    return answer


def _check_head(answer: Answer) -> None:
    """Raise RuntimeError for a head that would be no head, or two (RFC 9112, 4 and 5)."""
    text = answer.status + "".join([part for header in answer.headers for part in header])
    if not _STATUS.match(answer.status) or not _LINE.fullmatch(text):
        message = "the application gave a status or a header that HTTP cannot carry"
        raise RuntimeError(message)


def environment(request: Request, place: Place, arrival_seconds: float) -> dict[str, Any]:
    """Return the WSGI environment of a whole request.

    Headers with an underscore in their name are left out: they would be read as the ones with a hyphen.
    """
    head = request.head
    if head.variables is None:
        head.variables = _variables(head)
    return {
        **head.variables,
        "CONTENT_LENGTH": str(len(request.body)),
        "SERVER_NAME": place.host,
        "SERVER_PORT": str(place.port),
        "REMOTE_ADDR": place.client,
        "wsgi.input": io.BytesIO(request.body),
        "wsgi.errors": sys.stderr,
        ARRIVAL: arrival_seconds,
        _REQUEST: request,
    }


def is_given_up(environ: dict[str, Any]) -> bool:
    """Whether a request was answered by the server meanwhile, and counted, because its time had long passed."""
    request = environ.get(_REQUEST)
    return isinstance(request, Request) and request.is_given_up


def _variables(head: Head) -> dict[str, Any]:
    """Return what an environment has of the head alone."""
    variables: dict[str, Any] = {
        "REQUEST_METHOD": head.method,
        "SCRIPT_NAME": "",
        "PATH_INFO": urllib.parse.unquote_to_bytes(head.path).decode("latin-1"),
        "QUERY_STRING": head.query.decode("latin-1"),
        "SERVER_PROTOCOL": f"HTTP/{head.version}",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input_terminated": True,
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
    }
    for name, value in head.headers:
        if b"_" in name:
            continue
        variable = _OWN_NAMES.get(name, "")
        if variable == "":
            variable = "HTTP_" + name.decode("ascii").upper().replace("-", "_")
        if variable is not None:
            text = value.decode("latin-1")
            before = variables.get(variable)
            separator = "; " if name == b"cookie" else ", "
            variables[variable] = text if before is None else f"{before}{separator}{text}"
    return variables


@functools.lru_cache(maxsize=1)
def _date(seconds: int) -> str:
    return formatdate(seconds, usegmt=True)


def write(answer: Answer, request: Request | None, *, closes: bool) -> bytes:
    """Return an answer as bytes.

    Args:
        answer: the answer.
        request: what it answers; None: bytes that are no request.
        closes: whether the connection ends with it.
    """
    lines = [f"HTTP/1.1 {answer.status}"]
    has_body = request is None or request.method != "HEAD"
    has_length = has_date = False
    for name, value in answer.headers:
        lines.append(f"{name}: {value}")
        lower = name.lower()
        has_length |= lower == "content-length"
        has_date |= lower == "date"
    if int(answer.status[:3]) in _BODILESS:
        has_body = False
    elif not has_length:
        lines.append(f"Content-Length: {len(answer.body)}")
    if not has_date:
        lines.append(f"Date: {_date(int(time.time()))}")
    if closes:
        lines.append("Connection: close")
    elif request is not None and request.version == "1.0":
        lines.append("Connection: keep-alive")
    lines.append("\r\n")
    head = "\r\n".join(lines).encode("latin-1")
    return head + answer.body if has_body else head
