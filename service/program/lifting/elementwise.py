"""Ops on one tensor, number by number: activations, squares, casts.

Beside the other families of `lifting`; below: `builder`, `atoms`, `templates`.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from service.program.atoms import Abs, Atom, Elu, Exp, Softplus, leaky_relu, relu
from service.program.constants import FUNCTIONS, Constant, folded, folded_function, refused
from service.program.inlining import GraphNode
from service.program.lifting.builder import Builder, Lift
from service.program.lifting.counting import is_integer
from service.program.program import AtomNode
from service.program.templates import squared
from service.program.tensors import Rows, Sizes, Tensor, rows_of

_TF_FLOATS = {1: np.float32, 2: np.float64}
"""TensorFlow's numbers of float32 and float64."""

_TF_INTEGERS = (3, 9)
"""TensorFlow's numbers of int32 and int64."""


def same(builder: Builder, node: GraphNode, inputs: Sequence[Tensor]) -> Tensor | tuple[Tensor, ...]:
    """Return the inputs as they are: what such ops change is the gradient, and the program has its own."""
    del builder, node
    return tuple(inputs)


def function_of_constant(builder: Builder, node: GraphNode, inputs: Sequence[Tensor]) -> Tensor:
    """Return a function of a constant."""
    del builder
    (constant,) = inputs
    if not isinstance(constant, Constant):
        raise refused("not-lifted", node, "is not understood on the way to the score")
    return folded_function(node, constant, node.op)


def cast(builder: Builder, node: GraphNode, inputs: Sequence[Tensor]) -> Tensor:
    """Return the tensor: a cast between float32 and float64 changes no real number."""
    del builder
    (tensor,) = inputs
    if is_integer(tensor) and not isinstance(tensor, Rows) and node.attributes.get("DstT") in _TF_INTEGERS:
        return tensor
    target = _TF_FLOATS.get(node.attributes.get("DstT", 0))
    if isinstance(tensor, Constant) and is_integer(tensor) and target is not None:
        return Constant(tensor.array.astype(target), tensor.label)
    if isinstance(tensor, Sizes):
        raise refused("row-axis", node, "counts the rows")
    if node.attributes.get("SrcT") not in _TF_FLOATS or target is None:
        raise refused("cast", node, "casts to or from a type that is neither float32 nor float64")
    if isinstance(tensor, Constant):
        with np.errstate(over="ignore"):  # infinity is refused where the constant is used
            return dataclasses.replace(tensor, array=tensor.array.astype(target))
    return rows_of(node, tensor)


def leaky(builder: Builder, node: GraphNode, inputs: Sequence[Tensor]) -> Tensor:
    """Return the leaky ReLU."""
    return atom(leaky_relu(float(node.attributes.get("alpha", np.float32(0.2)))))(builder, node, inputs)


def square(builder: Builder, node: GraphNode, inputs: Sequence[Tensor]) -> Tensor:
    """Return the square, of a leaky ReLU as one atom."""
    (argument,) = inputs
    if isinstance(argument, Constant):
        return folded(node, argument, argument, np.multiply)
    rows = rows_of(node, argument)
    position, phi = squared(builder.nodes, rows.node)
    return builder.append(AtomNode(rows.width, position, phi, node.name), rows, rows.shape)


def atom(phi: Atom) -> Callable[[Builder, GraphNode, Sequence[Tensor]], Tensor]:
    """Return what lifts an op that is the atom `phi`."""

    def lift(builder: Builder, node: GraphNode, inputs: Sequence[Tensor]) -> Tensor:
        (argument,) = inputs
        if isinstance(argument, Constant) and node.op in FUNCTIONS:
            return folded_function(node, argument, node.op)
        rows = rows_of(node, argument)
        return builder.append(AtomNode(rows.width, rows.node, phi, node.name), rows, rows.shape)

    return lift


OPS: Mapping[str, Lift] = {
    **dict.fromkeys(FUNCTIONS, function_of_constant),
    "Abs": atom(Abs()),
    "Cast": cast,
    "Elu": atom(Elu()),
    "Exp": atom(Exp()),
    "IdentityN": same,
    "LeakyRelu": leaky,
    "PreventGradient": same,
    "Relu": atom(relu()),
    "Softplus": atom(Softplus()),
    "Square": square,
    "StopGradient": same,
}
