"""Every argument that a class refuses because it would not be convex, with what it would compute, in float64 NumPy.

The functions are written from what the argument means, not from the code that refuses it.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np

from tests.training.user_functions import BOWL, DOME
from training import activations
from training.activations import ConvexActivation, Role
from training.icnn import InputConvexNetwork, PenalizedNetwork
from training.layers.bump import Bump
from training.layers.dense_partially_constrained import DensePartiallyConstrained
from training.layers.diagonal_quadratic import DiagonalQuadratic
from training.layers.feature_pooling import FeaturePooling
from training.layers.function import Function as FunctionLayer
from training.layers.gaussian_bump import GaussianBump
from training.layers.log_sum_exp import LogSumExp
from training.layers.low_rank_quadratic import LowRankQuadratic
from training.layers.quadratic import Quadratic
from training.layers.sigma_bump import SigmaBump
from training.picnn import PartiallyInputConvexNetwork

Function = Callable[[np.float64], Any]


@dataclasses.dataclass(frozen=True)
class Refused:
    """One refused argument.

    Args:
        make: makes the class with the argument.
        function: what would be computed along a line that the counterexample is about.
        is_composed: whether the counterexample is about function(|x| + c), with c in its words: the function is convex
            but falls, so that it does not keep the convexity of |x|.
    """

    make: Callable[[], Any]
    function: Function
    is_composed: bool = False

    def along_the_line(self, words: str) -> Function:
        """Return the function of which the counterexample's words speak."""
        if not self.is_composed:
            return self.function
        match = re.search(r"of \|x\| ([+-]) (\S+)$", words)
        shift = np.float64(f"{match[1]}{match[2]}") if match else np.float64(np.nan)
        return lambda x: self.function(abs(x) + shift)


def _sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


def _softplus(x: Any) -> Any:
    return np.logaddexp(0.0, x)


def _erf(x: float) -> float:
    """Return the error function by its series (Abramowitz and Stegun, 7.1.5), for |x| below 6."""
    terms, term = [np.longdouble(x)], np.longdouble(x)
    for n in range(1, 400):
        term = -term * np.longdouble(x) ** 2 / n
        terms.append(term / (2 * n + 1))
    return float(2 / np.sqrt(np.pi) * sum(terms))


def _elu(x: Any, alpha: float) -> Any:
    return x if x > 0 else alpha * np.expm1(x)


def _leaky(x: Any, alpha: float) -> Any:
    return x if x > 0 else alpha * x


def _bump(x: Any) -> Any:
    return np.exp(-1 / (1 - x * x)) if abs(x) < 1 else 0.0


NOT_CONVEX: Mapping[str, Function] = {
    "sigmoid": _sigmoid,
    "tanh": np.tanh,
    "softsign": lambda x: x / (1 + abs(x)),
    "gelu": lambda x: x * 0.5 * (1 + _erf(x / np.sqrt(2))),
    "silu": lambda x: x * _sigmoid(x),
    "swish": lambda x: x * _sigmoid(x),
    "mish": lambda x: x * np.tanh(_softplus(x)),
    "selu": lambda x: 1.05070098 * _elu(x, 1.67326324),
    "relu6": lambda x: np.clip(x, 0, 6),
    "log_sigmoid": lambda x: -_softplus(-x),
    "sparse_sigmoid": lambda x: np.clip((x + 1) / 2, 0, 1),
    "hard_sigmoid": lambda x: np.clip(x / 6 + 0.5, 0, 1),
    "hard_tanh": lambda x: np.clip(x, -1, 1),
    "hard_silu": lambda x: x * np.clip(x + 3, 0, 6) / 6,
    "hard_swish": lambda x: x * np.clip(x + 3, 0, 6) / 6,
    "hard_shrink": lambda x: x * (abs(x) > 0.5),
    "soft_shrink": lambda x: np.sign(x) * np.maximum(abs(x) - 0.5, 0),
    "tanh_shrink": lambda x: x - np.tanh(x),
    "celu_squared": lambda x: _elu(x, 1.0) ** 2,
    "softmax": lambda x: np.exp(x) / (np.exp(x) + 1),
    "log_softmax": lambda x: x - np.logaddexp(x, 0.0),
    "sparsemax": lambda x: np.clip((x + 1) / 2, 0, 1),
    "glu": _sigmoid,
    "bump": _bump,
    "sigma_bump": _bump,
    "gaussian_bump": lambda x: np.exp(-x * x / 2),
}
"""Activations that are not convex, from the documentation of Keras; those of several numbers at (x, 0), or (1, x)."""

