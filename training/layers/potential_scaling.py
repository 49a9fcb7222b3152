"""The layer that puts a transport's potential back into the units of the samples.

Beside the other layers; `icnn` places it last where the gradient is a transport map.
"""

from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray


@keras.saving.register_keras_serializable(package="convex_scoring")
class PotentialScaling(keras.layers.Layer):
    r"""A potential in common standard units, in the units of the samples.

    With u = (x - m) / s for source rows x of mean m, v = (y - mean) / s for target rows y, one scale s for all
    features of both, and a potential phi whose gradient maps u to v:

    .. math:: f(x) = s^2\,\varphi(u) + s\,\langle u, \mathrm{mean} \rangle, \qquad
              \nabla f(x) = s\,\nabla\varphi(u) + \mathrm{mean}, \qquad s > 0

    so that the gradient of f maps x to y. One scale, because distances between source and target are what transport
    is about: a scale for each feature would change the cost. Convexity survives because s is positive, which is
    verified when it is set and at every load. `mean` [d] and `scale` are weights that no optimiser moves.

    Input shape:
        A pair: phi(u) of shape [n], and u of shape [n, d].

    Output shape:
        [n].
    """

    def build(self, input_shape: Any) -> None:
        """Make the two weights for d features."""
        dim = input_shape[1][-1]
        self.mean = self.add_weight(name="mean", shape=(dim,), initializer="zeros", trainable=False)
        self.scale = self.add_weight(name="scale", shape=(), initializer="ones", trainable=False)

    def call(self, inputs: Any) -> Any:
        """Return scale^2 * potential + scale * (u . mean)."""
        potential, u = inputs
        linear = ops.squeeze(ops.matmul(u, ops.expand_dims(self.mean, -1)), axis=-1)
        return ops.add(ops.multiply(potential, ops.square(self.scale)), ops.multiply(linear, self.scale))

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        """Return the shape of the potentials."""
        return tuple(input_shape[0])

    def set_statistics(self, mean: NDArray[np.floating], scale: float) -> None:
        """Set the target's `mean` [d] and the common `scale`.

        Raises:
            ValueError: one is not finite in float32, or the scale is not positive.
        """
        self.mean.assign(np.asarray(mean, np.float32))
        self.scale.assign(np.float32(scale))
        self.verify()

    def verify(self) -> None:
        """Refuse a mean that is not finite, or a scale whose square is not positive and finite.

        Raises:
            ValueError: names the layer and what it found.
        """
        mean, scale = self.mean.numpy(), self.scale.numpy()
        with np.errstate(over="ignore", under="ignore"):
            square = scale * scale
        if not (np.isfinite(mean).all() and scale > 0.0 and square > 0.0 and np.isfinite(square)):
            message = (
                f"{self.name}: expected finite means and a scale whose square is a number above 0, received the scale "
                f"{scale}. Look at the units of the samples."
            )
            raise ValueError(message)

    def load_own_variables(self, store: Any) -> None:
        """Load the variables and verify them."""
        super().load_own_variables(store)
        self.verify()
