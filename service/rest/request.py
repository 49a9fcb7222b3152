"""One HTTP request: its head, and how much of its body has come.

Above: `request_reader`, which makes it of bytes, and all that answer it. Below: nothing.
"""

import dataclasses
import functools
from typing import Any

_CONTINUE = b"100-continue"


@dataclasses.dataclass(eq=False, slots=True)
class Head:
    """What a request says before its body; never changed.

    Args:
        method: such as "POST".
        target: the request target as it was sent, without a fragment.
        version: "1.0" or "1.1".
        headers: lower-case names and values, in order.
        keep_alive: whether the client lets the connection stay open.
        length: bytes of the body that it announces; None: chunked.
    """

    method: str
    target: bytes
    version: str
    headers: list[tuple[bytes, bytes]]
    keep_alive: bool
    length: int | None
    first: dict[bytes, bytes] = dataclasses.field(init=False)
    """The first value of each header."""
    path: bytes = dataclasses.field(init=False)
    query: bytes = dataclasses.field(init=False)
    variables: dict[str, Any] | None = None
    """What `wsgi` has made of it, once."""

    def __post_init__(self) -> None:
        """Look once at what is asked for often."""
        self.first = dict(reversed(self.headers))
        self.path, self.query = split_target(self.target)

    @property
    def expects_continue(self) -> bool:
        """Whether the client waits for a word before it sends the body."""
        return self.version == "1.1" and self.first.get(b"expect", b"").lower() == _CONTINUE


@dataclasses.dataclass(eq=False, slots=True)
class Request:
    """One request, as far as it has come.

    Args:
        head: what it says before its body.
        keep_alive: whether the client lets the connection stay open; a trailer may say otherwise than the head.
    """

    head: Head
    keep_alive: bool
    body: bytes | bytearray = b""
    num_body_bytes: int = 0
    is_complete: bool = False
    is_discarded: bool = False
    """Whether the rest of its body is read and thrown away."""
    is_continued: bool = False
    """Whether the client was told to send the body."""
    is_given_up: bool = False
    """Whether it was answered in the place of a thread that does not let go: its answer is nobody's any more."""

    @property
    def method(self) -> str:
        """As in its head."""
        return self.head.method

    @property
    def target(self) -> bytes:
        """As in its head."""
        return self.head.target

    @property
    def version(self) -> str:
        """As in its head."""
        return self.head.version

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """As in its head."""
        return self.head.headers

    @property
    def length(self) -> int | None:
        """As in its head."""
        return self.head.length

    @property
    def expects_continue(self) -> bool:
        """As in its head."""
        return self.head.expects_continue

    def header(self, name: bytes) -> bytes:
        """Return the first value of a header, or b""."""
        return self.head.first.get(name, b"")

    def discard(self) -> None:
        """Forget the body, and what comes of it."""
        self.is_discarded = True
        self.body = b""


@functools.lru_cache(maxsize=256)
def split_target(target: bytes) -> tuple[bytes, bytes]:
    """Return path and query of a request target in origin form or absolute form (RFC 9112, 3.2)."""
    if not target.startswith(b"/"):
        scheme, separator, rest = target.partition(b"://")
        if separator and scheme.lower() in {b"http", b"https"}:
            authority, slash, path = rest.partition(b"/")
            target = slash + path if slash else b"/" + authority[len(authority.partition(b"?")[0]) :]
    path, _, query = target.partition(b"?")
    return path, query
