"""The constraint that keeps the columns of a matrix orthonormal, and the check of it.

At the bottom of training, beside `constraints`; `layers.orthogonal_projection` puts it on its matrix.
"""

from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

TOLERANCE = 1e-4
"""Largest entry of P^T P - I that counts as rounding in float32."""


@keras.saving.register_keras_serializable(package="convex_scoring")
class Orthonormal(keras.constraints.Constraint):
    r"""Retraction onto the matrices with orthonormal columns: the Q factor, its columns turned as they were.

    .. math:: W = Q R, \qquad P(W) = Q \,\mathrm{diag}(\mathrm{sign}(R_{ii})), \qquad P(W)^{\mathsf T} P(W) = I

    A matrix that has such columns comes back as it is, up to rounding; after a small step of an optimiser the result is
    near the matrix (Absil, Mahony, Sepulchre: *Optimization Algorithms on Matrix Manifolds*, example 4.1.3). Columns
    that depend on one another are completed by others. A NaN stays a NaN, so that divergence is seen.

    Input shape:
        [d, k], k at most d.
    """

    def __call__(self, w: Any) -> Any:
        """Return the nearest such matrix along the retraction."""
        columns, triangle = ops.qr(w, mode="reduced")
        diagonal = ops.diagonal(triangle)
        signs = ops.where(diagonal < 0, ops.cast(-1.0, w.dtype), ops.cast(1.0, w.dtype))
        return ops.multiply(columns, signs)


class NotOrthonormalError(ValueError):
    """A matrix whose columns are not orthonormal, where a class promises that they are."""


def check_orthonormal(matrix: NDArray[np.floating], where: str) -> None:
    """Refuse a matrix [d, k] whose columns are not orthonormal up to `TOLERANCE`, or not finite.

    Raises:
        NotOrthonormalError: names the matrix and the largest deviation.
    """
    exact = matrix.astype(np.float64)
    with np.errstate(all="ignore"):
        off = np.abs(exact.T @ exact - np.eye(exact.shape[1])).max(initial=0.0)
    if not off <= TOLERANCE:
        message = (
            f"{where}: expected orthonormal columns, received columns whose products differ by {off:.3g} from those of "
            f"such (at most {TOLERANCE:g} is rounding). Assign a matrix that `Orthonormal` has projected."
        )
        raise NotOrthonormalError(message)
