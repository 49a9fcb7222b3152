"""Activations that are convex and fall somewhere: they may stand in the first layer, whose argument is affine.

Over `properties` and `hidden`; `registry` offers them. Convex is not enough for a hidden activation: each of these, of
|x| - 1, is larger at 0 than at both -1 and 1.
"""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from keras import ops

from training.activations.hidden import Make, require_slope
from training.activations.properties import Activation, Curvature, Role, on_a_valley


def squared_leaky(alpha: float) -> Activation:
    r"""Return the square of the leaky ReLU: 2 x or 2 alpha^2 x as slope, 2 or 2 alpha^2 as second derivative.

    .. math:: \varphi(x) = \max(x, \alpha x)^2, \qquad 0 \le \alpha \le 1

    It falls below 0, but for alpha = 0, where it is `relu_squared`.
    """
    name = f"squared_leaky({alpha!r})"

    def value(x: float) -> float:
        return (x if x > 0.0 else alpha * x) ** 2

    require_slope("squared_leaky", alpha, value)
    leaky = partial(ops.leaky_relu, negative_slope=alpha)
    return _first(
        name,
        lambda x: ops.square(leaky(x)),
        value,
        (-math.inf if alpha else 0.0, math.inf),
        lambda x: 2.0 * ops.where(x > 0, x, alpha**2 * x),
        curvature=Curvature.CURVED if alpha else Curvature.PARTLY_CURVED,
        parameters={"alpha": alpha},
        ranges="alpha from 0 to 1",
        depth=1.0 if alpha >= 1e-3 or alpha == 0.0 else 1.0 / alpha,
    )


def absolute() -> Activation:
    """Return |x| = max(x, -x); the slope at 0 is 0."""
    return _first("abs", ops.absolute, abs, (-1.0, 1.0), ops.sign, curvature=Curvature.KINKED)


def square() -> Activation:
    """Return x^2."""
    return _first("square", ops.square, lambda x: x * x, (-math.inf, math.inf), lambda x: 2.0 * x)


def log_cosh() -> Activation:
    """Return log(cosh(x)) = softplus(2 x) - x - log 2: slope tanh(x), which grows."""

    def value(x: float) -> float:
        return abs(x) + math.log1p(math.exp(-2.0 * abs(x))) - math.log(2.0)

    return _first("log_cosh", lambda x: ops.softplus(2.0 * x) - x - math.log(2.0), value, (-1.0, 1.0), ops.tanh)


def symmetric_softplus() -> Activation:
    """Return softplus(x) - x / 2 = log(2 cosh(x / 2)): slope sigmoid(x) - 1/2, which grows."""

    def value(x: float) -> float:
        return 0.5 * abs(x) + math.log1p(math.exp(-abs(x)))

    return _first(
        "symmetric_softplus",
        lambda x: ops.softplus(x) - 0.5 * x,
        value,
        (-0.5, 0.5),
        lambda x: ops.sigmoid(x) - 0.5,
    )


def _first(  # noqa: PLR0913  # what is known of an activation
    name: str,
    function: Callable[[Any], Any],
    value: Callable[[float], float],
    slope: tuple[float, float],
    derivative: Callable[[Any], Any],
    *,
    curvature: Curvature = Curvature.CURVED,
    parameters: Mapping[str, float] | None = None,
    ranges: str = "",
    depth: float = 1.0,
) -> Activation:
    falls = slope[0] < 0.0
    return Activation(
        name,
        function,
        Role.FIRST if falls else Role.HIDDEN,
        True,
        not falls,
        slope,
        curvature,
        derivative,
        "it is convex but falls below 0" if falls else "its slope is never negative and grows",
        parameters or {},
        ranges,
        on_a_valley(name, value, -depth, 0.0) if falls else None,
    )


FIRST: Mapping[str, tuple[Make, Mapping[str, float]]] = {
    "squared_leaky": (squared_leaky, {"alpha": 0.2}),
    "abs": (absolute, {}),
    "square": (square, {}),
    "log_cosh": (log_cosh, {}),
    "symmetric_softplus": (symmetric_softplus, {}),
}
"""As `hidden.HIDDEN`."""
