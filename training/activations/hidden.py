"""Activations that are convex and non-decreasing: they may stand in any layer.

Over `properties`; `registry` offers them. Each maker's docstring has the formula and the one-line proof.
"""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from keras import ops

from training.activations.properties import (
    Activation,
    Counterexample,
    Curvature,
    Role,
    on_a_line,
    on_a_valley,
    require,
)

Make = Callable[..., Activation]


def softplus() -> Activation:
    """Return log(1 + exp(x)): slope sigmoid(x) in (0, 1), second derivative sigmoid (1 - sigmoid) > 0."""
    reason = "its slope, the logistic function, is positive and grows"
    return _hidden("softplus", ops.softplus, (0.0, 1.0), Curvature.CURVED, ops.sigmoid, reason)


def relu() -> Activation:
    """Return max(x, 0): the largest of two non-decreasing affine functions."""
    reason = "it is the larger of two affine functions that never fall"
    return _hidden("relu", ops.relu, (0.0, 1.0), Curvature.KINKED, _step(0.0), reason)


def leaky_relu(alpha: float) -> Activation:
    """Return x for x > 0, else alpha x; convex and non-decreasing exactly for alpha in [0, 1]."""
    require_slope("leaky_relu", alpha, lambda x: x if x > 0 else alpha * x)
    function = partial(ops.leaky_relu, negative_slope=alpha)
    curvature = Curvature.AFFINE if alpha == 1.0 else Curvature.KINKED
    reason = "its slope rises from alpha to 1 and is never negative"
    return _hidden(
        f"leaky_relu({alpha!r})", function, (alpha, 1.0), curvature, _step(alpha), reason, {"alpha": alpha}, SLOPES
    )


def elu(alpha: float) -> Activation:
    """Return x for x > 0, else alpha (exp(x) - 1): its slope grows to alpha <= 1 and is 1 above."""
    value: Callable[[float], float] = lambda x: x if x > 0 else alpha * math.expm1(x)  # noqa: E731
    shown = None
    if alpha > 1.0:  # alpha (1 - exp(-h)) > h (alpha + 1) / 2 > h for this h
        step = (alpha - 1.0) / alpha
        shown = on_a_line(f"elu(x), alpha = {alpha:g}", value, -step, step)
    elif alpha < 0.0:
        shown = on_a_line(f"elu(x), alpha = {alpha:g}", value, -2.0, 0.0)
    require(0.0 <= alpha <= 1.0, "elu", "alpha from 0 to 1", f"{alpha:g}", shown)
    name = "elu" if alpha == 1.0 else f"elu({alpha!r})"
    function = ops.elu if alpha == 1.0 else partial(ops.elu, alpha=alpha)
    curvature = Curvature.PARTLY_CURVED if alpha else Curvature.KINKED
    reason = "its slope grows to alpha at 0 and is 1 above"
    return _hidden(
        name,
        function,
        (0.0, 1.0),
        curvature,
        lambda x: ops.where(x > 0, ops.ones_like(x), alpha * ops.exp(ops.minimum(x, 0.0))),
        reason,
        {"alpha": alpha},
        "alpha from 0 to 1: above, the slope falls from alpha to 1 at 0",
    )


def celu(alpha: float) -> Activation:
    """Return x for x > 0, else alpha (exp(x / alpha) - 1): for alpha > 0 its slope exp(x / alpha) grows to 1 at 0.

    Not by `keras.ops.celu`, a sum of a maximum and a minimum: TensorFlow's gradient of that is 2 at 0.
    """
    shown = None
    if alpha < 0.0:
        shown = on_a_line(
            f"celu(x), alpha = {alpha:g}", lambda x: max(x, 0.0) + alpha * math.expm1(min(x, 0.0) / alpha), 2 * alpha, 0
        )
    require(alpha > 0.0, "celu", "alpha above 0", f"{alpha:g}", shown)
    reason = "its slope grows to 1 at 0, where both sides meet smoothly"
    return _hidden(
        f"celu({alpha!r})",
        lambda x: ops.where(x > 0, x, alpha * ops.expm1(ops.minimum(x, 0.0) / alpha)),
        (0.0, 1.0),
        Curvature.PARTLY_CURVED,
        lambda x: ops.exp(ops.minimum(x, 0.0) / alpha),
        reason,
        {"alpha": alpha},
        "alpha above 0",
    )


