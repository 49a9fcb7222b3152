"""The registry of gates: functions of the context that are never negative, and a counterexample for those that are.

What multiplies a hidden unit of a partially input-convex network must not be negative: a negative multiple of a convex
function is concave. Above `activations`; below `picnn`.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

from keras import ops

from training.activations import ActivationRefusedError, Counterexample


@dataclasses.dataclass(frozen=True)
class Gate:
    """A function that is never negative.

    Args:
        name: as `resolve` reads it.
        function: elementwise function of a tensor, in `keras.ops`.
        start: an argument at which it is 1, or near that where it stays below: networks start with open gates.
    """

    name: str
    function: Callable[[Any], Any]
    start: float


GATES: Mapping[str, Gate] = {
    gate.name: gate
    for gate in (
        Gate("softplus", ops.softplus, math.log(math.e - 1.0)),
        Gate("relu", ops.relu, 1.0),
        Gate("sigmoid", ops.sigmoid, 2.0),
        Gate("exp", ops.exp, 0.0),
    )
}
"""The gates that are offered, by name."""


def resolve(name: str) -> Gate:
    """Return the gate of this name.

    Example:
        >>> resolve("relu").start
        1.0

    Raises:
        ActivationRefusedError: it can be negative (with a counterexample), or is not known.
    """
    if name in GATES:
        return GATES[name]
    counterexample = refusal(name) if name in _NEGATIVE else None
    why = "is not known" if counterexample is None else f"can be negative: {counterexample}"
    message = f"gate: '{str(name)[:60]}' {why}. Use one of: {', '.join(GATES)}."
    raise ActivationRefusedError(message, counterexample)


def refusal(name: str) -> Counterexample:
    """Return three points at which |y| times a gate of `REFUSED`, for a fixed context, is not convex."""
    function, at = _NEGATIVE[name]
    factor = function(at)
    return Counterexample(f"{name}({at:g}) |x|", (-1.0, 0.0, 1.0), (factor, 0.0, factor))


def _sigmoid(u: float) -> float:
    return 1.0 / (1.0 + math.exp(-u))


_NEGATIVE: Mapping[str, tuple[Callable[[float], float], float]] = {
    "linear": (lambda u: u, -1.0),
    "tanh": (math.tanh, -1.0),
    "softsign": (lambda u: u / (1.0 + abs(u)), -1.0),
    "elu": (math.expm1, -1.0),
    "selu": (lambda u: 1.05070098 * 1.67326324 * math.expm1(u), -1.0),
    "celu": (math.expm1, -1.0),
    "leaky_relu": (lambda u: 0.2 * u, -1.0),
    "smooth_leaky": (lambda u: 0.2 * u + 0.8 * math.log1p(math.exp(u)), -10.0),
    "gelu": (lambda u: 0.5 * u * math.erfc(-u / math.sqrt(2.0)), -1.0),
    "silu": (lambda u: u * _sigmoid(u), -1.0),
    "swish": (lambda u: u * _sigmoid(u), -1.0),
    "mish": (lambda u: u * math.tanh(math.log1p(math.exp(u))), -1.0),
    "hard_tanh": (lambda u: max(-1.0, min(1.0, u)), -1.0),
    "log_sigmoid": (lambda u: -math.log1p(math.exp(-u)), 0.0),
    "sin": (math.sin, -1.0),
    "cos": (math.cos, 3.0),
}
"""Per function that is negative somewhere: its values, and a place where it is."""

REFUSED = tuple(_NEGATIVE)
"""Names of functions that are refused with a counterexample."""
