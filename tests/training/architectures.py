"""Random networks of the layer set, built with arguments that are allowed, with weights that may be anything allowed.

A network is drawn from a seed: something in front, convex units on the row, then any number of layers that keep
convexity, and one number in the end. `PLACES` says what may stand where; a new layer of the set gets a line there.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np

from tests.training.user_functions import BOWL, HINGE
from training import activations
from training.activations import ConvexActivation, Role
from training.constraints import NonNegative
from training.layers.act_norm import ActNorm
from training.layers.convex_batch_normalization import ConvexBatchNormalization
from training.layers.dense_partially_constrained import DensePartiallyConstrained
from training.layers.diagonal_quadratic import DiagonalQuadratic
from training.layers.feature_pooling import MODES, FeaturePooling
from training.layers.filter_bank import FilterBank
from training.layers.function import Function
from training.layers.log_sum_exp import LogSumExp
from training.layers.low_rank_quadratic import LowRankQuadratic
from training.layers.maxout import Maxout
from training.layers.orthogonal_projection import OrthogonalProjection
from training.layers.potential_scaling import PotentialScaling
from training.layers.prelu import PReLU, UnitInterval
from training.layers.quadratic import Quadratic
from training.layers.quadratic_form import QuadraticForm
from training.layers.standardization import Standardization
from training.layers.target_scaling import TargetScaling
from training.orthonormality import Orthonormal

Draw = np.random.Generator


@dataclasses.dataclass(frozen=True)
class Network:
    """A random network.

    Args:
        model: rows [n, dim] to scores [n].
        dim: number of features.
        parts: names of the classes of its layers.
    """

    model: keras.Model
    dim: int
    parts: tuple[str, ...]


def draw_network(seed: int) -> Network:
    """Return the network of a seed."""
    draw = np.random.default_rng([20, seed])
    dim = int(draw.integers(1, 7))
    rows = keras.Input((dim,))
    x = rows
    for _ in range(draw.integers(0, 3)):
        x = _one_of(draw, FRONT)(draw, x)
    z = _one_of(draw, FIRST)(draw, x)
    for _ in range(draw.integers(0, 5)):
        z = _between(draw, z, x, FIRST)
    score = _one_of(draw, LAST)(draw, z, x)
    model = keras.Model(rows, keras.layers.Flatten()(score) if draw.random() < 0.5 else score)
    for layer in model.layers:
        _set_weights(draw, layer)
    return Network(model, dim, tuple(type(layer).__name__ for layer in model.layers))


def _one_of(draw: Draw, places: Any) -> Any:
    return list(places.values())[draw.integers(len(places))]


def _between(draw: Draw, z: Any, x: Any, first: Any) -> Any:
    """Return z after one more layer: of the pair, of z alone, or joined to other convex functions of x."""
    kind = draw.integers(4)
    if kind <= 1:
        return _one_of(draw, PAIR)(draw, z, x)
    if kind == 2:
        return _one_of(draw, KEEPING)(draw, z)
    other = _one_of(draw, first)(draw, x)
    if other.shape[-1] == z.shape[-1]:
        return keras.layers.Add()([z, other])
    return keras.layers.Concatenate()([z, other])


def _units(draw: Draw) -> int:
    return int(draw.integers(1, 7))


def _pieces(draw: Draw) -> int:
    return int(draw.integers(1, 5))


def _temperature(draw: Draw) -> float:
    return float(np.exp(draw.uniform(-3.0, 2.0)))


def activation(draw: Draw, role: Role) -> str:
    """Return an activation for a role, with parameters where it takes some."""
    slope, sharpness = float(draw.choice([0.0, 1.0, draw.random()])), float(np.exp(draw.uniform(-2, 3)))
    names = activations.names(Role.HIDDEN) + (activations.names(Role.FIRST) if role is Role.FIRST else ())
    name = str(draw.choice(names))
    parameters = {
        "celu": f"({sharpness!r})",
        "elu": f"({slope!r})",
        "leaky_relu": f"({slope!r})",
        "smooth_leaky": f"({slope!r}, {sharpness!r})",
        "squared_leaky": f"({slope!r})",
        "squareplus": f"({sharpness!r})",
        "threshold": f"({sharpness!r}, {sharpness!r})",
    }
    return name + (parameters.get(name, "") if draw.random() < 0.7 else "")


def _dense(draw: Draw, x: Any) -> Any:
    function = ConvexActivation(activation(draw, Role.FIRST), Role.FIRST)
    return keras.layers.Dense(_units(draw), activation=function, use_bias=bool(draw.integers(2)))(x)


def _constrained(draw: Draw, z: Any, x: Any) -> Any:
    positivity = str(draw.choice(["projection", "softplus", "exp", "square"]))
    function = activation(draw, Role.HIDDEN)
    return DensePartiallyConstrained(_units(draw), function, bool(draw.integers(2)), positivity=positivity)([z, x])


def _columns(draw: Draw, x: Any) -> Any:
    filters = _units(draw)
    return FilterBank(filters, trainable_parts=[bool(flag) for flag in draw.integers(2, size=filters)])(x)


def _convolution(draw: Draw, x: Any) -> Any:
    picture = keras.layers.Reshape((x.shape[-1], 1))(x)
    size, strides, padding = (int(draw.integers(1, 4)), int(draw.integers(1, 3)), "same")
    return keras.layers.Flatten()(FilterBank(_pieces(draw), size, strides, padding)(picture))


def _pooling(draw: Draw, z: Any) -> Any:
    sizes = [size for size in range(1, z.shape[-1] + 1) if z.shape[-1] % size == 0]
    return FeaturePooling(int(draw.choice(sizes)), str(draw.choice(MODES)), temperature=_temperature(draw))(z)


def _batch_normalization(draw: Draw, z: Any) -> Any:
    epsilon = float(10.0 ** draw.uniform(-6, -1))
    return ConvexBatchNormalization(epsilon=epsilon, center=bool(draw.integers(2)))(z)


FRONT: Mapping[str, Callable[[Draw, Any], Any]] = {
    "Standardization": lambda _draw, x: Standardization()(x),
    "OrthogonalProjection": lambda draw, x: OrthogonalProjection(int(draw.integers(1, x.shape[-1] + 1)))(x),
    "ActNorm": lambda _draw, x: ActNorm()(x),
    "ConvexBatchNormalization": _batch_normalization,
    "Dense": lambda draw, x: keras.layers.Dense(_units(draw))(x),
    "FilterBank": _columns,
    "Convolution": _convolution,
}
"""Affine in the row."""

FIRST: Mapping[str, Callable[[Draw, Any], Any]] = {
    "Dense": _dense,
    "Maxout": lambda draw, x: Maxout(_units(draw), _pieces(draw), bool(draw.integers(2)))(x),
    "LogSumExp": lambda draw, x: LogSumExp(_units(draw), _pieces(draw), temperature=_temperature(draw))(x),
    "DiagonalQuadratic": lambda draw, x: DiagonalQuadratic(_units(draw), initial=float(draw.integers(3)))(x),
    "LowRankQuadratic": lambda draw, x: LowRankQuadratic(_pieces(draw), _units(draw))(x),
    "QuadraticForm": lambda _draw, x: QuadraticForm()(x),
    "Quadratic": lambda draw, x: Quadratic(float(draw.choice([0.0, draw.random()])))(x),
    "Function": lambda draw, x: Function(str(draw.choice([BOWL, HINGE])), Role.FIRST)(x),
}
"""Convex functions of what is affine."""

PAIR: Mapping[str, Callable[[Draw, Any, Any], Any]] = {
    "DensePartiallyConstrained": _constrained,
    "Maxout": lambda draw, z, x: Maxout(_units(draw), _pieces(draw), bool(draw.integers(2)))([z, x]),
    "LogSumExp": lambda draw, z, x: LogSumExp(_units(draw), _pieces(draw), temperature=_temperature(draw))([z, x]),
}
"""Layers of the pair."""

KEEPING: Mapping[str, Callable[[Draw, Any], Any]] = {
    "ActNorm": lambda _draw, z: ActNorm()(z),
    "ConvexBatchNormalization": _batch_normalization,
    "FeaturePooling": _pooling,
    "Function": lambda _draw, z: Function(HINGE, Role.HIDDEN)(z),
    "PReLU": lambda _draw, z: PReLU("he_normal")(z),
    "Dropout": lambda _draw, z: keras.layers.Dropout(0.3)(z),
}
"""Layers of z alone, convex and non-decreasing in every feature."""


def _score(_draw: Draw, z: Any, x: Any) -> Any:
    return DensePartiallyConstrained(1)([z, x])


def _scaled(draw: Draw, z: Any, x: Any) -> Any:
    return TargetScaling()(keras.layers.Flatten()(_score(draw, z, x)))


def _potential(draw: Draw, z: Any, x: Any) -> Any:
    potential = keras.layers.Add()([_score(draw, z, x), QuadraticForm()(x)])
    return PotentialScaling()([keras.layers.Reshape(())(potential), x])


LAST: Mapping[str, Callable[[Draw, Any, Any], Any]] = {
    "DensePartiallyConstrained": _score,
    "Maxout": lambda draw, z, x: Maxout(1, _pieces(draw))([z, x]),
    "LogSumExp": lambda draw, z, x: LogSumExp(1, _pieces(draw), temperature=_temperature(draw))([z, x]),
    "FeaturePooling": lambda draw, z, _x: FeaturePooling(int(z.shape[-1]), str(draw.choice(MODES)))(z),
    "Quadratic": lambda draw, z, x: keras.layers.Add()([_score(draw, z, x), Quadratic(float(draw.random()))(x)]),
    "TargetScaling": _scaled,
    "PotentialScaling": _potential,
}
"""One number in the end."""

PLACES = {name for table in (FRONT, FIRST, PAIR, KEEPING, LAST) for name in table} - {"Convolution"}
"""Every class that a network may be made of."""


def _set_weights(draw: Draw, layer: keras.layers.Layer) -> None:
    """Give a layer weights at random, zeros and denormal numbers among them, that it may have."""
    for weight in layer.weights:
        values = draw.normal(size=weight.shape) / np.sqrt(max(1, weight.shape[0] if len(weight.shape) > 1 else 4))
        if isinstance(weight.constraint, Orthonormal):
            continue
        if isinstance(weight.constraint, NonNegative):
            values = np.abs(values) * (draw.random(weight.shape) < 0.8)
        elif isinstance(weight.constraint, UnitInterval):
            values = np.clip(values + 0.5, 0.0, 1.0)
        elif weight.name in {"scale", "moving_variance"}:
            values = np.exp(values)
        weight.assign(values)
    if hasattr(layer, "verify"):
        layer.verify()
