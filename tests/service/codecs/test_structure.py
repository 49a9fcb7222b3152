"""What a JSON document is made of is counted before it is built: honest ones pass, bombs of small parts do not."""

import json

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.codecs.structure import SMALL_BYTES, check_structure, has_numbers_alone
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


ROWS = np.random.default_rng(0).standard_normal((500, 4)).astype(np.float32)
TEXT = orjson.dumps(ROWS, option=orjson.OPT_SERIALIZE_NUMPY)


@pytest.mark.parametrize(
    "body",
    [
        orjson.dumps({"instances": ROWS}, option=orjson.OPT_SERIALIZE_NUMPY),
        orjson.dumps({"instances": ROWS.tolist(), "outputs": ["score", "gradient"], "version": 3, "label": "stable"}),
        json.dumps({"instances": ROWS.tolist()}).encode(),
        b' {\n"instances" : [[1E5, -2.5e-7, 0, 18446744073709551615]%s]}\n' % (b", [1,2,3,4]" * 500),
        b'{"instances": [[1,2],[[%s]]]}' % (b"1," * 4000 + b"1"),
    ],
    ids=["orjson", "other fields", "json", "spaces", "lists in a row"],
)
def test_numbers_alone_are_seen_in_what_writers_write(body):
    """Rows of numbers, whatever stands behind them, are known without a look at each."""
    orjson.loads(body)
    assert has_numbers_alone(body)


@pytest.mark.parametrize(
    "part", [b"true", b"false", b"null", b'"1"', b'"a"', b'""', b"{}", b'{"a":1}', b'[["a"]]', b"[true]"]
)
@pytest.mark.parametrize("place", [b"[[%s," % b"0", b"],[", b"]]"])
def test_anything_but_numbers_is_seen_at_any_place(part, place):
    """A word, a text, an object: at the beginning, in the middle or at the end, in a row or beside it."""
    text = TEXT[:2] + b"0," + TEXT[2:]
    before, found, after = text.rpartition(place)
    put = before + found + part + b"," + after if found != b"]]" else before + b"," + part + found + after
    body = b'{"instances":%s}' % put
    assert {"instances"} == set(orjson.loads(body))
    assert not has_numbers_alone(body)


@pytest.mark.parametrize(
    "body",
    [
        b'{"instances":[[1,2]]}',
        b'{"version":1,"instances":%s}' % TEXT,
        b'{"instances":%s,"instances":[[true] ]}' % TEXT,
        b'{"instances":%s,"\\u0069nstances":[[true] ]}' % TEXT,
        b'{"instances":%s,"label":"%s"}' % (TEXT, b"x" * 1000),
        b'{"instances":%s,"context":[[1]]}' % TEXT,
        b'{"instances":%s ]}' % TEXT[:-1],
    ],
    ids=["small", "behind another field", "twice", "twice, escaped", "long tail", "context", "space"],
)
def test_what_is_not_written_as_most_do_is_looked_at(body):
    """Where bytes do not tell, nothing is said: the numbers are then looked at one by one."""
    orjson.loads(body)
    assert not has_numbers_alone(body)


SCALARS = st.sampled_from([0, -1.5, True, None, "a", "]]", [], [1], [[True]], {}, {"instances": [[1]]}])
PARTS = st.lists(st.one_of(st.lists(SCALARS, max_size=3), SCALARS), max_size=3)


@given(PARTS, st.sampled_from(["instances", "x"]), PARTS, st.booleans(), st.sampled_from([(",", ":"), (", ", ": ")]))
def test_numbers_alone_is_never_said_of_anything_else(rows, name, others, is_last, separators):
    """If it is said, no row up to the first list within a row has anything but numbers: what a reader relies on."""
    filled = [[0.125] * 40] * 60
    document = {"instances": [*filled, *rows] if is_last else [*rows, *filled]}
    body = json.dumps(document, separators=separators)[:-1] + f', "{name}": {json.dumps(others)}}}'
    if not has_numbers_alone(body.encode()):
        return
    for row in json.loads(body)["instances"]:
        values = row if isinstance(row, list) else []
        if any(isinstance(value, list) for value in values):
            break
        assert {float, int}.issuperset(map(type, values))
