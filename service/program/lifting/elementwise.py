"""Ops on one tensor, number by number: activations, squares, casts.

Beside the other families of `lifting`; below: `builder`, `atoms`, `templates`.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from service.program.atoms import Abs, Atom, Elu, Exp, Softplus, leaky_relu, relu
from service.program.constants import Constant, folded, refused
from service.program.inlining import GraphNode
from service.program.lifting.builder import Builder, Lift
from service.program.program import AtomNode
from service.program.templates import squared
from service.program.tensors import Tensor, rows_of

_TF_FLOATS = {1: np.float32, 2: np.float64}
"""TensorFlow's numbers of float32 and float64."""


def cast(builder: Builder, node: GraphNode, inputs: Sequence[Tensor]) -> Tensor:
    """Return the tensor: a cast between float32 and float64 changes no real number."""
    del builder
    (tensor,) = inputs
    target = _TF_FLOATS.get(node.attributes.get("DstT", 0))
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
        rows = rows_of(node, argument)
        return builder.append(AtomNode(rows.width, rows.node, phi, node.name), rows, rows.shape)

    return lift


OPS: Mapping[str, Lift] = {
    "Abs": atom(Abs()),
    "Cast": cast,
    "Elu": atom(Elu()),
    "Exp": atom(Exp()),
    "LeakyRelu": leaky,
    "Relu": atom(relu()),
    "Softplus": atom(Softplus()),
    "Square": square,
}
