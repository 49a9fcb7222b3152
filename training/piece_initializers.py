"""Initialisers for kernels that read units made of several pieces: maxout and log-sum-exp.

At the bottom of training, beside `initializers`, whose rule for leaky units this carries over to pieces; the layers of
`layers.pieces` use it by default.
"""

import dataclasses
import functools
import math
from typing import Any

import keras
import numpy as np

CORRELATION = 0.8
"""Correlation between the parts of pieces that come from the layer below which the rule aims at: high, because the
sums of weights of pieces that differ much make a maximum grow from layer to layer."""

SHARE = 0.5
"""Share of each pre-activation's variance at the start that comes through the passthrough."""

_DRAWS = 1 << 14


@dataclasses.dataclass(frozen=True)
class PieceMoments:
    """Mean and variance of one kernel's weights, and the bias that centres the pre-activations."""

    mean: float
    variance: float
    bias: float


@functools.cache
def reduced_moments(pieces: int, temperature: float) -> tuple[float, float]:
    r"""Return mean and variance of p independent standard normals reduced to one, from fixed draws.

    The reduction is t log sum exp(u / t), or the maximum for t = 0. Good to about a hundredth, more than a start needs.
    """
    draws = np.random.default_rng(0).standard_normal((_DRAWS, pieces))
    reduced = draws.max(axis=1)
    if temperature > 0.0:
        shifted = (draws - reduced[:, None]) / temperature
        reduced = reduced + temperature * np.log(np.exp(shifted).sum(axis=1))
    return float(reduced.mean()), float(reduced.var())


def piece_moments(fan_in: int, pieces: int, temperature: float = 0.0) -> PieceMoments:
    r"""Return the moments that carry pre-activations on to the next layer of such units, neither larger nor smaller.

    Let all pieces below be normal with mean 0, variance 1 and pairwise correlation c = (1 - gamma) rho, so that a
    unit's value is sqrt(c) g + sqrt(1 - c) r with g common to all and r the reduction of p independent normals, of
    mean m and variance v at the temperature t / sqrt(1 - c). With n = `fan_in`, a = sqrt(1 - c) m, V = c + (1 - c) v
    and m_p the mean of the largest of p normals:

    .. math::
        \sigma^2 = \frac{(1-\gamma)(1-\rho)}{n (V + a^2)}, \quad
        \mu_1^2 = \frac{(1-\gamma)\,\rho}{n V + n(n-1) c}, \quad
        \mu = \kappa \mu_1, \quad \kappa = \frac{1}{1 + m_p\,\sigma / (\mu_1 \sqrt n)}, \quad
        b = -n\,\mu\,a

    Over independent weights of mean mu and variance sigma^2, z W + b then has mean 0 and variance
    (1 - gamma)(1 - rho + kappa^2 rho), of which (1 - gamma) kappa^2 rho is common to all pieces; the passthrough adds
    independent terms of variance gamma. kappa = 1 would keep the variance of each piece, but the largest piece goes
    with the largest sum of weights, mu n + m_p sigma sqrt(n) on average, and four pieces would grow twentyfold in
    sixteen layers. The rule follows `initializers.moments`, for another nonlinearity; that chains keep their size with
    it is what its tests say.

    Args:
        fan_in: number n of units below.
        pieces: number p of their pieces.
        temperature: t of log-sum-exp, 0 for the maximum.
    """
    common = (1.0 - SHARE) * CORRELATION
    own = math.sqrt(1.0 - common)
    mean, variance = reduced_moments(pieces, temperature / own)
    centre, spread = own * mean, common + own**2 * variance
    weight_variance = (1.0 - SHARE) * (1.0 - CORRELATION) / (fan_in * (spread + centre**2))
    full = math.sqrt((1.0 - SHARE) * CORRELATION / (fan_in * spread + fan_in * (fan_in - 1) * common))
    largest = reduced_moments(pieces, 0.0)[0]
    weight_mean = full / (1.0 + largest * math.sqrt(weight_variance / fan_in) / full)
    return PieceMoments(weight_mean, weight_variance, -fan_in * weight_mean * centre)


@keras.saving.register_keras_serializable(package="convex_scoring")
class PieceLogNormal(keras.initializers.Initializer):
    """Log-normal kernel weights, all positive, with the moments of `piece_moments`.

    Args:
        pieces: number of pieces of each unit below, at least 1.
        temperature: of a log-sum-exp below, 0 for a maximum.
        seed: whole number, the same weights at every call; None draws a fixed one from Keras' global seed.
    """

    def __init__(self, pieces: int = 2, temperature: float = 0.0, seed: int | None = None) -> None:
        self.pieces = pieces
        self.temperature = temperature
        self.seed = seed if seed is not None else int(keras.random.randint((), 0, 2**31 - 1))

    def __call__(self, shape: tuple[int, ...], dtype: str | None = None) -> Any:
        """Return weights of `shape` [fan-in, units]."""
        target = piece_moments(shape[0], self.pieces, self.temperature)
        log_variance = math.log1p(target.variance / target.mean**2)
        log_mean = math.log(target.mean) - log_variance / 2.0
        normal = keras.random.normal(shape, log_mean, math.sqrt(log_variance), dtype=dtype, seed=self.seed)
        return keras.ops.exp(normal)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments, the seed included."""
        return {"pieces": self.pieces, "temperature": self.temperature, "seed": self.seed}
