"""Sums, means, maxima and minima over axes of features.

Beside the other families of `lifting`; below: `layout`, `builder`, `tensors`.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.program.constants import Constant, folded_reduction, refused
from service.program.inlining import GraphNode
from service.program.lifting.arithmetic import minus
from service.program.lifting.builder import Builder, Lift
from service.program.lifting.counting import combined, is_integer
from service.program.lifting.layout import feature_axes
from service.program.operators import Dense, Divide
from service.program.program import MaximumNode
from service.program.tensors import Rows, Tensor, integers, rows_of


def reduce(builder: Builder, node: GraphNode, inputs: Sequence[Tensor]) -> Tensor:
    """Return the sum, mean, maximum or minimum over axes of features."""
    tensor, axes = inputs
    wanted = integers(node, axes)
    if isinstance(tensor, Constant) and not is_integer(tensor):
        chosen = feature_axes(node, tensor, wanted)
        return folded_reduction(node, tensor, chosen, keep_axes=bool(node.attributes.get("keep_dims")))
    if not isinstance(tensor, Rows):
        functions: Mapping[str, Callable[..., Any]] = {"Prod": np.prod, "Sum": np.sum}
        if node.op not in functions:
            raise refused("row-axis", node, "counts the rows")
        keep = bool(node.attributes.get("keep_dims"))
        function, axis = functions[node.op], feature_axes(node, tensor, wanted)
        return combined(node, [tensor], lambda array: np.asarray(function(array, axis=axis, keepdims=keep)))
    if any(not -tensor.rank <= axis < tensor.rank for axis in wanted):
        raise refused("row-axis", node, f"reduces over an axis of {wanted} of a tensor of {tensor.rank}")
    chosen = feature_axes(node, tensor, wanted)
    if not chosen:
        return tensor
    result = _REDUCE[node.op](builder, node, tensor, _places(tensor, chosen))
    shape = tuple(
        1 if axis in chosen else size
        for axis, size in enumerate(tensor.shape, start=1)
        if axis not in chosen or node.attributes.get("keep_dims")
    )
    return Rows(result.node, shape, tensor.before, tensor.after)


def _places(rows: Rows, axes: Sequence[int]) -> NDArray[np.int64]:
    """Return the places [results, terms] of the features that each result is made of."""
    kept = [axis for axis in range(rows.rank) if axis not in axes]
    terms = math.prod(rows.shape[axis - 1] for axis in axes)
    return rows.places.transpose([*kept, *axes]).reshape(-1, terms)


def _sum(builder: Builder, node: GraphNode, rows: Rows, places: NDArray[np.int64]) -> Rows:
    plain = rows.plain
    if places.shape[0] == 1:
        return builder.affine(node.name, plain, Dense(np.ones((rows.width, 1), np.float32), "a sum"), (1,))
    return builder.sums(node.name, plain, places, (places.shape[0],), "a sum")


def _mean(builder: Builder, node: GraphNode, rows: Rows, places: NDArray[np.int64]) -> Rows:
    total = _sum(builder, node, rows, places)
    count = np.full(places.shape[0], places.shape[1], np.float32)
    return builder.affine(node.name, total, Divide(count, "a mean"), total.shape)


def _maximum(builder: Builder, node: GraphNode, rows: Rows, places: NDArray[np.int64]) -> Rows:
    return largest(builder, node, rows.plain, places)


def _minimum(builder: Builder, node: GraphNode, rows: Rows, places: NDArray[np.int64]) -> Rows:
    """Return the negative of the maximum of the negatives: concave, where what it is taken of is."""
    plain = rows.plain
    falling = builder.affine(node.name, plain, minus(rows.width, "the minimum's negation"), plain.shape)
    result = largest(builder, node, falling, places)
    return builder.affine(node.name, result, minus(result.width, "the minimum's negation"), result.shape)


def largest(builder: Builder, node: GraphNode, rows: Rows, places: NDArray[np.int64]) -> Rows:
    """Return for each row of `places` [results, terms] the largest feature there, first axis aside: [n, results].

    By halves, as in a tournament: an entry in the middle may play for both, which changes no maximum.
    """
    while places.shape[1] > 1:
        results, terms = places.shape
        half = (terms + 1) // 2
        sides = [
            builder.select(node.name, rows, side.reshape(1, -1), "a maximum")
            for side in (places[:, :half], places[:, terms - half :])
        ]
        first, second = (side.node for side in sides)
        rows = builder.append(MaximumNode(results * half, (first, second), node.name), sides[0], (results * half,))
        places = rows.places.reshape(results, half)
    return builder.select(node.name, rows, places.reshape(1, -1), "a maximum")


_REDUCE = {"Max": _maximum, "Mean": _mean, "Min": _minimum, "Sum": _sum}


def product(builder: Builder, node: GraphNode, inputs: Sequence[Tensor]) -> Tensor:
    """Return a product of integers; of features it is not understood."""
    tensor, axes = inputs
    if isinstance(tensor, Rows):
        feature_axes(node, rows_of(node, tensor), integers(node, axes))
        raise refused("not-lifted", node, "multiplies functions of the row")
    return reduce(builder, node, inputs)


OPS: Mapping[str, Lift] = {"Max": reduce, "Mean": reduce, "Min": reduce, "Prod": product, "Sum": reduce}
