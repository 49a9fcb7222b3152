"""The layer that puts a score back into the units of a regression's target.

Beside the other layers; `icnn` places it last where the target was standardised.
"""

from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray


@keras.saving.register_keras_serializable(package="convex_scoring")
class TargetScaling(keras.layers.Layer):
    r"""A score in standard deviations, in the target's own units.

    .. math:: f = s\,f' + \mu, \qquad s > 0

    Convexity survives because s is positive, which is verified when it is set and at every load. `mean` and `scale`
    are weights that no optimiser moves.

    Input shape:
        [n].

    Output shape:
        [n].
    """

    def build(self, _input_shape: tuple[int | None, ...]) -> None:
        """Make the two scalar weights."""
        self.mean = self.add_weight(name="mean", shape=(), initializer="zeros", trainable=False)
        self.scale = self.add_weight(name="scale", shape=(), initializer="ones", trainable=False)

    def call(self, score: Any) -> Any:
        """Return scale * score + mean."""
        return ops.add(ops.multiply(score, self.scale), self.mean)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Return the input's shape."""
        return input_shape

    def adapt(self, y: NDArray[np.floating]) -> None:
        """Set mean and standard deviation of the targets `y` [n]; a constant target keeps the scale 1.

        Raises:
            ValueError: one is not finite in float32.
        """
        scale = float(y.std())
        self.mean.assign(np.float32(y.mean()))
        self.scale.assign(np.float32(scale if scale > np.finfo(np.float32).tiny else 1.0))
        self.verify()

    def verify(self) -> None:
        """Refuse a mean that is not finite, or a scale that is not positive and finite.

        Raises:
            ValueError: names the layer and both numbers.
        """
        mean, scale = float(self.mean.numpy()), float(self.scale.numpy())
        if not (np.isfinite(mean) and np.isfinite(scale) and scale > 0.0):
            message = f"{self.name}: expected a finite mean and a scale above 0, received {mean} and {scale}."
            raise ValueError(message)

    def load_own_variables(self, store: Any) -> None:
        """Load the variables and verify them."""
        super().load_own_variables(store)
        self.verify()
