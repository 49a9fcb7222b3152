"""What bumps share: a positive width, one or one per feature, that starts from data and is saved whole.

Over `positive_scale`; `bump` and `gaussian_bump` are the two shapes. None of them is convex: they weigh rows beside a
convex score, and stand nowhere on the way to it.
"""

import abc
from typing import Any, ClassVar

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from training.activations import Counterexample
from training.layers.positive_scale import (
    EXPONENTIAL,
    check_form,
    check_width,
    constraint,
    raw_of,
    width_of,
    working_dtype,
)
from training.layers.verified import Verified


class NoSignalError(ValueError):
    """Every input lies where a bump is zero: its width gets no gradient from any of them."""


class Localized(Verified, keras.layers.Layer):
    """A function of a distance over a width, near one place; the base of the bumps.

    Args:
        per_feature: whether each feature of the last axis has a width of its own; else there is one, of shape [1].
        radial: whether the whole last axis is one point, whose distance counts; else each number counts alone.
        positivity: how the width is kept positive: `exponential` trains its logarithm, which finds widths of any size
            equally fast; `projection` trains it itself, brought back to 2^-100 in `build` and after each step;
            `softplus` trains the number that softplus makes it of.
        tanh: whether inputs pass through tanh first, into [-1, 1].
        width_initializer: Keras initialiser of the width, in the inputs' units; None: ones. What it gives is brought
            to at least 2^-100; `adapt` sets a better start where there are data.
        **kwargs: of `keras.layers.Layer`.
    """

    width_name: ClassVar[str]
    starting_factor: ClassVar[float]

    def __init__(
        self,
        *,
        per_feature: bool = False,
        radial: bool = False,
        positivity: str = EXPONENTIAL,
        tanh: bool = False,
        width_initializer: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not keras.backend.is_float_dtype(self.variable_dtype):
            message = f"{self.name}: dtype: expected a floating dtype, received {self.variable_dtype}."
            raise TypeError(message)
        self.per_feature = bool(per_feature)
        self.radial = bool(radial)
        self.positivity = check_form(positivity, self.name)
        self.tanh = bool(tanh)
        self.width_initializer = keras.initializers.get(width_initializer)
        self.supports_masking = True

    def build(self, input_shape: Any) -> None:
        """Make the variable of the width, positive from the start."""
        if (self.radial or self.per_feature) and (len(input_shape) < 1 or input_shape[-1] is None):
            what = "radial" if self.radial else "per_feature"
            message = (
                f"{self.name}: {what}: expected inputs of rank 1 or more and a known width, received {input_shape}."
            )
            raise ValueError(message)
        self.raw = self.add_weight(
            name=f"{self.width_name}_{self.positivity}",
            shape=(input_shape[-1],) if self.per_feature else (1,),
            initializer=self._starting_raw,
            constraint=constraint(self.positivity),
            trainable=self._trains_width(),
            autocast=False,
        )
        self.verify()

    def _starting_raw(self, shape: Any, dtype: Any = None) -> Any:
        """Return the variable's first value for the initialiser's width."""
        initializer = self.width_initializer or keras.initializers.Ones()
        return raw_of(ops.convert_to_numpy(initializer(shape, dtype=dtype)), self.positivity)

    def _trains_width(self) -> bool:
        return True

    @property
    def width(self) -> Any:
        """The width as a tensor of the variable's dtype, [1] or [d]."""
        return width_of(ops.convert_to_tensor(self.raw), self.positivity)

    def set_width(self, width: Any) -> None:
        """Set the width.

        Args:
            width: a number, or an array of the variable's shape, above 0.

        Raises:
            WidthError: one is not a finite number above 0.
        """
        values = np.broadcast_to(np.asarray(width, self.raw.dtype), tuple(self.raw.shape))
        check_width(values, f"{self.name}/{self.width_name}")
        self.raw.assign(raw_of(values, self.positivity))

    def call(self, inputs: Any) -> Any:
        """Return the bump of each number, or with `radial` of each point."""
        return self._values(ops.tanh(inputs) if self.tanh else inputs)

    def _values(self, x: Any) -> Any:
        dtype = keras.backend.standardize_dtype(x.dtype)
        working = working_dtype(dtype)
        width = ops.cast(self.width, working)
        values = self._shape(ops.cast(x, working), width if self.per_feature else ops.reshape(width, ()), dtype)
        return ops.cast(values, dtype)

    @abc.abstractmethod
    def _shape(self, x: Any, width: Any, dtype: str) -> Any:
        """Return the bump of `x`, whose type was `dtype`, for a width that broadcasts with it."""

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        """Return the input's shape; with `radial` its last axis is 1."""
        shape = tuple(input_shape)
        return (*shape[:-1], 1) if self.radial else shape

    def adapt(self, x: Any, *, quantile: float = 0.99, factor: float | None = None) -> None:
        """Set the width to a multiple of a quantile of the inputs' distances, so that most of them give a signal.

        Args:
            x: inputs, of any rank; with `radial` or `per_feature` [..., d]. NaN and infinities are left out.
            quantile: of the distances, above 0 and at most 1.
            factor: of the quantile; None: 1.5 for a bump, 0.5 for a Gaussian one.

        Raises:
            ValueError: no finite input, or a quantile or factor out of range.
        """
        factor = self.starting_factor if factor is None else factor
        if not 0.0 < quantile <= 1.0 or not 0.0 < factor < np.inf:
            message = (
                f"{self.name}: adapt: expected 0 < quantile <= 1 and a factor above 0, received {quantile}, {factor}."
            )
            raise ValueError(message)
        points = self._finite(x)
        distances = self._distances(points, self._place(points))
        widths = factor * np.quantile(distances, quantile, axis=0)
        largest = distances.max(axis=0)
        self.set_width(np.where(widths > 0, widths, np.where(largest > 0, factor * largest, 1.0)))

    def _place(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the place from which distances are measured, [columns] of `points`."""
        return np.zeros(points.shape[1])

    def _finite(self, x: Any) -> NDArray[np.float64]:
        """Return the finite inputs [n, columns] as the bump sees them: one column where it does not tell features."""
        values = np.asarray(x, np.float64)
        columns = values.shape[-1] if self.radial or self.per_feature else 1
        points = np.tanh(values).reshape(-1, columns) if self.tanh else values.reshape(-1, columns)
        points = points[np.isfinite(points).all(axis=1)]
        if not points.size:
            message = f"{self.name}: expected at least one finite input, received {values.size} others or none."
            raise ValueError(message)
        return points

    def _distances(self, points: NDArray[np.float64], place: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the distances of points [n, columns] from a place, [n, 1 or columns]."""
        offsets = np.abs(points - place)
        if not self.radial:
            return offsets
        return offsets if self.per_feature else np.linalg.norm(offsets, axis=1, keepdims=True)

    def share_inside(self, x: Any) -> float:
        """Return the share of the finite inputs at which the bump is not zero: only they train the width."""
        points = ops.cast(self._finite(x), self.compute_dtype)
        values = ops.convert_to_numpy(ops.cast(self._values(points), "float64"))
        return float(np.mean(values != 0))

    def require_signal(self, x: Any) -> None:
        """Refuse a start from which no training can begin.

        Raises:
            NoSignalError: the bump is zero at every input.
        """
        if not self.share_inside(x):
            largest = float(np.max(ops.convert_to_numpy(self.width)))
            nearest = float(np.min(self._distances(self._finite(x), self._place(self._finite(x)))))
            message = (
                f"{self.name}: all inputs outside the support: the {self.width_name} is {largest:.3g}, the nearest "
                f"input {nearest:.3g} away, and none of them gives its width a gradient. Call adapt(inputs) first."
            )
            raise NoSignalError(message)

    @property
    @abc.abstractmethod
    def counterexample(self) -> Counterexample:
        """Three points at which the function is not convex: why it may not stand in a convex network."""

    def verify(self) -> None:
        """Refuse a width that is not a finite number above 0.

        Raises:
            WidthError: names the layer and the first such width.
        """
        check_width(ops.convert_to_numpy(self.width), f"{self.name}/{self.width_name}")

    def get_config(self) -> dict[str, Any]:
        """Return the arguments."""
        return {
            **super().get_config(),
            "per_feature": self.per_feature,
            "radial": self.radial,
            "positivity": self.positivity,
            "tanh": self.tanh,
            "width_initializer": keras.initializers.serialize(self.width_initializer),
        }
