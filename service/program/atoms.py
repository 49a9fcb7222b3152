"""Convex functions of one variable: value, slope, curvature, monotonicity and range, all in one place.

Each atom carries the condition under which it is convex and non-decreasing, with its one-line proof. Below
`program`; every interpretation (`curvature`, `evaluation`, `intervals`) reads an atom here and nowhere else.
"""

import abc
import dataclasses
import math
from fractions import Fraction
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = Any

_ULPS = 8
"""Outward rounding of exp, expm1 and log1p: no NumPy build errs by more than 4 ulp in float64."""


def outward(lower: NDArray[np.float64], upper: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Widen [lower, upper] by `_ULPS` units in the last place and the smallest normal number.

    A lower end that left float64 is its largest number, and an upper end its smallest: infinity would be no bound.
    """
    tiny, largest = np.finfo(np.float64).tiny, np.finfo(np.float64).max
    with np.errstate(over="ignore", invalid="ignore"):
        lower = np.where(np.isfinite(lower), lower - _ULPS * np.spacing(np.abs(lower)) - tiny, lower)
        upper = np.where(np.isfinite(upper), upper + _ULPS * np.spacing(np.abs(upper)) + tiny, upper)
    lower, upper = np.minimum(lower, largest), np.maximum(upper, -largest)
    return lower, upper


class Atom(abc.ABC):
    """phi(u), applied to each feature.

    The slope is phi'(u), and at a kink a number between the one-sided derivatives, chosen as TensorFlow's gradient
    chooses it: a subgradient of a convex phi.
    """

    name: str = ""

    @abc.abstractmethod
    def value_and_slope(self, u: Array, namespace: ModuleType) -> tuple[Array, Array]:
        """Return phi(u) and its slope, both of the shape and dtype of `u`."""

    @property
    @abc.abstractmethod
    def is_convex(self) -> bool:
        """Whether phi is convex on the whole line for its parameters."""

    @abc.abstractmethod
    def is_nondecreasing_from(self, lower: float) -> bool:
        """Whether phi is non-decreasing on [lower, inf)."""

    def convex_on(self, lower: NDArray[np.float64], upper: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Return where phi is known to be convex on the feature's interval [lower, upper]."""
        del upper
        return np.full(lower.shape, self.is_convex)

    def concave_on(self, lower: NDArray[np.float64], upper: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Return where phi is known to be concave on the feature's interval."""
        del upper
        return np.zeros(lower.shape, np.bool_)

    def rises_on(self, lower: NDArray[np.float64], upper: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Return where phi is known never to fall on the feature's interval."""
        del upper
        return np.array([self.is_nondecreasing_from(float(end)) for end in lower], np.bool_)

    def falls_on(self, lower: NDArray[np.float64], upper: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Return where phi is known never to rise on the feature's interval."""
        del upper
        return np.zeros(lower.shape, np.bool_)

    def defined_on(self, lower: NDArray[np.float64], upper: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Return where phi has a value on the whole of the feature's interval."""
        del upper
        return np.ones(lower.shape, np.bool_)

    @abc.abstractmethod
    def image(
        self, lower: NDArray[np.float64], upper: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return float64 bounds that enclose phi on [lower, upper], rounded outward."""

    def kink(self) -> float | None:
        """Return the argument at which the slope jumps, or None for a smooth atom."""
        return None

    def kinks(self) -> list[tuple[Any, Any]]:
        """Return features (an index of the last axis) and for each a place where its slope jumps."""
        place = self.kink()
        return [] if place is None else [(slice(None), place)]

    def objection(self) -> str:
        """Return in words what speaks against the atom's being convex; empty where its name says enough."""
        return ""

    @property
    def modulus(self) -> Fraction:
        """A number mu >= 0 such that phi(u) - mu/2 u^2 is convex on the whole line, exactly."""
        return Fraction(0)

    @property
    def text(self) -> str:
        """The atom and its parameters in the program's canonical text."""
        return self.name


class IncreasingAtom(Atom):
    """A convex atom that never falls: its image of an interval lies between the values at the ends.

    Its infimum, which rounding must not pass, is `lowest`.
    """

    is_convex = True
    lowest: float

    def is_nondecreasing_from(self, lower: float) -> bool:
        """Everywhere."""
        del lower
        return True

    def image(
        self, lower: NDArray[np.float64], upper: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the values at the ends, never below `lowest`."""
        with np.errstate(over="ignore", invalid="ignore"):
            low, high = outward(self.value_and_slope(lower, np)[0], self.value_and_slope(upper, np)[0])
        return np.maximum(low, self.lowest), high


class Softplus(IncreasingAtom):
    """phi(u) = log(1 + exp(u)).

    Convex and increasing: phi' = sigmoid lies in (0, 1) and phi'' = sigmoid (1 - sigmoid) > 0.
    """

    name = "softplus"
    lowest = 0.0

    def value_and_slope(self, u: Array, namespace: ModuleType) -> tuple[Array, Array]:
        """Return max(u, 0) + log1p(e) and (u < 0 ? e : 1)/(1 + e), with e = exp(-|u|), which never overflows."""
        e = namespace.exp(-namespace.abs(u))
        value = namespace.maximum(u, namespace.zeros_like(u)) + namespace.log1p(e)
        slope = namespace.where(u < 0, e, namespace.ones_like(u)) / (1 + e)
        return value, slope


@dataclasses.dataclass(frozen=True)
class LeakyRelu(Atom):
    """phi(u) = u for u > 0, alpha u else.

    Convex iff alpha <= 1 (the slope does not fall at 0); non-decreasing iff alpha >= 0, or on [0, inf).
    At 0 the slope is alpha, as in TensorFlow's LeakyReluGrad.
    """

    alpha: float
    name = "leaky_relu"

    @property
    def is_convex(self) -> bool:
        """Whether alpha <= 1."""
        return self.alpha <= 1.0

    def value_and_slope(self, u: Array, namespace: ModuleType) -> tuple[Array, Array]:
        """Return u or alpha u, and 1 or alpha."""
        alpha = namespace.asarray(self.alpha, dtype=u.dtype)
        slope = namespace.where(u > 0, namespace.ones_like(u), alpha)
        return namespace.where(u > 0, u, alpha * u), slope

    def is_nondecreasing_from(self, lower: float) -> bool:
        """Where alpha >= 0, or the argument is never below 0."""
        return self.alpha >= 0.0 or lower >= 0.0

    def convex_on(self, lower: NDArray[np.float64], upper: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Where alpha <= 1, or on one side of 0, where phi is linear."""
        return np.asarray((self.alpha <= 1.0) | (lower >= 0) | (upper <= 0))

    def concave_on(self, lower: NDArray[np.float64], upper: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Where alpha >= 1, or on one side of 0."""
        return np.asarray((self.alpha >= 1.0) | (lower >= 0) | (upper <= 0))

    def falls_on(self, lower: NDArray[np.float64], upper: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Where alpha <= 0 and the argument is never above 0."""
        return np.asarray((self.alpha <= 0.0) & (upper <= 0) & (lower <= 0))

    def objection(self) -> str:
        """Return that the slope falls."""
        return f"its slope falls from {self.alpha:g} to 1 at 0" if self.alpha > 1.0 else ""

    def image(
        self, lower: NDArray[np.float64], upper: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return bounds from the ends, and from 0 where it is inside and alpha < 0."""
        with np.errstate(invalid="ignore"):
            ends = np.stack([np.where(v > 0, v, _scaled(self.alpha, v)) for v in (lower, upper)])
        low, high = outward(ends.min(axis=0), ends.max(axis=0))
        if self.alpha < 0:
            low = np.where((lower < 0) & (upper > 0), np.minimum(low, 0.0), low)
        return (np.maximum(low, 0.0), high) if self.alpha == 0 else (low, high)

    def kink(self) -> float | None:
        """Return 0, unless alpha is 1."""
        return None if self.alpha == 1.0 else 0.0

    @property
    def text(self) -> str:
        """The name and alpha, exactly."""
        return f"{self.name}({float(self.alpha).hex()})"


def _scaled(factor: float, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return factor * values with 0 * inf = 0."""
    with np.errstate(over="ignore"):
        return np.zeros_like(values) if factor == 0.0 else factor * values


class Elu(IncreasingAtom):
    """phi(u) = u for u >= 0, exp(u) - 1 else.

    Convex and increasing: the slope exp(u) grows to 1 at 0 and stays there.
    """

    name = "elu"
    lowest = -1.0

    def value_and_slope(self, u: Array, namespace: ModuleType) -> tuple[Array, Array]:
        """Return the branch's value and slope; the exponential is only taken of numbers that are not positive."""
        negative = namespace.minimum(u, namespace.zeros_like(u))
        value = namespace.where(u < 0, namespace.expm1(negative), u)
        return value, namespace.exp(negative)


class Exp(IncreasingAtom):
    """phi(u) = exp(u), convex and increasing: every derivative is exp(u) > 0."""

    name = "exp"
    lowest = 0.0

    def value_and_slope(self, u: Array, namespace: ModuleType) -> tuple[Array, Array]:
        """Return exp(u) twice."""
        value = namespace.exp(u)
        return value, value


class Square(Atom):
    """phi(u) = u^2: convex (phi'' = 2), non-decreasing on [0, inf) only."""

    name = "square"
    is_convex = True
    modulus = Fraction(2)

    def value_and_slope(self, u: Array, namespace: ModuleType) -> tuple[Array, Array]:
        """Return u^2 and 2u."""
        del namespace
        return u * u, u + u

    def is_nondecreasing_from(self, lower: float) -> bool:
        """Where the argument is never below 0."""
        return lower >= 0.0

    def falls_on(self, lower: NDArray[np.float64], upper: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Where the argument is never above 0."""
        return np.asarray((lower <= upper) & (upper <= 0))

    def image(
        self, lower: NDArray[np.float64], upper: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return bounds from the ends, and 0 where it is inside."""
        return _bowl_image(lower, upper, lambda v: v * v)


@dataclasses.dataclass(frozen=True)
class SquaredLeaky(Atom):
    r"""The square of the leaky ReLU, without a kink.

    .. math:: \phi(u) = \begin{cases} u^2 & u > 0 \\ (\alpha u)^2 & u \le 0 \end{cases}, \qquad
              \phi'(u) = \begin{cases} 2 u & u > 0 \\ 2 \alpha^2 u & u \le 0 \end{cases}

    Convex for every finite alpha: the slope is continuous and never falls, 2 alpha^2 u <= 0 below zero and 2 u above.
    Non-decreasing on [0, inf) only, and everywhere for alpha = 0. Computed as TensorFlow does, leaky ReLU first.
    """

    alpha: float
    name = "squared_leaky"
    is_convex = True

    def value_and_slope(self, u: Array, namespace: ModuleType) -> tuple[Array, Array]:
        """Return v^2 and 2 v times 1 or alpha, with v = u or alpha u."""
        leaky, factor = LeakyRelu(self.alpha).value_and_slope(u, namespace)
        return leaky * leaky, (leaky + leaky) * factor

    def is_nondecreasing_from(self, lower: float) -> bool:
        """Where the argument is never below 0, or phi is 0 there."""
        return self.alpha == 0.0 or lower >= 0.0

    def falls_on(self, lower: NDArray[np.float64], upper: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Where the argument is never above 0."""
        return np.asarray((lower <= upper) & (upper <= 0))

    def image(
        self, lower: NDArray[np.float64], upper: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return bounds from the ends, and 0 where it is inside."""
        return _bowl_image(lower, upper, lambda v: np.square(np.where(v > 0, v, _scaled(self.alpha, v))))

    @property
    def modulus(self) -> Fraction:
        """The smaller of both sides' second derivatives, 2 and 2 alpha^2: between them the slope does not jump."""
        return 2 * min(Fraction(1), Fraction(self.alpha) ** 2)

    @property
    def text(self) -> str:
        """The name and alpha, exactly."""
        return f"{self.name}({float(self.alpha).hex()})"


class Abs(Atom):
    """phi(u) = |u|: convex as max(u, -u), non-decreasing on [0, inf) only. At 0 the slope is 0 (sign)."""

    name = "abs"
    is_convex = True

    def value_and_slope(self, u: Array, namespace: ModuleType) -> tuple[Array, Array]:
        """Return |u| and sign(u)."""
        return namespace.abs(u), namespace.sign(u)

    def is_nondecreasing_from(self, lower: float) -> bool:
        """Where the argument is never below 0."""
        return lower >= 0.0

    def falls_on(self, lower: NDArray[np.float64], upper: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Where the argument is never above 0."""
        return np.asarray((lower <= upper) & (upper <= 0))

    def concave_on(self, lower: NDArray[np.float64], upper: NDArray[np.float64]) -> NDArray[np.bool_]:
        """On one side of 0, where phi is linear."""
        return np.asarray((lower >= 0) | (upper <= 0))

    def image(
        self, lower: NDArray[np.float64], upper: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return bounds from the ends, and 0 where it is inside."""
        return _bowl_image(lower, upper, np.abs)

    def kink(self) -> float | None:
        """Return 0."""
        return 0.0


def _bowl_image(
    lower: NDArray[np.float64], upper: NDArray[np.float64], value: Any
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return bounds of a `value` that falls to 0 at 0 and rises from there."""
    with np.errstate(over="ignore"):
        ends = np.stack([value(lower), value(upper)])
    low, high = outward(ends.min(axis=0), ends.max(axis=0))
    inside = (lower <= 0) & (upper >= 0)
    return np.maximum(np.where(inside, 0.0, low), 0.0), high


def relu() -> LeakyRelu:
    """Return relu: the leaky ReLU with alpha = 0, slope 0 at 0 as in TensorFlow's ReluGrad."""
    return LeakyRelu(0.0)


def leaky_relu(alpha: float) -> LeakyRelu:
    """Return the leaky ReLU with slope `alpha` below 0.

    Raises:
        ValueError: if alpha is not a finite number.
    """
    _require_finite(alpha)
    return LeakyRelu(alpha)


def squared_leaky(alpha: float) -> SquaredLeaky:
    """Return the square of the leaky ReLU with slope `alpha` below 0.

    Raises:
        ValueError: if alpha is not a finite number.
    """
    _require_finite(alpha)
    return SquaredLeaky(alpha)


def _require_finite(alpha: float) -> None:
    if not math.isfinite(alpha):
        message = f"alpha: expected a finite number, received {alpha}"
        raise ValueError(message)
