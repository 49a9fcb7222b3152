"""The layer that gives each feature a positive scale and a shift, started from data.

Beside the other layers; it may stand anywhere, between layers too.
"""

from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from training.layers.verified import Verified


@keras.saving.register_keras_serializable(package="convex_scoring")
class ActNorm(Verified, keras.layers.Layer):
    r"""Each feature times a positive scale, plus a shift, both trained.

    .. math:: y = e^{s} \circ x + b

    Convex wherever its input is, and affine where that is: an exponential is positive whatever s is, so there is no
    sign to watch, and each row is computed by itself, in training too (Kingma and Dhariwal, NeurIPS 2018). `adapt` is
    the data-dependent start, after which the given inputs of the layer come out with mean 0 and variance 1; until then
    s and b are 0. A scale that has left the positive floats is refused by every save and load.

    Example:
        >>> layer = ActNorm()
        >>> layer.build((None, 1))
        >>> layer.adapt(np.array([[1.0], [3.0]]))
        >>> layer(keras.ops.convert_to_tensor([[1.0], [3.0]])).numpy().tolist()
        [[-1.0], [1.0]]

    Args:
        **kwargs: of `keras.layers.Layer`.

    Input shape:
        [..., d].

    Output shape:
        [..., d].

    Raises:
        ValueError: at `adapt`, a save or a load, where a scale or shift is not finite, or a scale is 0.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.supports_masking = True

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Make the two weights for d features."""
        shape = (input_shape[-1],)
        self.log_scale = self.add_weight(name="log_scale", shape=shape, initializer="zeros")
        self.bias = self.add_weight(name="bias", shape=shape, initializer="zeros")

    def call(self, x: Any) -> Any:
        """Return exp(log_scale) * x + bias."""
        return ops.add(ops.multiply(x, ops.exp(self.log_scale)), self.bias)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Return the input's shape."""
        return tuple(input_shape)

    def adapt(self, x: NDArray[np.floating]) -> None:
        """Set scale and shift from inputs `x` [..., d] of the layer; a constant feature keeps the scale 1.

        Raises:
            ValueError: the inputs are so extreme that a scale or shift is no number in float32.
        """
        rows = x.reshape(-1, x.shape[-1]).astype(np.float64)
        deviation = rows.std(axis=0)
        varies = deviation > np.finfo(np.float32).tiny
        scale = 1.0 / np.where(varies, deviation, 1.0)
        self.log_scale.assign(np.log(scale))
        self.bias.assign(-rows.mean(axis=0) * scale)
        self.verify()

    def verify(self) -> None:
        """Refuse a scale that is not a positive number, or a shift that is no number.

        Raises:
            ValueError: names the layer and the first such feature.
        """
        log_scale, bias = self.log_scale.numpy(), self.bias.numpy()
        with np.errstate(over="ignore", under="ignore"):
            scale = np.exp(log_scale)
        bad = ~(np.isfinite(bias) & np.isfinite(scale) & (scale > 0.0))
        if bad.any():
            at = int(np.argmax(bad))
            message = (
                f"{self.name}: expected a finite shift and a scale above 0 for feature {at}, received the shift "
                f"{bias[at]} and the logarithm {log_scale[at]} of the scale. Train with smaller steps."
            )
            raise ValueError(message)
