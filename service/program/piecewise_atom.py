r"""Piecewise functions as an atom: exact for the proof, in floats for evaluation, outward rounded for intervals.

.. math:: \phi_i(u) = c_0 + c_1 u + c_2 u^2 + \sum_j e_j \psi_j(u) \quad \text{on the piece of feature } i
          \text{ that holds } u

Above: `recognition`; below: `piecewise` (the exact functions and why their curvature is right), `atoms`.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Sequence
from fractions import Fraction
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.program.atoms import Abs, Array, Atom, Elu, Exp, LeakyRelu, Softplus, Square, SquaredLeaky
from service.program.curves import Curve, rational_root
from service.program.piecewise import Ends, Piece, Piecewise
from service.program.piecewise_group import Group

_SMALLEST = Fraction(1, 2**1000)
_READABLE = 200
"""A canonical text of more characters is replaced by its hash."""


def atom_of(functions: Sequence[Piecewise], index: NDArray[np.intp]) -> Atom:
    """Return the atom of these functions: one of `atoms` where it is exactly that, else a `PiecewiseAtom`.

    Args:
        functions: different ones.
        index: [width], the number of each feature's function.
    """
    known = _known(functions[0]) if len(functions) == 1 else None
    return known or PiecewiseAtom(tuple(functions), tuple(index.tolist()))


@dataclasses.dataclass(frozen=True)
class PiecewiseAtom(Atom):
    """One piecewise function for each feature.

    Where pieces meet, the slope is that of the left one: it lies between both one-sided derivatives.

    Args:
        functions: different ones.
        index: of each feature, the number of its function.
    """

    functions: tuple[Piecewise, ...]
    index: tuple[int, ...]
    name = "piecewise"

    def __getstate__(self) -> dict[str, Any]:
        """Pickle the functions alone: the groups are made of them again, so that both are under the one hash."""
        return {"functions": self.functions, "index": self.index}

    @functools.cached_property
    def groups(self) -> tuple[tuple[NDArray[np.intp], Group], ...]:
        """Features with functions of one form, and their parameters."""
        forms: dict[object, list[int]] = {}
        for feature, number in enumerate(self.index):
            forms.setdefault(Group.form(self.functions[number]), []).append(feature)
        return tuple(
            (np.array(features), Group([self.functions[self.index[feature]] for feature in features]))
            for features in forms.values()
        )

    def value_and_slope(self, u: Array, namespace: ModuleType) -> tuple[Array, Array]:
        """Return phi(u) and its slope, group by group."""
        if len(self.groups) == 1:
            return self.groups[0][1].value_and_slope(u, namespace)
        parts = [group.value_and_slope(u[..., features], namespace) for features, group in self.groups]
        back = np.argsort(np.concatenate([features for features, _ in self.groups]))
        values = namespace.concatenate([value for value, _ in parts], axis=-1)
        slopes = namespace.concatenate([slope for _, slope in parts], axis=-1)
        return values[..., back], slopes[..., back]

    @property
    def is_convex(self) -> bool:
        """Whether every feature's function is known to be convex."""
        return all(function.is_convex() for function in self.functions)

    def is_nondecreasing_from(self, lower: float) -> bool:
        """Whether no feature's function falls on [lower, inf)."""
        return all(function.never_falls((_end(lower), None)) for function in self.functions)

    def convex_on(self, lower: NDArray[np.float64], upper: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Return where phi is known to be convex on the feature's interval."""
        return self._known_on(lambda f, ends: f.is_convex(ends), lower, upper)

    def concave_on(self, lower: NDArray[np.float64], upper: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Return where phi is known to be concave on the feature's interval."""
        return self._known_on(lambda f, ends: f.negated().is_convex(ends), lower, upper)

    def rises_on(self, lower: NDArray[np.float64], upper: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Return where phi never falls on the feature's interval."""
        return self._known_on(lambda f, ends: f.never_falls(ends), lower, upper)

    def falls_on(self, lower: NDArray[np.float64], upper: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Return where phi never rises on the feature's interval."""
        return self._known_on(lambda f, ends: f.negated().never_falls(ends), lower, upper)

    def _known_on(
        self, question: Callable[[Piecewise, Ends], bool], lower: NDArray[np.float64], upper: NDArray[np.float64]
    ) -> NDArray[np.bool_]:
        """Return the answer for each feature on its interval; each different one is asked for once."""
        answers: dict[tuple[int, float, float], bool] = {}
        keys = list(zip(self.index, lower.tolist(), upper.tolist(), strict=True))
        for key in set(keys):
            number, low, high = key
            answers[key] = question(self.functions[number], (_end(low), _end(high)))
        return np.array([answers[key] for key in keys], np.bool_)

    def image(
        self, lower: NDArray[np.float64], upper: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return float64 bounds that enclose phi on [lower, upper], rounded outward."""
        low, high = np.empty_like(lower), np.empty_like(upper)
        for features, group in self.groups:
            low[features], high[features] = group.image(lower[features], upper[features])
        return low, high

    def kinks(self) -> list[tuple[NDArray[np.intp], NDArray[np.float64]]]:
        """Return features, and for each a place where its slope jumps; a feature stands in several pairs or in none."""
        places = [
            [float(place) for place, left, right in function.bends() if not right.minus(left).is_zero]
            for function in self.functions
        ]
        return [
            (np.array(features, np.intp), np.array([places[self.index[feature]][number] for feature in features]))
            for number in range(max(map(len, places)))
            if (features := [feature for feature, own in enumerate(self.index) if number < len(places[own])])
        ]

    @property
    def modulus(self) -> Fraction:
        """Twice the smallest c_2 of all pieces, if phi is convex: less that square every piece still is."""
        if not self.is_convex:
            return Fraction(0)
        return 2 * min(piece.polynomial[2] for function in self.functions for piece in function.pieces)

    @property
    def text(self) -> str:
        """Breaks and pieces of each function and the features' numbers, or the hash of that where it is long."""
        functions = " ".join(map(written, self.functions))
        index = "" if len(self.functions) == 1 else f" {self.index}"
        whole = f"{functions}{index}"
        shown = whole if len(whole) <= _READABLE else hashlib.sha256(whole.encode()).hexdigest()
        return f"{self.name}({shown})"

    def objection(self) -> str:
        """Return why phi is not known to be convex: the first place that speaks against it."""
        for function in self.functions:
            for place, left, right in function.bends():
                before, after = left.enclosure(), right.enclosure()
                if not right.minus(left).is_nonnegative() and before and after:
                    return f"its slope falls from {float(before[0]):g} to {float(after[0]):g} at {float(place):g}"
        return "one of its pieces bends downward"


def written(function: Piecewise) -> str:
    """Return breaks and pieces in exact fractions: `[0: 1/4 u | 1 u]`."""
    breaks = ", ".join(map(str, function.breaks))
    return f"[{breaks}: {' | '.join(map(_written, function.pieces))}]"


def _written(piece: Piece) -> str:
    powers = zip(piece.polynomial, ("", " u", " u^2"), strict=True)
    parts = [f"{coefficient}{power}" for coefficient, power in powers if coefficient]
    for curve, coefficient in piece.curves:
        parts.append(f"{coefficient} {curve.kind}({', '.join(map(str, curve.parameters))})")
    return " + ".join(parts) or "0"


def _end(value: float) -> Fraction | None:
    return Fraction(value) if np.isfinite(value) else None


def _known(function: Piecewise) -> Atom | None:
    """Return the atom of `atoms` that is this function, or None."""
    zero, one = Fraction(0), Fraction(1)
    smooth: dict[Piece, Callable[[], Atom]] = {
        Piece((zero, zero, one)): Square,
        Piece((zero, zero, zero), ((Curve("exp", (one,)), one),)): Exp,
        Piece((zero, zero, zero), ((Curve("softplus", (one,)), one),)): Softplus,
    }
    if not function.breaks:
        return smooth[function.pieces[0]]() if function.pieces[0] in smooth else None
    if function.breaks != (zero,):
        return None
    left, right = function.pieces
    if right == Piece((zero, one, zero)) and left == Piece((-one, zero, zero), ((Curve("exp", (one,)), one),)):
        return Elu()
    slope = left.polynomial[1]
    if right == Piece((zero, one, zero)) and left == Piece((zero, slope, zero)) and _is_float(slope):
        return Abs() if slope == -1 else LeakyRelu(float(slope))
    alpha = rational_root(left.polynomial[2])
    if right == Piece((zero, zero, one)) and left == Piece((zero, zero, left.polynomial[2])) and _is_float(alpha):
        return SquaredLeaky(float(alpha or 0))
    return None


def _is_float(value: Fraction | None) -> bool:
    """Whether a number is a float64 that is not denormal."""
    return value is not None and Fraction(float(value)) == value and (value == 0 or abs(value) > _SMALLEST)