FALLING: Mapping[str, Function] = {
    "squared_leaky": lambda x: _leaky(x, 0.2) ** 2,
    "abs": abs,
    "square": lambda x: x * x,
    "log_cosh": lambda x: np.log(np.cosh(x)),
    "symmetric_softplus": lambda x: _softplus(x) - x / 2,
}
"""Activations that are convex and fall somewhere."""

OUT_OF_RANGE: Mapping[str, tuple[Function, bool]] = {
    "elu(2)": (lambda x: _elu(x, 2.0), False),
    "elu(1.01)": (lambda x: _elu(x, 1.01), False),
    "elu(-0.5)": (lambda x: _elu(x, -0.5), False),
    "celu(-1)": (lambda x: x if x > 0 else -np.expm1(-x), False),
    "leaky_relu(1.5)": (lambda x: _leaky(x, 1.5), False),
    "leaky_relu(-0.1)": (lambda x: _leaky(x, -0.1), True),
    "squared_leaky(-0.5)": (lambda x: _leaky(x, -0.5) ** 2, True),
    "smooth_leaky(1.5, 1)": (lambda x: 1.5 * x - 0.5 * _softplus(x), False),
    "smooth_leaky(0.5, -2)": (lambda x: 0.5 * x - 0.25 * _softplus(-2 * x), False),
    "smooth_leaky(-0.25, 1)": (lambda x: -0.25 * x + 1.25 * _softplus(x), True),
    "threshold(1, 0)": (lambda x: x if x > 1 else 0.0, False),
    "threshold(0, 1)": (lambda x: x if x > 0 else 1.0, False),
}
"""Parameters of activations with which they are not convex, or fall (second entry true)."""


def _activations(make: Callable[[str], Any]) -> tuple[Refused, ...]:
    """Return the refusals of everything that takes the activation of a hidden layer."""
    never = [Refused(lambda name=name: make(name), function) for name, function in NOT_CONVEX.items()]
    falling = [Refused(lambda name=name: make(name), function, True) for name, function in FALLING.items()]
    ranges = [Refused(lambda name=name: make(name), *entry) for name, entry in OUT_OF_RANGE.items()]
    return (*never, *falling, *ranges)


def _first(make: Callable[[str], Any]) -> tuple[Refused, ...]:
    """Return the refusals of what takes the activation of a first layer: only what is not convex."""
    never = [Refused(lambda name=name: make(name), function) for name, function in NOT_CONVEX.items()]
    ranges = [
        Refused(lambda name=name: make(name), function) for name, (function, falls) in OUT_OF_RANGE.items() if not falls
    ]
    return (*never, *ranges)


def _soft_minimum(x: Any, temperature: float) -> Any:
    return temperature * np.logaddexp(x / temperature, -x / temperature)


TEMPERATURES = (-1e-3, -0.5, -1.0, -40.0, -1e6)
COEFFICIENTS = (-1e-9, -0.5, -3, -1e20)


def _coefficients(make: Callable[[float], Any]) -> tuple[Refused, ...]:
    return tuple(Refused(lambda c=c: make(c), lambda x, c=c: c / 2 * x * x) for c in COEFFICIENTS)


def _temperatures(make: Callable[[float], Any]) -> tuple[Refused, ...]:
    return tuple(Refused(lambda t=t: make(t), lambda x, t=t: _soft_minimum(x, t)) for t in TEMPERATURES)


def _hidden(bump: Any) -> Any:
    """Return what asks for a bump as the activation of a hidden layer."""
    return DensePartiallyConstrained(2, bump)


def _high(height: float) -> Any:
    """Return a Gaussian bump of some height, built."""
    bump = GaussianBump(height_initializer=keras.initializers.Constant(height))
    bump.build((None, 2))
    return bump


