"""The layer of trained squares of few mixtures of features, with non-negative coefficients.

Beside the other layers; `diagonal_quadratic` squares single features, `quadratic_form` as many mixtures as features.
"""

from typing import Any

import keras
from keras import ops

from training.constraints import NonNegative, check_non_negative
from training.initializers import PassthroughNormal
from training.layers.verified import Verified
from training.refusals import check_coefficient


@keras.saving.register_keras_serializable(package="convex_scoring")
class LowRankQuadratic(Verified, keras.layers.Layer):
    r"""Units that are sums of squares of few mixtures of features, times coefficients that are not negative.

    .. math:: q_j(x) = \tfrac12 \sum_{k=1}^{r} c_{kj} (x B)_k^2, \qquad c_{kj} \ge 0

    Convex in x where x is affine in the network's input, for every B: each is half x B diag(c) B^T x^T, a positive
    semidefinite form of rank r at most, with d r + r weights where a full one has d^2. All units share the directions
    B. A square falls below zero, so the layer stands on the input, never on a layer that is convex only. The
    coefficients are projected inside `build` and after each optimiser step, and verified at every save and load.

    Args:
        rank: number r of directions, at least 1.
        units: number of outputs, at least 1.
        initial: every coefficient at the start, at least 0 and finite.
        directions_initializer: Keras initialiser of B; None: normal, so that each direction has length near 1.
        **kwargs: of `keras.layers.Layer`.

    Input shape:
        [..., d].

    Output shape:
        [..., units].

    Raises:
        ArgumentRefusedError: `initial` is negative, which would be concave.
        ValueError: `initial` is not finite; rank or units is not a positive whole number.
        NegativeWeightError: at a save or load, where a coefficient is negative or not finite.
    """

    def __init__(
        self,
        rank: int,
        units: int = 1,
        *,
        initial: float = 1.0,
        directions_initializer: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        for name, count in (("rank", rank), ("units", units)):
            if type(count) is not int or count < 1:
                message = f"{self.name}: {name}: expected a whole number of at least 1, received {count!r}."
                raise ValueError(message)
        self.rank = rank
        self.units = units
        self.initial = check_coefficient(initial, f"{self.name}: initial")
        self.directions_initializer = keras.initializers.get(directions_initializer)
        self.supports_masking = True

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Make the directions [d, rank] and the coefficients [rank, units]."""
        self.directions = self.add_weight(
            name="directions",
            shape=(input_shape[-1], self.rank),
            initializer=self.directions_initializer or PassthroughNormal(share=1.0),
        )
        self.coefficients = self.add_weight(
            name="coefficients",
            shape=(self.rank, self.units),
            initializer=keras.initializers.Constant(self.initial),
            constraint=NonNegative(),
        )

    def call(self, x: Any) -> Any:
        """Return half the squares of x @ directions, times the coefficients."""
        squares = ops.square(ops.matmul(x, self.directions))
        return ops.multiply(0.5, ops.matmul(squares, self.coefficients))

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
        return {
            **super().get_config(),
            "rank": self.rank,
            "units": self.units,
            "initial": self.initial,
            "directions_initializer": keras.initializers.serialize(self.directions_initializer),
        }
