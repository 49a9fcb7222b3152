"""Where a network starts: layers rescaled from data, and the best affine map as a potential's first one.

Over `icnn`, whose own start these replace; `objectives` compare transports with the same affine map.
"""

from typing import Any

import numpy as np
from keras import ops
from numpy.typing import NDArray

from training.icnn import InputConvexNetwork
from training.layers.unit_kinds import DENSE

Floats = NDArray[np.float64]

LEAST_ROOT = 1e-3
"""Least root of an eigenvalue of a potential's quadratic form at the start: at 0 the form has no gradient."""


def rescale_layers(network: InputConvexNetwork, rows: NDArray[np.floating]) -> list[tuple[float, float]]:
    r"""Give every layer's pre-activations on `rows` mean 0 and variance 1, by one shift and one gain a layer.

    .. math:: W \gets g W, \quad A \gets g A, \quad b \gets g (b + s), \qquad g > 0

    with s = -mean and g = 1 / deviation, over all rows and units of the layer, from the first layer to the output. A
    positive gain keeps every sign, so the network stays convex. The moments then hold in every depth and for every
    activation, also where the formulas of `initializers` are a first approximation only; that units become alike is up
    to the passthrough's share. Where a layer gives one number for all rows and units, its gain is 1.

    Args:
        network: new; its standardisation is set.
        rows: [n, d], raw rows.

    Returns:
        Shift s and gain g of each layer, the first layer's first.

    Raises:
        ValueError: the network has units of several pieces, which have a start of their own.
    """
    if network.kind.name != DENSE:
        message = f"{network.name}: unit: expected a network of dense units to rescale, received {network.kind.name!r}."
        raise ValueError(message)
    u = network.standardization(ops.convert_to_tensor(rows.astype(np.float32)))
    found = [_rescale([network.first.kernel], network.first.bias, ops.matmul(u, network.first.kernel))]
    z = network.first(u)
    for layer in network.constrained:
        mixed = ops.add(ops.matmul(z, layer.kernel), ops.matmul(u, layer.passthrough))
        found.append(_rescale([layer.kernel, layer.passthrough], layer.bias, mixed))
        z = layer([z, u])
    network.verify()
    return found


def _rescale(kernels: list[Any], bias: Any, mixed: Any) -> tuple[float, float]:
    """Rescale one layer whose pre-activations are `mixed` [n, units] and the bias; return shift and gain."""
    p = np.asarray(ops.add(mixed, bias), dtype=np.float64)
    shift, deviation = -float(p.mean()), float(p.std())
    gain = 1.0 / deviation if deviation > np.finfo(np.float32).tiny else 1.0
    for kernel in kernels:
        kernel.assign(ops.multiply(kernel, gain))
    bias.assign(ops.multiply(ops.add(bias, shift), gain))
    return shift, gain


def start_at_gaussian_map(
    network: InputConvexNetwork, source: NDArray[np.floating], target: NDArray[np.floating]
) -> None:
    r"""Make a potential's map at the start the optimal one between normal distributions fitted to both samples.

    .. math:: \nabla f(x) = m_Q + A (x - m_P), \qquad B B^{\mathsf T} = A - m I

    with A of `optimal_matrix`, B the matrix of `QuadraticForm` and m the coefficient of `Quadratic`; A needs no change
    of units, since a potential has one scale for both samples. No training is
    needed for it: between two normal distributions it is the answer, elsewhere the best affine map. The layers beside
    the form keep the small weight of the identity's start.

    Args:
        network: a new potential of `icnn.create_potential`, made for the same samples.
        source: [n, d], rows to map.
        target: [m, d], rows to reach.

    Raises:
        ValueError: the network is no potential.
    """
    if network.quadratic_form is None:
        message = f"{network.name}: expected a potential, received no such network. Make it with potential=True."
        raise ValueError(message)
    coefficient = 0.0 if network.quadratic is None else network.quadratic.coefficient
    values, vectors = np.linalg.eigh(optimal_matrix(source, target))
    roots = np.sqrt(np.maximum(values - coefficient, LEAST_ROOT**2))
    network.quadratic_form.kernel.assign(((vectors * roots) @ vectors.T).astype(np.float32))


def optimal_matrix(source: NDArray[np.floating], target: NDArray[np.floating]) -> Floats:
    r"""Return the matrix of the optimal map between normal distributions with the samples' covariances.

    .. math:: A = S_P^{-1/2} \left(S_P^{1/2} S_Q S_P^{1/2}\right)^{1/2} S_P^{-1/2}

    symmetric and positive semidefinite (I. Olkin, F. Pukelsheim, Linear Algebra and its Applications 48, 1982). Where
    S_P is singular its inverse root is the pseudo-inverse.

    Args:
        source: [n, d], n >= 1.
        target: [m, d], m >= 1.

    Returns:
        [d, d], float64.
    """
    root, inverse_root = _roots(_covariance(source))
    middle, _ = _roots(root @ _covariance(target) @ root)
    matrix: Floats = inverse_root @ middle @ inverse_root
    return matrix


def _covariance(rows: NDArray[np.floating]) -> Floats:
    """Return the covariance [d, d] over all rows."""
    x = rows.astype(np.float64)
    mean = x.mean(axis=0)
    covariance: Floats = (x - mean).T @ (x - mean) / len(x)
    return covariance


def _roots(matrix: Floats) -> tuple[Floats, Floats]:
    """Return the square root of a symmetric matrix without negative eigenvalues, and the root's pseudo-inverse."""
    values, vectors = np.linalg.eigh(0.5 * (matrix + matrix.T))
    roots = np.sqrt(np.maximum(values, 0.0))
    smallest = np.sqrt(len(matrix) * np.finfo(np.float64).eps) * roots.max()
    inverse = np.divide(1.0, roots, out=np.zeros_like(roots), where=roots > smallest)
    return (vectors * roots) @ vectors.T, (vectors * inverse) @ vectors.T
