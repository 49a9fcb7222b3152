"""The trainable bump: smooth, zero outside of its support, finite for every input and every width.

Over `localized` and `safe_where`; `domain_weight` makes a model's `support` of it. Questions of its users are answered
in `docs/bump-layer.md`.
"""

import math
from typing import Any

import keras
import numpy as np
from keras import ops

from training.activations import Counterexample
from training.layers.localized import Localized
from training.layers.positive_scale import held, over, support
from training.layers.safe_where import safe_where

_SMALLEST = {"float16": 2.0**-14, "bfloat16": 2.0**-126, "float32": 2.0**-126, "float64": 2.0**-1022}
"""Smallest normal number of each type."""


def cut(dtype: str, *, unit_peak: bool = False) -> int:
    r"""Return the largest 1/t for which exp(-1/t), or e times that, is computed: below 1/cut it is given as 0.

    The least whole number c with exp(-c) below the type's smallest normal number: 88 for float32 and bfloat16 (e^-88 =
    6.05e-39 < 1.18e-38), 10 for float16 (4.5e-5 < 6.1e-5), 709 for float64. With the peak at 1 instead of 1/e, one
    more. So no normal number is lost.
    """
    return math.floor(-math.log(_SMALLEST[dtype]) + float(unit_peak)) + 1


def bump(x: Any, radius: Any, *, dtype: str = "float32", unit_peak: bool = False, within: Any = None) -> Any:
    r"""Return the bump of each number, in the form that is finite for every input and radius.

    .. math:: B_s(x) = \exp(-1/t), \qquad t = (1 - u)(1 + u), \quad u = x / s

    where |x| < s sqrt(1 - 1/c), with c of `cut`; 0 elsewhere, and NaN at a NaN. Where it is chosen, 1/c <= t <= 1: no
    division by zero, no overflow, in the value nor in a derivative. s^2 - x^2 would overflow and underflow.

    Args:
        x: tensor of any shape, float32 or float64.
        radius: s, of the same dtype, a shape that broadcasts; what is not positive has no support at all.
        dtype: what x was before it was cast up, if it was: float16 or bfloat16; decides what is cut off.
        unit_peak: whether the value at 0 is 1 instead of 1/e.
        within: a second bound of |x|, as `radius`; None: none.
    """
    s = held(radius, dtype)
    limit = ops.multiply(support(radius, dtype), math.sqrt(1.0 - 1.0 / cut(dtype, unit_peak=unit_peak)))
    if within is not None:
        limit = ops.minimum(limit, within)

    def inside_value(v: Any) -> Any:
        u = over(v, s)
        return _height(ops.multiply(ops.subtract(1.0, u), ops.add(1.0, u)), unit_peak=unit_peak)

    value = safe_where(ops.less(ops.abs(x), limit), x, inside_value)
    return ops.where(ops.isnan(x), x, value)


def radial_bump(x: Any, radius: Any, *, dtype: str = "float32", unit_peak: bool = False) -> Any:
    r"""Return the bump of each point of the last axis, [..., 1].

    .. math:: B_s(x) = \exp(-1/t), \qquad t = 1 - \sum_i (x_i / s_i)^2

    A number that alone is outside stands in as u = 1 before anything is squared, so that no square overflows; and
    there is no root, whose derivative would be infinite at the centre.

    Args:
        x: [..., d], as for `bump`.
        radius: s, a scalar or [d].
        dtype: as for `bump`.
        unit_peak: as for `bump`.
    """
    s, edge = held(radius, dtype), 1.0 - 1.0 / cut(dtype, unit_peak=unit_peak)
    is_near = ops.less(ops.abs(x), ops.multiply(support(radius, dtype), math.sqrt(edge)))
    u = safe_where(is_near, x, lambda v: over(v, s), 1.0)
    squares = ops.sum(ops.square(u), axis=-1, keepdims=True)
    value = safe_where(ops.less(squares, edge), squares, lambda q: _height(ops.subtract(1.0, q), unit_peak=unit_peak))
    unknown = ops.sum(ops.where(ops.isnan(x), x, ops.zeros_like(x)), axis=-1, keepdims=True)
    return ops.where(ops.isnan(unknown), unknown, value)


def _height(t: Any, *, unit_peak: bool) -> Any:
    """Return exp(-1/t), or exp(1 - 1/t), which is never above 1."""
    return ops.exp(ops.subtract(float(unit_peak), ops.divide(1.0, t)))


@keras.saving.register_keras_serializable(package="convex_scoring")
class Bump(Localized):
    r"""A smooth bump on (-s, s) with a trainable radius s, of each number or of each point.

    .. math:: B_s(x) = \exp\left(-\frac{s^2}{s^2 - x^2}\right) \text{ for } |x| < s, \quad \text{else } 0

    Infinitely often differentiable, even, 1/e at 0 (1 with `unit_peak`). The radius enters the value, not only the
    condition, so it is learned:

    .. math:: \frac{\partial B}{\partial x} = -\frac{2 u\, e^{-1/t}}{s\, t^2}, \qquad
              \frac{\partial B}{\partial s} = \frac{2 u^2 e^{-1/t}}{s\, t^2} \ge 0, \qquad u = x/s,\ t = 1 - u^2

    at most .798/s and .618/s in size, and exactly 0 outside. Value and both are finite for every input, infinities
    included, and every radius (`bump` says how); a NaN stays a NaN, in its own place. A second derivative by x is at
    most 7.75/s^2: in float32 it is finite for s above 1.6e-19.

    From inputs outside of the support nothing is learned: start wide, with `adapt`; `require_signal` says where not.
    How long it takes: from inputs that cover the support a few hundred steps of Adam for every radius; from |x| <= 1
    alone the slope by s is about 2 x^2 / (e s^3), and the larger s, the longer (docs/bump-layer.md has the table).

    Not convex, and refused wherever a convex network could hold it (`counterexample`). -log B = 1/t is convex.

    Example:
        >>> layer = Bump(unit_peak=True)
        >>> layer.adapt([-4.0, 0.0, 4.0])
        >>> layer(keras.ops.array([0.0, 100.0]))
        <tf.Tensor: shape=(2,), dtype=float32, numpy=array([1., 0.], dtype=float32)>

    Args:
        unit_peak: whether the value at 0 is 1 instead of 1/e.
        **kwargs: of `Localized`: per_feature, radial, positivity, tanh, width_initializer; and of
            `keras.layers.Layer`.

    Input shape:
        Any, scalars included; with `radial` or `per_feature` [..., d].

    Output shape:
        The input's; with `radial` [..., 1].

    Raises:
        ValueError: positivity is none of the three forms.
        TypeError: the dtype is not floating.
    """

    width_name = "radius"
    starting_factor = 1.5

    def __init__(self, *, unit_peak: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.unit_peak = bool(unit_peak)

    def _shape(self, x: Any, width: Any, dtype: str) -> Any:
        """Return the bump of each number, or of each point."""
        return (radial_bump if self.radial else bump)(x, width, dtype=dtype, unit_peak=self.unit_peak)

    @property
    def counterexample(self) -> Counterexample:
        """The peak lies above the mean of both ends of the support."""
        s = float(np.max(ops.convert_to_numpy(self.width))) if self.built else 1.0
        peak = 1.0 if self.unit_peak else math.exp(-1.0)
        return Counterexample(f"the bump of radius {s:g}", (-s, 0.0, s), (0.0, peak, 0.0))

    def get_config(self) -> dict[str, Any]:
        """Return the arguments."""
        return {**super().get_config(), "unit_peak": self.unit_peak}
