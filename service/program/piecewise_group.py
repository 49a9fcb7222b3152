"""Piecewise functions of one form, evaluated for many features at once: their parameters as arrays.

In floats of any kind for values and slopes, in float64 with outward rounding for images of intervals. Above:
`piecewise_atom`; below: `piecewise`.
"""

import functools
from collections.abc import Sequence
from fractions import Fraction
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.program.piecewise import Piece, Piecewise

Array = Any
Floats = NDArray[np.float64]
Bounds = tuple[Floats, Floats]

_ROUNDING = 32 * float(np.finfo(np.float64).eps)
"""Share of the size of its terms by which a bound is widened: each piece has fewer roundings than 16."""

_TINY = float(np.finfo(np.float64).tiny)
_LARGEST = float(np.finfo(np.float64).max)


class Group:
    """Functions with the same number of breaks and the same curves, one for each feature.

    Args:
        functions: of one `form`.
    """

    def __init__(self, functions: Sequence[Piecewise]) -> None:
        self._breaks = [_floats(row) for row in zip(*(function.breaks for function in functions), strict=True)]
        columns = zip(*(function.pieces for function in functions), strict=True)
        self._pieces = [_PieceArrays(column) for column in columns]
        lowest = [function.lowest() for function in functions]
        self._lowest = np.array([-np.inf if bound is None else _rounded_down(bound) for bound in lowest])
        self._convex = np.array([function.is_convex() for function in functions])
        self._rises = np.array([function.never_falls() for function in functions])

    @staticmethod
    def form(function: Piecewise) -> object:
        """Return what functions of one group have in common."""
        return (
            len(function.breaks),
            tuple(
                (tuple(bool(c) for c in piece.polynomial), _is_shifted(piece), tuple(c.kind for c, _ in piece.curves))
                for piece in function.pieces
            ),
        )

    def value_and_slope(self, u: Array, namespace: ModuleType) -> tuple[Array, Array]:
        """Return values and slopes of the shape and dtype of `u` [..., features]; a break belongs to its left piece.

        No piece sees an argument beyond its own ends, so that none overflows where another one is chosen.
        """
        breaks = [namespace.asarray(place, dtype=u.dtype) for place in self._breaks]
        value = slope = None
        for number, piece in enumerate(self._pieces):
            inside = u if number == len(breaks) else namespace.minimum(u, breaks[number])
            inside = inside if number == 0 else namespace.maximum(inside, breaks[number - 1])
            own_value, own_slope = piece.value_and_slope(inside, namespace)
            if number == 0:
                value, slope = own_value, own_slope
            else:
                chosen = u > breaks[number - 1]
                value, slope = namespace.where(chosen, own_value, value), namespace.where(chosen, own_slope, slope)
        return value, slope

    def image(self, lower: Floats, upper: Floats) -> Bounds:
        """Return bounds that enclose the functions on [lower, upper].

        A convex function is largest at an end, and one that never falls is smallest at the lower end.
        """
        low, high = self._enclosed(lower, upper)
        (first_low, first_high), (last_low, last_high) = self._enclosed(lower, lower), self._enclosed(upper, upper)
        high = np.where(self._convex, np.minimum(high, np.maximum(first_high, last_high)), high)
        low = np.where(self._rises, np.maximum(low, first_low), low)
        del last_low
        return np.minimum(np.maximum(low, self._lowest), _LARGEST), np.maximum(high, -_LARGEST)

    def _enclosed(self, lower: Floats, upper: Floats) -> Bounds:
        """Return the union of the pieces' bounds; each piece is asked an ulp beyond its breaks, which were rounded."""
        low, high = np.full_like(lower, np.inf), np.full_like(upper, -np.inf)
        for number, piece in enumerate(self._pieces):
            left = -np.inf if number == 0 else np.nextafter(self._breaks[number - 1], -np.inf)
            right = np.inf if number == len(self._breaks) else np.nextafter(self._breaks[number], np.inf)
            start, stop = np.maximum(lower, left), np.minimum(upper, right)
            met = start <= stop
            own_low, own_high = piece.image(np.where(met, start, 0.0), np.where(met, stop, 0.0))
            low, high = np.where(met, np.minimum(low, own_low), low), np.where(met, np.maximum(high, own_high), high)
        return low, high


