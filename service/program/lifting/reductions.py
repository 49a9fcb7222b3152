"""Sums and maxima over axes of features.

Beside the other families of `lifting`; below: `builder`, `tensors`.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from service.program.constants import Constant, refused
from service.program.inlining import GraphNode
from service.program.lifting.builder import Builder, Lift
from service.program.operators import Dense
from service.program.tensors import Rows, Tensor


def total(builder: Builder, node: GraphNode, inputs: Sequence[Tensor]) -> Tensor:
    """Return the sum over the features."""
    rows, axes = inputs
    if not isinstance(rows, Rows) or not isinstance(axes, Constant):
        raise refused("row-axis", node, "must sum rows over a constant axis")
    chosen = {int(axis) % rows.rank if -rows.rank <= axis < rows.rank else -1 for axis in axes.array.reshape(-1)}
    if rows.rank != 2 or chosen != {1}:
        raise refused("row-axis", node, "must sum over the features only, not over the rows")
    ones = Dense(np.ones((rows.width, 1), np.float32), "a sum")
    return builder.affine(node.name, rows, ones, (1,) if node.attributes.get("keep_dims") else ())


def other_reduction(builder: Builder, node: GraphNode, inputs: Sequence[Tensor]) -> Tensor:
    """Refuse a reduction that is not understood."""
    del builder
    tensor, axes = inputs
    chosen = axes.array.reshape(-1).tolist() if isinstance(axes, Constant) else [0]
    if isinstance(tensor, Rows) and not set(chosen).isdisjoint({0, -tensor.rank}):
        raise refused("row-axis", node, "reduces over the rows")
    raise refused("not-lifted", node, "is not understood on the way to the score")


OPS: Mapping[str, Lift] = {"Max": other_reduction, "Mean": other_reduction, "Prod": other_reduction, "Sum": total}
