"""Ops that give a tensor another shape, or move, repeat and pad its numbers, each row's alone.

One function of NumPy does what an op does to an array; on rows it is applied to the numbers of the features, with the
row axis in its place in front, which nothing may touch. Beside the other families; below: `builder`, `tensors`.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from service.errors import VersionRefusedError
from service.program.constants import MAX_NUMBERS, Constant, floats, refused
from service.program.inlining import GraphNode
from service.program.lifting.builder import Builder, Lift
from service.program.origins import Rearrangement
from service.program.program import AffineNode, Term
from service.program.selections import Selection
from service.program.tensors import RowCount, Rows, Sizes, Tensor, entries, integers


def rearranged(builder: Builder, node: GraphNode, tensor: Tensor, function: Rearrangement) -> Tensor:
    """Return the tensor after a function of its numbers' places that leaves the row axis alone."""
    if not isinstance(tensor, Rows):
        return tensor.moved(function)
    return builder.select(node.name, tensor, function(tensor.places), f"{node.op} of features")


def feature_axes(node: GraphNode, tensor: Tensor, axes: Sequence[int], rank: int | None = None) -> tuple[int, ...]:
    """Return axes counted from the front, refused by `row-axis` where one of rows is the row axis.

    Args:
        node: the op.
        tensor: whose axes they are.
        axes: may be negative.
        rank: number of axes that they are counted by, if not the tensor's.
    """
    rank = rank or (tensor.rank if isinstance(tensor, Rows) else tensor.array.ndim)
    if any(not -rank <= axis < rank for axis in axes):
        raise refused("not-lifted", node, f"names an axis of {list(axes)} of a tensor of {rank}")
    found = tuple(axis % rank for axis in axes)
    if isinstance(tensor, Rows) and 0 in found:
        raise refused("row-axis", node, "works along the rows, not along the features")
    return found


def require_size(builder: Builder, node: GraphNode, tensor: Tensor, size: int) -> None:
    """Refuse an op that makes a tensor larger than it may be, before it does."""
    if isinstance(tensor, Rows):
        builder.require(node.name, size * tensor.copies)
    elif size > max(MAX_NUMBERS, tensor.array.size):
        raise refused("size-limit", node, f"computes a constant of over {MAX_NUMBERS} numbers")


