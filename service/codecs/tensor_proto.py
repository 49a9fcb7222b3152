"""TensorProto to rows and back, bounded: a message of a few bytes never becomes an array of millions.

`tf.make_ndarray` expands whatever the shape claims and takes a hundred microseconds; this decoder counts in Python
integers before it builds anything. Above: `rpc`. Below: `protos` and `errors`.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.errors import InvalidArgumentError
from service.protos.tensorflow_serving import DATA_TYPES

MAX_SPLAT_BYTES = 1 << 20
"""Largest expanded size of a tensor whose message holds one value for the whole shape."""

_MAX_DIMENSION = (1 << 31) - 1
_MAX_RANK = 2
_FLOATS: dict[int, tuple[np.dtype[np.floating[Any]], str]] = {
    DATA_TYPES["DT_FLOAT"]: (np.dtype("<f4"), "float_val"),
    DATA_TYPES["DT_DOUBLE"]: (np.dtype("<f8"), "double_val"),
}
_NAMES = {number: name for name, number in DATA_TYPES.items()}
_ENCODED = {
    "float32": (DATA_TYPES["DT_FLOAT"], b"\x2a"),  # field 5, length-delimited: a packed repeated float
    "float64": (DATA_TYPES["DT_DOUBLE"], b"\x32"),  # field 6: a packed repeated double
}


def decode(tensor: Any, name: str) -> NDArray[np.floating]:
    """Return a float tensor's values.

    The values stand in `tensor_content` (little-endian, whole) or in the `*_val` field of the type, one for each
    element, or a single one for the whole shape up to `MAX_SPLAT_BYTES`.

    Args:
        tensor: `TensorProto` of type DT_FLOAT or DT_DOUBLE.
        name: what the caller calls the tensor; every message locates itself by it.

    Returns:
        float32 or float64 array of the tensor's shape; possibly not finite.

    Raises:
        InvalidArgumentError: `tensor parsing error: NAME: ...` for another type, an unknown or negative shape, both
            encodings at once, or too few or too many values.
    """
    if tensor.dtype not in _FLOATS:
        received = _NAMES.get(tensor.dtype, str(tensor.dtype))
        raise _error(name, f"received type {received}, expected DT_FLOAT or DT_DOUBLE. Convert the tensor")
    dtype, field = _FLOATS[tensor.dtype]
    shape = _shape(tensor, name)
    num_elements = math.prod(shape)
    values = getattr(tensor, field)
    if tensor.tensor_content and len(values):
        raise _error(name, f"received both tensor_content and {field}. Send one of them")
    if tensor.tensor_content:
        return _from_content(tensor.tensor_content, dtype, shape, name)
    if len(values) == num_elements:
        return np.array(values, dtype=dtype).reshape(shape)
    if len(values) == 1 and num_elements * dtype.itemsize <= MAX_SPLAT_BYTES:
        return np.full(shape, values[0], dtype=dtype)
    raise _error(
        name,
        f"received {len(values)} values in {field}, expected {num_elements} for shape {list(shape)}, or one value for "
        f"a tensor of at most {MAX_SPLAT_BYTES} bytes. Send every value",
    )


def encode(array: NDArray[np.float32], tensor: Any, *, as_content: bool, dtype: str = "float32") -> None:
    """Write an array into an empty `TensorProto`.

    Args:
        array: float32, any shape.
        tensor: the message to fill.
        as_content: whether the values go to `tensor_content` instead of `float_val` (or `double_val`), which clients
            that read that field directly rely on.
        dtype: type on the wire, `float32` or `float64`.
    """
    number, tag = _ENCODED[dtype]
    values = np.ascontiguousarray(array, dtype=_FLOATS[number][0]).tobytes()
    if as_content:
        tensor.tensor_content = values
    elif values:
        # A packed field is its length and the bytes of the array: forty times faster than a list of Python floats.
        tensor.MergeFromString(tag + _varint(len(values)) + values)
    tensor.dtype = number
    for size in array.shape:
        tensor.tensor_shape.dim.add(size=size)


def _shape(tensor: Any, name: str) -> tuple[int, ...]:
    if tensor.tensor_shape.unknown_rank:
        raise _error(name, "the shape's rank is unknown. Send the tensor's full shape")
    rank = len(tensor.tensor_shape.dim)
    if rank > _MAX_RANK:
        raise _error(name, f"received {rank} dimensions, expected {_MAX_RANK}. Send shape [rows, features]")
    shape = tuple(dimension.size for dimension in tensor.tensor_shape.dim)
    for axis, size in enumerate(shape):
        if not 0 <= size <= _MAX_DIMENSION:
            raise _error(name, f"dimension {axis} is {size}, expected 0 to {_MAX_DIMENSION}. Send the tensor's shape")
    return shape


def _from_content(
    content: bytes, dtype: np.dtype[np.floating], shape: tuple[int, ...], name: str
) -> NDArray[np.floating]:
    expected = math.prod(shape) * dtype.itemsize
    if len(content) != expected:
        raise _error(
            name,
            f"tensor_content holds {len(content)} bytes, expected {expected} for shape {list(shape)} of "
            f"{dtype.itemsize}-byte values. Send the whole tensor",
        )
    return np.frombuffer(content, dtype=dtype).reshape(shape)


def _error(name: str, detail: str) -> InvalidArgumentError:
    return InvalidArgumentError(f"tensor parsing error: {name[:40]}: {detail}.")


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)
