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
from service.program.constants import FUNCTIONS, Constant, coefficients, floats, refused
from service.program.expressions import Call, Expression, Fixed, Leaf, constant_of
from service.program.inlining import GraphNode
from service.program.lifting import arithmetic, elementwise, log_sum_exp
from service.program.lifting.builder import Builder, Lift, vector
from service.program.operators import Scale
from service.program.partial_atoms import CURVED_OPS, Power
from service.program.pending import Pending
from service.program.piecewise import NotPiecewiseError
from service.program.program import AtomNode
from service.program.squashing_atoms import SQUASHING_OPS
from service.program.tensors import Rows, Tensor, joint_shape, rows_of

_OPERATIONS: Mapping[str, str] = {
    "Add": "add", "AddV2": "add", "Sub": "subtract", "Neg": "negate", "Mul": "multiply", "RealDiv": "divide",
    "Maximum": "maximum", "Minimum": "minimum", "Select": "select", "SelectV2": "select", "Greater": "greater",
    "GreaterEqual": "greater_equal", "Less": "less", "LessEqual": "less_equal", "LogicalAnd": "and",
    "LogicalOr": "or", "LogicalNot": "not", "IsFinite": "is_finite", "IsNan": "is_nan",
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


Lifted = Tensor | Pending
"""What an op may have computed."""

EXPRESSED = frozenset(
    {"Select", "SelectV2", "Greater", "GreaterEqual", "Less", "LessEqual", "LogicalAnd", "LogicalOr", "LogicalNot",
     "IsFinite", "IsNan", "Relu6", "Selu"}
)  # fmt: skip
"""Ops of rows that no program node stands for."""

_WITH_A_CONSTANT = frozenset({"Maximum", "Minimum"})
_OF_TWO_ROWS = frozenset({"Mul", "RealDiv"})
_PASSING = frozenset({"StopGradient", "PreventGradient", "IdentityN"})
_CHOICES = frozenset({"Select", "SelectV2"})


def takes(builder: Builder, node: GraphNode, inputs: Sequence[Lifted]) -> bool:
    """Whether an op on these tensors is lifted here, though another family may have it: nothing there fits them."""
    rows = [tensor for tensor in inputs if isinstance(tensor, Rows)]
    pending = any(isinstance(tensor, Pending) for tensor in inputs)
    if not rows and not pending:
        return False
    if node.op in EXPRESSED:
        return not (node.op in _CHOICES and isinstance(inputs[0], Constant))
    if pending:
        return node.op in _OPERATIONS or node.op in _ATOMS or node.op == "LeakyRelu" or node.op in _PASSING
    if node.op in _WITH_A_CONSTANT:
        return len(rows) == 1 and any(isinstance(tensor, Constant) for tensor in inputs)
    return node.op in _OF_TWO_ROWS and len(rows) == 2 and rows[0] != rows[1] and not _scales(builder, node, rows)


def _scales(builder: Builder, node: GraphNode, rows: Sequence[Rows]) -> bool:
    """Whether one of two factors, or what is divided by, depends on the context alone."""
    factors = rows[1:] if node.op == "RealDiv" else rows
    return any(bool(builder.is_parameter(factor).all()) for factor in factors)


def expressed(builder: Builder, node: GraphNode, inputs: Sequence[Lifted]) -> tuple[Lifted, ...]:
    """Return the rows of the atom that an op ends, or the op as pending."""
    if node.op in _PASSING:
        return tuple(inputs)
    unguarded = _unguarded(builder, inputs) if node.op in _CHOICES else None
    if unguarded is not None:
        return (unguarded,)
    shown = [_as_rows(node, tensor) for tensor in inputs]
    shape = joint_shape(node, shown)
    like = next(tensor for tensor in shown if isinstance(tensor, Rows))
    width = like.copies * math.prod(shape)
    builder.require(node.name, width)
    arguments = tuple([_expression(builder, node, each, like, shape) for each in inputs])
    return (_settled(builder, node, _call(node, arguments, width), dataclasses.replace(like, shape=shape)),)


def settled(builder: Builder, node: GraphNode, output: Tensor) -> Tensor:
    """Return what an op of another family computed, as one atom where only that has a known curvature."""
    if not isinstance(output, Rows) or output.node != len(builder.nodes) - 1:
        return output
    if builder.recognition.is_curved(output.node):
        return output
    match = builder.recognition.node(output.node)
    if match is None:
        return log_sum_exp.recognized(builder, node, output) or output
    atom = builder.append(AtomNode(output.width, match.argument, match.atom, node.name), output, output.shape)
    builder.recognition.written[atom.node] = output.node
    return atom


def materialized(builder: Builder, tensor: Lifted) -> Tensor:
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


def _unguarded(builder: Builder, inputs: Sequence[Lifted]) -> Lifted | None:
    """Return what a choice yields that only looks whether a number left the floats, in the two forms of log-sum-exp.

    Where m is finite take m, else 0, for a maximum m; where a - b is no number take a + b, which is none either. Real
    numbers are always finite.
    """
    condition, first, second = inputs
    if not isinstance(condition, Pending) or not isinstance(first, Rows):
        return None
    match condition.expression:
        case Call("is_finite", (Leaf(position),)) if position == first.node:
            is_zero = isinstance(second, Constant) and not second.array.any()
            if isinstance(second, Rows):
                constant = constant_of(builder.nodes[second.node])
                is_zero = constant is not None and not constant.values.any()
            return first if is_zero and log_sum_exp.is_maximum(builder, position) else None
        case Call("is_nan", (Leaf(position),)):
            sums = log_sum_exp.is_sum_and_difference(builder, first.node, position)
            same_shape = isinstance(second, Rows | Pending) and second.shape == first.shape
            return second if sums and same_shape else None
    return None


def _settled(builder: Builder, node: GraphNode, expression: Expression, like: Rows) -> Lifted:
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


def _as_rows(node: GraphNode, tensor: Lifted) -> Tensor:
    """Return rows of the shape of a pending tensor."""
    if isinstance(tensor, Pending):
        return Rows(0, tensor.shape, tensor.before, tensor.after)
    return tensor if isinstance(tensor, Constant) else rows_of(node, tensor)


def _expression(builder: Builder, node: GraphNode, tensor: Lifted, like: Rows, shape: tuple[int, ...]) -> Expression:
    if isinstance(tensor, Constant):
        return Fixed(vector(like, coefficients(node, tensor), shape).astype(np.float64))
    if isinstance(tensor, Rows):
        return Leaf(builder.broadcast(node.name, tensor, shape).node)
    if not isinstance(tensor, Pending) or tensor.shape != shape:
        raise refused("not-lifted", node, "repeats the features of an expression")
    return tensor.expression


def power(builder: Builder, node: GraphNode, inputs: Sequence[Tensor]) -> Tensor:
    """Return u^p for one constant p: an integer, or 1/2."""
    base, exponent = inputs
    if isinstance(base, Constant):
        raise refused("not-lifted", node, "takes a power of a constant")
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
    if isinstance(inputs[0], Constant):
        return elementwise.function_of_constant(builder, node, inputs)
    return elementwise.atom(Power(-1))(builder, node, (rows_of(node, inputs[0]),))


def divide(builder: Builder, node: GraphNode, inputs: Sequence[Tensor]) -> Tensor:
    """Return a / b: a constant over rows is a multiple of the reciprocal; so are rows over a parameter."""
    left, right = inputs
    if isinstance(left, Rows) and isinstance(right, Rows) and builder.is_parameter(right).all():
        return arithmetic.product(builder, node, left, rows_of(node, reciprocal(builder, node, (right,))))
    if not isinstance(left, Constant) or not isinstance(right, Rows):
        return arithmetic.divide(builder, node, inputs)
    factor = dataclasses.replace(left, array=coefficients(node, left))
    return arithmetic.scaled(builder, node, reciprocal(builder, node, (right,)), factor, Scale)


def logarithm(builder: Builder, node: GraphNode, inputs: Sequence[Tensor]) -> Tensor:
    """Return log(u); of a constant a number that may be added, but whose last bit is not certain."""
    (argument,) = inputs
    if not isinstance(argument, Constant):
        return elementwise.atom(_ATOMS["Log"])(builder, node, inputs)
    array = floats(node, argument.array)
    if argument.size is not None or not (array > 0).all():
        raise refused("not-lifted", node, "takes the logarithm of a constant that is not one positive number")
    value = np.log(array.astype(np.float64))
    return Constant(value.astype(array.dtype), argument.label, np.abs(value), signed=False)


def squared_difference(builder: Builder, node: GraphNode, inputs: Sequence[Tensor]) -> Tensor:
    """Return (a - b)^2."""
    return elementwise.square(builder, node, (arithmetic.subtract(builder, node, inputs),))


def _not_convex(builder: Builder, node: GraphNode, inputs: Sequence[Tensor]) -> Tensor | tuple[Tensor, ...]:
    """Refuse a function that is neither convex nor concave, by its name; of a constant or of the context it is one."""
    argument = inputs[0]
    if isinstance(argument, Constant) and node.op in FUNCTIONS:
        return elementwise.function_of_constant(builder, node, inputs)
    if isinstance(argument, Rows) and node.op in SQUASHING_OPS and builder.is_parameter(argument).all():
        return elementwise.atom(SQUASHING_OPS[node.op]())(builder, node, inputs)
    what = f"is {_NAMED[node.op]}, which is neither convex nor concave; softplus, relu and elu are convex"
    raise refused("not-lifted", node, what)


OPS: Mapping[str, Lift] = {
    **{op: elementwise.atom(make()) for op, make in CURVED_OPS.items()},
    **dict.fromkeys(_NAMED, _not_convex),
    "Inv": reciprocal,
    "Log": logarithm,
    "Pow": power,
    "RealDiv": divide,
    "Reciprocal": reciprocal,
    "SquaredDifference": squared_difference,
}
