r"""Continuous functions of one variable in pieces, in exact arithmetic: what a one-variable subgraph is as a whole.

.. math:: f(u) = c_0 + c_1 u + c_2 u^2 + \sum_j e_j \psi_j(u) \quad \text{on each piece}

with rational numbers and the convex curves of `curves`. Above: `expressions`, which builds them from ops, and
`piecewise_atom`, which evaluates them. No number here is rounded.

Why the answers are right:

* A continuous function is convex on an interval if it is convex on each of its pieces there and its slope does not
  fall from one piece to the next (Rockafellar, Convex Analysis, theorem 24.2). A piece is convex if c_2 >= 0 and all
  e_j >= 0, because the curves are; it is concave if none of them is positive.
* It never falls on an interval if no piece has a negative slope there. The slope of a convex piece is smallest at its
  left end, that of a concave one at its right end.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from fractions import Fraction

from service.program.curves import Curve, Exact, rational_root

Ends = tuple[Fraction | None, Fraction | None]
"""An interval of the line: its ends, None where it is unbounded."""

WHOLE_LINE: Ends = (None, None)
_ZERO = Fraction(0)


class NotPiecewiseError(ValueError):
    """A function that is not of this kind, or not known to be continuous; the message says what was seen."""


@dataclasses.dataclass(frozen=True)
class Piece:
    """c_0 + c_1 u + c_2 u^2 + sum of e_j psi_j(u).

    Args:
        polynomial: (c_0, c_1, c_2).
        curves: (psi_j, e_j), sorted, e_j not zero.
    """

    polynomial: tuple[Fraction, Fraction, Fraction]
    curves: tuple[tuple[Curve, Fraction], ...] = ()

    def plus(self, other: "Piece") -> "Piece":
        """Return the sum."""
        first, second = self.polynomial, other.polynomial
        total = dict(self.curves)
        for curve, coefficient in other.curves:
            total[curve] = total.get(curve, Fraction(0)) + coefficient
        return Piece((first[0] + second[0], first[1] + second[1], first[2] + second[2]), _sorted(total))

    def scaled(self, factor: Fraction) -> "Piece":
        """Return the product with a number."""
        c0, c1, c2 = self.polynomial
        curves = {curve: coefficient * factor for curve, coefficient in self.curves}
        return Piece((c0 * factor, c1 * factor, c2 * factor), _sorted(curves))

    def value_at(self, u: Fraction) -> Exact:
        """Return the value at u."""
        c0, c1, c2 = self.polynomial
        total = Exact(rational=c0 + (c1 + c2 * u) * u)
        for curve, coefficient in self.curves:
            total = total.plus(curve.value_at(u).scaled(coefficient))
        return total

    def slope_at(self, u: Fraction) -> Exact:
        """Return the derivative at u."""
        _, c1, c2 = self.polynomial
        total = Exact(rational=c1 + 2 * c2 * u)
        for curve, coefficient in self.curves:
            total = total.plus(curve.slope_at(u).scaled(coefficient))
        return total

    @property
    def is_convex(self) -> bool:
        """Whether the piece is convex for certain."""
        return self.polynomial[2] >= 0 and all(coefficient > 0 for _, coefficient in self.curves)

    @property
    def is_concave(self) -> bool:
        """Whether the piece is concave for certain."""
        return self.scaled(Fraction(-1)).is_convex

    def never_falls(self, ends: Ends) -> bool:
        """Whether the slope is known not to be negative between the ends."""
        if self.is_convex:
            return self._rises_at(ends[0], right=False)
        return self.is_concave and self._rises_at(ends[1], right=True)

    def _rises_at(self, end: Fraction | None, *, right: bool) -> bool:
        if end is not None:
            return self.slope_at(end).is_nonnegative()
        _, c1, c2 = self.polynomial
        if c2 != 0:
            return False  # its slope has no bound on the side where it is smallest
        total = Exact(rational=c1)
        for curve, coefficient in self.curves:
            limit = curve.slope_limit(right=right)
            if limit is None:
                return False
            total = total.plus(limit.scaled(coefficient))
        return total.is_nonnegative()


@dataclasses.dataclass(frozen=True)
class Piecewise:
    """A continuous function: pieces between breaks.

    Args:
        breaks: ascending.
        pieces: one more than breaks, neighbours unequal. They meet in the breaks; whoever builds one sees to it.
    """

    breaks: tuple[Fraction, ...]
    pieces: tuple[Piece, ...]

    def intervals(self, ends: Ends = WHOLE_LINE) -> Iterator[tuple[Piece, Ends]]:
        """Yield the pieces that have more than a point between the ends, with their own ends there."""
        edges: list[Fraction | None] = [None, *self.breaks, None]
        for piece, left, right in zip(self.pieces, edges, edges[1:], strict=False):
            low = left if ends[0] is None or (left is not None and left > ends[0]) else ends[0]
            high = right if ends[1] is None or (right is not None and right < ends[1]) else ends[1]
            if low is None or high is None or low < high:
                yield piece, (low, high)

    def piece_at(self, u: Fraction) -> Piece:
        """Return the piece that holds u, the left one of two that meet there."""
        return self.pieces[sum(u > place for place in self.breaks)]

    def bends(self, ends: Ends = WHOLE_LINE) -> Iterator[tuple[Fraction, Exact, Exact]]:
        """Yield the breaks strictly between the ends with the slopes on their left and right."""
        for place, left, right in zip(self.breaks, self.pieces, self.pieces[1:], strict=False):
            if (ends[0] is None or ends[0] < place) and (ends[1] is None or place < ends[1]):
                yield place, left.slope_at(place), right.slope_at(place)

    def is_convex(self, ends: Ends = WHOLE_LINE) -> bool:
        """Whether the function is known to be convex between the ends."""
        return all(piece.is_convex for piece, _ in self.intervals(ends)) and all(
            right.minus(left).is_nonnegative() for _, left, right in self.bends(ends)
        )

    def never_falls(self, ends: Ends = WHOLE_LINE) -> bool:
        """Whether the function is known to be non-decreasing between the ends."""
        return all(piece.never_falls(own) for piece, own in self.intervals(ends))

    def negated(self) -> "Piecewise":
        """Return -f."""
        return self.scaled(Fraction(-1))

    def scaled(self, factor: Fraction) -> "Piecewise":
        """Return the product with a number."""
        return simplified(self.breaks, tuple(piece.scaled(factor) for piece in self.pieces))

    def plus(self, other: "Piecewise") -> "Piecewise":
        """Return the sum."""
        places = tuple(sorted({*self.breaks, *other.breaks}))
        pairs = zip(self.refined(places), other.refined(places), strict=True)
        return simplified(places, tuple(first.plus(second) for first, second in pairs))

    def refined(self, places: tuple[Fraction, ...]) -> tuple[Piece, ...]:
        """Return the pieces between `places`, which hold all breaks."""
        pieces, count = [self.pieces[0]], 0
        for place in places:
            count += count < len(self.breaks) and self.breaks[count] == place
            pieces.append(self.pieces[count])
        return tuple(pieces)

    def lowest(self) -> Fraction | None:
        """Return a number that a convex function never falls below, mostly its infimum, or None."""
        if not self.is_convex():
            return None
        if any(piece.curves for piece in self.pieces):
            if self.never_falls():
                return self._left_limit()
            return self._right_limit() if self.negated().never_falls() else None
        first, last = self.pieces[0].polynomial, self.pieces[-1].polynomial
        if (first[2] == 0 and first[1] > 0) or (last[2] == 0 and last[1] < 0):
            return None
        places = list(self.breaks)
        for piece, (low, high) in self.intervals():
            _, c1, c2 = piece.polynomial
            bottom = -c1 / (2 * c2) if c2 else (low or high or Fraction(0))
            if (low is None or low <= bottom) and (high is None or bottom <= high):
                places.append(bottom)
        return min(self.piece_at(place).value_at(place).rational for place in places)

    def _left_limit(self) -> Fraction | None:
        """Return a lower bound of the values at minus infinity: exp(k u) and softplus(k u) vanish there for k > 0.

        sqrt(a u^2 + b u + c) is not below sqrt(a) |u + b/2a| >= -sqrt(a) (u + b/2a).
        """
        c0, c1, c2 = self.pieces[0].polynomial
        for curve, coefficient in self.pieces[0].curves:
            if curve.kind == "root":
                a, b, _ = curve.parameters
                root = rational_root(a)
                if root is None:
                    return None
                c1 -= coefficient * root
                c0 -= coefficient * root * b / (2 * a)
            elif curve.parameters[0] < 0:
                return None
        return c0 if c1 == 0 and c2 == 0 else None

    def _right_limit(self) -> Fraction | None:
        """Return the limit of the values at plus infinity, where only falling exponentials are left there, or None."""
        c0, c1, c2 = self.pieces[-1].polynomial
        falling = all(curve.kind == "exp" and curve.parameters[0] < 0 for curve, _ in self.pieces[-1].curves)
        return c0 if falling and c1 == 0 and c2 == 0 else None


def simplified(breaks: tuple[Fraction, ...], pieces: tuple[Piece, ...]) -> Piecewise:
    """Return the function without breaks between equal pieces."""
    kept_breaks: list[Fraction] = []
    kept = [pieces[0]]
    for place, piece in zip(breaks, pieces[1:], strict=True):
        if piece != kept[-1]:
            kept_breaks.append(place)
            kept.append(piece)
    return Piecewise(tuple(kept_breaks), tuple(kept))


def polynomial(c0: Fraction, c1: Fraction = _ZERO, c2: Fraction = _ZERO) -> Piecewise:
    """Return c_0 + c_1 u + c_2 u^2 on the whole line."""
    return Piecewise((), (Piece((c0, c1, c2)),))


def _sorted(curves: Mapping[Curve, Fraction]) -> tuple[tuple[Curve, Fraction], ...]:
    return tuple(sorted((curve, coefficient) for curve, coefficient in curves.items() if coefficient))
