"""The layer that says how far a row is inside of the data that a network was fitted to: a model's `support` output.

Beside `bump`, whose function it is; `icnn` gives it the standardised rows that the score is computed of.
"""

import math
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from training.layers.bump import cut
from training.layers.positive_scale import check_width
from training.layers.safe_where import safe_where

QUANTILE, FACTOR = 0.99, 1.5
"""The radius is this multiple of this quantile of the training rows' distances from their centre."""

_CUT = cut("float32", unit_peak=True)


@keras.saving.register_keras_serializable(package="convex_scoring")
class DomainWeight(keras.layers.Layer):
    r"""The unit-peak bump of a standardised row's distance from the centre of the data.

    .. math:: w(u) = \exp\left(1 - \frac{1}{1 - r^2}\right) \text{ for } r = \|u\| / s < 1, \quad \text{else } 0

    In [0, 1]: 1 at the mean of the training rows, 0 where a row lies farther away than 1.5 times as far as 99 of 100 of
    them, and smooth between. A score there is still convex, but no data speak for it. No optimiser moves the `radius`
    s: `adapt` sets it from the rows. Neither convex nor on the way to the score: it is an output of its own.

    Input shape:
        [n, d].

    Output shape:
        [n].
    """

    def build(self, _input_shape: Any) -> None:
        """Make the one weight."""
        self.radius = self.add_weight(name="radius", shape=(), initializer="ones", trainable=False)

    def call(self, u: Any) -> Any:
        """Return the weights; an infinite distance has the weight 0."""
        distance = ops.sqrt(ops.sum(ops.square(u), axis=-1))
        is_inside = ops.less(distance, ops.multiply(self.radius, math.sqrt(1.0 - 1.0 / _CUT)))

        def weight(r: Any) -> Any:
            ratio = ops.divide(r, self.radius)
            t = ops.multiply(ops.subtract(1.0, ratio), ops.add(1.0, ratio))
            return ops.exp(ops.subtract(1.0, ops.divide(1.0, t)))

        return safe_where(is_inside, distance, weight)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Return [n]."""
        return tuple(input_shape[:-1])

    def adapt(self, u: NDArray[np.floating]) -> None:
        """Set the radius from standardised training rows [n, d]; where all lie in the centre, it is 1."""
        distances = np.linalg.norm(np.asarray(u, np.float64), axis=1)
        radius = FACTOR * float(np.quantile(distances, QUANTILE)) or FACTOR * float(distances.max()) or 1.0
        self.radius.assign(np.float32(radius))
        self.verify()

    def verify(self) -> None:
        """Refuse a radius that is not a finite number above 0.

        Raises:
            WidthError: names the layer and the radius.
        """
        check_width(self.radius.numpy().reshape(1), f"{self.name}/radius")

    def load_own_variables(self, store: Any) -> None:
        """Load the radius and verify it."""
        super().load_own_variables(store)
        self.verify()
