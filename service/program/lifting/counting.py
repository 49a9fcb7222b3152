"""Shapes of tensors, and the integers that are computed from them: a number of rows may become a shape, nothing else.

Beside the other families of `lifting`; below: `tensors`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.program.constants import MAX_NUMBERS, Constant, refused
from service.program.inlining import GraphNode
from service.program.lifting.builder import Builder, Lift
from service.program.tensors import RowCount, Rows, Sizes, Tensor, integers, sizes

_LARGEST = 2**31 - 1


def shape_of(builder: Builder, node: GraphNode, inputs: Sequence[Tensor]) -> Tensor:
    """Return the tensor's shape."""
    del builder, node
    (tensor,) = inputs
    if isinstance(tensor, Rows):
        return sizes(np.array([RowCount(tensor.copies), *tensor.shape], np.object_))
    return sizes(np.array(tensor.array.shape, np.object_))


def rank_of(builder: Builder, node: GraphNode, inputs: Sequence[Tensor]) -> Tensor:
    """Return the number of the tensor's axes."""
    del builder, node
    (tensor,) = inputs
    return sizes(np.asarray(tensor.rank if isinstance(tensor, Rows) else tensor.array.ndim, np.object_))


def size_of(builder: Builder, node: GraphNode, inputs: Sequence[Tensor]) -> Tensor:
    """Return the number of the tensor's entries."""
    del builder, node
    (tensor,) = inputs
    return sizes(np.asarray(RowCount(tensor.width) if isinstance(tensor, Rows) else tensor.array.size, np.object_))


def range_of(builder: Builder, node: GraphNode, inputs: Sequence[Tensor]) -> Tensor:
    """Return the integers from a first one to before a last one."""
    del builder
    (start,), (limit,), (delta,) = (integers(node, tensor) for tensor in inputs)
    if len(range(start, limit, delta)) > MAX_NUMBERS:
        raise refused("size-limit", node, f"computes a constant of over {MAX_NUMBERS} numbers")
    return Constant(np.arange(start, limit, delta), "a range")


def is_integer(tensor: Tensor) -> bool:
    """Whether a tensor is of integers, or of numbers of rows."""
    return isinstance(tensor, Sizes) or (isinstance(tensor, Constant) and tensor.array.dtype.kind in "iu")


def combined(node: GraphNode, tensors: Sequence[Tensor], operation: Callable[..., NDArray[Any]]) -> Constant | Sizes:
    """Return an operation on integers, some of which may count rows, as exact integers.

    Raises:
        VersionRefusedError: `row-axis`, where a number of rows meets anything but a product with an integer;
            `not-lifted`, beyond 32 bits.
    """
    arrays = [tensor.array.astype(np.object_) for tensor in tensors if not isinstance(tensor, Rows)]
    try:
        result = sizes(np.asarray(operation(*arrays), np.object_))
    except TypeError as err:
        raise refused("row-axis", node, "computes with the number of rows") from err
    numbers = [entry.times if isinstance(entry, RowCount) else int(entry) for entry in result.array.reshape(-1)]
    if any(abs(number) > _LARGEST for number in numbers):
        raise refused("not-lifted", node, "computes integers beyond 32 bits")
    return result


def on_integers(operation: Callable[..., NDArray[Any]]) -> Lift:
    """Return what lifts an op that is understood of integers only."""

    def lift(builder: Builder, node: GraphNode, inputs: Sequence[Tensor]) -> Tensor:
        del builder
        if not all(is_integer(tensor) for tensor in inputs):
            raise refused("not-lifted", node, "is understood of constant integers only")
        return combined(node, inputs, operation)

    return lift


OPS: Mapping[str, Lift] = {
    "FloorDiv": on_integers(np.floor_divide),
    "FloorMod": on_integers(np.mod),
    "Range": range_of,
    "Rank": rank_of,
    "Shape": shape_of,
    "Size": size_of,
}
