"""What a JSON document is made of is counted before it is built: honest ones pass, bombs of small parts do not."""

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.codecs.structure import SMALL_BYTES, check_structure, count_byte
from service.errors import InvalidArgumentError, PayloadTooLargeError

MAX_ROWS = 10_000
SIZE = SMALL_BYTES + 1


def document(part, count=200_000, last=b"0"):
    """Return a document whose instances are so many equal parts."""
    return b'{"instances": [' + (part + b",") * count + last + b"]}"


@pytest.mark.parametrize(
    "body",
    [
        orjson.dumps({"instances": [[0.5] * 30] * MAX_ROWS, "outputs": ["score", "gradient"], "version": 3}),
        orjson.dumps({"instances": [{"radius [mm]": 0.5, 'a "b" {c': 1, "\\": 2}] * MAX_ROWS, "label": "stable"}),
        orjson.dumps({"instances": [[1, 2, 3]] * MAX_ROWS}, option=orjson.OPT_INDENT_2),
        b'{"outputs" : ["score"], "instances" : [{"x" :1}' + b" " * SIZE + b"]}",
        document(b"1.5"),
    ],
    ids=["lists", "objects", "indented", "spaces", "numbers"],
)
def test_document_of_as_many_instances_as_may_be_passes(body):
    """Lists, objects by names full of brackets and quotes, spaces: none is refused up to the limit."""
    assert len(body) > SMALL_BYTES
    check_structure(body, MAX_ROWS)


@pytest.mark.parametrize(
    "part", [b"[]", b"{}", b"[0]", b'{"":0}', b'""', b'"\xc3\xa9"', b'"[]"', b'"\\""', b' [ "a" ] ']
)
def test_document_of_too_many_parts_is_too_large(part):
    """Lists, objects and texts beyond the number of instances are refused, however they are written."""
    with pytest.raises(PayloadTooLargeError, match="than 10000 instances may have"):
        check_structure(document(part), MAX_ROWS)


@pytest.mark.parametrize("body", [b"[" * 250_000, b'{"a":' * 250_000, document(b"[[{}]]")])
def test_document_that_is_too_deep_is_refused(body):
    """What stands deeper than a number in a row is no request, whether it ends or not."""
    with pytest.raises(InvalidArgumentError, match="the depth limit, 3"):
        check_structure(body, 1)


def test_small_document_is_left_to_the_parser():
    """A document of a few kilobytes cannot take much, whatever it holds."""
    check_structure(b"[" * SMALL_BYTES, 0)


@given(
    st.binary(max_size=300).map(lambda piece: piece * (SIZE // max(1, len(piece)) + 1)), st.sampled_from([0, 1 << 30])
)
def test_any_bytes_are_counted_or_refused(body, max_rows):
    """Whatever the bytes are, unfinished texts and stray brackets too, the count ends."""
    try:
        check_structure(body, max_rows)
    except InvalidArgumentError:
        assert len(body) > SMALL_BYTES


@pytest.mark.parametrize("size", [0, 1, 1 << 15, (1 << 15) + 1, 100_003])
def test_bytes_are_counted_at_any_size(size):
    """Of a body in which every seventh byte is a bracket, a seventh is found, whatever pieces it is looked at in."""
    body = (b"[234567" * (size // 7 + 1))[:size]
    assert -(-size // 7) == count_byte(body, b"[")
    assert 0 == count_byte(body, b"{")
