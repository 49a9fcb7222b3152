"""What a message is made of is counted before it is built: tensors of any size pass, bombs of small parts do not."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.codecs.fields import SMALL_BYTES, check_predict_request, check_small
from service.errors import InvalidArgumentError
from service.protos import tensorflow_serving as protos

NUM = 1 << 17


def field(number, data):
    """Return a field with a length, as it stands on the wire."""
    size, encoded = len(data), bytearray()
    while size > 0x7F:
        encoded.append(size & 0x7F | 0x80)
        size >>= 7
    return bytes([number << 3 | 2, *encoded, size]) + data


def tensor(data):
    """Return a PredictRequest whose one tensor has these bytes."""
    return field(2, field(1, b"x") + field(2, data))


SHAPE = field(2, field(2, b"\x08\x80\x80\x08") + field(2, b"\x08\x01"))  # dim {size: 131072} dim {size: 1}
HONEST = {
    "content": tensor(b"\x08\x01" + SHAPE + field(4, b"\x01" * 4 * NUM)),
    "float_val": tensor(b"\x08\x01" + SHAPE + field(5, b"\x01" * 4 * NUM)),
    "double_val": tensor(b"\x08\x02" + SHAPE + field(6, b"\x01" * 8 * NUM)),
    "floats one by one": tensor(b"\x08\x01" + SHAPE + b"\x2d\x2d\x31\x2d\x31" * NUM),
    "doubles one by one": tensor(b"\x08\x02" + b"\x31\x2d\x31\x2d\x31\x12\x12\x12\x12" * NUM + SHAPE),
    "in pieces": tensor(b"\x08\x01" + SHAPE + field(5, b"\x01" * 512) * 1024),
}


@pytest.mark.parametrize("data", HONEST.values(), ids=HONEST)
def test_message_that_is_large_by_its_values_passes(data):
    """Every encoding of a large tensor that protobuf reads is let through, and read."""
    check_predict_request(data)
    read = protos.PredictRequest.FromString(data).inputs["x"]
    assert NUM in {len(read.tensor_content) // 4, len(read.float_val), len(read.double_val)}


def test_message_of_the_stock_serializer_passes():
    """What protobuf itself writes of a large request with everything in it is let through."""
    request = protos.PredictRequest(model_spec={"name": "m", "version_label": "stable"}, output_filter=["score"])
    request.inputs["x"].float_val.extend(np.arange(NUM, dtype=np.float32).tolist())
    request.inputs["x"].tensor_shape.dim.add(size=NUM, name="rows")
    check_predict_request(request.SerializeToString())


BOMBS = {
    "inputs": field(2, b"") * NUM,
    "inputs of values": field(2, field(2, b"")) * NUM,
    "filters": field(3, b"") * NUM,
    "dimensions": tensor(field(2, field(2, b"") * NUM)),
    "shapes": tensor(field(2, b"") * NUM),
    "texts": tensor(field(8, b"") * NUM),
    "resources": tensor(field(14, b"") * NUM),
    "variants": tensor(field(15, b"") * NUM),
    "variants of tensors": tensor(field(15, field(3, field(4, b"\1" * NUM)))),
    "integers": tensor(field(7, b"\0" * NUM)),
    "long integers": tensor(field(10, b"\0" * NUM)),
    "unknown": b"\x78\x01" * NUM,
    "unknown, long": field(15, b"\0" * NUM),
    "groups": b"\x7b\x7c" * NUM,
    "name": field(1, field(1, b"m" * NUM)),
    "values outside a tensor": field(4, b"\0" * NUM),
    "long tags": b"\x92\x80\x00\x00" * NUM,
}


@pytest.mark.parametrize("data", BOMBS.values(), ids=BOMBS)
def test_message_that_is_large_by_anything_else_is_refused(data):
    """Many small fields, or long ones that are no values: refused before a parser sees them."""
    with pytest.raises(InvalidArgumentError, match="too large beside its tensors' values"):
        check_predict_request(data)


def test_small_message_is_left_to_the_parser():
    """A message of a few kilobytes cannot take much, whatever it holds."""
    check_predict_request(field(3, b"") * (SMALL_BYTES // 2))


@given(st.binary(max_size=60), st.sampled_from([b"", b"\x12", b"\x12\xff\xff\xff\x7f"]))
def test_any_bytes_are_walked_or_refused(piece, head):
    """Whatever the bytes are, lengths beyond the end and endless numbers too, the walk ends."""
    data = head + piece * (2 * SMALL_BYTES // max(1, len(piece)))
    try:
        check_predict_request(data)
    except InvalidArgumentError:
        assert len(data) > SMALL_BYTES


def test_message_of_a_small_kind_is_refused_when_it_is_large():
    """At the limit it passes, one byte more is refused."""
    check_small(bytes(SMALL_BYTES))
    with pytest.raises(InvalidArgumentError, match="65537 bytes, expected at most 65536"):
        check_small(bytes(SMALL_BYTES + 1))
