"""The leaky ReLU whose slope below zero is trained, one for each channel, and held where it is convex and rises.

Beside the other layers, over `activations` and `constraints`.
"""

from typing import Any

import keras
import numpy as np
from keras import ops

from training.layers.verified import Verified


@keras.saving.register_keras_serializable(package="convex_scoring")
class UnitInterval(keras.constraints.Constraint):
    r"""Projection onto the numbers from 0 to 1, entry by entry: the nearest such weights.

    .. math:: P(w) = \min(\max(w, 0), 1)
    """

    def __call__(self, w: Any) -> Any:
        """Return the clipped weights; a NaN stays one."""
        return ops.clip(w, 0.0, 1.0)


class SlopeError(ValueError):
    """A trained slope outside [0, 1]: above, the function is not convex; below, it falls."""


@keras.saving.register_keras_serializable(package="convex_scoring")
class PReLU(Verified, keras.layers.Layer):
    r"""Leaky ReLU with a trained slope for each channel (the last axis).

    .. math:: \varphi_j(x) = \begin{cases} x & x > 0 \\ \alpha_j x & x \le 0 \end{cases}, \qquad 0 \le \alpha_j \le 1

    Convex and non-decreasing for all slopes that it can hold, so that it may stand after any layer: slopes are
    projected into [0, 1] inside `build` and after each optimiser step, and verified at every save and load. Keras' own
    `PReLU` lets them go anywhere, and above 1 it is not convex. Give the layer before it no activation.

    Args:
        alpha_initializer: Keras initialiser of the slopes, projected; the default is 0.2 for all.
        alpha_regularizer: Keras regulariser of the slopes.
        **kwargs: of `keras.layers.Layer`.

    Input shape:
        [..., channels], of rank 2 or more.

    Output shape:
        The same.

    Raises:
        ValueError: the number of channels is not known.
        SlopeError: a slope left [0, 1] by a plain assign, seen by `verify`, a save or a load.
    """

    def __init__(self, alpha_initializer: Any = None, alpha_regularizer: Any = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        start = keras.initializers.Constant(0.2) if alpha_initializer is None else alpha_initializer
        self.alpha_initializer = keras.initializers.get(start)
        self.alpha_regularizer = keras.regularizers.get(alpha_regularizer)
        self.supports_masking = True

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Make the slopes, one for each channel."""
        if len(input_shape) < 2 or input_shape[-1] is None:
            message = f"{self.name}: expected rank 2 or more and a known number of channels, received {input_shape}."
            raise ValueError(message)
        self.alpha = self.add_weight(
            name="alpha",
            shape=(input_shape[-1],),
            initializer=self.alpha_initializer,
            regularizer=self.alpha_regularizer,
            constraint=UnitInterval(),
        )
        self.alpha.assign(UnitInterval()(self.alpha))
        self.verify()
        self.input_spec = keras.layers.InputSpec(min_ndim=2, axes={-1: input_shape[-1]})

    def call(self, x: Any) -> Any:
        """Return x where it is positive, alpha x elsewhere."""
        return ops.where(x > 0, x, ops.multiply(x, self.alpha))

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Return the input's shape."""
        return input_shape

    def verify(self) -> None:
        """Refuse slopes of which one is not from 0 to 1.

        Raises:
            SlopeError: names the layer and the first such slope.
        """
        alpha = ops.convert_to_numpy(self.alpha)
        bad = ~((alpha >= 0.0) & (alpha <= 1.0))
        if bad.any():
            at = int(np.argmax(bad))
            message = f"{self.name}/alpha: expected slopes from 0 to 1, received {alpha[at]} at [{at}]."
            raise SlopeError(message)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments."""
        return {
            **super().get_config(),
            "alpha_initializer": keras.initializers.serialize(self.alpha_initializer),
            "alpha_regularizer": keras.regularizers.serialize(self.alpha_regularizer),
        }
