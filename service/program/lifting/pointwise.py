"""Ops that compute number by number and that only a whole expression explains: choices, comparisons, minima, powers.

Beside the other families of `lifting`; below: `recognition`, which makes one atom of what several ops compute. An op
yields a program node as soon as the rules of the proof know its curvature; until then it is `Pending`, and whoever
needs its numbers otherwise refuses it by name.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from fractions import Fraction

import numpy as np

from service.program.atoms import Abs, Atom, Elu, Exp, Softplus, Square, leaky_relu, relu
from service.program.constants import Constant, coefficients, floats, refused
from service.program.expressions import Call, Expression, Fixed, Leaf
from service.program.inlining import GraphNode
from service.program.lifting import arithmetic, elementwise
from service.program.lifting.builder import Builder, Lift, vector
from service.program.operators import Scale
from service.program.partial_atoms import CURVED_OPS, Power
from service.program.pending import Pending
from service.program.piecewise import NotPiecewiseError
from service.program.program import AtomNode, MaximumNode
from service.program.tensors import Rows, Tensor, joint_shape, rows_of

_OPERATIONS: Mapping[str, str] = {
    "Add": "add", "AddV2": "add", "Sub": "subtract", "Neg": "negate", "Mul": "multiply", "RealDiv": "divide",
    "Maximum": "maximum", "Minimum": "minimum", "Select": "select", "SelectV2": "select", "Greater": "greater",
    "GreaterEqual": "greater_equal", "Less": "less", "LessEqual": "less_equal", "LogicalAnd": "and",
    "LogicalOr": "or", "LogicalNot": "not",
}  # fmt: skip

_ATOMS: Mapping[str, Atom] = {
    "Abs": Abs(), "Elu": Elu(), "Exp": Exp(), "Relu": relu(), "Softplus": Softplus(), "Square": Square(),
    **{op: make() for op, make in CURVED_OPS.items()},
}  # fmt: skip

_SELU_SCALE, _SELU_ALPHA = 1.0507009873554804934193349852946, 1.7580993408473768599402175208123
"""TensorFlow's selu is 1.05 u for u > 0 and 1.758 (exp(u) - 1) else."""

_NAMED = {
    "Sigmoid": "sigmoid", "Tanh": "tanh", "Softsign": "softsign", "Erf": "the error function", "Erfc": "the error "
    "function", "Sin": "sine", "Cos": "cosine", "Atan": "arc tangent", "Sign": "sign", "Softmax": "softmax",
}  # fmt: skip


def takes(op: str, inputs: Sequence[Tensor]) -> bool:
    """Whether an op on these tensors is lifted here though another family has it: nothing there fits them."""
    rows = [tensor for tensor in inputs if isinstance(tensor, Rows)]
    if any(isinstance(tensor, Pending) for tensor in inputs):
        return op in _OPERATIONS or op in _ATOMS or op == "LeakyRelu"
    if op in {"Maximum", "Minimum"}:
        return len(rows) == 1 and any(isinstance(tensor, Constant) for tensor in inputs)
    return op in {"Mul", "RealDiv"} and len(rows) == 2 and rows[0] != rows[1]


def expressed(builder: Builder, node: GraphNode, inputs: Sequence[Tensor]) -> Tensor:
    """Return the rows of the atom that an op ends, or the op as pending."""
    if any(isinstance(tensor, Constant) for tensor in inputs) and len(inputs) == 1:
        raise refused("not-lifted", node, "is applied to a constant")
    shown = [_as_rows(node, tensor) for tensor in inputs]
    shape = joint_shape(node, shown)
    like = next(tensor for tensor in shown if isinstance(tensor, Rows))
    width = like.copies * math.prod(shape)
    builder.require(node.name, width)
    arguments = tuple(_expression(builder, node, tensor, like, shape) for tensor in inputs)
    return _settled(builder, node, _call(node, arguments, width), dataclasses.replace(like, shape=shape))