def smooth_leaky(alpha: float, beta: float) -> Activation:
    """Return alpha x + (1 - alpha) softplus(beta x) / beta: slope between alpha and 1, curved for alpha < 1."""
    _require_smooth(alpha, beta)
    curve = (1.0 - alpha) / beta
    return _hidden(
        f"smooth_leaky({alpha!r}, {beta!r})",
        lambda x: alpha * x + curve * ops.softplus(beta * x),
        (alpha, 1.0),
        Curvature.AFFINE if alpha == 1.0 else Curvature.CURVED,
        lambda x: alpha + (1.0 - alpha) * ops.sigmoid(beta * x),
        "it is a sum of x and a softplus with weights that are not negative",
        {"alpha": alpha, "beta": beta},
        "alpha from 0 to 1, beta above 0 and at most 1000",
    )


def _require_smooth(alpha: float, beta: float) -> None:
    """Refuse parameters with which the smooth leaky ReLU is not convex, or falls."""
    received = f"alpha {alpha:g} and beta {beta:g}"
    expected = "alpha from 0 to 1, and beta above 0 and at most 1000"

    def value(x: float) -> float:
        t = beta * x
        return alpha * x + (1.0 - alpha) / beta * (max(t, 0.0) + math.log1p(math.exp(-abs(t))))

    shown = None
    if beta != 0.0 and (alpha > 1.0) != (beta < 0.0):
        shown = on_a_line(f"smooth_leaky({alpha:g}, {beta:g})", value, -1.0 / beta, 1.0 / beta)
    elif alpha < 0.0 and beta > 0.0:  # the slope is alpha + (1 - alpha) sigmoid: 0 at `bottom`, negative below
        share = -alpha / (1.0 - alpha)
        bottom = math.log(share / (1.0 - share)) / beta
        shown = on_a_valley(f"smooth_leaky({alpha:g}, {beta:g})", value, bottom - 2.0 / beta, bottom)
    require(0.0 <= alpha <= 1.0 and 0.0 < beta <= 1e3, "smooth_leaky", expected, received, shown)


def linear() -> Activation:
    """Return x."""
    return _hidden("linear", lambda x: x, (1.0, 1.0), Curvature.AFFINE, ops.ones_like, "it is affine and rises")


def exponential() -> Activation:
    """Return exp(x): every derivative is exp(x) > 0. Its slope has no bound, and it leaves float32 above 88."""
    reason = "all its derivatives are positive"
    return _hidden("exponential", ops.exp, (0.0, math.inf), Curvature.CURVED, ops.exp, reason)


def squareplus(b: float) -> Activation:
    """Return (x + sqrt(x^2 + b)) / 2: second derivative b / (2 (x^2 + b)^1.5) > 0, slope above 0. No exponential."""
    require(b > 0.0, "squareplus", "b above 0", f"{b:g}")
    return _hidden(
        f"squareplus({b!r})",
        partial(ops.squareplus, b=b),
        (0.0, 1.0),
        Curvature.CURVED,
        lambda x: 0.5 * (1.0 + x / ops.sqrt(ops.square(x) + b)),
        "its slope grows from 0 to 1",
        {"b": b},
        "b above 0",
    )


def sparse_plus() -> Activation:
    """Return 0 up to -1, (x + 1)^2 / 4 up to 1, x above: its slope grows from 0 to 1 between -1 and 1."""
    return _hidden(
        "sparse_plus",
        ops.sparse_plus,
        (0.0, 1.0),
        Curvature.PARTLY_CURVED,
        lambda x: ops.clip(0.5 * (x + 1.0), 0.0, 1.0),
        "its slope grows from 0 at -1 to 1 at 1",
    )


