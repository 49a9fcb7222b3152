"""The registry of activations: the role each may play in a convex network, why, and a counterexample where it may not.

At the bottom of training, beside `constraints` and `initializers`; `layers` and `icnn` resolve names here.
"""

import dataclasses
import enum
import math
import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from keras import ops

_CALL = re.compile(r"([a-z0-9_]+)(?:\(([^()]*)\))?")


class Role(enum.StrEnum):
    """Where an activation may stand in a convex network."""

    HIDDEN = "hidden"
    """Anywhere: convex and non-decreasing, so that it keeps the convexity of what it is applied to."""
    FIRST = "first layer only"
    """On affine arguments only: convex, but decreasing somewhere."""
    NEVER = "never"
    """Nowhere: not convex."""


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
        second_derivative_zero_ae: whether its second derivative is zero almost everywhere (then biases before it get
            no gradient from losses that see the network through its input gradient alone).
        counterexample: three points that show why it may not stand in a hidden layer, or None where it may.
    """

    name: str
    function: Callable[[Any], Any]
    role: Role
    convex: bool
    non_decreasing: bool
    slope: tuple[float, float]
    second_derivative_zero_ae: bool
    counterexample: Counterexample | None = None


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


def resolve(name: str, role: Role = Role.HIDDEN) -> Activation:
    """Return the activation of this name for this role.

    Example:
        >>> resolve("leaky_relu(0.1)").slope
        (0.1, 1.0)

    Args:
        name: name, or name with its parameters: `softplus`, `leaky_relu(0.1)`, `smooth_leaky(0.2, 4)`.
        role: `Role.HIDDEN` for hidden and output layers, `Role.FIRST` for the layer that sees only the input.

    Raises:
        ActivationRefusedError: it is not convex, or not non-decreasing where it must be (with a counterexample); its
            parameters are out of range; or the name is not known.
    """
    match = _CALL.fullmatch(name) if isinstance(name, str) else None
    if match is None:
        message = f"activation: expected a name such as 'softplus' or 'leaky_relu(0.2)', received {str(name)[:60]!r}."
        raise ActivationRefusedError(message)
    base, arguments = match.groups()
    if base in _NEVER:
        counterexample = refusal(base)
        message = f"activation: '{base}' is not convex: {counterexample}. Use one of: {_offered(role)}."
        raise ActivationRefusedError(message, counterexample)
    if base not in _OFFERED:
        message = f"activation: '{base}' is not known. Use one of: {_offered(role)}."
        raise ActivationRefusedError(message)
    make, defaults = _OFFERED[base]
    activation = make(*_parameters(base, arguments, defaults))
    if role is Role.HIDDEN and activation.role is not Role.HIDDEN:
        message = (
            f"activation: '{activation.name}' is convex but not non-decreasing, so it may stand in the first layer "
            f"only: {activation.counterexample}. Use one of: {_offered(role)}."
        )
        raise ActivationRefusedError(message, activation.counterexample)
    return activation


def names(role: Role) -> tuple[str, ...]:
    """Return the names whose role is exactly this one, parameters left at their defaults."""
    if role is Role.NEVER:
        return tuple(_NEVER)
    return tuple(name for name, (make, defaults) in _OFFERED.items() if make(*defaults).role is role)


def refusal(name: str) -> Counterexample:
    """Return three points at which an activation of `names(Role.NEVER)` is not convex."""
    function, left, right = _NEVER[name]
    points = (left, (left + right) / 2, right)
    return Counterexample(f"{name}(x)", points, (function(points[0]), function(points[1]), function(points[2])))


def _offered(role: Role) -> str:
    """Return the names that may stand where `role` says: what is fit for hidden layers is fit for the first one too."""
    return ", ".join(names(Role.HIDDEN) + (() if role is Role.HIDDEN else names(Role.FIRST)))


def _parameters(name: str, arguments: str | None, defaults: tuple[float, ...]) -> tuple[float, ...]:
    """Return the numbers in the parentheses, completed by the defaults."""
    if arguments is None:
        return defaults
    try:
        values = tuple(float(argument) for argument in arguments.split(","))
    except ValueError:
        values = (math.nan,)
    if len(values) > len(defaults) or not all(math.isfinite(value) for value in values):
        takes = f"at most {len(defaults)} finite numbers" if defaults else "no parameter"
        message = f"activation: '{name}' takes {takes}, received '({arguments[:40]})'."
        raise ActivationRefusedError(message)
    return values + defaults[len(values) :]


def _linear() -> Activation:
    return Activation("linear", lambda x: x, Role.HIDDEN, True, True, (1.0, 1.0), True)


def _softplus() -> Activation:
    return Activation("softplus", ops.softplus, Role.HIDDEN, True, True, (0.0, 1.0), False)


def _relu() -> Activation:
    return Activation("relu", ops.relu, Role.HIDDEN, True, True, (0.0, 1.0), True)


def _elu(alpha: float) -> Activation:
    """Return elu; alpha below 1 is convex too but not offered."""
    if alpha > 1.0:
        step = (alpha - 1.0) / alpha  # alpha (1 - exp(-h)) > h (alpha + 1) / 2 > h for this h
        kink = Counterexample(f"elu(x), alpha = {alpha:g}", (-step, 0.0, step), (alpha * math.expm1(-step), 0.0, step))
        message = f"activation: 'elu' with alpha above 1 is not convex: {kink}. Use 'elu', which has alpha = 1."
        raise ActivationRefusedError(message, kink)
    if alpha != 1.0:
        message = f"activation: 'elu' is offered with alpha = 1 only, received {alpha:g}. Write 'elu'."
        raise ActivationRefusedError(message)
    return Activation("elu", ops.elu, Role.HIDDEN, True, True, (0.0, 1.0), False)


def _leaky_relu(alpha: float) -> Activation:
    """Return x for x > 0, else alpha x; convex and non-decreasing exactly for alpha in [0, 1]."""
    _refuse_slope("leaky_relu", alpha)
    function = partial(ops.leaky_relu, negative_slope=alpha)
    return Activation(f"leaky_relu({alpha!r})", function, Role.HIDDEN, True, True, (alpha, 1.0), True)


def _smooth_leaky(alpha: float, beta: float) -> Activation:
    """Return alpha x + (1 - alpha) softplus(beta x) / beta: slope between alpha and 1, curved for alpha < 1."""
    _refuse_slope("smooth_leaky", alpha)
    if not 0.0 < beta <= 1e3:
        message = f"activation: 'smooth_leaky' expects beta above 0, at most 1000, received {beta:g}."
        raise ActivationRefusedError(message)
    name = f"smooth_leaky({alpha!r}, {beta!r})"
    curve = (1.0 - alpha) / beta
    return Activation(
        name,
        lambda x: alpha * x + curve * ops.softplus(beta * x),
        Role.HIDDEN,
        True,
        True,
        (alpha, 1.0),
        alpha == 1.0,
    )


def _squared_leaky(alpha: float) -> Activation:
    """Return leaky(x)^2: convex, but decreasing below zero."""
    if not 1e-3 <= alpha <= 1.0:
        message = f"activation: 'squared_leaky' expects a slope from 0.001 to 1, received {alpha:g}."
        raise ActivationRefusedError(message)
    name = f"squared_leaky({alpha!r})"
    bowl = Counterexample(f"{name} of |x| - 1", (-1.0, 0.0, 1.0), (0.0, alpha**2, 0.0))
    leaky = partial(ops.leaky_relu, negative_slope=alpha)
    return Activation(name, lambda x: ops.square(leaky(x)), Role.FIRST, True, False, (-math.inf, math.inf), False, bowl)


def _refuse_slope(name: str, alpha: float) -> None:
    """Refuse a slope outside [0, 1]: above, the kink is not convex; below, the function falls for x < 0."""
    if 0.0 <= alpha <= 1.0:
        return
    if alpha > 1.0:
        kink = Counterexample(f"x if x > 0 else {alpha:g} x", (-1.0, 0.0, 1.0), (-alpha, 0.0, 1.0))
    else:
        kink = Counterexample(f"leaky({alpha:g}) of |x| - 1", (-1.0, 0.0, 1.0), (0.0, -alpha, 0.0))
    message = f"activation: '{name}' expects a slope from 0 to 1, received {alpha:g}: {kink}. Use a slope in [0, 1]."
    raise ActivationRefusedError(message, kink)


_OFFERED: Mapping[str, tuple[Callable[..., Activation], tuple[float, ...]]] = {
    "softplus": (_softplus, ()),
    "relu": (_relu, ()),
    "leaky_relu": (_leaky_relu, (0.2,)),
    "elu": (_elu, (1.0,)),
    "smooth_leaky": (_smooth_leaky, (0.2, 1.0)),
    "linear": (_linear, ()),
    "squared_leaky": (_squared_leaky, (0.2,)),
}


def _sigmoid(x: float) -> float:
    return 1.0 / (1.0 + math.exp(-x))


def _selu(x: float) -> float:
    return 1.05070098 * (x if x > 0 else 1.67326324 * math.expm1(x))


def _clip(x: float, low: float, high: float) -> float:
    return min(max(x, low), high)


_NEVER: Mapping[str, tuple[Callable[[float], float], float, float]] = {
    "sigmoid": (_sigmoid, 0.0, 4.0),
    "tanh": (math.tanh, 0.0, 2.0),
    "softsign": (lambda x: x / (1.0 + abs(x)), 0.0, 2.0),
    "gelu": (lambda x: 0.5 * x * math.erfc(-x / math.sqrt(2.0)), -6.0, -2.0),
    "silu": (lambda x: x * _sigmoid(x), -8.0, -2.0),
    "swish": (lambda x: x * _sigmoid(x), -8.0, -2.0),
    "mish": (lambda x: x * math.tanh(math.log1p(math.exp(x))), -8.0, -2.0),
    "selu": (_selu, -0.1, 0.1),
    "relu6": (lambda x: _clip(x, 0.0, 6.0), 0.0, 12.0),
    "log_sigmoid": (lambda x: -math.log1p(math.exp(-x)), -2.0, 2.0),
    "sparse_sigmoid": (lambda x: _clip(0.5 * (x + 1.0), 0.0, 1.0), 0.0, 2.0),
    "hard_sigmoid": (lambda x: _clip(x / 6.0 + 0.5, 0.0, 1.0), 0.0, 6.0),
    "hard_tanh": (lambda x: _clip(x, -1.0, 1.0), 0.0, 2.0),
    "hard_silu": (lambda x: x * _clip(x / 6.0 + 0.5, 0.0, 1.0), -5.0, -1.0),
    "hard_swish": (lambda x: x * _clip(x / 6.0 + 0.5, 0.0, 1.0), -5.0, -1.0),
    "hard_shrink": (lambda x: x if abs(x) > 0.5 else 0.0, 0.4, 0.8),
    "soft_shrink": (lambda x: math.copysign(max(abs(x) - 0.5, 0.0), x), -1.0, 0.0),
    "tanh_shrink": (lambda x: x - math.tanh(x), -2.0, 0.0),
}
"""Per activation that is never allowed: its values, and the ends of an interval whose midpoint shows it."""
