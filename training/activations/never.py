"""Activations that are not convex, each with three points that show it.

Over `properties`; `registry` refuses them. Those that mix several numbers are shown on a pair of them, (x, 0).
"""

import math
from collections.abc import Callable, Mapping

from training.activations.properties import Counterexample, on_a_line


def refusal(name: str) -> Counterexample:
    """Return three points at which an activation of `NEVER` is not convex.

    Raises:
        KeyError: the name is none of them.
    """
    function, left, right = NEVER[name]
    return on_a_line(_OF_A_PAIR.get(name, f"{name}(x)"), function, left, right)


def _sigmoid(x: float) -> float:
    return 1.0 / (1.0 + math.exp(-x))


def _log_sigmoid(x: float) -> float:
    return -math.log1p(math.exp(-x))


def _selu(x: float) -> float:
    return 1.05070098 * (x if x > 0 else 1.67326324 * math.expm1(x))


def _bump(x: float) -> float:
    return math.exp(-1.0 / (1.0 - x * x)) if abs(x) < 1.0 else 0.0


def _clip(x: float, low: float, high: float) -> float:
    return min(max(x, low), high)


NEVER: Mapping[str, tuple[Callable[[float], float], float, float]] = {
    "sigmoid": (_sigmoid, 0.0, 4.0),
    "tanh": (math.tanh, 0.0, 2.0),
    "softsign": (lambda x: x / (1.0 + abs(x)), 0.0, 2.0),
    "gelu": (lambda x: 0.5 * x * math.erfc(-x / math.sqrt(2.0)), -6.0, -2.0),
    "silu": (lambda x: x * _sigmoid(x), -8.0, -2.0),
    "swish": (lambda x: x * _sigmoid(x), -8.0, -2.0),
    "mish": (lambda x: x * math.tanh(math.log1p(math.exp(x))), -8.0, -2.0),
    "selu": (_selu, -0.1, 0.1),
    "relu6": (lambda x: _clip(x, 0.0, 6.0), 0.0, 12.0),
    "log_sigmoid": (_log_sigmoid, -2.0, 2.0),
    "sparse_sigmoid": (lambda x: _clip(0.5 * (x + 1.0), 0.0, 1.0), 0.0, 2.0),
    "hard_sigmoid": (lambda x: _clip(x / 6.0 + 0.5, 0.0, 1.0), 0.0, 6.0),
    "hard_tanh": (lambda x: _clip(x, -1.0, 1.0), 0.0, 2.0),
    "hard_silu": (lambda x: x * _clip(x / 6.0 + 0.5, 0.0, 1.0), -5.0, -1.0),
    "hard_swish": (lambda x: x * _clip(x / 6.0 + 0.5, 0.0, 1.0), -5.0, -1.0),
    "hard_shrink": (lambda x: x if abs(x) > 0.5 else 0.0, 0.4, 0.8),
    "soft_shrink": (lambda x: math.copysign(max(abs(x) - 0.5, 0.0), x), -1.0, 0.0),
    "tanh_shrink": (lambda x: x - math.tanh(x), -2.0, 0.0),
    "celu_squared": (lambda x: (x if x > 0.0 else math.expm1(x)) ** 2, -3.0, -1.0),
    "softmax": (_sigmoid, 0.0, 4.0),
    "log_softmax": (_log_sigmoid, -2.0, 2.0),
    "sparsemax": (lambda x: _clip(0.5 * (x + 1.0), 0.0, 1.0), 0.0, 2.0),
    "glu": (_sigmoid, 0.0, 4.0),
    "bump": (_bump, -1.0, 1.0),
    "sigma_bump": (_bump, -1.0, 1.0),
    "gaussian_bump": (lambda x: math.exp(-0.5 * x * x), -2.0, 2.0),
}
"""Per activation that is never allowed: its values, and the ends of an interval whose midpoint shows it."""

_OF_A_PAIR: Mapping[str, str] = {
    "softmax": "the first entry of softmax((x, 0))",
    "log_softmax": "the first entry of log_softmax((x, 0))",
    "sparsemax": "the first entry of sparsemax((x, 0))",
    "glu": "glu((1, x))",
}
