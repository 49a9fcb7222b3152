"""The layer that takes raw features: it puts the standardisation inside the graph.

Beside the other layers; `icnn` places it first and gives it the statistics of the training rows.
"""

from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray


@keras.saving.register_keras_serializable(package="convex_scoring")
class Standardization(keras.layers.Layer):
    r"""Each feature less its mean, over its scale.

    .. math:: x' = (x - \mu) / s, \qquad s > 0

    An affine map, so it keeps convexity. `mean` and `scale` are weights that no optimiser moves; they start at 0 and
    1 until `set_statistics` or `adapt` sets them. A scale that is not positive and finite is refused, also by a load.

    Args:
        **kwargs: of `keras.layers.Layer`.

    Input shape:
        [..., d].

    Output shape:
        [..., d].
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.supports_masking = True

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Make the two weights for d features."""
        shape = (input_shape[-1],)
        self.mean = self.add_weight(name="mean", shape=shape, initializer="zeros", trainable=False)
        self.scale = self.add_weight(name="scale", shape=shape, initializer="ones", trainable=False)

    def call(self, x: Any) -> Any:
        """Return (x - mean) / scale."""
        return ops.divide(ops.subtract(x, self.mean), self.scale)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Return the input's shape."""
        return input_shape

    def adapt(self, x: NDArray[np.floating]) -> None:
        """Set mean and standard deviation from rows `x` [n, d] as the graph will see them, in float32.

        A feature that is constant there keeps the scale 1: it then adds the same to every such row.
        """
        rows = x.astype(np.float32).astype(np.float64)
        scale = rows.std(axis=0)
        varies = (rows != rows[:1]).any(axis=0) & (scale > np.finfo(np.float32).tiny)
        self.set_statistics(rows.mean(axis=0), np.where(varies, scale, 1.0))

    def set_statistics(self, mean: NDArray[np.floating], scale: NDArray[np.floating]) -> None:
        """Set `mean` and `scale`, arrays [d].

        Raises:
            ValueError: one is not finite in float32, or a scale is not positive.
        """
        self.mean.assign(mean.astype(np.float32))
        self.scale.assign(scale.astype(np.float32))
        self.verify()

    def verify(self) -> None:
        """Refuse statistics that are not finite, or a scale that is not positive.

        Raises:
            ValueError: names the layer and the first such feature.
        """
        mean, scale = self.mean.numpy(), self.scale.numpy()
        bad = ~(np.isfinite(mean) & np.isfinite(scale) & (scale > 0.0))
        if bad.any():
            at = int(np.argmax(bad))
            message = (
                f"{self.name}: expected a finite mean and a scale above 0 for feature {at}, received mean {mean[at]} "
                f"and scale {scale[at]}. Look for extreme values in the data."
            )
            raise ValueError(message)

    def load_own_variables(self, store: Any) -> None:
        """Load the variables and verify them."""
        super().load_own_variables(store)
        self.verify()
