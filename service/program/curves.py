r"""The smooth curves that pieces of a function are made of, and exact numbers that hold their values.

.. math:: \exp(k u), \qquad \mathrm{softplus}(k u) = \log(1 + e^{k u}), \ k > 0, \qquad \sqrt{a u^2 + b u + c}, \ a > 0

All three are convex: their second derivatives are k^2 exp(k u), k^2 sigmoid (1 - sigmoid) and
(4 a c - b^2) / (4 r^3), where r is the root and 4 a c > b^2. Above: `piecewise`. Nothing here is rounded but where a
docstring says so, and then outward.
"""

import dataclasses
import math
from collections.abc import Mapping
from fractions import Fraction

_MARGIN = Fraction(1, 10**12)
"""Share by which a float64 value of exp, sigmoid, softplus or sqrt is widened; no library errs by a tenth of it."""

_LARGEST_EXPONENT = 700
"""exp of more leaves float64."""


@dataclasses.dataclass(frozen=True, order=True)
class Curve:
    """One of the curves.

    Args:
        kind: `exp`, `softplus` or `root`.
        parameters: (k,) or (a, b, c).
    """

    kind: str
    parameters: tuple[Fraction, ...]

    def value_at(self, u: Fraction) -> "Exact":
        """Return the value at u."""
        if self.kind == "root":
            a, b, c = self.parameters
            return square_root((a * u + b) * u + c)
        exponent = self.parameters[0] * u
        if self.kind == "exp":
            return Exact({("exp", exponent): Fraction(1)}) if exponent else Exact(rational=Fraction(1))
        if exponent < 0:  # softplus(-t) = softplus(t) - t
            return Exact({("softplus", -exponent): Fraction(1)}, exponent)
        return Exact({("softplus", exponent): Fraction(1)})

    def slope_at(self, u: Fraction) -> "Exact":
        """Return the derivative at u."""
        if self.kind == "root":
            a, b, c = self.parameters
            radicand = (a * u + b) * u + c
            return square_root(radicand).scaled((2 * a * u + b) / (2 * radicand))
        k = self.parameters[0]
        if self.kind == "exp":
            return self.value_at(u).scaled(k)
        exponent = k * u
        if exponent < 0:  # sigmoid(-t) = 1 - sigmoid(t)
            return Exact({("sigmoid", -exponent): -k}, k)
        return Exact({("sigmoid", exponent): k}) if exponent else Exact(rational=k / 2)

    def slope_limit(self, *, right: bool) -> "Exact | None":
        """Return the limit of the derivative at plus or minus infinity, or None where it is infinite."""
        if self.kind == "root":
            return square_root(self.parameters[0]).scaled(Fraction(1 if right else -1))
        k = self.parameters[0]
        if self.kind == "softplus":
            return Exact(rational=k if right else Fraction(0))
        return None if (k > 0) == right else Exact()


@dataclasses.dataclass(frozen=True)
class Exact:
    """A rational number plus rational multiples of named irrational ones.

    Two such numbers are known to be equal where they are written alike. That they differ is known only where
    `enclosure` says so.

    Args:
        irrational: coefficients by (function, argument), none of them zero.
        rational: the rest.
    """

    irrational: Mapping[tuple[str, Fraction], Fraction] = dataclasses.field(default_factory=dict)
    rational: Fraction = Fraction(0)

    def plus(self, other: "Exact") -> "Exact":
        """Return the sum."""
        total = dict(self.irrational)
        for key, coefficient in other.irrational.items():
            total[key] = total.get(key, Fraction(0)) + coefficient
        return Exact({key: value for key, value in total.items() if value}, self.rational + other.rational)

    def scaled(self, factor: Fraction) -> "Exact":
        """Return the product with a rational number."""
        if factor == 0:
            return Exact()
        return Exact({key: value * factor for key, value in self.irrational.items()}, self.rational * factor)

    def minus(self, other: "Exact") -> "Exact":
        """Return the difference."""
        return self.plus(other.scaled(Fraction(-1)))

    @property
    def is_zero(self) -> bool:
        """Whether the number is written as 0; one that is not may be 0 all the same."""
        return not self.irrational and self.rational == 0

    def enclosure(self) -> tuple[Fraction, Fraction] | None:
        """Return rational bounds, both the number itself where it is rational, or None where it leaves float64."""
        low = high = self.rational
        for (kind, argument), coefficient in self.irrational.items():
            value = _float_value(kind, argument)
            if value is None:
                return None
            ends = (coefficient * value * (1 - _MARGIN), coefficient * value * (1 + _MARGIN))
            low, high = low + min(ends), high + max(ends)
        return low, high

    def is_nonnegative(self) -> bool:
        """Whether the number is known not to be negative; False where that is not known."""
        bounds = self.enclosure()
        return bounds is not None and bounds[0] >= 0


def square_root(radicand: Fraction) -> Exact:
    """Return the square root of a number that is not negative: rational where it is one."""
    root = rational_root(radicand)
    return Exact({("sqrt", radicand): Fraction(1)}) if root is None else Exact(rational=root)


def rational_root(radicand: Fraction) -> Fraction | None:
    """Return the square root if it is rational, else None."""
    if radicand < 0:
        return None
    numerator, denominator = math.isqrt(radicand.numerator), math.isqrt(radicand.denominator)
    root = Fraction(numerator, denominator)
    return root if root * root == radicand else None


def _float_value(kind: str, argument: Fraction) -> Fraction | None:
    """Return the value of a function of a rational number as float64 gives it, None beyond its range."""
    if kind == "sqrt":
        shift = 2 * max(0, 128 - (argument.numerator.bit_length() - argument.denominator.bit_length()) // 2)
        return Fraction(math.isqrt((argument.numerator << shift) // argument.denominator), 1 << (shift // 2))
    if abs(argument) > _LARGEST_EXPONENT:
        return None
    t = float(argument)
    if kind == "exp":
        return Fraction(math.exp(t))
    if kind == "sigmoid":
        return Fraction(1 / (1 + math.exp(-t)))
    return Fraction(max(t, 0.0) + math.log1p(math.exp(-abs(t))))