REFUSED: Mapping[str, tuple[Refused, ...]] = {
    "Bump": (
        Refused(lambda: _hidden(Bump()), _bump),
        Refused(lambda: _hidden(Bump(unit_peak=True)), lambda x: np.e * _bump(x)),
        Refused(lambda: ConvexActivation(Bump(), Role.FIRST), _bump),
    ),
    "ConvexActivation": (
        *_activations(lambda name: ConvexActivation(name, Role.HIDDEN)),
        *_first(lambda name: ConvexActivation(name, Role.FIRST)),
    ),
    "DensePartiallyConstrained": _activations(lambda name: DensePartiallyConstrained(2, name)),
    "DiagonalQuadratic": _coefficients(lambda c: DiagonalQuadratic(initial=c)),
    "FeaturePooling": (
        Refused(lambda: FeaturePooling(2, "min"), lambda x: np.min([x, -x])),
        Refused(lambda: FeaturePooling(3, "median"), lambda x: np.median([x, 0.0, 1.0])),
        Refused(lambda: FeaturePooling(2, "product"), lambda x: np.prod([x, 2 - x])),
        Refused(lambda: FeaturePooling(2, "range"), lambda x: np.ptp([abs(x), 1.0])),
        Refused(lambda: FeaturePooling(2, "l2"), lambda x: np.linalg.norm([abs(x) - 1, 0.0])),
        *_temperatures(lambda t: FeaturePooling(2, "log_sum_exp", temperature=t)),
    ),
    "Function": (
        Refused(lambda: FunctionLayer(DOME, Role.HIDDEN), lambda x: -x * x),
        Refused(lambda: FunctionLayer(DOME, Role.FIRST), lambda x: -x * x),
        Refused(lambda: FunctionLayer(BOWL, Role.HIDDEN), lambda x: x * x, True),
    ),
    "GaussianBump": (
        Refused(lambda: _hidden(GaussianBump()), lambda x: np.exp(-x * x / 2)),
        Refused(lambda: _hidden(_high(-2.0)), lambda x: -2 * np.exp(-x * x / 2)),
        Refused(lambda: ConvexActivation(_high(3.0), Role.FIRST), lambda x: 3 * np.exp(-x * x / 2)),
    ),
    "InputConvexNetwork": (
        *_activations(lambda name: InputConvexNetwork(2, (2,), name)),
        *_first(lambda name: InputConvexNetwork(2, (2,), first_activation=name)),
        *_coefficients(lambda c: InputConvexNetwork(2, (2,), quadratic=c)),
    ),
    "LogSumExp": _temperatures(lambda t: LogSumExp(2, temperature=t)),
    "LowRankQuadratic": _coefficients(lambda c: LowRankQuadratic(1, initial=c)),
    "PartiallyInputConvexNetwork": (
        *_activations(lambda name: PartiallyInputConvexNetwork(2, 1, (2,), name)),
        *_first(lambda name: PartiallyInputConvexNetwork(2, 1, (2,), first_activation=name)),
        *_coefficients(lambda c: PartiallyInputConvexNetwork(2, 1, (2,), quadratic=c)),
        Refused(lambda: PartiallyInputConvexNetwork(2, 1, (2,), gate="tanh"), lambda x: np.tanh(-1) * abs(x)),
        Refused(lambda: PartiallyInputConvexNetwork(2, 1, (2,), gate="linear"), lambda x: -abs(x)),
        Refused(lambda: PartiallyInputConvexNetwork(2, 1, (2,), gate="elu"), lambda x: np.expm1(-1) * abs(x)),
    ),
    "PenalizedNetwork": (
        *_activations(lambda name: PenalizedNetwork(2, (2,), name)),
        *_coefficients(lambda c: PenalizedNetwork(2, (2,), quadratic=c)),
    ),
    "Quadratic": _coefficients(Quadratic),
    "SigmaBump": (Refused(lambda: _hidden(SigmaBump()), _bump),),
}
"""Refusals of each class that has an argument with which it would not be convex."""

NOTHING_TO_REFUSE: Mapping[str, str] = {
    "ActNorm": "its scale is an exponential",
    "AtLeast": "it keeps a width positive, and is no part of the function",
    "ConvexBatchNormalization": "its factor is constrained, and nothing may stand in the constraint's place",
    "DomainWeight": "it is no part of the score",
    "FilterBank": "it is affine, whatever its weights are",
    "FilterBankModel": "it is affine, whatever its weights are",
    "JointlyRegularized": "it computes what its model does",
    "KernelFunction": "a regulariser is no part of the function",
    "Maxout": "its kernel is projected, whatever starts it",
    "NonNegative": "it has no argument",
    "NonNegativeLogNormal": "an initialiser decides where weights start, and its weights are positive",
    "OrthogonalProjection": "it is affine, whatever its matrix is",
    "Orthonormal": "it has no argument",
    "PReLU": "its slopes are projected, whatever starts them",
    "PairwiseOrthogonality": "a regulariser is no part of the function",
    "PassthroughNormal": "an initialiser of weights that are free",
    "PieceLogNormal": "an initialiser decides where weights start, and its weights are positive",
    "PotentialScaling": "its scale is verified when it is set",
    "QuadraticForm": "a sum of squares, whatever its matrix is",
    "Standardization": "its scale is verified when it is set",
    "TargetScaling": "its scale is verified when it is set",
    "UnitInterval": "it has no argument",
}
"""Classes without such an argument, each with the reason."""


def names_of(role: Role) -> set[str]:
    """Return the names of a role that the registry knows."""
    return set(activations.names(role))
