"""Functions of one variable that rise between two bounds: sigmoid and tanh, convex below 0 and concave above.

Beside `atoms`, for the same interpreters. Of x they are neither convex nor concave, and `lifting` refuses them by name;
of the context alone any function is a constant, and these are what gates are made of.
"""

from collections.abc import Callable, Mapping
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from service.program.atoms import Array, Atom, outward

Floats = NDArray[np.float64]


class _Squashing(Atom):
    """A function that rises from `lowest` to 1, with phi'' >= 0 below 0 and phi'' <= 0 above."""

    is_convex = False
    lowest: float

    def is_nondecreasing_from(self, lower: float) -> bool:
        """Everywhere."""
        del lower
        return True

    def convex_on(self, lower: Floats, upper: Floats) -> NDArray[np.bool_]:
        """Below 0."""
        del lower
        return np.asarray(upper <= 0)

    def concave_on(self, lower: Floats, upper: Floats) -> NDArray[np.bool_]:
        """Above 0."""
        del upper
        return np.asarray(lower >= 0)

    def objection(self) -> str:
        """Return where it is not convex."""
        return "it is convex only where its argument is known not to be positive"

    def image(self, lower: Floats, upper: Floats) -> tuple[Floats, Floats]:
        """Return the values at the ends, never beyond the bounds."""
        low, high = outward(*(self.value_and_slope(end, np)[0] for end in (lower, upper)))
        return np.maximum(low, self.lowest), np.minimum(high, 1.0)


class Sigmoid(_Squashing):
    """phi(u) = 1/(1 + exp(-u)): phi' = phi (1 - phi) > 0, phi'' = phi' (1 - 2 phi), above 0 where phi < 1/2."""

    name = "sigmoid"
    lowest = 0.0

    def value_and_slope(self, u: Array, namespace: ModuleType) -> tuple[Array, Array]:
        """Return (u < 0 ? e : 1)/(1 + e) and e/(1 + e)^2 with e = exp(-|u|), which never overflows."""
        e = namespace.exp(-namespace.abs(u))
        value = namespace.where(u < 0, e, namespace.ones_like(u)) / (1 + e)
        return value, e / ((1 + e) * (1 + e))


class Tanh(_Squashing):
    """phi(u) = tanh(u): phi' = 1 - phi^2 > 0, phi'' = -2 phi phi', above 0 where phi < 0."""

    name = "tanh"
    lowest = -1.0

    def value_and_slope(self, u: Array, namespace: ModuleType) -> tuple[Array, Array]:
        """Return tanh(u) and 4 e/(1 + e)^2 with e = exp(-2 |u|), which never overflows."""
        e = namespace.exp(-2 * namespace.abs(u))
        return namespace.tanh(u), 4 * e / ((1 + e) * (1 + e))


SQUASHING_OPS: Mapping[str, Callable[[], Atom]] = {"Sigmoid": Sigmoid, "Tanh": Tanh}
"""Ops of TensorFlow that are such functions."""
