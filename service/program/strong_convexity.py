"""Program to its constant of strong convexity: how much of 1/2 |x|^2 may be taken away from a convex score.

Exact rational arithmetic on the exact weights, never a float that is not checked. Above: `curvature`, which asks of
programs that it proved convex; below: `program`.
"""

import math
from collections.abc import Iterator
from fractions import Fraction

import numpy as np

from service.program.operators import Dense, Operator
from service.program.program import AffineNode, AtomNode, Program, Term, arguments

_LARGEST = Fraction(float(np.finfo(np.float64).max))
_MAX_BITS = 2048
_MAX_PRODUCTS = 50_000
_MAX_MIXED_DIM = 32
"""Rows of more features get their strength from squares of single features only."""

_DIGITS = 100
"""The matrix of squares of mixed features is rounded to so many bits below its largest entry."""

_SHARES = tuple(1.0 - 2.0**-bits for bits in (30, 20, 10, 1))
"""The least eigenvalue in floats, times each of these in turn, is tried in exact arithmetic."""

Functional = dict[int, Fraction]
"""a . x, a linear function of the row: the coefficients of its features, without zeros."""

Matrix = dict[tuple[int, int], Fraction]
"""A symmetric matrix: its entries by row and column, without most zeros."""


def strong_convexity(program: Program) -> float:
    r"""Return m >= 0 such that f(x) - m/2 |x|^2 is convex, for a program f that is proved convex: for every context.

    .. math:: f(x) = r(x) + \sum_k c_k \phi_k(a_k^\top x + e_k), \quad c_k \ge 0, \ r \text{ and }
              \phi_k(u) - \tfrac{\mu_k}{2} u^2 \text{ convex} \ \Rightarrow \
              m = \lambda_{\min}\Big(\sum_k c_k \mu_k a_k a_k^\top\Big)

    The sum is over atoms of affine functions that reach the score through affine nodes only. Leaving one of them out
    only loses strength: so it goes with those whose exact numbers grow too long, or too many.

    Returns:
        m, the larger of two: from squares of single features, rounded down; from all squares, a number that rational
        arithmetic confirms to be no larger than the least eigenvalue, close to it. 0 where nothing is known.
    """
    form: Matrix = {}
    single: Matrix = {}
    products = 0
    for strength, functional in _squares(program):
        if len(functional) == 1:
            _add(single, strength, functional)
        products += len(functional) ** 2
        if program.dim <= _MAX_MIXED_DIM and products <= _MAX_PRODUCTS:
            _add(form, strength, functional)
    m = _rounded_down(min(single.get((j, j), Fraction(0)) for j in range(program.dim)))
    return m if all(i == j for i, j in form) else max(m, _least_eigenvalue(form, program.dim))


def _squares(program: Program) -> Iterator[tuple[Fraction, Functional]]:
    """Yield c_k mu_k > 0 and a_k."""
    weights = _score_weights(program)
    atoms = {position: node for position, node in enumerate(program.nodes) if isinstance(node, AtomNode)}
    strong = {position: node for position, node in atoms.items() if position in weights and node.atom.modulus > 0}
    functionals = _functionals(program, {node.argument for node in strong.values()})
    for position in (position for position, node in strong.items() if node.argument in functionals):
        node = strong[position]
        for weight, functional in zip(weights[position], functionals[node.argument], strict=True):
            if weight > 0 and functional:
                yield weight * node.atom.modulus, functional


def _add(matrix: Matrix, strength: Fraction, functional: Functional) -> None:
    """Add the whole of strength a a^T, or nothing where the numbers would grow too long."""
    entries = {
        (i, j): matrix.get((i, j), Fraction(0)) + strength * a * b
        for i, a in functional.items()
        for j, b in functional.items()
    }
    if not any(_bits(entry) > _MAX_BITS for entry in entries.values()):
        matrix.update(entries)


def _rounded_down(value: Fraction) -> float:
    if value > _LARGEST:
        return float(_LARGEST)
    nearest = float(value)
    return nearest if Fraction(nearest) <= value else float(np.nextafter(nearest, -np.inf))


def _least_eigenvalue(matrix: Matrix, dim: int) -> float:
    r"""Return a number not above the least eigenvalue of a matrix M, close to it, or 0.

    .. math:: |M - t F|_{ij} \le t/2, \quad F - s I \succ 0 \ \Rightarrow \ \lambda_{\min}(M) \ge t (s - d/2)

    with F of integers and t a power of two, for s a share of what floats give; the Frobenius norm of the rounding,
    which bounds the change of an eigenvalue (Weyl), is at most t d/2.
    """
    largest = max(abs(entry) for entry in matrix.values())
    unit = Fraction(2) ** (largest.numerator.bit_length() - largest.denominator.bit_length() - _DIGITS)
    rounded = [[round(matrix.get((i, j), Fraction(0)) / unit) for j in range(dim)] for i in range(dim)]
    least = float(np.linalg.eigvalsh(np.array([[float(entry) for entry in row] for row in rounded]))[0])
    for share in _SHARES:
        if least > 0 and _is_positive_definite(rounded, math.ceil(share * least) + dim):
            return _rounded_down(unit * Fraction(share * least))
    return 0.0


