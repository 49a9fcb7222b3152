"""Heads of requests that were read before, so that the same bytes are not parsed again.

What a head says depends on its bytes alone, and a client sends the same ones again and again. Above: `request_reader`,
which reads a head the first time, strictly, and tells it here. Below: `request`.
"""

from service.rest.request import Head

MAX_KNOWN_BYTES = 1 << 10
"""Longest head that is kept."""

_MAX_HEADS = 256
_END = b"\r\n\r\n"


class KnownHeads:
    """Heads by their bytes, a bounded number of them.

    Thread safety: none; for the loop's thread alone.
    """

    def __init__(self) -> None:
        """Begin with none."""
        self._heads: dict[bytes, Head] = {}

    def find(self, data: bytes | memoryview) -> tuple[Head, int] | None:
        """Return the head that data begins with, and its size, if its very bytes were read before."""
        if not self._heads:
            return None
        start = bytes(data[:MAX_KNOWN_BYTES])
        size = start.find(_END) + len(_END)
        head = self._heads.get(start[:size])
        return None if head is None else (head, size)

    def note(self, data: bytes | memoryview, head: Head) -> None:
        """Keep the head that was read from the beginning of data, if nothing but its bytes matters.

        Left out are those after which the connection is another one's business: the last request of a connection, one
        whose client waits for a word, chunks, old HTTP; and heads behind an empty line.
        """
        is_plain = head.version == "1.1" and head.keep_alive and head.length is not None and not head.expects_continue
        start = bytes(data[:MAX_KNOWN_BYTES])
        size = start.find(_END) + len(_END)
        if is_plain and size >= len(_END) and start[:1].isalpha() and b"upgrade" not in head.first:
            if len(self._heads) >= _MAX_HEADS:
                self._heads.clear()
            self._heads[start[:size]] = head
