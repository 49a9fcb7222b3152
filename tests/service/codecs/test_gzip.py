"""Gzip bodies: whole members come back, everything else is refused, and nothing is expanded beyond the cap."""

import gzip as stdlib_gzip
import tracemalloc
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.codecs import gzip
from service.errors import InvalidArgumentError, PayloadTooLargeError

DATA = b'{"instances": [[1, 2, 3]]}'
GOOD = stdlib_gzip.compress(DATA, mtime=0)
LONG = stdlib_gzip.compress(np.random.default_rng(7).bytes(1000), mtime=0)
ZEROS = 100 << 20


def bomb(claimed=ZEROS):
    """Return 100 MiB of zeros in 100 KB, with a trailer that claims some other size."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    piece = bytes(1 << 20)
    packed = b"".join(packer.compress(piece) for _ in range(ZEROS >> 20)) + packer.flush()
    return packed[:-4] + claimed.to_bytes(4, "little")


@given(st.binary(max_size=2000), st.integers(0, 9))
def test_decompress_returns_what_was_compressed(data, level):
    """Every body comes back, at every level, at a cap of exactly its size; one byte less is too large."""
    packed = stdlib_gzip.compress(data, level)
    assert data == gzip.decompress(packed, len(data))
    if data:
        with pytest.raises(PayloadTooLargeError):
            gzip.decompress(packed, len(data) - 1)


def test_decompress_takes_a_head_with_every_optional_part():
    """A member with extra field, name, comment and checksum of its head is gzip too (RFC 1952)."""
    head = bytes([31, 139, 8, 2 | 4 | 8 | 16, 0, 0, 0, 0, 0, 255]) + b"\2\0ab" + b"name\0" + b"comment\0"
    head += (zlib.crc32(head) & 0xFFFF).to_bytes(2, "little")
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    body = head + packer.compress(DATA) + packer.flush() + GOOD[-8:]
    assert DATA == stdlib_gzip.decompress(body) == gzip.decompress(body, 100)


REFUSED = {
    "empty": (b"", "0 bytes are no whole gzip member"),
    "plain": (DATA, "not gzip"),
    "zlib": (zlib.compress(DATA), "not gzip"),
    "head alone": (GOOD[:10], "10 bytes are no whole gzip member"),
    "cut in its length": (GOOD[:-1], "truncated"),
    "cut in its data": (GOOD[:-9], "truncated"),
    "cut in its data, with a length": (LONG[:400] + (1000).to_bytes(4, "little"), "truncated"),
    "trailing byte": (GOOD + b"x", "truncated"),
    "trailing copy of the length": (GOOD + b"xxxx" + GOOD[-4:], "8 bytes behind the gzip member"),
    "two members": (GOOD + GOOD, f"{len(GOOD)} bytes behind the gzip member"),
    "wrong checksum": (GOOD[:-8] + b"\0\0\0\0" + GOOD[-4:], "its checksum is wrong"),
    "too small a length": (GOOD[:-4] + b"\1\0\0\0", "holds more than its last four bytes say"),
    "too large a length": (GOOD[:-4] + b"\x63\0\0\0", "its checksum is wrong"),
    "damaged data": (GOOD[:12] + b"\xff\xff\xff" + GOOD[15:], "damaged"),
    "another method": (GOOD[:2] + b"\7" + GOOD[3:], "not gzip"),
}


@pytest.mark.parametrize(("body", "found"), REFUSED.values(), ids=REFUSED)
def test_decompress_refuses_what_is_no_whole_member(body, found):
    """Truncated, damaged, followed by anything, or not gzip at all: each is told."""
    with pytest.raises(InvalidArgumentError, match=found):
        gzip.decompress(body, 1 << 16)


@given(st.integers(0, len(GOOD) - 1), st.integers(0, 7))
def test_decompress_returns_the_same_or_refuses_when_one_bit_is_flipped(place, bit):
    """No flipped bit changes the body, whatever it does to the head, and none of checksum or length passes."""
    body = bytearray(GOOD)
    body[place] ^= 1 << bit
    try:
        assert DATA == gzip.decompress(bytes(body), 100)
    except InvalidArgumentError:
        return
    assert place < len(GOOD) - 8


@pytest.mark.parametrize(
    ("claimed", "error", "found"),
    [
        (ZEROS, PayloadTooLargeError, "larger than 67108864 bytes when expanded"),
        (10, InvalidArgumentError, "more than its last four bytes say"),
        (1 << 20, InvalidArgumentError, "more than its last four bytes say"),
    ],
)
def test_decompress_refuses_a_bomb_without_expanding_it(claimed, error, found):
    """100 MiB in 100 KB cost what the bomb claims, or, where it claims too much, nothing."""
    body = bomb(claimed)
    assert 110_000 > len(body)
    tracemalloc.start()
    try:
        with pytest.raises(error, match=found):
            gzip.decompress(body, 64 << 20)
        assert 4 << 20 > tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
