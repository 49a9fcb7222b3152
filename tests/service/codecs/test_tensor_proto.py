"""TensorProto: both encodings in, bounded; both encodings out, bit for bit."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from service.codecs import tensor_proto
from service.errors import InvalidArgumentError
from service.protos.tensorflow_serving import DATA_TYPES, TensorProto

ARRAYS = hnp.arrays(
    np.float32, hnp.array_shapes(min_dims=1, max_dims=2, min_side=0, max_side=5), elements=st.floats(width=32)
)


def make(dtype="DT_FLOAT", shape=(1, 3), **fields):
    """Return a TensorProto of these fields."""
    tensor = TensorProto(dtype=DATA_TYPES.get(dtype, dtype), **fields)
    for size in shape:
        tensor.tensor_shape.dim.add(size=size)
    return tensor


@given(ARRAYS, st.booleans())
def test_encoded_array_decodes_to_the_same_bits(array, as_content):
    """An array goes out and comes in again with every bit, NaN payloads too, by value fields and by content."""
    tensor = TensorProto()
    tensor_proto.encode(array, tensor, as_content=as_content)
    received = TensorProto.FromString(tensor.SerializeToString())
    assert array.tobytes() == tensor_proto.decode(received, "x").tobytes()
    assert array.shape == tensor_proto.decode(received, "x").shape
    assert (array.size > 0 and as_content) == bool(received.tensor_content)
    assert (0 if as_content else array.size) == len(received.float_val)


@pytest.mark.parametrize(
    "fields", [{"double_val": [1.5, 2.5, 1e300]}, {"tensor_content": np.array([1.5, 2.5, 1e300]).tobytes()}]
)
def test_double_is_decoded_when_it_is_whole(fields):
    """DT_DOUBLE is taken by values and by content and stays float64; the cast is the signature's."""
    rows = tensor_proto.decode(make("DT_DOUBLE", **fields), "x")
    assert np.float64 == rows.dtype
    assert [[1.5, 2.5, 1e300]] == rows.tolist()


def test_one_value_stands_for_the_whole_shape_up_to_a_mebibyte():
    """A splat is expanded as long as it is small: 2^18 float32 or 2^17 float64."""
    assert np.full((2, 3), 7.0).tolist() == tensor_proto.decode(make(shape=(2, 3), float_val=[7]), "x").tolist()
    assert (1 << 18) == tensor_proto.decode(make(shape=(1 << 16, 4), float_val=[7]), "x").size
    assert (1 << 17) == tensor_proto.decode(make("DT_DOUBLE", shape=(1 << 15, 4), double_val=[7]), "x").size


def test_empty_tensor_is_decoded_when_a_dimension_is_zero():
    """Zero rows are rows."""
    assert (0, 3) == tensor_proto.decode(make(shape=(0, 3)), "x").shape


@pytest.mark.parametrize(
    ("tensor", "found"),
    [
        (make(tensor_content=b"\0" * 11), "tensor_content holds 11 bytes, expected 12 for shape [1, 3]"),
        (make(tensor_content=b"\0" * 13), "tensor_content holds 13 bytes, expected 12"),
        (make("DT_DOUBLE", tensor_content=b"\0" * 12), "tensor_content holds 12 bytes, expected 24"),
        (make(float_val=[1, 2]), "received 2 values in float_val, expected 3"),
        (make(float_val=[1, 2, 3, 4]), "received 4 values in float_val, expected 3"),
        (make(), "received 0 values in float_val, expected 3"),
        (make(int_val=[1, 2, 3]), "received 0 values in float_val, expected 3"),
        (make("DT_DOUBLE", float_val=[1, 2, 3]), "received 0 values in double_val, expected 3"),
        (make(float_val=[1, 2, 3], tensor_content=b"\0" * 12), "received both tensor_content and float_val"),
        (make(shape=((1 << 16) + 1, 4), float_val=[7]), "received 1 values in float_val"),
        (make(shape=((1 << 31) - 1, (1 << 31) - 1), float_val=[7]), "received 1 values in float_val"),
        (make(shape=((1 << 31) - 1, (1 << 31) - 1), tensor_content=b"\0"), "tensor_content holds 1 bytes"),
        (make(shape=(1 << 31, 3), float_val=[7]), "dimension 0 is 2147483648"),
        (make(shape=(0, 1 << 62)), "dimension 1 is 4611686018427387904"),
        (make(shape=(-1, 3), float_val=[1, 2, 3]), "dimension 0 is -1"),
        (make(shape=(-1, -3), float_val=[1, 2, 3]), "dimension 0 is -1"),
        (make(shape=(1, 1, 3), float_val=[1, 2, 3]), "received 3 dimensions, expected 2"),
        (make(shape=[1] * 10_000, float_val=[1]), "received 10000 dimensions"),
        (make("DT_STRING", string_val=[b"a", b"b", b"c"]), "received type DT_STRING, expected DT_FLOAT or DT_DOUBLE"),
        (make("DT_INT32", int_val=[1, 2, 3]), "received type DT_INT32"),
        (make("DT_HALF", half_val=[1, 2, 3]), "received type DT_HALF"),
        (make("DT_VARIANT"), "received type DT_VARIANT"),
        (make("DT_FLOAT_REF", float_val=[1, 2, 3]), "received type DT_FLOAT_REF"),
        (make(0, float_val=[1, 2, 3]), "received type DT_INVALID"),
        (make(999, float_val=[1, 2, 3]), "received type 999"),
    ],
)
def test_bad_tensor_is_refused_before_it_is_built(tensor, found):
    """Wrong type, size or shape is an InvalidArgumentError in TensorFlow Serving's form, and nothing large is made."""
    with pytest.raises(InvalidArgumentError) as refusal:
        tensor_proto.decode(tensor, "x")
    assert refusal.value.message.startswith("tensor parsing error: x: ")
    assert found in refusal.value.message


def test_unknown_rank_is_refused_whatever_the_values():
    """A tensor without a shape is no table of rows."""
    tensor = make(shape=(), float_val=[1])
    tensor.tensor_shape.unknown_rank = True
    with pytest.raises(InvalidArgumentError, match="rank is unknown"):
        tensor_proto.decode(tensor, "x")


def test_bomb_of_a_few_bytes_is_refused_as_small_as_it_is():
    """A message of less than thirty bytes that claims 115 MiB of rows is refused."""
    bomb = make(shape=(1_000_000, 30), float_val=[1])
    assert len(bomb.SerializeToString()) < 30
    with pytest.raises(InvalidArgumentError, match="Send every value"):
        tensor_proto.decode(bomb, "x")
