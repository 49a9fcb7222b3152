"""The optimal transport map between two normal distributions: affine, in closed form.

Over `starts`, which has its matrix; beside `transport`, whose baseline it is.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from training.starts import optimal_matrix

Floats = NDArray[np.float64]


def fit_map(source: NDArray[np.floating], target: NDArray[np.floating]) -> Callable[[NDArray[np.floating]], Floats]:
    r"""Return the map that takes the mean and covariance of `source` to those of `target` at least cost.

    .. math::
        T(x) = m_Q + A (x - m_P), \qquad
        A = S_P^{-1/2} \left(S_P^{1/2} S_Q S_P^{1/2}\right)^{1/2} S_P^{-1/2}

    the gradient of a convex quadratic function, and the optimal one where both are normal (I. Olkin, F. Pukelsheim, The
    distance between two random vectors with given dispersion matrices, Linear Algebra and its Applications 48, 1982).
    Where S_P is singular its inverse root is the pseudo-inverse: directions in which the source does not vary go to the
    target's mean.

    Args:
        source: [n, d], n >= 1.
        target: [m, d], m >= 1.

    Returns:
        The map of rows [k, d] to rows [k, d], in float64.
    """
    source_mean, target_mean = (rows.astype(np.float64).mean(axis=0) for rows in (source, target))
    matrix = optimal_matrix(source, target)
    return lambda rows: target_mean + (rows.astype(np.float64) - source_mean) @ matrix
