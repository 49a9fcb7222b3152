"""The list of program nodes while a graph is lifted: what every family of ops appends to.

Above: the families beside; below: `program`, `tensors`.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from service.errors import VersionRefusedError
from service.program.constants import MAX_NUMBERS
from service.program.inlining import GraphNode
from service.program.operators import Dense, Operator
from service.program.program import AffineNode, InputNode, Node, Term
from service.program.recognition import Recognition
from service.program.selections import MAX_PLACES, Selection
from service.program.tensors import Rows, Tensor


class Builder:
    """Program nodes in the order in which they are lifted, counted before anything large is made.

    Args:
        dim: number of features of x.
        context: number of features of the context, 0 for none.
    """

    def __init__(self, dim: int, context: int = 0) -> None:
        """Start with the row: x, and behind it the context."""
        self._width = dim + context
        self.nodes: list[Node] = [InputNode(self._width, context=context)]
        self.recognition = Recognition(self.nodes)
        self.dim = dim
        self.context = context
        self._numbers = self._width
        self._places = 0
        self._parts: dict[str, Rows] = {}

    def row(self, part: str) -> Rows:
        """Return `x` [n, dim] or `context` [n, context], as they stand in the row."""
        if not self.context:
            return Rows(0, (self.dim,))
        if part not in self._parts:
            whole = Rows(0, (self._width,))
            places = np.arange(self.dim) if part == "x" else np.arange(self.dim, self._width)
            self._parts[part] = self.select(part, whole, places[None], "a part of the row")
        return self._parts[part]

    def is_parameter(self, rows: Rows) -> NDArray[np.bool_]:
        """Return which features [width] depend on the context alone."""
        if not self.context:
            return np.zeros(rows.width, np.bool_)
        return self.recognition.knowledge.of(rows.node).parameter

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

    def select(self, name: str, rows: Rows, places: NDArray[np.int64], label: str) -> Rows:
        """Return features chosen by `places` [copies, *shape], numbers of the rows' features or -1 for 0."""
        shape = places.shape[1:]
        flat = places.reshape(-1)
        if flat.size == rows.width and (flat == np.arange(rows.width)).all():
            return dataclasses.replace(rows, shape=shape)
        return self.sums(name, rows, flat[:, None], shape, label)

    def sums(self, name: str, rows: Rows, places: NDArray[np.int64], shape: tuple[int, ...], label: str) -> Rows:
        """Return the sums of the features that the rows of `places` [width, terms] name."""
        self.require(name, places.shape[0])
        self.require_places(name, places.size)
        operator = Selection(label=label, places=np.ascontiguousarray(places), input_width=rows.width)
        return self.affine(name, rows, operator, shape)

    def require_places(self, name: str, count: int) -> None:
        """Refuse tables of `count` more places by `size-limit`, before memory is taken for them."""
        self._places += count
        if self._places > MAX_PLACES:
            reason = f"node {name}: the windows, slices and sums together read over {MAX_PLACES} places of a row"
            raise VersionRefusedError("size-limit", reason)

    def constant(self, name: str, values: NDArray[np.floating], shape: tuple[int, ...]) -> Rows:
        """Return rows that are all the same: `values` [width]."""
        self.require(name, values.size)
        nothing = Selection(label="a constant", places=np.full((values.size, 1), -1), input_width=self._width)
        node = AffineNode(values.size, (Term(0, nothing),), np.ascontiguousarray(values), name)
        return self.append(node, Rows(0, (self._width,)), shape)

    def broadcast(self, name: str, rows: Rows, shape: tuple[int, ...]) -> Rows:
        """Return rows whose features are repeated to `shape`, as NumPy broadcasts them."""
        if rows.shape == shape:
            return rows
        width = rows.copies * math.prod(shape)
        self.require(name, width)
        if rows.width == 1:
            return self.affine(name, rows, Dense(np.ones((1, width), np.float32), "a broadcast"), shape)
        aligned = rows.places.reshape(rows.copies, *[1] * (len(shape) - len(rows.shape)), *rows.shape)
        return self.select(name, rows, np.broadcast_to(aligned, (rows.copies, *shape)), "a broadcast")


def vector(rows: Rows, constant: NDArray[np.floating], shape: tuple[int, ...]) -> NDArray[np.floating]:
    """Return a constant that broadcasts to features of `shape`, as a vector of the rows' width."""
    features = constant.reshape(constant.shape[1:]) if constant.ndim > len(shape) else constant
    return np.ascontiguousarray(np.broadcast_to(features, (rows.copies, *shape)).reshape(-1))


Lift = Callable[[Builder, GraphNode, Sequence[Tensor]], Tensor | tuple[Tensor, ...]]
"""Lifts one op: its output, or a tuple of its outputs."""
