"""Slices, choices, splits and joins of tensors along axes of features.

Beside the other families of `lifting`; below: `layout`, `builder`, `tensors`.
"""

import functools
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.program.constants import Constant, refused
from service.program.inlining import GraphNode
from service.program.lifting.builder import Builder, Lift
from service.program.lifting.layout import feature_axes, rearranged, require_size
from service.program.program import AffineNode, Term
from service.program.selections import Selection
from service.program.tensors import RowCount, Rows, Sizes, Tensor, entries, integers, joined, rows_of


def taken(array: NDArray[Any], index: tuple[Any, ...]) -> NDArray[Any]:
    """Return array[index], which can be pickled."""
    return np.asarray(array[index])


def strided_slice(builder: Builder, node: GraphNode, inputs: Sequence[Tensor]) -> Tensor:
    """Return x[begin:end:stride, ...] with Python's marks: whole axes, new ones, one entry, and all that are left."""
    tensor, begin, end, strides = inputs
    rank = tensor.rank if isinstance(tensor, Rows) else tensor.array.ndim
    index = _index(node, rank, entries(node, begin), entries(node, end), integers(node, strides))
    if isinstance(tensor, Rows):
        whole = (slice(None), slice(0, None), slice(0, RowCount(tensor.copies)), slice(None, RowCount(tensor.copies)))
        if not index or index[0] not in whole:
            raise refused("row-axis", node, "takes some of the rows, or adds an axis before them")
        index = (slice(None), *index[1:])
    if any(
        isinstance(bound, RowCount) for part in index if isinstance(part, slice) for bound in (part.start, part.stop)
    ):
        raise refused("row-axis", node, "counts the rows")
    return rearranged(builder, node, tensor, functools.partial(taken, index=index))


def _index(
    node: GraphNode, rank: int, begin: list[int | RowCount], end: list[int | RowCount], strides: list[int]
) -> tuple[Any, ...]:
    """Return the index that a StridedSlice means, one part for each axis and new axis."""

    def marked(name: str, place: int) -> bool:
        return bool(int(node.attributes.get(f"{name}_mask") or 0) >> place & 1)

    parts: list[Any] = []
    for place, (first, last, stride) in enumerate(zip(begin, end, strides, strict=True)):
        if marked("ellipsis", place):
            parts.append(Ellipsis)
        elif marked("new_axis", place):
            parts.append(None)
        elif marked("shrink_axis", place):
            parts.append(first)
        else:
            lower = None if marked("begin", place) else first
            upper = None if marked("end", place) else last
            parts.append(slice(lower, upper, None if stride == 1 else stride))
    used = sum(part is not None and part is not Ellipsis for part in parts)
    if used > rank or parts.count(Ellipsis) > 1:
        raise refused("not-lifted", node, f"slices a tensor of {rank} axes by {len(parts)} parts")
    rest = [slice(None)] * (rank - used)
    if Ellipsis in parts:
        place = parts.index(Ellipsis)
        return (*parts[:place], *rest, *parts[place + 1 :])
    return (*parts, *rest)


def plain_slice(builder: Builder, node: GraphNode, inputs: Sequence[Tensor]) -> Tensor:
    """Return `size` entries from `begin` along each axis, -1 for all that follow."""
    tensor, begin, size = inputs
    starts, sizes = integers(node, begin), entries(node, size)
    if isinstance(tensor, Rows):
        if not starts or starts[0] != 0 or sizes[0] not in (-1, RowCount(tensor.copies)):
            raise refused("row-axis", node, "takes some of the rows")
        sizes = [-1, *sizes[1:]]
    shape = (1, *tensor.shape) if isinstance(tensor, Rows) else tensor.array.shape
    if not len(starts) == len(sizes) == len(shape):
        raise refused("not-lifted", node, f"slices a tensor of {len(shape)} axes by {len(starts)} places")
    index: list[slice] = []
    for first, count, limit in zip(starts, sizes, shape, strict=True):
        if not isinstance(count, int):
            raise refused("row-axis", node, "counts the rows")
        last = limit if count == -1 else first + count
        if not 0 <= first <= last <= limit:
            raise refused("not-lifted", node, f"slices {limit} entries from {first} to {last}")
        index.append(slice(first, None if count == -1 else last))
    return rearranged(builder, node, tensor, functools.partial(taken, index=tuple(index)))


