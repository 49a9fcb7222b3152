"""Sums, differences, multiples and quotients by constants, maxima: the elementwise ops that join two tensors.

Beside the other families of `lifting`; below: `builder`, `constants`.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from service.program.constants import Constant, coefficients, floats, folded, refused
from service.program.inlining import GraphNode
from service.program.lifting.builder import Builder, Lift, broadcasting, vector
from service.program.lifting.elementwise import square
from service.program.operators import Dense, Divide, Identity, Operator, Scale
from service.program.program import AffineNode, MaximumNode, Term
from service.program.tensors import Rows, Tensor, joint_shape, rows_of


def add(builder: Builder, node: GraphNode, inputs: Sequence[Tensor]) -> Tensor:
    """Return a + b."""
    left, right = inputs
    return _sum(builder, node, left, right, sign=1)


def add_bias(builder: Builder, node: GraphNode, inputs: Sequence[Tensor]) -> Tensor:
    """Return a + b, with b along the last axis."""
    if str(node.attributes.get("data_format") or "NHWC").startswith("NC"):
        raise refused("not-lifted", node, "adds its bias in the NCHW format")
    return add(builder, node, inputs)


def add_all(builder: Builder, node: GraphNode, inputs: Sequence[Tensor]) -> Tensor:
    """Return the sum of all inputs, the first two first."""
    total, *others = inputs
    for other in others:
        total = _sum(builder, node, total, other, sign=1)
    return total


def subtract(builder: Builder, node: GraphNode, inputs: Sequence[Tensor]) -> Tensor:
    """Return a - b."""
    left, right = inputs
    return _sum(builder, node, left, right, sign=-1)


def _sum(builder: Builder, node: GraphNode, left: Tensor, right: Tensor, sign: int) -> Tensor:
    if isinstance(left, Constant) and isinstance(right, Constant):
        return folded(node, left, right, np.add if sign > 0 else np.subtract)
    shape = joint_shape(node, (left, right))
    like = rows_of(node, left if isinstance(left, Rows) else right)
    width = like.copies * math.prod(shape)
    builder.require(node.name, width)
    terms: list[Term] = []
    bias: NDArray[np.floating] | None = None
    for tensor, factor in ((left, 1), (right, sign)):
        if isinstance(tensor, Rows):
            terms.append(_signed(builder, node, tensor, factor, shape))
        elif isinstance(tensor, Constant):
            added = vector(like, floats(node, tensor.array), shape)
            bias = added if factor > 0 else -added
    return builder.append(AffineNode(width, tuple(terms), bias, node.name), like, shape)


def _signed(builder: Builder, node: GraphNode, rows: Rows, factor: int, shape: tuple[int, ...]) -> Term:
    """Return plus or minus the rows, broadcast to `shape`, as a term of a sum."""
    width = rows.copies * math.prod(shape)
    if rows.width == width:
        return Term(rows.node, Identity() if factor > 0 else minus(width, "a subtraction"))
    if rows.width == 1:
        return Term(rows.node, Dense(np.full((1, width), factor, np.float32), "a broadcast"))
    if factor > 0:
        return Term(rows.node, broadcasting(shape))
    return Term(builder.broadcast(node.name, rows, shape).node, minus(width, "a subtraction"))


def minus(width: int, label: str) -> Operator:
    """Return the map of `width` features to their negatives."""
    return Scale(np.full(width, -1, np.float32), label)


def negate(builder: Builder, node: GraphNode, inputs: Sequence[Tensor]) -> Tensor:
    """Return -a."""
    (argument,) = inputs
    if isinstance(argument, Constant):
        return dataclasses.replace(argument, array=-floats(node, argument.array))
    rows = rows_of(node, argument)
    return builder.affine(node.name, rows, minus(rows.width, "a negation"), rows.shape)


def multiply(builder: Builder, node: GraphNode, inputs: Sequence[Tensor]) -> Tensor:
    """Return a b, of which one is a constant, or both are the same function of the row."""
    left, right = inputs
    if isinstance(left, Constant) and isinstance(right, Constant):
        return folded(node, left, right, np.multiply)
    if isinstance(left, Rows) and isinstance(right, Rows):
        if left != right:
            raise refused("not-lifted", node, "multiplies two functions of the row; only a square is understood")
        return square(builder, node, (left,))
    rows, constant = (right, left) if isinstance(left, Constant) else (left, right)
    return scaled(builder, node, rows, constant, Scale)


def divide(builder: Builder, node: GraphNode, inputs: Sequence[Tensor]) -> Tensor:
    """Return a / b, with b a constant free of zeros."""
    left, right = inputs
    if isinstance(left, Constant) and isinstance(right, Constant):
        return folded(node, left, right, np.divide)
    if not isinstance(right, Constant) or (right.array == 0).any():
        raise refused("not-lifted", node, "divides by something that is not a constant free of zeros")
    return scaled(builder, node, left, right, Divide)


def scaled(
    builder: Builder, node: GraphNode, argument: Tensor, constant: Tensor, kind: type[Scale] | type[Divide]
) -> Rows:
    """Return rows times, or divided by, a constant that broadcasts against their features."""
    rows = rows_of(node, argument)
    if not isinstance(constant, Constant):
        raise refused("row-axis", node, "counts the rows")
    shape = joint_shape(node, (rows, constant))
    rows = builder.broadcast(node.name, rows, shape)
    return builder.affine(
        node.name, rows, kind(vector(rows, coefficients(node, constant), shape), constant.label), shape
    )


def maximum(builder: Builder, node: GraphNode, inputs: Sequence[Tensor]) -> Tensor:
    """Return max(a, b) of two functions of the row."""
    left, right = inputs
    if not isinstance(left, Rows) or not isinstance(right, Rows) or dataclasses.replace(left, node=right.node) != right:
        raise refused("not-lifted", node, "must take the maximum of two functions of the row, of equal shape")
    return builder.append(MaximumNode(left.width, (left.node, right.node), node.name), left, left.shape)


OPS: Mapping[str, Lift] = {
    "Add": add,
    "AddN": add_all,
    "AddV2": add,
    "BiasAdd": add_bias,
    "Maximum": maximum,
    "Mul": multiply,
    "Neg": negate,
    "RealDiv": divide,
    "Sub": subtract,
}