def reshape(builder: Builder, node: GraphNode, inputs: Sequence[Tensor]) -> Tensor:
    """Return the tensor in another shape; axes of features may be merged behind the row axis and parted again."""
    tensor, shape = inputs
    wanted = entries(node, shape)
    if not isinstance(tensor, Rows):
        if not all(isinstance(size, int) for size in wanted):
            raise refused("row-axis", node, "gives a constant as many entries as there are rows")
        return rearranged(builder, node, tensor, functools.partial(np.reshape, shape=tuple(wanted)))
    first, *rest = wanted or [0]
    known = math.prod(size for size in rest if isinstance(size, int) and size != -1)
    free = rest.count(-1)
    times = first.times if isinstance(first, RowCount) else 0
    fits = known > 0 and tensor.width % known == 0 and all(isinstance(size, int) for size in rest)
    if fits and free == 0 and (times == tensor.width // known or first == -1):
        times = tensor.width // known
    elif not (fits and free == 1 and times > 0 and tensor.width % (times * known) == 0):
        times = 0
    if times == 0 or tensor.before != 1:
        shown = ["n" if isinstance(size, RowCount) else size for size in wanted]
        what = f"reshapes rows [n, {', '.join(map(str, tensor.shape))}] to {shown}, which moves numbers between rows"
        raise refused("row-axis", node, what)
    sizes = tuple(tensor.width // (times * known) if size == -1 else size for size in rest if isinstance(size, int))
    return Rows(tensor.node, sizes, after=times)


def squeeze(builder: Builder, node: GraphNode, inputs: Sequence[Tensor]) -> Tensor:
    """Return the tensor without axes of one entry, which must be named: [1, k] is as good a batch as any."""
    (tensor,) = inputs
    axes = tuple(node.attributes.get("squeeze_dims") or ())
    if isinstance(tensor, Rows) and not axes:
        raise refused("row-axis", node, "drops every axis of one entry, the row axis too where there is one row")
    chosen = feature_axes(node, tensor, axes) if axes else None
    return rearranged(builder, node, tensor, functools.partial(np.squeeze, axis=chosen))


def expand(builder: Builder, node: GraphNode, inputs: Sequence[Tensor]) -> Tensor:
    """Return the tensor with one more axis of one entry."""
    tensor, axis = inputs
    axes = integers(node, axis)
    if len(axes) != 1:
        raise refused("row-axis", node, "must add one axis")
    rank = 1 + (tensor.rank if isinstance(tensor, Rows) else tensor.array.ndim)
    (chosen,) = feature_axes(node, tensor, axes, rank)
    return rearranged(builder, node, tensor, functools.partial(np.expand_dims, axis=chosen))


def transpose(builder: Builder, node: GraphNode, inputs: Sequence[Tensor]) -> Tensor:
    """Return the tensor with its axes in another order, the row axis in front."""
    tensor, permutation = inputs
    axes = integers(node, permutation)
    if isinstance(tensor, Rows) and (not axes or axes[0] != 0):
        raise refused("row-axis", node, f"moves the row axis: its permutation is {axes}")
    return rearranged(builder, node, tensor, functools.partial(np.transpose, axes=tuple(axes)))


def reverse(builder: Builder, node: GraphNode, inputs: Sequence[Tensor]) -> Tensor:
    """Return the tensor with axes of features reversed."""
    tensor, axes = inputs
    chosen = feature_axes(node, tensor, integers(node, axes))
    return rearranged(builder, node, tensor, functools.partial(np.flip, axis=chosen))


def tile(builder: Builder, node: GraphNode, inputs: Sequence[Tensor]) -> Tensor:
    """Return the tensor repeated along axes of features."""
    tensor, multiples = inputs
    times = integers(node, multiples)
    shape = (1, *tensor.shape) if isinstance(tensor, Rows) else tensor.array.shape
    if len(times) != len(shape) or min(times, default=1) < 0:
        raise refused("not-lifted", node, f"repeats a tensor of {len(shape)} axes {times} times")
    if isinstance(tensor, Rows) and times[0] != 1:
        raise refused("row-axis", node, "repeats the rows")
    require_size(builder, node, tensor, math.prod(shape) * math.prod(times))
    return rearranged(builder, node, tensor, functools.partial(np.tile, reps=tuple(times)))


def broadcast_to(builder: Builder, node: GraphNode, inputs: Sequence[Tensor]) -> Tensor:
    """Return the tensor broadcast to a shape; a constant that gets a row axis is the same for every row."""
    tensor, shape = inputs
    wanted = entries(node, shape)
    sizes = tuple(size for size in wanted if isinstance(size, int))
    if isinstance(tensor, Rows):
        if not wanted or wanted[0] != RowCount(tensor.copies) or len(sizes) != len(wanted) - 1:
            raise refused("row-axis", node, "broadcasts rows to a shape that does not begin with their number")
        if len(sizes) != len(tensor.shape) or np.broadcast_shapes(tensor.shape, sizes) != sizes:
            raise refused("row-axis", node, f"broadcasts features {list(tensor.shape)} to {list(sizes)}")
        return builder.broadcast(node.name, tensor, sizes)
    require_size(builder, node, tensor, math.prod(sizes))
    if len(sizes) == len(wanted):
        return tensor.moved(functools.partial(np.broadcast_to, shape=sizes))
    if not isinstance(tensor, Constant) or wanted[0] != RowCount(1) or len(sizes) != len(wanted) - 1:
        raise refused("row-axis", node, "broadcasts to a shape in which the rows are not the first axis")
    array = floats(node, tensor.array)
    if array.ndim > len(sizes):
        raise refused("row-axis", node, f"broadcasts a constant {list(array.shape)} along the rows")
    builder.require(node.name, math.prod(sizes))
    return builder.constant(node.name, np.broadcast_to(array, sizes).reshape(-1), sizes)


def fill(builder: Builder, node: GraphNode, inputs: Sequence[Tensor]) -> Tensor:
    """Return a tensor of one number everywhere."""
    shape, value = inputs
    if not isinstance(value, Constant) or value.array.ndim != 0:
        raise refused("not-lifted", node, "fills a tensor with something that is not one constant number")
    return broadcast_to(builder, node, (value, shape))


def filled_like(value: float) -> Lift:
    """Return what lifts `ZerosLike` and `OnesLike`."""

    def lift(builder: Builder, node: GraphNode, inputs: Sequence[Tensor]) -> Tensor:
        (tensor,) = inputs
        if isinstance(tensor, Sizes) or (isinstance(tensor, Rows) and tensor.copies != 1):
            raise refused("row-axis", node, "counts the rows")
        if isinstance(tensor, Constant):
            return Constant(np.full_like(tensor.array, value), f"a constant {value:g}")
        return builder.constant(node.name, np.full(tensor.width, value, np.float32), tensor.shape)

    return lift


def pad(builder: Builder, node: GraphNode, inputs: Sequence[Tensor]) -> Tensor:
    """Return the tensor with entries added at the ends of its axes of features: a constant, or its own mirrored."""
    tensor, paddings, *values = inputs
    flat = integers(node, paddings)
    ends = list(zip(flat[::2], flat[1::2], strict=True))
    shape = (1, *tensor.shape) if isinstance(tensor, Rows) else tensor.array.shape
    if len(ends) != len(shape) or min(flat, default=0) < 0:
        raise refused("not-lifted", node, f"pads a tensor of {len(shape)} axes by {flat}")
    if isinstance(tensor, Rows) and ends[0] != (0, 0):
        raise refused("row-axis", node, "adds rows")
    grown = math.prod(size + before + after for size, (before, after) in zip(shape, ends, strict=True))
    require_size(builder, node, tensor, grown)
    if node.op == "MirrorPad":
        mode = {"REFLECT": "reflect", "SYMMETRIC": "symmetric"}[str(node.attributes.get("mode"))]
        limits = [size - 1 if mode == "reflect" else size for size in shape]
        if any(max(pair) > limit for pair, limit in zip(ends, limits, strict=True) if max(pair) > 0):
            raise refused("not-lifted", node, "mirrors more entries than there are")
        return rearranged(builder, node, tensor, functools.partial(np.pad, pad_width=tuple(ends), mode=mode))
    value = _pad_value(node, values)
    if not isinstance(tensor, Rows):
        return _padded_constant(tensor, tuple(ends), value)
    return _padded(builder, node, tensor, ends, value)


def _pad_value(node: GraphNode, values: Sequence[Tensor]) -> float:
    if not values:
        return 0.0
    (value,) = values
    if not isinstance(value, Constant) or value.array.size != 1:
        raise refused("not-lifted", node, "pads with something that is not one constant number")
    return float(floats(node, value.array).reshape(()))


def _padded_constant(tensor: Constant | Sizes, ends: tuple[tuple[int, int], ...], value: float) -> Tensor:
    if isinstance(tensor, Sizes) or value != 0:
        raise VersionRefusedError("not-lifted", "a shape, or a constant with other numbers than zeros, is padded")
    grown = dataclasses.replace(tensor, origin=None)
    return grown.moved(functools.partial(np.pad, pad_width=ends))


def _padded(builder: Builder, node: GraphNode, rows: Rows, ends: Sequence[tuple[int, int]], value: float) -> Rows:
    places = np.pad(rows.places, ends, constant_values=-1)
    if value == 0.0:
        return builder.select(node.name, rows, places, "a padding")
    flat = places.reshape(-1)
    builder.require_places(node.name, flat.size)
    operator = Selection(label="a padding", places=flat[:, None], input_width=rows.width)
    bias = np.where(flat < 0, value, 0.0)
    return builder.append(AffineNode(flat.size, (Term(rows.node, operator),), bias, node.name), rows, places.shape[1:])


def space_to_batch(builder: Builder, node: GraphNode, inputs: Sequence[Tensor]) -> Tensor:
    """Return blocks of a grid one after the other along the first axis, as TensorFlow prepares dilated convolutions."""
    tensor, block, paddings = inputs
    sizes, flat = integers(node, block), integers(node, paddings)
    if not isinstance(tensor, Rows) or tensor.copies != 1 or not sizes or min(sizes) < 1 or min(flat) < 0:
        raise refused("row-axis", node, "must part the features of rows into blocks")
    axes = len(sizes)
    ends = [(0, 0), *zip(flat[::2], flat[1::2], strict=True)]
    ends += [(0, 0)] * (tensor.rank - len(ends))
    builder.require(node.name, math.prod(size + sum(end) for size, end in zip((1, *tensor.shape), ends, strict=True)))
    padded = np.pad(tensor.places, ends, constant_values=-1)[0]
    parted: list[int] = []
    for size, part in zip(padded.shape, sizes, strict=False):
        if size % part:
            raise refused("not-lifted", node, f"parts {size} features into blocks of {part}")
        parted += [size // part, part]
    blocks = padded.reshape(*parted, *padded.shape[axes:])
    order = [*range(1, 2 * axes, 2), *range(0, 2 * axes, 2), *range(2 * axes, blocks.ndim)]
    places = blocks.transpose(order).reshape(math.prod(sizes), *parted[::2], *padded.shape[axes:])
    joined = builder.select(node.name, tensor, places.reshape(1, -1), "blocks")
    return Rows(joined.node, places.shape[1:], before=places.shape[0])


def batch_to_space(builder: Builder, node: GraphNode, inputs: Sequence[Tensor]) -> Tensor:
    """Return a grid from its blocks along the first axis: the inverse of `space_to_batch`."""
    tensor, block, crops = inputs
    sizes, flat = integers(node, block), integers(node, crops)
    if not isinstance(tensor, Rows) or tensor.after != 1 or tensor.before != math.prod(sizes) or min(flat) < 0:
        raise refused("row-axis", node, "must join blocks that come from the same rows")
    axes = len(sizes)
    blocks = tensor.places.reshape(*sizes, *tensor.shape)
    order = [axis for pair in zip(range(axes, 2 * axes), range(axes), strict=True) for axis in pair]
    grid = blocks.transpose([*order, *range(2 * axes, blocks.ndim)])
    joined = grid.reshape(*(a * b for a, b in zip(tensor.shape, sizes, strict=False)), *tensor.shape[axes:])
    cut: tuple[Any, ...] = tuple(
        slice(before, size - after) for size, before, after in zip(joined.shape, flat[::2], flat[1::2], strict=False)
    )
    places = joined[cut]
    return builder.select(node.name, tensor.plain, places[None], "blocks joined")


OPS: Mapping[str, Lift] = {
    "BatchToSpaceND": batch_to_space,
    "BroadcastTo": broadcast_to,
    "ExpandDims": expand,
    "Fill": fill,
    "MirrorPad": pad,
    "OnesLike": filled_like(1.0),
    "Pad": pad,
    "PadV2": pad,
    "Reshape": reshape,
    "ReverseV2": reverse,
    "SpaceToBatchND": space_to_batch,
    "Squeeze": squeeze,
    "Tile": tile,
    "Transpose": transpose,
    "ZerosLike": filled_like(0.0),
}