class _PieceArrays:
    """One piece of every function of a group."""

    def __init__(self, pieces: Sequence[Piece]) -> None:
        self._coefficients = [
            _floats([piece.polynomial[power] for piece in pieces]) if any(piece.polynomial[power] for piece in pieces)
            else None
            for power in range(3)
        ]  # fmt: skip
        self._shifted = _is_shifted(pieces[0])
        self._curves = [
            (
                pieces[0].curves[number][0].kind,
                [_floats(row) for row in zip(*(piece.curves[number][0].parameters for piece in pieces), strict=True)],
                _floats([piece.curves[number][1] for piece in pieces]),
            )
            for number in range(len(pieces[0].curves))
        ]

    def value_and_slope(self, u: Array, namespace: ModuleType) -> tuple[Array, Array]:
        """Return the values and slopes at u."""
        asarray = functools.partial(namespace.asarray, dtype=u.dtype)
        c0, c1, c2 = (None if c is None else asarray(c) for c in self._coefficients)
        slope = namespace.zeros_like(u) if c1 is None else namespace.zeros_like(u) + c1
        value = namespace.zeros_like(u) if c1 is None else c1 * u
        if c2 is not None:
            slope, value = slope + 2 * c2 * u, value + c2 * (u * u)
        for kind, parameters, coefficient in self._curves:
            own_value, own_slope = _curve(kind, [asarray(p) for p in parameters], u, namespace, self._shifted)
            factor = asarray(coefficient)
            value, slope = value + factor * own_value, slope + factor * own_slope
        return (value if c0 is None or self._shifted else value + c0), slope

    def image(self, lower: Floats, upper: Floats) -> Bounds:
        """Return bounds on [lower, upper], of the polynomial and of each curve apart."""
        bounds = [self._polynomial_image(lower, upper)]
        for kind, parameters, factor in self._curves:
            with np.errstate(all="ignore"):
                low, high = _curve_image(kind, parameters, lower, upper)
                ends = (
                    np.where(factor > 0, factor * low, factor * high),
                    np.where(factor > 0, factor * high, factor * low),
                )
            bounds.append(ends)
        with np.errstate(all="ignore"):
            size = sum(np.maximum(np.abs(low), np.abs(high)) for low, high in bounds)
            slack = np.where(np.isfinite(size), _ROUNDING * size + _TINY, 0.0)
            low = sum(low for low, _ in bounds) - slack
            high = sum(high for _, high in bounds) + slack
        return np.where(np.isnan(low), -np.inf, low), np.where(np.isnan(high), np.inf, high)

    def _polynomial_image(self, lower: Floats, upper: Floats) -> Bounds:
        """Return bounds from both ends and, where it may lie between them, from the bottom of the parabola."""
        c0, c1, c2 = (np.zeros_like(lower) if c is None else c for c in self._coefficients)
        with np.errstate(all="ignore"):
            bottom = np.where(c2 == 0, lower, -c1 / (2 * c2))
            reach = _ROUNDING * np.abs(bottom)
            between = (lower - reach <= bottom) & (bottom <= upper + reach)
            places = np.stack([lower, upper, np.where(between, bottom, lower)])
            terms = [np.where(c == 0, 0.0, c * power) for c, power in ((c2, places * places), (c1, places))]
            factored = np.where(c1 == 0, terms[0], np.where(c2 == 0, terms[1], places * (c2 * places + c1)))
            values = factored + c0
            size = np.abs(terms[0]) + np.abs(terms[1]) + np.abs(c0)
            slack = np.where(np.isfinite(values), _ROUNDING * size + _TINY, 0.0)
            return (values - slack).min(axis=0), (values + slack).max(axis=0)


def _curve(kind: str, parameters: list[Array], u: Array, namespace: ModuleType, shifted: bool) -> tuple[Array, Array]:
    """Return a curve's value and slope; an exponential less 1 where `shifted`."""
    if kind == "root":
        a, b, c = parameters
        root = namespace.sqrt((a * u + b) * u + c)
        return root, (a * u + b / 2) / root
    (k,) = parameters
    t = k * u
    if kind == "exp":
        e = namespace.exp(t)
        return (namespace.expm1(t) if shifted else e), k * e
    e = namespace.exp(-namespace.abs(t))
    value = namespace.maximum(t, namespace.zeros_like(t)) + namespace.log1p(e)
    return value, k * namespace.where(t < 0, e, namespace.ones_like(t)) / (1 + e)


def _curve_image(kind: str, parameters: list[Floats], lower: Floats, upper: Floats) -> Bounds:
    """Return bounds of a curve, with the rounding of its argument."""
    if kind == "root":
        a, b, c = parameters
        bottom = -b / (2 * a)
        reach = _ROUNDING * np.abs(bottom)
        between = (lower - reach <= bottom) & (bottom <= upper + reach)
        ends = [_root_bounds(a, b, c, place) for place in (lower, upper, np.where(between, bottom, lower))]
        return np.minimum.reduce([low for low, _ in ends]), np.maximum.reduce([high for _, high in ends])
    first, last = parameters[0] * lower, parameters[0] * upper
    start, stop = np.minimum(first, last), np.maximum(first, last)
    start = np.where(np.isfinite(start), start - _ROUNDING * np.abs(start) - _TINY, start)
    stop = np.where(np.isfinite(stop), stop + _ROUNDING * np.abs(stop) + _TINY, stop)
    if kind == "exp":
        low, high = np.exp(start), np.exp(stop)
    else:
        low, high = np.logaddexp(0.0, start), np.logaddexp(0.0, stop)
    return np.minimum(low * (1 - _ROUNDING), _LARGEST), high * (1 + _ROUNDING) + _TINY


def _root_bounds(a: Floats, b: Floats, c: Floats, u: Floats) -> Bounds:
    size = a * u * u + np.abs(b * u) + c
    radicand = (a * u + b) * u + c
    slack = np.where(np.isfinite(size), _ROUNDING * size, 0.0)
    low = np.sqrt(np.maximum(radicand - slack, 0.0)) * (1 - _ROUNDING)
    return np.minimum(low, _LARGEST), np.sqrt(radicand + slack) * (1 + _ROUNDING) + _TINY


def _is_shifted(piece: Piece) -> bool:
    """Whether the constant is that of exp(k u) - 1: expm1 keeps the digits that the difference would lose."""
    return len(piece.curves) == 1 and piece.curves[0][0].kind == "exp" and piece.polynomial[0] == -piece.curves[0][1]


def _floats(values: Sequence[Fraction]) -> Floats:
    """Return the nearest float64 numbers, the largest one for what is beyond."""
    return np.array([_float(value) for value in values])


def _float(value: Fraction) -> float:
    if abs(value) > Fraction(_LARGEST):
        return _LARGEST if value > 0 else -_LARGEST
    return float(value)


def _rounded_down(value: Fraction) -> float:
    nearest = _float(value)
    return nearest if Fraction(nearest) <= value else float(np.nextafter(nearest, -np.inf))
