"""Sums, differences, multiples and quotients by constants, maxima: the elementwise ops that join two tensors.

Beside the other families of `lifting`; below: `builder`, `constants`.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.program.constants import Constant, coefficients, floats, folded, refused
from service.program.inlining import GraphNode
from service.program.lifting.builder import Builder, Lift, vector
from service.program.lifting.counting import combined, is_integer
from service.program.lifting.elementwise import square
from service.program.operators import Dense, Divide, Identity, Operator, Scale
from service.program.program import AffineNode, MaximumNode, ProductNode, Term
from service.program.tensors import Rows, Sizes, Tensor, joint_shape, rows_of


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
    operation = np.add if sign > 0 else np.subtract
    if is_integer(left) and is_integer(right):
        return combined(node, (left, right), operation)
    if isinstance(left, Constant) and isinstance(right, Constant):
        return folded(node, left, right, operation)
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
    rows = builder.broadcast(node.name, rows, shape)
    return Term(rows.node, Identity() if factor > 0 else minus(width, "a subtraction"))


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
    """Return a b, of which one is a constant or depends on the context alone, or both are the same function."""
    left, right = inputs
    if is_integer(left) and is_integer(right):
        return combined(node, (left, right), np.multiply)
    if isinstance(left, Constant) and isinstance(right, Constant):
        return folded(node, left, right, np.multiply)
    if isinstance(left, Rows) and isinstance(right, Rows):
        if left != right:
            return product(builder, node, left, right)
        return square(builder, node, (left,))
    rows, constant = (right, left) if isinstance(left, Constant) else (left, right)
    return scaled(builder, node, rows, constant, Scale)


def product(builder: Builder, node: GraphNode, left: Rows, right: Rows) -> Rows:
    """Return a b of two functions of the row, in each feature of which one depends on the context alone."""
    first, second, shape = _sides(builder, node, left, right)
    if not (builder.is_parameter(first) | builder.is_parameter(second)).all():
        raise refused("not-lifted", node, "multiplies two functions of the row; only a square is understood")
    return builder.append(ProductNode(first.width, (first.node, second.node), node.name), first, shape)


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
    factors = vector(rows, coefficients(node, constant), shape)
    origin = (
        None if constant.origin is None else constant.origin.then(functools.partial(_as_vector, rows=rows, shape=shape))
    )
    return builder.affine(node.name, rows, kind(factors, constant.label, origin), shape)


def _as_vector(array: NDArray[Any], rows: Rows, shape: tuple[int, ...]) -> NDArray[Any]:
    """Return `vector` with the constant last to be given, as an origin takes it."""
    return vector(rows, array, shape)


def divide_no_nan(builder: Builder, node: GraphNode, inputs: Sequence[Tensor]) -> Tensor:
    """Return a / b, and 0 where b is 0, with b a constant."""
    left, right = inputs
    if not isinstance(right, Constant) or (right.array != 0).all():
        return divide(builder, node, inputs)
    if isinstance(left, Constant):
        raise refused("not-lifted", node, "divides a constant by zero")
    kept = dataclasses.replace(right, array=np.where(right.array == 0, 1, right.array).astype(right.array.dtype))
    quotient = scaled(builder, node, left, kept, Divide)
    mask = Constant((right.array != 0).astype(np.float32), "a mask of zeros")
    return scaled(builder, node, quotient, mask, Scale)


def maximum(builder: Builder, node: GraphNode, inputs: Sequence[Tensor]) -> Tensor:
    """Return max(a, b) of two functions of the row, or of one and a constant."""
    left, right = inputs
    if is_integer(left) and is_integer(right):
        return combined(node, (left, right), np.maximum)
    if isinstance(left, Constant) and isinstance(right, Constant):
        return folded(node, left, right, np.maximum)
    first, second, shape = _sides(builder, node, left, right)
    return builder.append(MaximumNode(first.width, (first.node, second.node), node.name), first, shape)


def minimum(builder: Builder, node: GraphNode, inputs: Sequence[Tensor]) -> Tensor:
    """Return min(a, b) as -max(-a, -b): concave where a and b are."""
    left, right = inputs
    if is_integer(left) and is_integer(right):
        return combined(node, (left, right), np.minimum)
    if isinstance(left, Constant) and isinstance(right, Constant):
        return folded(node, left, right, np.minimum)
    sides = [negate(builder, node, (side,)) for side in (left, right)]
    first, second, shape = _sides(builder, node, *sides)
    result = builder.append(MaximumNode(first.width, (first.node, second.node), node.name), first, shape)
    return negate(builder, node, (result,))


def _sides(builder: Builder, node: GraphNode, left: Tensor, right: Tensor) -> tuple[Rows, Rows, tuple[int, ...]]:
    """Return two functions of the row of one shape, and the shape; a constant is the same for every row."""
    shape = joint_shape(node, (left, right))
    like = rows_of(node, right if isinstance(left, Constant) else left)
    builder.require(node.name, like.copies * math.prod(shape))
    first, second = (
        builder.broadcast(node.name, side, shape)
        if isinstance(side, Rows)
        else builder.constant(
            node.name, vector(like, floats(node, side.array), shape), (like.copies * math.prod(shape),)
        )
        for side in (left, right)
        if not isinstance(side, Sizes)
    )
    return dataclasses.replace(first, before=like.before, after=like.after, shape=shape), second, shape


def select(builder: Builder, node: GraphNode, inputs: Sequence[Tensor]) -> Tensor:
    """Return a where a constant condition holds, b elsewhere."""
    condition, left, right = inputs
    if not isinstance(condition, Constant) or condition.array.dtype != np.bool_:
        raise refused("not-lifted", node, "chooses by something that is not constant")
    if node.op == "Select" and condition.array.ndim > 0:
        raise refused("row-axis", node, "chooses between rows")
    if condition.array.all() or not condition.array.any():
        chosen, other = (left, right) if condition.array.all() else (right, left)
        same_shape = isinstance(chosen, Rows) and isinstance(other, Rows) and chosen.shape == other.shape
        if condition.array.ndim == 0 and (same_shape or isinstance(chosen, Constant) == isinstance(other, Constant)):
            return chosen
    if isinstance(left, Constant) and isinstance(right, Constant):
        raise refused("not-lifted", node, "chooses between constants by many conditions")
    masks = [Constant(mask.astype(np.float32), "a constant condition") for mask in (condition.array, ~condition.array)]
    parts = [multiply(builder, node, (side, mask)) for side, mask in zip((left, right), masks, strict=True)]
    return _sum(builder, node, parts[0], parts[1], sign=1)


OPS: Mapping[str, Lift] = {
    "Add": add,
    "AddN": add_all,
    "AddV2": add,
    "BiasAdd": add_bias,
    "DivNoNan": divide_no_nan,
    "Maximum": maximum,
    "Minimum": minimum,
    "Mul": multiply,
    "Neg": negate,
    "RealDiv": divide,
    "Select": select,
    "SelectV2": select,
    "Sub": subtract,
}