def threshold(threshold: float, default_value: float) -> Activation:
    """Return x above the threshold, the default value else: max(x, v) where both are v; any other one jumps."""
    value: Callable[[float], float] = lambda x: x if x > threshold else default_value  # noqa: E731
    name, half = f"threshold({threshold:g}, {default_value:g})", abs(threshold - default_value) / 2.0
    shown = None
    if default_value > threshold:
        shown = on_a_line(name, value, threshold - half, threshold + half)
    elif default_value < threshold:
        shown = on_a_line(name, value, threshold - half, threshold + 2.0 * half)
    received = f"{threshold:g} and {default_value:g}"
    require(threshold == default_value, "threshold", "a default value equal to the threshold", received, shown)
    return _hidden(
        f"threshold({threshold!r}, {default_value!r})",
        partial(ops.threshold, threshold=threshold, default_value=default_value),
        (0.0, 1.0),
        Curvature.KINKED,
        _step(0.0, threshold),
        "it is the larger of x and a constant",
        {"threshold": threshold, "default_value": default_value},
        "the default value equal to the threshold: any other one makes it jump",
    )


def relu_squared() -> Activation:
    """Return max(x, 0)^2: slope 2 max(x, 0), which never falls and is not negative. It explodes in many layers."""
    reason = "its slope, 2 max(x, 0), is never negative and grows"
    slope = (0.0, math.inf)
    return _hidden(
        "relu_squared", lambda x: ops.square(ops.relu(x)), slope, Curvature.PARTLY_CURVED, _twice_relu, reason
    )


def _twice_relu(x: Any) -> Any:
    return 2.0 * ops.relu(x)


def _step(below: float, at: float = 0.0) -> Callable[[Any], Any]:
    """Return the function that is 1 above a place, and `below` up to it."""
    return lambda x: ops.where(x > at, ops.ones_like(x), below * ops.ones_like(x))


SLOPES = "alpha from 0 to 1: above, the slope falls at 0; below 0, the function falls"


def require_slope(name: str, alpha: float, value: Callable[[float], float]) -> None:
    """Refuse a slope outside [0, 1]: above, the kink is not convex; below, the function falls for x < 0."""
    shown: Counterexample | None = None
    if alpha > 1.0:
        shown = on_a_line(f"{name}({alpha:g})", value, -1.0, 1.0)
    elif alpha < 0.0:
        shown = on_a_valley(f"{name}({alpha:g})", value, -1.0, 0.0)
    require(0.0 <= alpha <= 1.0, name, "a slope from 0 to 1", f"{alpha:g}", shown)


def _hidden(  # noqa: PLR0913  # what is known of an activation
    name: str,
    function: Callable[[Any], Any],
    slope: tuple[float, float],
    curvature: Curvature,
    derivative: Callable[[Any], Any],
    reason: str,
    parameters: Mapping[str, float] | None = None,
    ranges: str = "",
) -> Activation:
    return Activation(
        name, function, Role.HIDDEN, True, True, slope, curvature, derivative, reason, parameters or {}, ranges
    )


HIDDEN: Mapping[str, tuple[Make, Mapping[str, float]]] = {
    "softplus": (softplus, {}),
    "relu": (relu, {}),
    "leaky_relu": (leaky_relu, {"alpha": 0.2}),
    "elu": (elu, {"alpha": 1.0}),
    "smooth_leaky": (smooth_leaky, {"alpha": 0.2, "beta": 1.0}),
    "linear": (linear, {}),
    "squareplus": (squareplus, {"b": 4.0}),
    "celu": (celu, {"alpha": 1.0}),
    "sparse_plus": (sparse_plus, {}),
    "threshold": (threshold, {"threshold": 0.0, "default_value": 0.0}),
    "exponential": (exponential, {}),
    "relu_squared": (relu_squared, {}),
}
"""What makes each, and its parameters with their defaults, in the order in which a name's parentheses hold them."""
