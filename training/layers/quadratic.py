"""The layer that makes a network strongly convex.

Beside the other layers; `icnn` adds its output to the score.
"""

import math
from typing import Any

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="convex_scoring")
class Quadratic(keras.layers.Layer):
    r"""Half the squared Euclidean norm of a row, times a constant.

    .. math:: q(x) = \tfrac{m}{2} \|x\|^2, \qquad m \ge 0

    Convex, and m-strongly convex: added to any convex function it bounds its curvature below by m.

    Args:
        coefficient: m, at least 0 and finite. A constant: no optimiser moves it.
        **kwargs: of `keras.layers.Layer`.

    Input shape:
        [n, d].

    Output shape:
        [n, 1].

    Raises:
        ValueError: the coefficient is negative or not finite.
    """

    def __init__(self, coefficient: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not (math.isfinite(coefficient) and coefficient >= 0.0):
            message = f"{self.name}: coefficient: expected a finite number of at least 0, received {coefficient!r}."
            raise ValueError(message)
        self.coefficient = float(coefficient)

    def call(self, x: Any) -> Any:
        """Return (m / 2) sum of squares over the features."""
        return ops.multiply(0.5 * self.coefficient, ops.sum(ops.square(x), axis=-1, keepdims=True))

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Return [..., 1]."""
        return (*input_shape[:-1], 1)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments."""
        return {**super().get_config(), "coefficient": self.coefficient}
