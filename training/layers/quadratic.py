"""The layer that makes a network strongly convex.

Beside the other layers; `icnn` adds its output to the score.
"""

from typing import Any

import keras
from keras import ops

from training.refusals import check_coefficient


@keras.saving.register_keras_serializable(package="convex_scoring")
class Quadratic(keras.layers.Layer):
    r"""Half the squared Euclidean norm of a row, times a constant.

    .. math:: q(x) = \tfrac{m}{2} \|x\|^2, \qquad m \ge 0

    Convex, and m-strongly convex: added to any convex function it bounds its curvature below by m.

    Args:
        coefficient: m, at least 0 and finite. A constant: no optimiser moves it.
        **kwargs: of `keras.layers.Layer`.

    Input shape:
        [..., d].

    Output shape:
        [..., 1].

    Raises:
        ArgumentRefusedError: the coefficient is negative, which would be concave.
        ValueError: it is not finite.
    """

    def __init__(self, coefficient: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.coefficient = check_coefficient(coefficient, f"{self.name}: coefficient")
        self.supports_masking = True

    def call(self, x: Any) -> Any:
        """Return (m / 2) sum of squares over the features."""
        return ops.multiply(0.5 * self.coefficient, ops.sum(ops.square(x), axis=-1, keepdims=True))

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Return [..., 1]."""
        return (*input_shape[:-1], 1)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments."""
        return {**super().get_config(), "coefficient": self.coefficient}
