"""Gzip bodies, expanded under the cap of all bodies: what is refused was never expanded beyond it.

Above: `rest`. Below: `errors`.
"""

import zlib

from service.errors import InvalidArgumentError, PayloadTooLargeError

_GZIP = 16 + zlib.MAX_WBITS  # the window bits by which zlib is asked for gzip's frame, checksum and length
_MARK = b"\x1f\x8b"
_SIZE_BYTES = 4
_MAX_RATIO = 1032  # what deflate can reach: a claim beyond it is not one, but the end of a body that was cut off
_SMALLEST = 18  # head and trailer of a member that holds nothing


def claimed_bytes(body: bytes) -> int:
    """Return the expanded size that the last four bytes of a gzip body claim, modulo 2^32."""
    return int.from_bytes(body[-_SIZE_BYTES:], "little")


def decompress(body: bytes, max_bytes: int) -> bytes:
    """Return what a gzip body of one member holds.

    A body that says that it holds too much is refused unread; one that holds more than it says is not expanded beyond
    what it says.

    Args:
        body: one whole gzip member (RFC 1952), nothing behind it.
        max_bytes: largest expanded size.

    Raises:
        PayloadTooLargeError: it holds more than `max_bytes`.
        InvalidArgumentError: not gzip, truncated, another checksum or length, or bytes behind the first member.
    """
    if len(body) < _SMALLEST:
        message = f"body: {len(body)} bytes are no whole gzip member. Send the whole compressed body."
        raise InvalidArgumentError(message)
    claimed = claimed_bytes(body)
    if not body.startswith(_MARK) or claimed > len(body) * _MAX_RATIO:
        message = "body: not gzip, or truncated: its first or its last bytes are no gzip member's. Compress it again."
        raise InvalidArgumentError(message)
    if claimed > max_bytes:
        message = f"body: larger than {max_bytes} bytes when expanded. Send fewer rows in one request."
        raise PayloadTooLargeError(message)
    expander = zlib.decompressobj(_GZIP)
    try:
        expanded = expander.decompress(body, claimed + 1)
    except zlib.error as error:
        message = "body: not gzip, or damaged: its head, its data or its checksum is wrong. Compress it again."
        raise InvalidArgumentError(message) from error
    if len(expanded) > claimed:
        message = "body: the gzip member holds more than its last four bytes say. Compress it again."
        raise InvalidArgumentError(message)
    if not expander.eof:
        message = "body: the gzip member is truncated. Send the whole compressed body."
        raise InvalidArgumentError(message)
    if expander.unused_data:
        message = f"body: {len(expander.unused_data)} bytes behind the gzip member. Send one member alone."
        raise InvalidArgumentError(message)
    return expanded
