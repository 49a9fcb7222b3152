"""Batch normalisation that keeps convexity: its factor is held non-negative.

Beside the other layers; over Keras' own layer.
"""

import inspect
import math
from typing import Any

import keras
import numpy as np

from training.constraints import NonNegative, check_non_negative
from training.layers.verified import Verified

_KERAS_ARGUMENTS = set(inspect.signature(keras.layers.BatchNormalization.__init__).parameters) - {"name", "dtype"}


@keras.saving.register_keras_serializable(package="convex_scoring")
class ConvexBatchNormalization(Verified, keras.layers.BatchNormalization):
    r"""Keras' batch normalisation over the last axis with a factor that is not negative.

    .. math:: y = \gamma \circ \frac{x - \mu}{\sqrt{v + \epsilon}} + \beta, \qquad \gamma \ge 0

    At inference mu and v are constants (averages kept while training), so y is affine in x with non-negative factors:
    convex wherever its input is. In training they are those of the batch, and a row's score depends on the other rows:
    nothing is claimed there, and an export in training mode is refused by the proof. gamma is held by the constraint
    `NonNegative`, starts at 1, and is verified, like the averages, at every save and load. Where the sum over rows is
    not wanted, `ActNorm` does the same row by row (Ioffe and Szegedy, ICML 2015, for the plain layer).

    Args:
        momentum: share of the old average that each batch keeps, at least 0 and below 1.
        epsilon: added to the variance, above 0 and finite.
        center: whether there is a shift beta.
        **kwargs: of `keras.layers.Layer`.

    Input shape:
        [..., d].

    Output shape:
        [..., d].

    Raises:
        TypeError: another argument of Keras' layer, such as `axis` or `gamma_constraint`.
        ValueError: momentum or epsilon is out of range; at a save or load, where an average is not finite or a variance
            is negative.
        NegativeWeightError: at a save or load, where gamma is negative or not finite.
    """

    def __init__(self, *, momentum: float = 0.99, epsilon: float = 1e-3, center: bool = True, **kwargs: Any) -> None:
        taken = _KERAS_ARGUMENTS & set(kwargs)
        if taken:
            message = f"{sorted(taken)[0]}: not an argument of ConvexBatchNormalization, which fixes it. Leave it away."
            raise TypeError(message)
        super().__init__(
            axis=-1, momentum=momentum, epsilon=epsilon, center=center, gamma_constraint=NonNegative(), **kwargs
        )
        if not 0.0 <= momentum < 1.0:
            message = f"{self.name}: momentum: expected a number from 0 to 1, without 1, received {momentum!r}."
            raise ValueError(message)
        if not 0.0 < epsilon < math.inf:
            message = f"{self.name}: epsilon: expected a finite number above 0, received {epsilon!r}."
            raise ValueError(message)

    def verify(self) -> None:
        """Refuse a factor that is negative, averages that are not finite, and a negative variance.

        Raises:
            NegativeWeightError: names the layer and the first such factor.
            ValueError: names the layer and what it found.
        """
        check_non_negative(self.gamma.numpy(), f"{self.name}/gamma")
        mean, variance = self.moving_mean.numpy(), self.moving_variance.numpy()
        if not (np.isfinite(mean).all() and np.isfinite(variance).all() and (variance >= 0.0).all()):
            message = (
                f"{self.name}: expected finite averages and variances of at least 0, received means from "
                f"{mean.min()} to {mean.max()} and variances from {variance.min()} to {variance.max()}."
            )
            raise ValueError(message)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments."""
        own = keras.layers.Layer.get_config(self)
        return {**own, "momentum": self.momentum, "epsilon": self.epsilon, "center": self.center}
