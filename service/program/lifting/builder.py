"""The list of program nodes while a graph is lifted: what every family of ops appends to.

Above: the families beside; below: `program`, `tensors`.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from service.errors import VersionRefusedError
from service.program.constants import MAX_NUMBERS
from service.program.inlining import GraphNode
from service.program.operators import Dense, Operator
from service.program.program import AffineNode, InputNode, Node, Term
from service.program.tensors import Rows, Tensor


class Builder:
    """Program nodes in the order in which they are lifted, counted before anything large is made.

    Args:
        dim: number of features of a row.
    """

    def __init__(self, dim: int) -> None:
        """Start with the row."""
        self.nodes: list[Node] = [InputNode(dim)]
        self.dim = dim
        self._numbers = dim

    def require(self, name: str, width: int) -> None:
        """Refuse `width` more numbers for each row by `size-limit`, before memory is taken for them."""
        if width < 1 or self._numbers + width > MAX_NUMBERS:
            reason = f"node {name} has no features, or the nodes together compute over {MAX_NUMBERS} numbers per row"
            raise VersionRefusedError("size-limit", reason)

    def append(self, node: Node, like: Rows, shape: tuple[int, ...]) -> Rows:
        """Return the rows of a new program node, with features of `shape` and the first axis as that of `like`.

        Raises:
            VersionRefusedError: `size-limit`.
        """
        self.require(node.name, node.width)
        self._numbers += node.width
        self.nodes.append(node)
        rows = Rows(len(self.nodes) - 1, shape, like.before, like.after)
        if rows.width != node.width:
            message = f"node {node.name} computes {node.width} numbers, not {rows.width}"
            raise ValueError(message)
        return rows

    def affine(self, name: str, rows: Rows, operator: Operator, shape: tuple[int, ...]) -> Rows:
        """Return T(v) for the rows' features v, with features of `shape`."""
        width = operator.output_width(rows.width)
        return self.append(AffineNode(width, (Term(rows.node, operator),), name=name), rows, shape)

    def broadcast(self, name: str, rows: Rows, shape: tuple[int, ...]) -> Rows:
        """Return rows whose features are repeated to `shape`, as NumPy broadcasts them."""
        if rows.shape == shape:
            return rows
        width = rows.copies * math.prod(shape)
        if width == rows.width:
            return Rows(rows.node, shape, rows.before, rows.after)
        self.require(name, width)
        return self.affine(name, rows, broadcasting(shape), shape)


def broadcasting(shape: tuple[int, ...]) -> Operator:
    """Return the operator that repeats features to `shape`."""
    return Dense(np.ones((1, math.prod(shape)), np.float32), "a broadcast")


def vector(rows: Rows, constant: NDArray[np.floating], shape: tuple[int, ...]) -> NDArray[np.floating]:
    """Return a constant that broadcasts to features of `shape`, as a vector of the rows' width."""
    features = constant.reshape(constant.shape[1:]) if constant.ndim > len(shape) else constant
    return np.ascontiguousarray(np.broadcast_to(features, (rows.copies, *shape)).reshape(-1))


Lift = Callable[[Builder, GraphNode, Sequence[Tensor]], Tensor | tuple[Tensor, ...]]
"""Lifts one op: its output, or a tuple of its outputs."""