def _is_positive_definite(matrix: list[list[int]], shift: int) -> bool:
    """Return whether a symmetric matrix less `shift` times the identity has positive leading minors only.

    Fraction-free elimination in integers (Bareiss 1968), whose pivots are the minors: Sylvester's criterion.
    """
    rows = [[entry - shift * (i == j) for j, entry in enumerate(row)] for i, row in enumerate(matrix)]
    previous = 1
    for k, top in enumerate(rows):
        minor = top[k]
        if minor <= 0:
            return False
        for row in rows[k + 1 :]:
            row[k + 1 :] = [(row[j] * minor - row[k] * top[j]) // previous for j in range(k + 1, len(top))]
        previous = minor
    return True


def _functionals(program: Program, wanted: set[int]) -> dict[int, list[Functional]]:
    """Return, for the nodes among those wanted that are affine in the row, each feature's exact coefficients."""
    needed = set(wanted)
    for position in range(len(program.nodes) - 1, 0, -1):
        if position in needed:
            needed.update(arguments(program.nodes[position]))
    row: list[Functional] = [{j: Fraction(1)} for j in range(program.dim)]
    known: dict[int, list[Functional]] = {0: row + [{} for _ in range(program.context)]}  # for a fixed context
    products = 0
    for position, node in enumerate(program.nodes):
        if position not in needed or not isinstance(node, AffineNode):
            continue
        if any(term.argument not in known for term in node.terms):
            continue
        cost = sum(_mixed_products(term.operator, known[term.argument], program.dim) for term in node.terms)
        if products + cost > _MAX_PRODUCTS:
            continue
        products += cost
        total = _sum(node.width, [_image(term.operator, known[term.argument], node.width) for term in node.terms])
        if not any(_bits(value) > _MAX_BITS for functional in total for value in functional.values()):
            known[position] = total
    return known


def _mixed_products(operator: Operator, functionals: list[Functional], dim: int) -> int:
    """Return how many products `_image` takes, those of single features by a diagonal not counted."""
    if operator.exact_diagonal(len(functionals)) is not None:
        return sum(len(functional) for functional in functionals if len(functional) > 1)
    if dim > _MAX_MIXED_DIM:
        return _MAX_PRODUCTS + 1
    width = len(functionals)
    return -(-operator.num_entries(width) // width) * sum(map(len, functionals))


def _image(operator: Operator, functionals: list[Functional], width: int) -> list[Functional]:
    """Return the functionals after an operator."""
    diagonal = operator.exact_diagonal(width)
    if diagonal is not None:
        pairs = zip(functionals, diagonal, strict=True)
        return [{j: value * factor for j, value in functional.items()} for functional, factor in pairs]
    images: list[Functional] = [{} for _ in range(width)]
    for i, j, weight in operator.exact_entries(len(functionals)):
        for feature, value in functionals[i].items():
            images[j][feature] = images[j].get(feature, Fraction(0)) + value * weight
    return images


def _sum(width: int, images: list[list[Functional]]) -> list[Functional]:
    """Return the sums of the images, feature by feature, without zeros."""
    total: list[Functional] = [{} for _ in range(width)]
    for image in images:
        for row, functional in zip(total, image, strict=True):
            for j, value in functional.items():
                row[j] = row.get(j, Fraction(0)) + value
    return [{j: value for j, value in row.items() if value != 0} for row in total]


def _score_weights(program: Program) -> dict[int, list[Fraction]]:
    """Return, for nodes that reach the score through affine nodes only, their features' exact coefficients there."""
    weights: dict[int, list[Fraction]] = {len(program.nodes) - 1: [Fraction(1)]}
    for position in range(len(program.nodes) - 1, 0, -1):
        node = program.nodes[position]
        if position not in weights or not isinstance(node, AffineNode):
            continue
        outer = weights[position]
        for term in node.terms:
            width = program.nodes[term.argument].width
            inner = _pulled_back(term, outer, width)
            if inner is not None:
                present = weights.get(term.argument, [Fraction(0)] * width)
                weights[term.argument] = [a + b for a, b in zip(present, inner, strict=True)]
    return weights


def _pulled_back(term: Term, outer: list[Fraction], width: int) -> list[Fraction] | None:
    """Return a node's coefficients in the score through one term, None where they are unknown or grow too long."""
    operator = term.operator
    diagonal = operator.exact_diagonal(width)
    if diagonal is not None:
        return _products(outer, diagonal)
    if isinstance(operator, Dense) and len(outer) != 1:
        return None
    if operator.num_entries(width) > _MAX_PRODUCTS or any(_bits(a) > _MAX_BITS for a in outer):
        return None
    inner = [Fraction(0)] * width
    for i, j, weight in operator.exact_entries(width):
        inner[i] += weight * outer[j]
    return inner


def _products(left: list[Fraction], right: list[Fraction] | None) -> list[Fraction] | None:
    """Return the products, None where they are unknown or grow too long; whoever skips a square only loses strength."""
    if right is None or any(_bits(a) > _MAX_BITS for a in left):
        return None
    return [a * b for a, b in zip(left, right, strict=True)]


def _bits(value: Fraction) -> int:
    return max(value.numerator.bit_length(), value.denominator.bit_length())
