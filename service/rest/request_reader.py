"""Bytes of a connection to requests, strictly and within limits; no socket, no clock, no thread.

The grammar of HTTP/1.1 is llhttp's (by `httptools`); what it leaves to its users is decided here: framing that two
readers could understand differently, hosts, sizes. Above: `connection`. Below: `known_heads`, which saves reading the
same head twice, `request`.
"""

import http
import re
from collections.abc import Callable
from typing import Any, cast

import httptools

from service.rest.known_heads import KnownHeads
from service.rest.request import Head, Request

MAX_HEAD_BYTES = 64 << 10
MAX_TARGET_BYTES = 8 << 10
MAX_HEADERS = 100

_CHUNKED = b"chunked"
_CONTINUE = b"100-continue"
_AFTER_LAST = (
    "Data after `Connection: close`"  # bytes behind a request that said that it is the last: nobody reads them
)
_UNKNOWN_METHOD = re.compile(rb"[\r\n]*[A-Za-z][A-Za-z-]* ")
_NO_HOST = re.compile(rb"[ ,/@\\?#]")
_MAX_FRAMING_OF_A_BYTE = 8  # a chunk of one byte has five
_VERSIONS = frozenset({"1.0", "1.1"})


class MalformedError(Exception):
    """Bytes that are no request that this server reads; nothing after them can be read either.

    Args:
        status: the answer's status.
        message: what to do about it; repeats nothing that was received.
    """

    def __init__(self, status: http.HTTPStatus, message: str) -> None:
        """Keep both."""
        super().__init__(message)
        self.status = status
        self.message = message


