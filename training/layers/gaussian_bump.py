"""The trainable Gaussian bump: height, width and centre, each of which can be frozen alone.

Over `localized` and `safe_where`; beside `bump`, with which `docs/bump-layer.md` compares it.
"""

import math
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from training.activations import Counterexample
from training.layers.localized import Localized
from training.layers.positive_scale import held, over, support
from training.layers.safe_where import safe_where

_EXPONENTS = {"float16": 9.7, "bfloat16": 87.33, "float32": 87.33, "float64": 708.39}
"""Of each type the largest v for which exp(-v) is a normal number, rounded down."""

PARTS = ("height", "width", "center")


def largest_offset(dtype: str) -> float:
    """Return u_max: beyond |x - c| = u_max w the Gaussian exp(-u^2 / 2) is no normal number (13.2 for float32)."""
    return math.sqrt(2.0 * _EXPONENTS[dtype])


def gaussian(x: Any, height: Any, width: Any, center: Any, *, dtype: str = "float32") -> Any:
    r"""Return the Gaussian bump of each number, finite for every input, width and centre.

    .. math:: G(x) = h \exp(-\tfrac12 u^2), \qquad u = (x - c) / w

    where |x - c| < u_max w, with u_max of `largest_offset`; 0 elsewhere, and NaN at a NaN. A difference x - c that
    leaves the floats counts as far away.

    Args:
        x: tensor of any shape, float32 or float64.
        height: h, of the same dtype, a shape that broadcasts.
        width: w, likewise; what is not positive has no support at all.
        center: c, likewise.
        dtype: what x was before it was cast up, if it was: float16 or bfloat16.
    """
    w, offset = held(width, dtype), ops.subtract(x, center)
    is_near = ops.less(ops.abs(offset), ops.multiply(support(width, dtype), largest_offset(dtype)))
    value = safe_where(is_near, offset, lambda v: _bell(ops.square(over(v, w))))
    return ops.where(ops.isnan(x), x, ops.multiply(height, value))


def radial_gaussian(x: Any, height: Any, width: Any, center: Any, *, dtype: str = "float32") -> Any:
    r"""Return the Gaussian bump of each point of the last axis, [..., 1].

    .. math:: G(x) = h \exp(-\tfrac12 \sum_i ((x_i - c_i) / w_i)^2)

    Args:
        x: [..., d], as for `gaussian`.
        height: h, [1].
        width: w, a scalar or [d].
        center: c, [d].
        dtype: as for `gaussian`.
    """
    w, offset, bound = held(width, dtype), ops.subtract(x, center), largest_offset(dtype)
    is_near = ops.less(ops.abs(offset), ops.multiply(support(width, dtype), bound))
    u = safe_where(is_near, offset, lambda v: over(v, w), bound)
    squares = ops.sum(ops.square(u), axis=-1, keepdims=True)
    value = safe_where(ops.less(squares, bound * bound), squares, _bell)
    unknown = ops.sum(ops.where(ops.isnan(x), x, ops.zeros_like(x)), axis=-1, keepdims=True)
    return ops.where(ops.isnan(unknown), unknown, ops.multiply(height, value))


def _bell(squares: Any) -> Any:
    """Return exp(-squares / 2)."""
    return ops.exp(ops.multiply(-0.5, squares))


