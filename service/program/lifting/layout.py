"""Ops that give the features of a row another shape.

Beside the other families of `lifting`; below: `builder`, `tensors`.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from service.program.constants import Constant, refused
from service.program.inlining import GraphNode
from service.program.lifting.builder import Builder, Lift
from service.program.tensors import Rows, Tensor


def reshape(builder: Builder, node: GraphNode, inputs: Sequence[Tensor]) -> Tensor:
    """Return the tensor in another shape, which keeps the row axis apart."""
    del builder
    tensor, shape = inputs
    if not isinstance(shape, Constant):
        raise refused("row-axis", node, "takes a shape that is not a constant")
    wanted = tuple(int(size) for size in shape.array.reshape(-1))
    if isinstance(tensor, Constant):
        return tensor.reshaped(wanted)
    if isinstance(tensor, Rows) and wanted == (-1, tensor.width):
        return dataclasses.replace(tensor, shape=(tensor.width,))
    if isinstance(tensor, Rows) and wanted == (-1,) and tensor.width == 1:
        return dataclasses.replace(tensor, shape=())
    raise refused("row-axis", node, f"reshapes rows to {list(wanted)}, which moves numbers between rows")


def squeeze(builder: Builder, node: GraphNode, inputs: Sequence[Tensor]) -> Tensor:
    """Return the tensor without axes of one entry."""
    del builder
    (rows,) = inputs
    axes = {axis % 2 for axis in node.attributes.get("squeeze_dims") or ()}
    if not isinstance(rows, Rows) or rows.rank != 2 or rows.width != 1 or axes != {1}:
        raise refused("row-axis", node, "must drop the last axis of [n, 1] and no other")
    return dataclasses.replace(rows, shape=())


def expand(builder: Builder, node: GraphNode, inputs: Sequence[Tensor]) -> Tensor:
    """Return the tensor with one more axis."""
    del builder
    tensor, axis = inputs
    places = axis.array.reshape(-1).tolist() if isinstance(axis, Constant) else []
    if isinstance(tensor, Constant) and len(places) == 1:
        return tensor.reshaped(np.expand_dims(tensor.array, places[0]).shape)
    if not isinstance(tensor, Rows) or tensor.rank != 1 or places not in ([1], [-1]):
        raise refused("row-axis", node, "must add a last axis to [n]")
    return dataclasses.replace(tensor, shape=(1,))


def shape_of(builder: Builder, node: GraphNode, inputs: Sequence[Tensor]) -> Tensor:
    """Refuse to count the rows."""
    del builder, inputs
    raise refused("row-axis", node, "counts the rows")


OPS: Mapping[str, Lift] = {"ExpandDims": expand, "Reshape": reshape, "Shape": shape_of, "Squeeze": squeeze}
