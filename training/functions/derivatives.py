"""Derivatives of user functions against finite differences, in float64: the check that registration makes.

Below `training.functions.registry`. Rows must not depend on each other, so that all differences come out of one call.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

TOLERANCE = 1e-6
"""Largest relative error of a derivative that passes."""

_STEPS = (1e-2, 1e-3, 1e-4, 1e-5)
_STENCIL = ((-2.0, 1.0 / 12.0), (-1.0, -2.0 / 3.0), (1.0, 2.0 / 3.0), (2.0, -1.0 / 12.0))
_FLOOR = 1e-4
_MAX_DIRECTIONS = 16

Function = Callable[[Any], Any]
"""A tensor [n, ...] to a tensor [n, ...], row by row."""

Array = NDArray[np.float64]


def directional_differences(function: Function, x: Array, directions: Array) -> tuple[Array, Array]:
    r"""Return derivatives of row-wise scalars along directions by differences of fourth order, and their scale.

    .. math:: \frac{s(x - 2hv) - 8 s(x - hv) + 8 s(x + hv) - s(x + 2hv)}{12 h}, \qquad h = 10^{-2} \dots 10^{-5}

    Args:
        function: x [m, ...] to scalars [m].
        x: [n, ...].
        directions: [k, n, ...].

    Returns:
        The quotients [len(h), k, n], and the largest absolute scalar of each row [n].
    """
    count, rows = len(directions), len(x)
    points = [x[None] + offset * step * directions for step in _STEPS for offset, _ in _STENCIL]
    stacked = np.stack(points).reshape(-1, *x.shape[1:])
    values = np.asarray(function(tf.constant(stacked, tf.float64)), np.float64)
    values = values.reshape(len(_STEPS), len(_STENCIL), count, rows)
    weights = np.array([weight for _, weight in _STENCIL])[None, :, None, None]
    quotients = (values * weights).sum(axis=1) / np.array(_STEPS)[:, None, None]
    return quotients, np.abs(values).max(axis=(0, 1, 2))


def relative_error(derivatives: Array, quotients: Array, scale: Array) -> float:
    """Return the largest error of derivatives [k, n] against difference quotients [len(h), k, n].

    Each entry is compared with the step that suits it best, relative to its own size, or to 1e-4 of the largest entry
    or value of its row where it is smaller than that.
    """
    size = np.maximum(np.abs(quotients), _FLOOR * np.maximum(np.abs(quotients).max(axis=1, keepdims=True), scale))
    errors = np.abs(derivatives - quotients) / np.where(size > 0.0, size, 1.0)
    return float(errors.min(axis=0).max())


def directions_of(x: Array) -> Array:
    """Return a direction for each entry of a row [k, *x.shape], or 16 random ones where a row has more entries."""
    width = math.prod(x.shape[1:])
    basis = (
        np.eye(width) if width <= _MAX_DIRECTIONS else np.random.default_rng(0).normal(size=(_MAX_DIRECTIONS, width))
    )
    return np.repeat(basis[:, None], len(x), axis=1).reshape(len(basis), *x.shape)


def first_order_error(function: Function, x: Array) -> float:
    """Return the relative error of what a tape makes of `function`, against its finite differences at `x`."""
    return _tape_error(function, x, lambda y: _fixed_weights(y, seed=1))


def second_order_error(function: Function, x: Array) -> float:
    """Return the same of the derivatives of the gradient: with respect to `x`, and to what comes from above.

    A gradient that a tape cannot differentiate counts as zero; where the differences are zero too, it is.
    """
    upstream = _fixed_weights(function(tf.constant(x, tf.float64)), seed=1)

    def gradient(point: Any, above: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(point)
            y = function(point)
        return _or_zeros(tape.gradient(y, point, output_gradients=above), point)

    def of_x(point: Any) -> Any:
        repeats = [int(point.shape[0]) // len(x), *[1] * (upstream.ndim - 1)]
        return gradient(point, tf.tile(tf.constant(upstream), repeats))

    into_x = _tape_error(of_x, x, lambda y: _fixed_weights(y, seed=2))
    return max(into_x, _upstream_error(function, gradient, x, upstream))


def _upstream_error(function: Function, gradient: Callable[[Any, Any], Any], x: Array, upstream: Array) -> float:
    """Return the relative error of d<v, J'u>/du = J v, against differences of `function` along v."""
    direction = np.random.default_rng(3).normal(size=x.shape)
    above = tf.constant(upstream)
    with tf.GradientTape() as tape:
        tape.watch(above)
        along = tf.reduce_sum(gradient(tf.constant(x, tf.float64), above) * direction)
    found = np.asarray(_or_zeros(tape.gradient(along, above), above))
    width = math.prod(upstream.shape[1:])
    found = found.reshape(len(x), width).T

    def entry(index: int) -> Function:
        return lambda point: tf.reshape(function(point), [-1, width])[:, index]

    errors = []
    for index in range(min(width, _MAX_DIRECTIONS)):
        quotients, scale = directional_differences(entry(index), x, direction[None])
        errors.append(relative_error(found[index : index + 1], quotients, scale))
    return max(errors)


def _tape_error(function: Function, x: Array, weights: Callable[[Any], Array]) -> float:
    """Return the relative error of a tape's derivatives of weighted sums of a row-wise function."""
    point = tf.constant(x, tf.float64)
    with tf.GradientTape() as tape:
        tape.watch(point)
        y = function(point)
    fixed = weights(y)
    gradient = np.asarray(_or_zeros(tape.gradient(y, point, output_gradients=tf.constant(fixed)), point))
    directions = directions_of(x)

    def weighted(points: Any) -> Any:
        values = function(points)
        repeats = [int(values.shape[0]) // len(fixed), *[1] * (fixed.ndim - 1)]
        return tf.reduce_sum(tf.reshape(values * tf.tile(tf.constant(fixed), repeats), [values.shape[0], -1]), axis=1)

    quotients, scale = directional_differences(weighted, x, directions)
    derivatives = (gradient[None] * directions).reshape(len(directions), len(x), -1).sum(axis=2)
    return relative_error(derivatives, quotients, scale)


def _fixed_weights(y: Any, seed: int) -> Array:
    """Return one random weight in [0.5, 1.5] for each entry of `y`, of random sign."""
    generator = np.random.default_rng(seed)
    shape = tuple(y.shape)
    return np.asarray(generator.uniform(0.5, 1.5, shape) * generator.choice([-1.0, 1.0], shape))


def _or_zeros(gradient: Any, like: Any) -> Any:
    return tf.zeros_like(like) if gradient is None else gradient
