"""The optimal transport map between two normal distributions: affine, in closed form.

Beside `transport`, whose baseline it is.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

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
    source_mean, source_covariance = _moments(source)
    target_mean, target_covariance = _moments(target)
    root, inverse_root = _roots(source_covariance)
    middle, _ = _roots(root @ target_covariance @ root)
    matrix = inverse_root @ middle @ inverse_root
    return lambda rows: target_mean + (rows.astype(np.float64) - source_mean) @ matrix


def _moments(rows: NDArray[np.floating]) -> tuple[Floats, Floats]:
    """Return the mean [d] and the covariance [d, d] over all rows."""
    x = rows.astype(np.float64)
    mean = x.mean(axis=0)
    return mean, (x - mean).T @ (x - mean) / len(x)


def _roots(matrix: Floats) -> tuple[Floats, Floats]:
    """Return the square root of a symmetric matrix without negative eigenvalues, and the root's pseudo-inverse."""
    values, vectors = np.linalg.eigh(0.5 * (matrix + matrix.T))
    roots = np.sqrt(np.maximum(values, 0.0))
    smallest = np.sqrt(len(matrix) * np.finfo(np.float64).eps) * roots.max()
    inverse = np.divide(1.0, roots, out=np.zeros_like(roots), where=roots > smallest)
    return (vectors * roots) @ vectors.T, (vectors * inverse) @ vectors.T
