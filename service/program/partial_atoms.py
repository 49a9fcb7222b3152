"""Functions of one variable that graphs write as one op and that are concave, or convex on a part of the line.

Logarithms, roots and powers: beside `atoms`, for the same interpreters. Outside of its domain such a function has no
curvature: the proof must know that the argument stays inside.
"""

import dataclasses
from collections.abc import Callable
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from service.program.atoms import Array, Atom, IncreasingAtom, outward

Floats = NDArray[np.float64]


class _Concave(Atom):
    """A concave function that never falls, on [domain, inf) or (domain, inf)."""

    is_convex = False
    domain: float
    closed: bool

    def inside(self, lower: Floats) -> NDArray[np.bool_]:
        """Return where the interval from `lower` on is in the domain."""
        return np.asarray((lower >= self.domain) if self.closed else (lower > self.domain))

    def is_nondecreasing_from(self, lower: float) -> bool:
        """On its domain."""
        return bool(self.inside(np.array(lower)))

    def concave_on(self, lower: Floats, upper: Floats) -> NDArray[np.bool_]:
        """On its domain."""
        del upper
        return self.inside(lower)

    def defined_on(self, lower: Floats, upper: Floats) -> NDArray[np.bool_]:
        """On its domain."""
        del upper
        return self.inside(lower)

    def objection(self) -> str:
        """Return that it is concave."""
        return f"it is concave, and only where its argument is known to be above {self.domain:g}"

    def image(self, lower: Floats, upper: Floats) -> tuple[Floats, Floats]:
        """Return the values at the ends; from outside of the domain, everything."""
        known = self.inside(lower)
        with np.errstate(all="ignore"):
            ends = [self.value_and_slope(np.where(known, end, 2.0), np)[0] for end in (lower, upper)]
        low, high = outward(*ends)
        return np.where(known, low, -np.inf), np.where(known, high, np.inf)


class Log(_Concave):
    """phi(u) = log(u), concave and increasing on (0, inf): phi' = 1/u > 0 falls."""

    name = "log"
    domain = 0.0
    closed = False

    def value_and_slope(self, u: Array, namespace: ModuleType) -> tuple[Array, Array]:
        """Return log(u) and 1/u."""
        return namespace.log(u), 1 / u


class Log1p(_Concave):
    """phi(u) = log(1 + u), concave and increasing on (-1, inf)."""

    name = "log1p"
    domain = -1.0
    closed = False

    def value_and_slope(self, u: Array, namespace: ModuleType) -> tuple[Array, Array]:
        """Return log(1 + u) and 1/(1 + u)."""
        return namespace.log1p(u), 1 / (1 + u)


class Sqrt(_Concave):
    """phi(u) = sqrt(u), concave and increasing on [0, inf).

    At 0 its slope is infinite, and 0 is given: the root of a sum of squares then has the gradient 0 where all of them
    vanish, which is a subgradient of a norm at its smallest value.
    """

    name = "sqrt"
    domain = 0.0
    closed = True

    def value_and_slope(self, u: Array, namespace: ModuleType) -> tuple[Array, Array]:
        """Return sqrt(u) and 1/(2 sqrt(u)), or 0."""
        root = namespace.sqrt(u)
        above = root > 0
        return root, namespace.where(above, 0.5 / namespace.where(above, root, namespace.ones_like(root)), 0 * root)


class Expm1(IncreasingAtom):
    """phi(u) = exp(u) - 1, convex and increasing."""

    name = "expm1"
    lowest = -1.0

    def value_and_slope(self, u: Array, namespace: ModuleType) -> tuple[Array, Array]:
        """Return exp(u) - 1 and exp(u)."""
        return namespace.expm1(u), namespace.exp(u)


