"""The layer of trained squares of single features, with non-negative coefficients.

Beside the other layers; `low_rank_quadratic` squares mixtures of features.
"""

from typing import Any

import keras
from keras import ops

from training.constraints import NonNegative, check_non_negative
from training.layers.verified import Verified
from training.refusals import check_coefficient


@keras.saving.register_keras_serializable(package="convex_scoring")
class DiagonalQuadratic(Verified, keras.layers.Layer):
    r"""Units that are sums of squares of single features, times trained coefficients that are not negative.

    .. math:: q_j(x) = \tfrac12 \sum_i c_{ij} x_i^2, \qquad c_{ij} \ge 0

    Convex in x where x is affine in the network's input; a unit whose coefficients are all above m is m-strongly
    convex in x, which the proof finds. A square falls below zero, so the layer stands on the input, never on a layer
    that is convex only. The coefficients are projected inside `build` and after each optimiser step, and verified at
    every save and load.

    Example:
        >>> DiagonalQuadratic(initial=2.0)(keras.ops.convert_to_tensor([[1.0, 3.0]])).numpy().tolist()
        [[10.0]]

    Args:
        units: number of outputs, at least 1.
        initial: every coefficient at the start, at least 0 and finite.
        **kwargs: of `keras.layers.Layer`.

    Input shape:
        [..., d].

    Output shape:
        [..., units].

    Raises:
        ArgumentRefusedError: `initial` is negative, which would be concave.
        ValueError: `initial` is not finite; units is not a positive whole number.
        NegativeWeightError: at a save or load, where a coefficient is negative or not finite.
    """

    def __init__(self, units: int = 1, *, initial: float = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if type(units) is not int or units < 1:
            message = f"{self.name}: units: expected a whole number of at least 1, received {units!r}."
            raise ValueError(message)
        self.units = units
        self.initial = check_coefficient(initial, f"{self.name}: initial")
        self.supports_masking = True

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Make the coefficients [d, units]."""
        self.coefficients = self.add_weight(
            name="coefficients",
            shape=(input_shape[-1], self.units),
            initializer=keras.initializers.Constant(self.initial),
            constraint=NonNegative(),
        )

    def call(self, x: Any) -> Any:
        """Return half the squares of x, times the coefficients."""
        return ops.multiply(0.5, ops.matmul(ops.square(x), self.coefficients))

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Return [..., units]."""
        return (*input_shape[:-1], self.units)

    def verify(self) -> None:
        """Refuse a coefficient that is not finite and non-negative.

        Raises:
            NegativeWeightError: names the layer and the first such coefficient.
        """
        check_non_negative(self.coefficients.numpy(), f"{self.name}/coefficients")

    def get_config(self) -> dict[str, Any]:
        """Return the arguments."""
        return {**super().get_config(), "units": self.units, "initial": self.initial}
