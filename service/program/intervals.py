"""Program to value ranges over a box, rounded outward: what the proof knows about an argument's sign.

Reads `program`, `operators` and `atoms`; `facts` uses it on the unbounded box.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from service.program.operators import product_bounds
from service.program.program import (
    AffineNode,
    AtomNode,
    InputNode,
    LogSumExpNode,
    MaximumNode,
    Node,
    ProductNode,
    Program,
    arguments,
)

Range = tuple[NDArray[np.float64], NDArray[np.float64]]

_EPSILON = float(np.finfo(np.float64).eps)


class Ranges:
    """Float64 bounds [width] of each node's values for every row, each computed when it is asked for, and once.

    Args:
        nodes: a list of nodes that may still grow.
        box: lower and upper ends [width] of the rows; the unbounded box by default.
    """

    def __init__(self, nodes: Sequence[Node], box: Range | None = None) -> None:
        width = nodes[0].width
        self._nodes = nodes
        self._known: dict[int, Range] = {0: box or (np.full(width, -np.inf), np.full(width, np.inf))}

    def of(self, position: int) -> Range:
        """Return the bounds of a node."""
        waiting = [position]
        while waiting:
            node = self._nodes[waiting[-1]]
            missing = [argument for argument in arguments(node) if argument not in self._known]
            if missing:
                waiting.extend(missing)
                continue
            last = waiting.pop()
            if last not in self._known:
                self._known[last] = _range(node, self._known)
        return self._known[position]

    def forget(self, position: int) -> None:
        """Forget everything from a node on."""
        self._known = {number: found for number, found in self._known.items() if number < position}


def ranges(program: Program, lower: NDArray[np.float64], upper: NDArray[np.float64]) -> list[Range]:
    """Return, for each node, float64 bounds [width] of its values for every row in the box.

    Interval arithmetic: the bounds hold in real arithmetic for the exact weights; they are seldom tight.

    Args:
        program: the program.
        lower: lower ends of the box [width], those of the context last; -inf is allowed.
        upper: upper ends of the box [width]; inf is allowed.

    Raises:
        ValueError: if an end is NaN, or a lower end is above its upper end.
    """
    if not (lower <= upper).all():
        message = "the box is empty or has a NaN end"
        raise ValueError(message)
    found = Ranges(program.nodes, (lower.astype(np.float64), upper.astype(np.float64)))
    return [found.of(position) for position in range(len(program.nodes))]


def unbounded(program: Program) -> list[Range]:
    """Return the nodes' ranges over all rows."""
    return ranges(program, np.full(program.width, -np.inf), np.full(program.width, np.inf))


def _range(node: Node, found: dict[int, Range]) -> Range:
    match node:
        case AffineNode():
            return _affine(node, found)
        case AtomNode():
            return node.atom.image(*found[node.argument])
        case MaximumNode():
            first, second = (found[argument] for argument in node.arguments)
            return np.maximum(first[0], second[0]), np.maximum(first[1], second[1])
        case ProductNode():
            return _product(*(found[argument] for argument in node.arguments))
        case LogSumExpNode():
            return _log_sum_exp(node, *found[node.argument])
        case InputNode():
            return found[0]


def _product(first: Range, second: Range) -> Range:
    """Return bounds of products, moved outward; a product that cannot be negative keeps that, 0 times inf is 0."""
    lower, upper = product_bounds(*first, *second)
    with np.errstate(over="ignore"):
        below, above = np.nextafter(lower, -np.inf), np.nextafter(upper, np.inf)
    return np.where(lower >= 0, np.maximum(below, 0.0), below), np.where(upper <= 0, np.minimum(above, 0.0), above)


def _log_sum_exp(node: LogSumExpNode, lower: NDArray[np.float64], upper: NDArray[np.float64]) -> Range:
    """Return bounds from max(v) <= log sum exp(v) <= max(v) + log k, rounded outward."""
    low, high = (end.reshape(node.width, -1).max(axis=1) for end in (lower, upper))
    high = high + float(np.nextafter(np.log(upper.size // node.width), np.inf))
    return low, np.where(np.isfinite(high), np.nextafter(high, np.inf), high)


def _affine(node: AffineNode, found: dict[int, Range]) -> Range:
    contributions = [term.operator.interval(*found[term.argument]) for term in node.terms]
    if node.bias is not None:
        bias = node.bias.astype(np.float64)
        contributions.append((bias[None, :], bias[None, :]))
    lower = np.concatenate([low for low, _ in contributions])
    upper = np.concatenate([high for _, high in contributions])
    return _sum(lower, -1.0), _sum(upper, 1.0)


def _sum(ends: NDArray[np.float64], outward: float) -> NDArray[np.float64]:
    """Return the columns' sums, moved `outward` by a bound of the rounding, unbounded where a sum leaves float64.

    Standard bound of a sum of rounded products (Higham, Accuracy and Stability, section 4.2), doubled, and one for
    products that underflow. A sum of numbers none of which lies outward of 0 does not lie there either.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        size = np.abs(ends).sum(axis=0)
        slack = 2 * (ends.shape[0] + 1) * (_EPSILON * size + np.finfo(np.float64).tiny)
        moved = ends.sum(axis=0) + outward * slack
    moved = np.where(np.isfinite(size), moved, outward * np.inf)
    inside = (outward * ends <= 0).all(axis=0) & np.isfinite(size)
    return np.where(inside, np.minimum(moved, 0.0) if outward > 0 else np.maximum(moved, 0.0), moved)