class RequestReader:
    """Reads the requests of one connection.

    A request is announced twice: by `on_head`, which may `discard` its body, and by `on_whole` when its body is there.

    Refused are, whatever their order: Content-Length beside Transfer-Encoding, or twice; a transfer coding other than
    `chunked` alone; one in HTTP/1.0; bare line feeds, folded lines, control characters, spaces where none belong; a
    chunk size that is not hexadecimal digits; HTTP/1.1 with no Host, or any request with two.

    Args:
        on_head: called with each request when its head is there.
        on_whole: called with each request when all of it is there.
        max_body_bytes: largest body.
        known: the heads that were read before, by all readers of the same limits; None: of this one alone.

    Raises:
        MalformedError: from `feed`.
    """

    def __init__(
        self,
        on_head: Callable[[Request], None],
        on_whole: Callable[[Request], None],
        max_body_bytes: int,
        known: KnownHeads | None = None,
    ) -> None:
        self._on_head = on_head
        self._on_whole = on_whole
        self._max_body_bytes = max_body_bytes
        self._known = KnownHeads() if known is None else known
        self._parser: Any = httptools.HttpRequestParser(self)
        self._target = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._num_header_bytes = 0
        self._num_waiting_bytes = 0  # of a head that began in an earlier piece
        self._request: Request | None = None
        self._is_in_head = False
        self._is_known = False  # the head of the request: llhttp was not shown it, nor will it be its body
        self._is_last = False  # the request that was read last
        self._new_head: Head | None = None
        self._num_begun = 0
        self._first_begun = 0  # of those whose head began at the beginning of a piece; 0: it began earlier
        self._num_framing_bytes = 0  # that came since the head and are no body
        self._is_over = False

    @property
    def request(self) -> Request | None:
        """The request whose head was read and whose body is not there yet."""
        return self._request

    @property
    def is_between_requests(self) -> bool:
        """Whether nothing of a next request has come."""
        return self._request is None and not self._is_in_head

    def missing_bytes(self, data: bytes | memoryview) -> int:
        """Return how many of the bytes that follow belong to the present request for sure, or to the one in data."""
        if self._request is not None:
            return 0 if self._request.length is None else self._request.length - self._request.num_body_bytes
        found = None if self._is_in_head or self._is_last else self._known.find(data)
        return 0 if found is None else found[1] + cast(int, found[0].length)

    def feed(self, data: bytes | memoryview) -> None:
        """Read the next bytes; nothing of `data` is kept.

        Raises:
            MalformedError: they are no request, or one that is too large.
        """
        if self._is_in_head:
            self._num_waiting_bytes += len(data)
        request, num_bytes = self._request, len(data)
        num_body_bytes = 0 if request is None else request.num_body_bytes
        while data and not self._is_over:
            data = self._read(data)
        if request is not None and self._request is request:
            self._check_framing(request, num_bytes - (request.num_body_bytes - num_body_bytes))
        if self._is_in_head and self._num_waiting_bytes > MAX_HEAD_BYTES:
            raise _too_large_head()

    # --------------------------------------------------------------------------------------------- llhttp's callbacks
    def on_message_begin(self) -> None:
        """Begin a request."""
        self._num_begun += 1
        self._is_in_head = True
        self._target = b""
        self._headers = []
        self._num_header_bytes = self._num_waiting_bytes = 0

    def on_url(self, piece: bytes) -> None:
        """Take a piece of the request target."""
        self._target += piece
        if len(self._target) > MAX_TARGET_BYTES:
            message = f"the request target is longer than {MAX_TARGET_BYTES} bytes."
            raise MalformedError(http.HTTPStatus.REQUEST_URI_TOO_LONG, message)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header, or a trailer, which nobody reads."""
        self._num_header_bytes += len(name) + len(value) + 4
        self._headers.append((name.lower(), value))
        if self._num_header_bytes > MAX_HEAD_BYTES or len(self._headers) > MAX_HEADERS:
            raise _too_large_head()

    def on_headers_complete(self) -> None:
        """Make a request of the head."""
        if self._request is not None:  # a head of our own: see `_read_on`
            self._headers, self._is_in_head = [], False
            return
        version = self._parser.get_http_version()
        if version not in _VERSIONS:
            raise _malformed("This server speaks HTTP/1.1 and 1.0")
        method = self._parser.get_method().decode("ascii")
        if method == "CONNECT":
            raise _malformed("This server is no proxy")
        headers, self._headers = self._headers, []
        _check_hosts(headers, version)
        length = _body_length(headers, version)
        _check_expectation(headers, version)
        self._is_in_head = False
        self._num_framing_bytes = 0
        target = self._target.partition(b"#")[0]
        head = Head(method, target, version, headers, self._parser.should_keep_alive(), length)
        if self._num_begun == self._first_begun:
            self._new_head = head
        self._request = Request(head, head.keep_alive)
        self._on_head(self._request)
        if length is not None and length > self._max_body_bytes:
            raise self._too_large_body()

    def on_body(self, piece: bytes) -> None:
        """Take a piece of the body."""
        request = self._request
        if request is None:
            return
        request.num_body_bytes += len(piece)
        if request.num_body_bytes > self._max_body_bytes:
            raise self._too_large_body()
        if request.is_discarded:
            return
        if not request.body:
            request.body = piece  # most bodies come whole, and are never copied
            return
        self._append(request, piece)

    def on_message_complete(self) -> None:
        """Hand over the request, unless it is one whose body llhttp does not read because of an upgrade."""
        request = self._request
        if request is None or (self._parser.should_upgrade() and request.length != 0):
            return
        request.keep_alive &= self._parser.should_keep_alive()  # a trailer has a say in what llhttp reads next
        self._end(request)

    # ------------------------------------------------------------------------------------------------------- within
    def _read(self, data: bytes | memoryview) -> bytes | memoryview:
        """Read some of the bytes; return what is left."""
        request = self._request
        if request is not None:
            if self._is_known:
                return self._take_body(data, request)
            return self._parse(data) if self._unwanted() is None else self._skip(data, request)
        found = None if self._is_in_head or self._is_last else self._known.find(data)
        if found is None:
            return self._parse(data)
        head, size = found
        self._is_known = True
        request = self._request = Request(head, head.keep_alive)
        self._on_head(request)
        return self._take_body(data[size:], request)

    def _take_body(self, data: bytes | memoryview, request: Request) -> bytes | memoryview:
        """Take what data has of the body of a request whose head was known; return what follows."""
        missing = cast(int, request.length) - request.num_body_bytes
        num_bytes = min(missing, len(data))
        request.num_body_bytes += num_bytes
        if num_bytes and not request.is_discarded:
            if request.body:
                self._append(request, data[:num_bytes])
            else:
                request.body = bytes(data[:num_bytes])
        if num_bytes == missing:
            self._is_known = False
            self._end(request)
        return data[num_bytes:]

    def _end(self, request: Request) -> None:
        self._request = None
        self._is_last = not request.keep_alive
        request.is_complete = True
        self._on_whole(request)

    @staticmethod
    def _append(request: Request, piece: bytes | memoryview) -> None:
        if isinstance(request.body, bytes):
            request.body = bytearray(request.body)
        request.body += piece

    def _parse(self, data: bytes | memoryview) -> bytes | memoryview:
        """Let llhttp read; return what it left."""
        begins = self.is_between_requests
        num_begun, self._new_head = self._num_begun, None
        self._first_begun = num_begun + 1 if begins else 0
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            # The offer is not taken, and HTTP/1.1 goes on (RFC 9110, 7.8); llhttp would not.
            self._parser = httptools.HttpRequestParser(self)
            if self._request is not None:
                self._read_on(self._request)
            return data[upgrade.args[0] :]
        except httptools.HttpParserCallbackError as error:
            raise error.__context__ or error from None
        except httptools.HttpParserError as error:
            if _AFTER_LAST not in str(error):
                raise _refused(error, data, is_first_line=self._num_begun <= num_begun + 1) from error
            self._is_over = True
        if self._new_head is not None:
            self._known.note(data, self._new_head)
        return b""

    def _unwanted(self) -> Request | None:
        """Return the request of whose body the rest need not be looked at: nobody wants it, and its end is known."""
        request = self._request
        if request is None or not request.is_discarded or request.length is None or not request.keep_alive:
            return None
        return None if self._parser.should_upgrade() else request

    def _skip(self, data: bytes | memoryview, request: Request) -> bytes | memoryview:
        """Leave out the rest of a body, as far as it came, and return what follows."""
        missing = cast(int, request.length) - request.num_body_bytes
        request.num_body_bytes += min(missing, len(data))
        if missing <= len(data):
            self._parser = httptools.HttpRequestParser(self)  # llhttp's would wait for what it did not see
            self._end(request)
        return data[missing:]

    def _check_framing(self, request: Request, num_bytes: int) -> None:
        """Refuse a body whose chunks are almost nothing but sizes and extensions (RFC 9112, 7.1.1)."""
        self._num_framing_bytes += num_bytes
        if self._num_framing_bytes > MAX_HEAD_BYTES + _MAX_FRAMING_OF_A_BYTE * request.num_body_bytes:
            raise _malformed("Its body is cut into too small chunks, or they have too long extensions")

    def _read_on(self, request: Request) -> None:
        """Prepare a new parser for a body of which the last one skipped everything, by a head with the same framing."""
        framing = b"Transfer-Encoding: chunked" if request.length is None else b"Content-Length: %d" % request.length
        self._parser.feed_data(b"POST / HTTP/1.1\r\n" + framing + b"\r\n\r\n")

    def _too_large_body(self) -> MalformedError:
        message = f"body: larger than {self._max_body_bytes} bytes. Send fewer rows in one request."
        return MalformedError(http.HTTPStatus.REQUEST_ENTITY_TOO_LARGE, message)


def _check_hosts(headers: list[tuple[bytes, bytes]], version: str) -> None:
    """Raise for no Host in HTTP/1.1 and for more than one (RFC 9112, 3.2)."""
    hosts = [value for name, value in headers if name == b"host"]
    if len(hosts) > 1 or (not hosts and version == "1.1"):
        raise _malformed("It needs exactly one Host")
    if hosts and _NO_HOST.search(hosts[0]):
        raise _malformed("Its Host is not a host")


def _body_length(headers: list[tuple[bytes, bytes]], version: str) -> int | None:
    """Return how long the body is; None: chunked (RFC 9112, 6)."""
    codings = [value for name, value in headers if name == b"transfer-encoding"]
    if codings:
        if version == "1.0":
            raise _malformed("HTTP/1.0 has no transfer codings")
        if len(codings) > 1 or codings[0].strip().lower() != _CHUNKED:
            message = "of the transfer codings only 'chunked', alone, is understood."
            raise MalformedError(http.HTTPStatus.NOT_IMPLEMENTED, message)
        return None
    return next((int(value) for name, value in headers if name == b"content-length"), 0)


def _check_expectation(headers: list[tuple[bytes, bytes]], version: str) -> None:
    expected = next((value.lower() for name, value in headers if name == b"expect"), _CONTINUE)
    if expected != _CONTINUE and version != "1.0":
        message = "the only expectation that is met is '100-continue'."
        raise MalformedError(http.HTTPStatus.EXPECTATION_FAILED, message)


def _refused(error: httptools.HttpParserError, data: bytes | memoryview, *, is_first_line: bool) -> MalformedError:
    """Return the answer to bytes that llhttp does not take."""
    if not isinstance(error, httptools.HttpParserInvalidMethodError):
        return _malformed("Check its head and its framing")
    if is_first_line and _UNKNOWN_METHOD.match(data):
        message = "a method that this server knows is expected, such as GET or POST."
        return MalformedError(http.HTTPStatus.NOT_IMPLEMENTED, message)
    return _malformed("Check its first line")


def _malformed(hint: str) -> MalformedError:
    return MalformedError(http.HTTPStatus.BAD_REQUEST, f"the request is malformed HTTP. {hint}.")


def _too_large_head() -> MalformedError:
    message = f"the head has more than {MAX_HEAD_BYTES} bytes or {MAX_HEADERS} headers. Send a smaller one."
    return MalformedError(http.HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, message)
