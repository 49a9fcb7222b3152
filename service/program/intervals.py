"""Program to value ranges over a box, rounded outward: what the proof knows about an argument's sign.

Reads `program`, `operators` and `atoms`; `curvature` uses it on the unbounded box.
"""

import numpy as np
from numpy.typing import NDArray

from service.program.program import AffineNode, AtomNode, InputNode, MaximumNode, Program

Range = tuple[NDArray[np.float64], NDArray[np.float64]]

_EPSILON = float(np.finfo(np.float64).eps)


def ranges(program: Program, lower: NDArray[np.float64], upper: NDArray[np.float64]) -> list[Range]:
    """Return, for each node, float64 bounds [width] of its values for every row in the box.

    Interval arithmetic: the bounds hold in real arithmetic for the exact weights; they are seldom tight.

    Args:
        program: the program.
        lower: lower ends of the box [dim]; -inf is allowed.
        upper: upper ends of the box [dim]; inf is allowed.

    Raises:
        ValueError: if an end is NaN, or a lower end is above its upper end.
    """
    if not (lower <= upper).all():
        message = "the box is empty or has a NaN end"
        raise ValueError(message)
    found: list[Range] = []
    for node in program.nodes:
        match node:
            case InputNode():
                found.append((lower.astype(np.float64), upper.astype(np.float64)))
            case AffineNode():
                found.append(_affine(node, found))
            case AtomNode():
                found.append(node.atom.image(*found[node.argument]))
            case MaximumNode():
                first, second = (found[argument] for argument in node.arguments)
                found.append((np.maximum(first[0], second[0]), np.maximum(first[1], second[1])))
    return found


def unbounded(program: Program) -> list[Range]:
    """Return the nodes' ranges over all rows."""
    return ranges(program, np.full(program.dim, -np.inf), np.full(program.dim, np.inf))


def _affine(node: AffineNode, found: list[Range]) -> Range:
    low = np.zeros(node.width)
    high = np.zeros(node.width)
    size = np.zeros(node.width)
    count = 1
    for term in node.terms:
        lower, upper = found[term.argument]
        matrix_low, matrix_high = term.operator.as_matrix(lower.shape[0])
        corners = [_product(end, matrix) for end in (lower, upper) for matrix in (matrix_low, matrix_high)]
        least, most = np.minimum.reduce(corners), np.maximum.reduce(corners)
        low = low + least.sum(axis=0)
        high = high + most.sum(axis=0)
        size = size + np.maximum(np.abs(least), np.abs(most)).sum(axis=0)
        count += lower.shape[0] + 1
    if node.bias is not None:
        bias = node.bias.astype(np.float64)
        low, high, size = low + bias, high + bias, size + np.abs(bias)
    # Standard bound of a sum of `count` rounded terms (Higham, Accuracy and Stability, section 4.2), doubled.
    with np.errstate(invalid="ignore"):
        slack = np.where(np.isfinite(size), 2 * count * _EPSILON * size + np.finfo(np.float64).tiny, 0.0)
    return low - slack, high + slack


def _product(ends: NDArray[np.float64], matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return ends[:, None] * matrix with 0 * inf = 0."""
    with np.errstate(invalid="ignore", over="ignore"):
        product = ends[:, None] * matrix
    return np.where((matrix == 0) | (ends[:, None] == 0), 0.0, product)