def settled(builder: Builder, node: GraphNode, output: Tensor) -> Tensor:
    """Return what an op of another family computed, as one atom where only that has a known curvature."""
    if not isinstance(output, Rows) or output.node != len(builder.nodes) - 1:
        return output
    if builder.recognition.is_curved(output.node):
        return output
    match = builder.recognition.node(output.node)
    if match is None:
        return output
    return builder.append(AtomNode(output.width, match.argument, match.atom, node.name), output, output.shape)


def materialized(builder: Builder, tensor: Tensor) -> Tensor:
    """Return a pending tensor as rows, so that the proof says what is wrong with it; any other tensor as it is.

    Raises:
        VersionRefusedError: `not-lifted`, where it is no atom of one node.
    """
    if not isinstance(tensor, Pending):
        return tensor
    if tensor.match is None:
        raise tensor.refusal()
    like = Rows(0, tensor.shape, tensor.before, tensor.after)
    node = AtomNode(like.width, tensor.match.argument, tensor.match.atom, tensor.name)
    return builder.append(node, like, tensor.shape)


def _settled(builder: Builder, node: GraphNode, expression: Expression, like: Rows) -> Tensor:
    match, reason = None, "is a part of an expression of which no curvature is known"
    pending = Pending(expression, like.shape, like.before, like.after, node.op, node.name, None, "compares numbers")
    if pending.is_truth:
        return pending
    try:
        match = builder.recognition.expression(expression, like.width)
    except NotPiecewiseError as err:
        reason = f"ends an expression that is not understood: it {err}"
    if match is not None and match.curved:
        return builder.append(AtomNode(like.width, match.argument, match.atom, node.name), like, like.shape)
    return dataclasses.replace(pending, match=match, reason=reason)


def _call(node: GraphNode, arguments: tuple[Expression, ...], width: int) -> Expression:
    if node.op == "Relu6":
        return Call("minimum", (Call("atom", arguments, relu()), Fixed(np.full(width, 6.0))))
    if node.op == "Selu":
        return _selu(node, arguments[0], width)
    if node.op == "LeakyRelu":
        return Call("atom", arguments, leaky_relu(float(node.attributes.get("alpha", np.float32(0.2)))))
    if node.op in _ATOMS:
        return Call("atom", arguments, _ATOMS[node.op])
    return Call(_OPERATIONS[node.op], arguments)


def _selu(node: GraphNode, argument: Expression, width: int) -> Expression:
    kind = np.float64 if node.attributes.get("T") == 2 else np.float32
    scale, alpha = (Fixed(np.full(width, float(kind(value)))) for value in (_SELU_SCALE, _SELU_ALPHA))
    positive = Call("multiply", (Call("atom", (argument,), relu()), scale))
    zero = Fixed(np.zeros(width))
    below = Call("subtract", (Call("atom", (Call("minimum", (argument, zero)),), Exp()), Fixed(np.ones(width))))
    return Call("add", (positive, Call("multiply", (below, alpha))))


def _as_rows(node: GraphNode, tensor: Tensor) -> Tensor:
    """Return rows of the shape of a pending tensor."""
    if isinstance(tensor, Pending):
        return Rows(0, tensor.shape, tensor.before, tensor.after)
    return tensor if isinstance(tensor, Constant) else rows_of(node, tensor)


def _expression(builder: Builder, node: GraphNode, tensor: Tensor, like: Rows, shape: tuple[int, ...]) -> Expression:
    if isinstance(tensor, Constant):
        return Fixed(vector(like, floats(node, tensor.array), shape).astype(np.float64))
    if isinstance(tensor, Rows):
        return Leaf(builder.broadcast(node.name, tensor, shape).node)
    if not isinstance(tensor, Pending) or tensor.shape != shape:
        raise refused("not-lifted", node, "repeats the features of an expression")
    return tensor.expression


