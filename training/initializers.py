"""Initialisers for kernels that must stay non-negative: log-normal weights with the right moments.

At the bottom of training; `layers.dense_partially_constrained` uses them by default. The formulas are those of Hoedt
and Klambauer (NeurIPS 2023, arXiv 2312.12474), generalised from ReLU to a leaky ReLU of slope alpha, and scaled so
that the passthrough keeps a share gamma of the variance of the pre-activations.
"""

import dataclasses
import math
from typing import Any

import keras

CORRELATION = 0.5
"""Correlation rho between units that the formulas aim at, as in the paper."""

PASSTHROUGH_SHARE = 0.5
"""Share gamma of each pre-activation's variance at the start that comes through the passthrough."""


@dataclasses.dataclass(frozen=True)
class Moments:
    """Mean and variance of one kernel's weights, and the bias that centres the pre-activations."""

    mean: float
    variance: float
    bias: float


def moments(fan_in: int, *, slope: float = 0.0, share: float = 0.0) -> Moments:
    r"""Return the moments that carry pre-activation mean 0 and variance 1 on to the next layer.

    With n = `fan_in`, alpha = `slope`, rho = `CORRELATION`, gamma = `share` and
    m = sqrt(1 - rho^2) + rho arccos(-rho):

    .. math::
        \mu^2 = (1-\gamma)\,\rho / \left(\tfrac{n(1+\alpha^2)}{2}
                + n(n-1)\left[\alpha\rho + \tfrac{(1-\alpha)^2 m}{2\pi}\right]
                - \tfrac{n^2(1-\alpha)^2}{2\pi}\right), \quad
        \sigma^2 = \frac{2(1-\gamma)(1-\rho)}{(1+\alpha^2)\,n}, \quad
        b = -n\,\mu\,\frac{1-\alpha}{\sqrt{2\pi}}

    Let the units below be leaky ReLUs of pre-activations of mean 0, variance 1 and pairwise correlation rho. Over
    independent weights, z W + b then has mean 0, variance 1 - gamma and covariance (1 - gamma) rho between units,
    exactly. `PassthroughNormal` adds independent terms of variance gamma: the sum has variance 1 and correlation
    (1 - gamma) rho, so that units stay different through many layers. gamma = 0 is the paper's rule, which keeps the
    correlation at rho. For softplus (taken as alpha = 0) and its relatives a first approximation.

    Args:
        fan_in: number n of inputs of the kernel, at least 1.
        slope: alpha, slope of the activation of the layer below for negative arguments, in [0, 1].
        share: gamma, share of the variance that the passthrough carries, in [0, 1).
    """
    kink = (1.0 - slope) ** 2 / (2.0 * math.pi)
    m = math.sqrt(1.0 - CORRELATION**2) + CORRELATION * math.acos(-CORRELATION)
    square = 0.5 * fan_in * (1.0 + slope**2)
    cross = fan_in * (fan_in - 1) * (slope * CORRELATION + kink * m)
    mean = math.sqrt((1.0 - share) * CORRELATION / (square + cross - fan_in**2 * kink))
    variance = 2.0 * (1.0 - share) * (1.0 - CORRELATION) / ((1.0 + slope**2) * fan_in)
    return Moments(mean, variance, -fan_in * mean * (1.0 - slope) / math.sqrt(2.0 * math.pi))


@keras.saving.register_keras_serializable(package="convex_scoring")
class NonNegativeLogNormal(keras.initializers.Initializer):
    """Log-normal kernel weights, all positive, with the moments of `moments`.

    The log-normal is very skewed (fan-in 128, share 0: mean 0.014, standard deviation 0.088), so averages over a few
    draws scatter widely.

    Args:
        slope: see `moments`.
        share: see `moments`.
        seed: whole number, the same weights at every call; None draws a fixed one from Keras' global seed.
    """

    def __init__(self, slope: float = 0.0, share: float = PASSTHROUGH_SHARE, seed: int | None = None) -> None:
        self.slope = slope
        self.share = share
        self.seed = seed if seed is not None else int(keras.random.randint((), 0, 2**31 - 1))

    def __call__(self, shape: tuple[int, ...], dtype: str | None = None) -> Any:
        """Return weights of `shape` [fan-in, units]."""
        target = moments(shape[0], slope=self.slope, share=self.share)
        log_variance = math.log1p(target.variance / target.mean**2)
        log_mean = math.log(target.mean) - log_variance / 2.0
        normal = keras.random.normal(shape, log_mean, math.sqrt(log_variance), dtype=dtype, seed=self.seed)
        return keras.ops.exp(normal)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments, the seed included."""
        return {"slope": self.slope, "share": self.share, "seed": self.seed}


@keras.saving.register_keras_serializable(package="convex_scoring")
class PassthroughNormal(keras.initializers.Initializer):
    """Normal passthrough weights of variance share / d, for d inputs of variance 1.

    Args:
        share: see `moments`.
        seed: as for `NonNegativeLogNormal`.
    """

    def __init__(self, share: float = PASSTHROUGH_SHARE, seed: int | None = None) -> None:
        self.share = share
        self.seed = seed if seed is not None else int(keras.random.randint((), 0, 2**31 - 1))

    def __call__(self, shape: tuple[int, ...], dtype: str | None = None) -> Any:
        """Return weights of `shape` [d, units]."""
        return keras.random.normal(shape, 0.0, math.sqrt(self.share / shape[0]), dtype=dtype, seed=self.seed)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments, the seed included."""
        return {"share": self.share, "seed": self.seed}
