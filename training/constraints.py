"""The projection that keeps a kernel non-negative.

At the bottom of training; `layers.dense_partially_constrained` puts it on its kernel.
"""

from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray


@keras.saving.register_keras_serializable(package="convex_scoring")
class NonNegative(keras.constraints.Constraint):
    r"""Projection onto the non-negative orthant: the nearest non-negative weights.

    .. math:: P(W) = \arg\min_{V \ge 0} \|V - W\|^2 = \max(W, 0)

    Keras applies a constraint after each optimiser step, but neither when a layer is built nor on a plain
    `assign`: the layer projects inside `build` and checks at every save and load, `InputConvexNetwork.verify` checks
    at any time. A NaN stays a NaN, so that divergence is seen.
    """

    def __call__(self, w: Any) -> Any:
        """Return max(w, 0), entry by entry."""
        return ops.maximum(w, ops.cast(0.0, w.dtype))


class NonNegativeAnd(keras.constraints.Constraint):
    """A user's constraint between two projections: what comes out is non-negative, whatever the constraint does.

    Projected first, so that a constraint on norms (`UnitNorm`, `MaxNorm`) sees the weights that are kept.

    Args:
        constraint: the user's.
    """

    def __init__(self, constraint: Any) -> None:
        self.constraint = constraint
        self._project = NonNegative()

    def __call__(self, w: Any) -> Any:
        """Return the projection of the constrained projection."""
        return self._project(self.constraint(self._project(w)))

    def get_config(self) -> dict[str, Any]:
        """Return the user's constraint."""
        return {"constraint": keras.constraints.serialize(self.constraint)}


class NegativeWeightError(ValueError):
    """A weight that must be non-negative and finite, and is not: with it the network need not be convex."""


def check_non_negative(weights: NDArray[np.floating], where: str) -> None:
    """Refuse weights of which one is negative, NaN or infinite; -0.0 counts as 0.

    Args:
        weights: array of any shape.
        where: what the weights are, for the message.

    Raises:
        NegativeWeightError: names the first such weight and its index.
    """
    good = (weights >= 0.0) & np.isfinite(weights)
    if not good.all():
        index = tuple(int(part) for part in np.argwhere(~good)[0])
        message = (
            f"{where}: expected finite weights >= 0, received {weights[index]!r} at {list(index)} "
            f"({int((~good).sum())} such weights of {weights.size}). The network need not be convex with them."
        )
        raise NegativeWeightError(message)