def minimum(builder: Builder, node: GraphNode, inputs: Sequence[Tensor]) -> Tensor:
    """Return min(a, b) = -max(-a, -b); the slope of a tie goes to the first, as in TensorFlow."""
    first, second = (rows_of(node, arithmetic.negate(builder, node, (tensor,))) for tensor in inputs)
    if dataclasses.replace(first, node=0) != dataclasses.replace(second, node=0):
        raise refused("not-lifted", node, "must take the minimum of two functions of the row, of equal shape")
    largest = builder.append(MaximumNode(first.width, (first.node, second.node), node.name), first, first.shape)
    return arithmetic.negate(builder, node, (largest,))


def power(builder: Builder, node: GraphNode, inputs: Sequence[Tensor]) -> Tensor:
    """Return u^p for one constant p: an integer, or 1/2."""
    base, exponent = inputs
    rows = rows_of(node, base)
    if not isinstance(exponent, Constant) or exponent.array.size != 1:
        raise refused("not-lifted", node, "takes a power with an exponent that is not one constant number")
    p = Fraction(float(floats(node, exponent.array).reshape(-1)[0]))
    if p == 1:
        return rows
    if p == 2:
        return elementwise.square(builder, node, (rows,))
    if p == Fraction(1, 2):
        return elementwise.atom(_ATOMS["Sqrt"])(builder, node, (rows,))
    if p.denominator != 1 or not 0 < abs(p) <= _MAX_EXPONENT:
        raise refused("not-lifted", node, f"takes the power {float(p):g}; only whole exponents and 1/2 are understood")
    return elementwise.atom(Power(int(p)))(builder, node, (rows,))


_MAX_EXPONENT = 64


def reciprocal(builder: Builder, node: GraphNode, inputs: Sequence[Tensor]) -> Tensor:
    """Return 1/u."""
    return elementwise.atom(Power(-1))(builder, node, (rows_of(node, inputs[0]),))


def divide(builder: Builder, node: GraphNode, inputs: Sequence[Tensor]) -> Tensor:
    """Return a / b: a constant over rows is a multiple of the reciprocal."""
    left, right = inputs
    if not isinstance(left, Constant) or not isinstance(right, Rows):
        return arithmetic.divide(builder, node, inputs)
    factor = dataclasses.replace(left, array=coefficients(node, left))
    return arithmetic.scaled(builder, node, reciprocal(builder, node, (right,)), factor, Scale)


def squared_difference(builder: Builder, node: GraphNode, inputs: Sequence[Tensor]) -> Tensor:
    """Return (a - b)^2."""
    return elementwise.square(builder, node, (arithmetic.subtract(builder, node, inputs),))


def unchanged(builder: Builder, node: GraphNode, inputs: Sequence[Tensor]) -> Tensor:
    """Return the tensor: what the op does concerns gradients alone, and the program has its own."""
    del builder, node
    return inputs[0]


def all_unchanged(builder: Builder, node: GraphNode, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Return the tensors."""
    del builder, node
    return tuple(inputs)


def _not_convex(builder: Builder, node: GraphNode, inputs: Sequence[Tensor]) -> Tensor:
    """Refuse a function that is neither convex nor concave, by its name."""
    del builder, inputs
    what = f"is {_NAMED[node.op]}, which is neither convex nor concave; softplus, relu and elu are convex"
    raise refused("not-lifted", node, what)


OPS: Mapping[str, Lift] = {
    **dict.fromkeys(
        ("Select", "SelectV2", "Greater", "GreaterEqual", "Less", "LessEqual", "LogicalAnd", "LogicalOr", "LogicalNot",
         "Relu6", "Selu"), expressed
    ),
    **{op: elementwise.atom(make()) for op, make in CURVED_OPS.items()},
    **dict.fromkeys(_NAMED, _not_convex),
    "IdentityN": all_unchanged,
    "Inv": reciprocal,
    "Minimum": minimum,
    "Pow": power,
    "PreventGradient": unchanged,
    "RealDiv": divide,
    "Reciprocal": reciprocal,
    "SquaredDifference": squared_difference,
    "StopGradient": unchanged,
}  # fmt: skip
