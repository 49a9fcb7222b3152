r"""Program to the range of each gradient entry over all rows: reverse mode in intervals.

.. math:: \partial f / \partial v_i \in \sum_j T_{ij}\, [\underline a_j, \overline a_j], \qquad
          \partial f / \partial u \in [\underline a, \overline a] \cdot [\phi'(\underline u), \phi'(\overline u)]

The slope of a convex function never falls, so that its values at the ends of the argument's range bound it in between,
whichever number a kink is given. Every bound is moved outward by more than its rounding. Beside `curvature`; reads
`program` and `intervals`.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from service.program import intervals
from service.program.atoms import Atom
from service.program.convolutions import Blocks, Convolution
from service.program.operators import Dense, Divide, Operator, Scale
from service.program.program import (
    AffineNode,
    AtomNode,
    LogSumExpNode,
    MaximumNode,
    Node,
    ProductNode,
    Program,
    arguments,
)

Ends = NDArray[np.float64]
Range = tuple[Ends, Ends]

_WEIGHTED = (Dense, Scale, Convolution, Blocks)
"""Operators each entry of whose map is one of their coefficients, or 0."""

_EPSILON = float(np.finfo(np.float64).eps)
_TINY = float(np.finfo(np.float64).tiny)
_FAR = 1e100
"""Beyond it a slope is taken at infinity, if at all: its formula may overflow on the way."""
_ULPS = 64
"""A slope is taken to be that exact, as a share of itself or of 1: the formulas need a few."""


def gradient_ranges(program: Program) -> Range:
    """Return lower and upper bounds [dim] of the gradient's entries over all rows, infinite where none is known.

    Rows with every context, where there is one.

    They hold in real arithmetic for the exact weights; they are seldom tight, because what two branches have in common
    is not seen.

    Args:
        program: a program that is proved convex.
    """
    values = intervals.unbounded(program)
    adjoints: list[Range | None] = [None] * len(program.nodes)
    adjoints[-1] = np.ones(1), np.ones(1)
    for position in range(len(program.nodes) - 1, 0, -1):
        adjoint, node = adjoints[position], program.nodes[position]
        adjoints[position] = None
        if adjoint is None:
            continue
        for argument, contribution in _contributions(program, node, adjoint, values):
            present = adjoints[argument]
            adjoints[argument] = contribution if present is None else _sum(present, contribution)
    lower, upper = adjoints[0] or (np.zeros(program.width), np.zeros(program.width))
    return lower[: program.dim], upper[: program.dim]


def _contributions(program: Program, node: Node, adjoint: Range, values: list[Range]) -> Iterator[tuple[int, Range]]:
    """Yield what a node's adjoint adds to the adjoint of each node that it reads."""
    match node:
        case AffineNode():
            for term in node.terms:
                yield term.argument, _pulled_back(term.operator, adjoint, program.nodes[term.argument].width)
        case AtomNode():
            yield node.argument, _product(adjoint, _slopes(node.atom, *values[node.argument]))
        case MaximumNode():
            first, second = (values[argument] for argument in node.arguments)
            yield node.arguments[0], _share(adjoint, first[1] >= second[0], second[1] > first[0])
            yield node.arguments[1], _share(adjoint, second[1] > first[0], first[1] >= second[0])
        case ProductNode():
            yield node.arguments[0], _product(adjoint, values[node.arguments[1]])
            yield node.arguments[1], _product(adjoint, values[node.arguments[0]])
        case LogSumExpNode():  # the slopes of a run are its softmax, each between 0 and 1
            repeated = np.repeat(adjoint, program.nodes[node.argument].width // node.width, axis=1)
            always = np.ones(repeated.shape[1], np.bool_)
            yield node.argument, _share((repeated[0], repeated[1]), always, always)
        case _:
            for argument in arguments(node):
                yield argument, _unbounded(program.nodes[argument].width)


def _unbounded(width: int) -> Range:
    return np.full(width, -np.inf), np.full(width, np.inf)


def _pulled_back(operator: Operator, adjoint: Range, width: int) -> Range:
    """Return bounds of the transposed map of the adjoint; unbounded for a map with negative entries that is unknown."""
    if isinstance(operator, Divide):
        return _divided(adjoint, operator.coefficients.astype(np.float64))
    if not operator.negative_entries().any():
        return _rising(
            operator,
            adjoint,
            adjoint[0].size if isinstance(operator, _WEIGHTED) else width + operator.num_entries(width),
        )
    if not isinstance(operator, _WEIGHTED):
        return _unbounded(width)
    coefficients = operator.coefficients.astype(np.float64)
    positive, negative = (np.maximum(sign * coefficients, 0.0) for sign in (1, -1))
    rising = _rising(dataclasses.replace(operator, coefficients=positive), adjoint, adjoint[0].size)
    mirrored = _rising(dataclasses.replace(operator, coefficients=negative), adjoint, adjoint[0].size)
    return _sum(rising, (-mirrored[1], -mirrored[0]))


def _rising(operator: Operator, adjoint: Range, num_terms: int) -> Range:
    """Return bounds of the transposed map, of which no entry is negative: the images of the ends.

    A sum of k rounded products errs by at most k eps/2 of the sum of their sizes (Higham, Accuracy and Stability,
    section 3.1), k at most `num_terms`; twice that is used.
    """
    lower, upper = adjoint
    low, high = (np.where(np.isfinite(end), end, 0.0) for end in adjoint)
    marks = np.stack([np.isinf(lower), np.isinf(upper), lower < 0, upper > 0]).astype(np.float64)
    rows = np.concatenate([np.stack([low, high, np.maximum(np.abs(low), np.abs(high))]), marks])
    with np.errstate(all="ignore"):
        images = np.asarray(operator.pull_back(rows, np.float64, np))
        slack = 2 * (num_terms + 4) * (_EPSILON * images[2] + _TINY)
        below, above = images[0] - slack, images[1] + slack
    finite = np.isfinite(images[2])
    below = np.where(finite & (images[3] == 0), below, -np.inf)
    above = np.where(finite & (images[4] == 0), above, np.inf)
    below = np.where(images[5] == 0, np.maximum(below, 0.0), below)  # a sum of nothing negative is not negative
    return below, np.where(images[6] == 0, np.minimum(above, 0.0), above)


def _divided(adjoint: Range, divisor: Ends) -> Range:
    with np.errstate(all="ignore"):
        ends = np.stack([adjoint[0] / divisor, adjoint[1] / divisor])
    return _moved(ends.min(axis=0), ends.max(axis=0))


def _slopes(atom: Atom, lower: Ends, upper: Ends) -> Range:
    """Return bounds of an atom's slope on [lower, upper]: where phi is convex, its slopes at the ends."""
    convex, concave = atom.convex_on(lower, upper), atom.concave_on(lower, upper)
    rises, falls = atom.rises_on(lower, upper), atom.falls_on(lower, upper)
    ends = (
        np.where(lower < -_FAR, -np.inf, np.minimum(lower, _FAR)),
        np.where(upper > _FAR, np.inf, np.maximum(upper, -_FAR)),
    )
    with np.errstate(all="ignore"):
        first, last = (np.array(atom.value_and_slope(end, np)[1], np.float64) for end in ends)
        low = np.where(convex, first, np.where(concave, last, -np.inf))
        high = np.where(convex, last, np.where(concave, first, np.inf))
        low, high = np.where(np.isnan(low), -np.inf, low), np.where(np.isnan(high), np.inf, high)
        low = low - _ULPS * _EPSILON * np.maximum(1.0, np.abs(low))
        high = high + _ULPS * _EPSILON * np.maximum(1.0, np.abs(high))
    return np.where(rises, np.maximum(low, 0.0), low), np.where(falls, np.minimum(high, 0.0), high)


def _product(left: Range, right: Range) -> Range:
    """Return bounds of the products of numbers of two ranges, 0 times infinity being 0."""
    with np.errstate(all="ignore"):
        corners = np.stack([np.where((one == 0) | (two == 0), 0.0, one * two) for one in left for two in right])
    return _moved(corners.min(axis=0), corners.max(axis=0))


def _share(adjoint: Range, may_be_chosen: NDArray[np.bool_], may_be_left: NDArray[np.bool_]) -> Range:
    """Return bounds of the share of the adjoint that one side of a maximum gets."""
    low = np.where(may_be_left, np.minimum(adjoint[0], 0.0), adjoint[0])
    high = np.where(may_be_left, np.maximum(adjoint[1], 0.0), adjoint[1])
    return np.where(may_be_chosen, low, 0.0), np.where(may_be_chosen, high, 0.0)


def _sum(left: Range, right: Range) -> Range:
    with np.errstate(all="ignore"):
        return _moved(left[0] + right[0], left[1] + right[1])


def _moved(low: Ends, high: Ends) -> Range:
    """Return the ends moved outward by their rounding; 0 is exact, as a product with 0 or a sum of zeros is."""
    below = np.where(low == 0, low, np.nextafter(low, -np.inf))
    return below, np.where(high == 0, high, np.nextafter(high, np.inf))