@keras.saving.register_keras_serializable(package="convex_scoring")
class GaussianBump(Localized):
    r"""A Gaussian bump of each number, or of each point, with trainable height, width and centre.

    .. math:: G(x) = h\,\exp(-\tfrac12 u^2), \qquad u = (x - c) / w, \qquad w > 0

    The height h is of any sign, the centre c of any size. Derivatives: exp(-u^2/2) by h, G u / w by c, G u^2 / w by w,
    -G u / w by x; |dG/dx| is at most .607 |h| / w. Beyond |u| = 13.2 (float32), where exp(-u^2/2) is no normal number,
    the value is 0, and u is replaced before it is squared, so that nothing overflows; an infinite input gives 0, a NaN
    stays a NaN in its own place.

    Not compactly supported on paper, but in floats; less steep than `Bump` for the same width. With `radial`, u^2 is
    the sum over the last axis of ((x_i - c_i) / w)^2, and c is of shape [d].

    Not convex, and refused wherever a convex network could hold it (`counterexample`).

    Args:
        trainable_height: whether h is trained; a part that is not is no trainable weight, and no optimiser, decay or
            constraint changes a bit of it.
        trainable_width: whether w is.
        trainable_center: whether c is.
        height_initializer: Keras initialiser of h; None: ones.
        center_initializer: of c; None: zeros.
        **kwargs: of `Localized`: per_feature (w, and each number's h and c), radial, positivity, tanh,
            width_initializer; and of `keras.layers.Layer`.

    Input shape:
        Any, scalars included; with `radial` or `per_feature` [..., d].

    Output shape:
        The input's; with `radial` [..., 1].

    Raises:
        ValueError: positivity is none of the three forms.
        TypeError: the dtype is not floating.
    """

    width_name = "width"
    starting_factor = 0.5

    def __init__(
        self,
        *,
        trainable_height: bool = True,
        trainable_width: bool = True,
        trainable_center: bool = True,
        height_initializer: Any = None,
        center_initializer: Any = None,
        **kwargs: Any,
    ) -> None:
        self._trained = {"height": trainable_height, "width": trainable_width, "center": trainable_center}
        super().__init__(**kwargs)
        for part, trained in self._trained.items():
            if type(trained) is not bool:
                message = f"{self.name}: trainable_{part}: expected True or False, received {trained!r}."
                raise ValueError(message)
        self.height_initializer = keras.initializers.get(height_initializer)
        self.center_initializer = keras.initializers.get(center_initializer)

    def build(self, input_shape: Any) -> None:
        """Make the three variables."""
        super().build(input_shape)
        columns = (input_shape[-1],) if self.radial or self.per_feature else (1,)
        self.center = self.add_weight(
            name="center",
            shape=columns,
            initializer=self.center_initializer or "zeros",
            trainable=self._trained["center"],
            autocast=False,
        )
        self.height = self.add_weight(
            name="height",
            shape=(1,) if self.radial else columns,
            initializer=self.height_initializer or "ones",
            trainable=self._trained["height"],
            autocast=False,
        )

    def _trains_width(self) -> bool:
        return self._trained["width"]

    def _shape(self, x: Any, width: Any, dtype: str) -> Any:
        """Return the Gaussian bump of each number, or of each point."""
        c, h = (ops.cast(part, x.dtype) for part in (self.center, self.height))
        if self.radial:
            return radial_gaussian(x, h, width, c, dtype=dtype)
        if not self.per_feature:
            c, h = ops.reshape(c, ()), ops.reshape(h, ())
        return gaussian(x, h, width, c, dtype=dtype)

    def adapt(self, x: Any, *, targets: Any = None, quantile: float = 0.99, factor: float | None = None) -> None:
        """Set the centre to the median of the inputs, the width to a multiple of a quantile of their distances.

        Args:
            x: as for `Localized.adapt`.
            targets: values to fit, of the shape of the layer's outputs; the height starts at the largest of them in
                size, with its sign: from the wrong side of 0 it may never come across. None: it stays as it is.
            quantile: of the distances, above 0 and at most 1.
            factor: of the quantile; None: 0.5.

        Raises:
            ValueError: no finite input, a quantile or factor out of range, or targets that are not finite.
        """
        self.center.assign(np.median(self._finite(x), axis=0))
        super().adapt(x, quantile=quantile, factor=factor)
        if targets is not None:
            values = np.asarray(targets, np.float64).reshape(-1, self.height.shape[0])
            if not np.isfinite(values).all():
                message = f"{self.name}: adapt: expected finite targets, received NaN or infinity. Leave such rows out."
                raise ValueError(message)
            self.height.assign(values[np.abs(values).argmax(axis=0), np.arange(values.shape[1])])

    def _place(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the centre."""
        del points
        return np.asarray(ops.convert_to_numpy(self.center), np.float64)

    @property
    def counterexample(self) -> Counterexample:
        """Around the centre a positive height is a hill; between one and four widths away a negative one bends down."""
        h, w, c = 1.0, 1.0, 0.0
        if self.built:
            parts = (self.height, self.width, self.center)
            h, w, c = (float(ops.convert_to_numpy(part).reshape(-1)[0]) for part in parts)
        h = h or 1.0
        offsets = (-2.0, 0.0, 2.0) if h > 0 else (1.0, 2.5, 4.0)
        left, middle, right = (h * math.exp(-0.5 * offset * offset) for offset in offsets)
        points = (c + offsets[0] * w, c + offsets[1] * w, c + offsets[2] * w)
        name = f"the Gaussian bump of height {h:g}, width {w:g} and centre {c:g}"
        return Counterexample(name, points, (left, middle, right))

    def get_config(self) -> dict[str, Any]:
        """Return the arguments."""
        return {
            **super().get_config(),
            **{f"trainable_{part}": self._trained[part] for part in PARTS},
            "height_initializer": keras.initializers.serialize(self.height_initializer),
            "center_initializer": keras.initializers.serialize(self.center_initializer),
        }
