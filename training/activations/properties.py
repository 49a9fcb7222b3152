"""What is known of an activation, and the three points that show why one is refused.

At the bottom of `activations`; the tables `hidden`, `first` and `never` are made of these.
"""

import dataclasses
import enum
from collections.abc import Callable, Mapping
from typing import Any


class Role(enum.StrEnum):
    """Where an activation may stand in a convex network."""

    HIDDEN = "hidden"
    """Anywhere: convex and non-decreasing, so that it keeps the convexity of what it is applied to."""
    FIRST = "first layer only"
    """On affine arguments only: convex, but decreasing somewhere."""
    NEVER = "never"
    """Nowhere: not convex."""


class Curvature(enum.StrEnum):
    """How much of its graph bends: what decides which biases a loss of the network's slopes reaches."""

    AFFINE = "affine"
    """A straight line."""
    KINKED = "piecewise linear"
    """Straight pieces that meet in kinks: the second derivative is zero almost everywhere."""
    PARTLY_CURVED = "curved on a part of the line"
    """A positive second derivative on an interval, zero elsewhere."""
    CURVED = "curved"
    """A positive second derivative almost everywhere."""


@dataclasses.dataclass(frozen=True)
class Counterexample:
    """Three points on a line at which a function is not convex: f(middle) > (f(left) + f(right)) / 2.

    Args:
        function: the function f of one number x, in words.
        points: left, middle = (left + right) / 2, right.
        values: f at the points.
    """

    function: str
    points: tuple[float, float, float]
    values: tuple[float, float, float]

    def __str__(self) -> str:
        """Return the violated inequality with its numbers."""
        left, middle, right = self.points
        mean = (self.values[0] + self.values[2]) / 2
        return (
            f"f(x) = {self.function} has f({middle:g}) = {self.values[1]:.4g}, above {mean:.4g}, "
            f"the mean of f({left:g}) = {self.values[0]:.4g} and f({right:g}) = {self.values[2]:.4g}"
        )


def on_a_line(function: str, value: Callable[[float], float], left: float, right: float) -> Counterexample:
    """Return the counterexample of a function that is not convex between `left` and `right`."""
    points = (left, (left + right) / 2, right)
    return Counterexample(function, points, (value(points[0]), value(points[1]), value(points[2])))


def on_a_valley(function: str, value: Callable[[float], float], low: float, high: float) -> Counterexample:
    """Return the counterexample of a function that falls from `low` to `high`: its value of |x| + low.

    At 0 that is f(low), at both ends of [low - high, high - low] it is f(high), which is less.
    """
    width = high - low
    ends = value(high)
    shift = f"- {-low:g}" if low < 0 else f"+ {low:g}"
    return Counterexample(f"{function} of |x| {shift}", (-width, 0.0, width), (ends, value(low), ends))


@dataclasses.dataclass(frozen=True)
class Activation:
    """One activation with what is known of it.

    Args:
        name: canonical name, parameters included, e.g. `leaky_relu(0.2)`; `resolve` reads it back.
        function: elementwise function of a tensor, in `keras.ops`.
        role: where it may stand.
        convex: whether it is convex.
        non_decreasing: whether it is non-decreasing.
        slope: infimum and supremum of its derivative.
        curvature: how much of its graph bends.
        derivative: its derivative as a function of a tensor; at a kink the side that TensorFlow takes. None where
            nobody gave one.
        reason: why it has its role, in words.
        parameters: its parameters by name.
        ranges: which parameters it may have, in words; empty without any.
        counterexample: three points that show why it may not stand in a hidden layer, or None where it may.
    """

    name: str
    function: Callable[[Any], Any]
    role: Role
    convex: bool
    non_decreasing: bool
    slope: tuple[float, float]
    curvature: Curvature
    derivative: Callable[[Any], Any] | None = None
    reason: str = ""
    parameters: Mapping[str, float] = dataclasses.field(default_factory=dict, hash=False)
    ranges: str = ""
    counterexample: Counterexample | None = None

    @property
    def second_derivative_zero_ae(self) -> bool:
        """Whether its second derivative is zero almost everywhere.

        Biases before such activations get no gradient from losses that see a network through its slopes alone.
        """
        return self.curvature in (Curvature.AFFINE, Curvature.KINKED)


class ActivationRefusedError(ValueError):
    """An activation that would break convexity where it was put, or that is not known.

    Args:
        message: what was received, why it is refused, what to use.
        counterexample: three points that show it, or None for an unknown name or parameter.
    """

    def __init__(self, message: str, counterexample: Counterexample | None = None) -> None:
        """Keep the counterexample beside the sentence."""
        super().__init__(message)
        self.counterexample = counterexample


def require(condition: bool, name: str, expected: str, received: str, shown: Counterexample | None = None) -> None:
    """Refuse parameters of the activation `name` that are out of range.

    Raises:
        ActivationRefusedError: the condition does not hold.
    """
    if not condition:
        because = "" if shown is None else f": {shown}"
        raise ActivationRefusedError(f"activation: '{name}' expects {expected}, received {received}{because}.", shown)