@dataclasses.dataclass(frozen=True)
class Power(Atom):
    r"""phi(u) = u^p for an integer p other than 0 and 1.

    .. math:: \phi'(u) = p u^{p-1}, \quad \phi''(u) = p (p - 1) u^{p-2}

    p (p - 1) > 0. Even p: phi'' >= 0 on the line (for p < 0, on either side of 0). Odd p: on u > 0 (and on 0 for
    p > 0), while below 0 phi'' <= 0. A negative power has no value at 0 and falls where u > 0.
    """

    exponent: int
    name = "power"

    def value_and_slope(self, u: Array, namespace: ModuleType) -> tuple[Array, Array]:
        """Return u^p and p u^(p-1), by repeated products."""
        size = abs(self.exponent)
        below = _product(u, size - 1, namespace)
        if self.exponent > 0:
            return below * u, size * below
        value = 1 / (below * u)
        return value, -size * (value / u)

    @property
    def is_convex(self) -> bool:
        """Whether p is even and positive."""
        return self.exponent > 0 and self.exponent % 2 == 0

    def is_nondecreasing_from(self, lower: float) -> bool:
        """For odd positive p, and for even positive p on [0, inf)."""
        return self.exponent > 0 and (self.exponent % 2 == 1 or lower >= 0)

    def convex_on(self, lower: Floats, upper: Floats) -> NDArray[np.bool_]:
        """Where the docstring of the class says so."""
        if self.exponent > 0:
            return np.asarray((lower >= 0) | (self.exponent % 2 == 0))
        return np.asarray((lower > 0) | ((upper < 0) & (self.exponent % 2 == 0)))

    def concave_on(self, lower: Floats, upper: Floats) -> NDArray[np.bool_]:
        """Below 0, for odd p."""
        del lower
        inside = upper <= 0 if self.exponent > 0 else upper < 0
        return np.asarray(inside & (self.exponent % 2 == 1))

    def defined_on(self, lower: Floats, upper: Floats) -> NDArray[np.bool_]:
        """Everywhere for p > 0, away from 0 for p < 0."""
        return np.asarray((lower > 0) | (upper < 0) | (self.exponent > 0))

    def rises_on(self, lower: Floats, upper: Floats) -> NDArray[np.bool_]:
        """Where p u^(p-1) >= 0."""
        if self.exponent < 0:
            return np.asarray((upper < 0) & (self.exponent % 2 == 0))
        return np.asarray((lower >= 0) | (self.exponent % 2 == 1))

    def falls_on(self, lower: Floats, upper: Floats) -> NDArray[np.bool_]:
        """Where p u^(p-1) <= 0."""
        if self.exponent < 0:
            return np.asarray((lower > 0) | ((upper < 0) & (self.exponent % 2 == 1)))
        return np.asarray((upper <= 0) & (self.exponent % 2 == 0))

    def objection(self) -> str:
        """Return where it is not convex."""
        return "it is convex only where its argument is known to be positive"

    def image(self, lower: Floats, upper: Floats) -> tuple[Floats, Floats]:
        """Return the values at the ends, and 0 where it is inside; everything where the power has no value inside."""
        with np.errstate(all="ignore"):
            ends = np.stack([self.value_and_slope(end, np)[0] for end in (lower, upper)])
        inside = (lower <= 0) & (upper >= 0)
        slack = abs(self.exponent) * 4 * np.spacing(np.abs(np.where(np.isfinite(ends), ends, 0.0)))
        low, high = outward((ends - slack).min(axis=0), (ends + slack).max(axis=0))
        if self.exponent < 0:
            low = np.where(lower > 0, np.maximum(low, 0.0), low)
            return np.where(inside, -np.inf, low), np.where(inside, np.inf, high)
        if self.exponent % 2 == 0:
            low = np.maximum(np.where(inside, 0.0, low), 0.0)
        return np.where((lower >= 0) & (low < 0), 0.0, low), high

    @property
    def text(self) -> str:
        """The name and p."""
        return f"{self.name}({self.exponent})"


def _product(u: Array, count: int, namespace: ModuleType) -> Array:
    """Return u times itself, `count` factors."""
    result = namespace.ones_like(u)
    for _ in range(count):
        result = result * u
    return result


CURVED_OPS: dict[str, Callable[[], Atom]] = {"Log": Log, "Log1p": Log1p, "Sqrt": Sqrt, "Expm1": Expm1}
"""Ops of TensorFlow that are such functions."""