def gather(builder: Builder, node: GraphNode, inputs: Sequence[Tensor]) -> Tensor:
    """Return the entries of constant places along an axis of features."""
    tensor, places, axis = inputs
    if not isinstance(places, Constant) or places.array.dtype.kind not in "iu" or node.attributes.get("batch_dims"):
        raise refused("not-lifted", node, "must take features of constant places")
    (chosen,) = feature_axes(node, tensor, integers(node, axis))
    shape = (1, *tensor.shape) if isinstance(tensor, Rows) else tensor.array.shape
    if places.array.size and not 0 <= places.array.min() <= places.array.max() < shape[chosen]:
        raise refused("not-lifted", node, f"takes a place that is not one of {shape[chosen]}")
    require_size(builder, node, tensor, math.prod(shape) // max(1, shape[chosen]) * places.array.size)
    return rearranged(builder, node, tensor, functools.partial(np.take, indices=places.array, axis=chosen))


def split(builder: Builder, node: GraphNode, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Return equal parts along an axis of features."""
    axis, tensor = inputs
    count = int(node.attributes["num_split"])
    (chosen,) = feature_axes(node, tensor, integers(node, axis))
    size = _size(tensor, chosen)
    if count < 1 or size % count:
        raise refused("not-lifted", node, f"splits {size} features into {count} equal parts")
    return _parts(builder, node, tensor, chosen, [size // count] * count)


def split_by_sizes(builder: Builder, node: GraphNode, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Return parts of given sizes along an axis of features; -1 is what is left."""
    tensor, sizes, axis = inputs
    (chosen,) = feature_axes(node, tensor, integers(node, axis))
    size = _size(tensor, chosen)
    wanted = integers(node, sizes)
    left = size - sum(part for part in wanted if part != -1)
    wanted = [left if part == -1 else part for part in wanted]
    if sum(wanted) != size or min(wanted) < 0:
        raise refused("not-lifted", node, f"splits {size} features into parts of {wanted}")
    return _parts(builder, node, tensor, chosen, wanted)


def unpack(builder: Builder, node: GraphNode, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Return the entries along an axis of features, without that axis."""
    (tensor,) = inputs
    (chosen,) = feature_axes(node, tensor, [int(node.attributes.get("axis") or 0)])
    index = [(*(slice(None),) * chosen, place) for place in range(_size(tensor, chosen))]
    return tuple(rearranged(builder, node, tensor, functools.partial(taken, index=part)) for part in index)


def _size(tensor: Tensor, axis: int) -> int:
    return tensor.shape[axis - 1] if isinstance(tensor, Rows) else int(tensor.array.shape[axis])


def _parts(builder: Builder, node: GraphNode, tensor: Tensor, axis: int, sizes: list[int]) -> tuple[Tensor, ...]:
    starts = np.cumsum([0, *sizes]).tolist()
    index = [(*(slice(None),) * axis, slice(first, last)) for first, last in itertools.pairwise(starts)]
    return tuple(
        rearranged(builder, node, tensor, functools.partial(taken, index=part)) if size else Constant(np.zeros(0), "")
        for part, size in zip(index, sizes, strict=True)
    )


def pack(builder: Builder, node: GraphNode, inputs: Sequence[Tensor]) -> Tensor:
    """Return tensors of one shape along a new axis of features."""
    axis = int(node.attributes.get("axis") or 0)
    if not any(isinstance(tensor, Rows) for tensor in inputs):
        return joined(
            [tensor for tensor in inputs if not isinstance(tensor, Rows)], functools.partial(np.stack, axis=axis)
        )
    first = next(tensor for tensor in inputs if isinstance(tensor, Rows))
    (chosen,) = feature_axes(node, first, [axis], first.rank + 1)
    grown = [rearranged(builder, node, tensor, functools.partial(np.expand_dims, axis=chosen)) for tensor in inputs]
    return _concatenated(builder, node, [rows_of(node, tensor) for tensor in grown], chosen)


def concatenate(builder: Builder, node: GraphNode, inputs: Sequence[Tensor]) -> Tensor:
    """Return tensors one after the other along an axis of features."""
    *tensors, axis = inputs
    axes = integers(node, axis)
    if not any(isinstance(tensor, Rows) for tensor in tensors):
        constants: list[Constant | Sizes] = [tensor for tensor in tensors if not isinstance(tensor, Rows)]
        return joined(constants, functools.partial(np.concatenate, axis=axes[0]))
    rows = [rows_of(node, tensor) for tensor in tensors]
    (chosen,) = feature_axes(node, rows[0], axes)
    return _concatenated(builder, node, rows, chosen)


def _concatenated(builder: Builder, node: GraphNode, rows: Sequence[Rows], axis: int) -> Rows:
    """Return rows joined along an axis, as the sum of each put in its place among zeros."""
    first = rows[0]
    if any((other.before, other.after, other.rank) != (first.before, first.after, first.rank) for other in rows):
        raise refused("row-axis", node, "joins rows whose first axes are merged in different ways")
    builder.require(node.name, sum(other.width for other in rows))
    terms: list[Term] = []
    shape: tuple[int, ...] = ()
    for number, tensor in enumerate(rows):
        parts = [
            other.places if place == number else np.full_like(other.places, -1) for place, other in enumerate(rows)
        ]
        places = np.concatenate(parts, axis=axis)
        shape = places.shape[1:]
        builder.require_places(node.name, places.size)
        terms.append(
            Term(tensor.node, Selection(label="a join", places=places.reshape(-1, 1), input_width=tensor.width))
        )
    if len(rows) == 1:
        return first
    return builder.append(AffineNode(first.copies * math.prod(shape), tuple(terms), name=node.name), first, shape)


OPS: Mapping[str, Lift] = {
    "ConcatV2": concatenate,
    "GatherV2": gather,
    "Pack": pack,
    "Slice": plain_slice,
    "Split": split,
    "SplitV": split_by_sizes,
    "StridedSlice": strided_slice,
    "Unpack": unpack,
}
