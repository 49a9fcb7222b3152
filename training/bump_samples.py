"""Points and bump values at them, to learn a width from: drawn, and filtered where a form needs it.

At the bottom of training, beside `datasets`; NumPy alone, so that the layers are tested against something else.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

LIMIT = 1.0
"""Largest |y| that is kept: no bump of height 1/e or 1 is larger."""


@dataclasses.dataclass(frozen=True, eq=False)
class BumpSamples:
    """Points with the values of a bump.

    Args:
        x: float32 [n, 1].
        y: float32 [n, 1], finite, at most the limit in size.
        num_removed: points that were drawn and left out, because their value is NaN, infinite or too large.
    """

    x: NDArray[np.float32]
    y: NDArray[np.float32]
    num_removed: int


def draw_bump(
    radius: float, num_points: int = 1000, *, span: tuple[float, float] = (-1.0, 1.0), seed: int = 0
) -> BumpSamples:
    r"""Return points drawn evenly from a range and the values of the bump of a radius s.

    .. math:: y = \exp(-1 / ((1 - u)(1 + u))) \text{ for } |u| < 1,\ u = x / s, \quad \text{else } 0

    All of them lie in [0, 1/e], whatever the radius and the range: nothing is ever left out.

    Args:
        radius: s, at least 0.
        num_points: how many.
        span: ends of the range.
        seed: the same seed, the same points.

    Raises:
        ValueError: a negative or infinite radius, no points, or a range that is none.
    """

    def value(x: NDArray[np.float64]) -> NDArray[np.float64]:
        with np.errstate(all="ignore"):
            u = x / radius
            t = (1.0 - u) * (1.0 + u)
            return np.where(np.abs(x) < radius, np.exp(-1.0 / np.where(t > 0.0, t, np.inf)) * (t > 0.0), 0.0)

    _check("radius", radius)
    return _drawn(value, num_points, span, seed, LIMIT)


def draw_sigma_bump(
    sigma: float,
    num_points: int = 1000,
    *,
    span: tuple[float, float] = (-1.0, 1.0),
    seed: int = 0,
    limit: float = LIMIT,
) -> BumpSamples:
    r"""Return points drawn evenly from a range and the values of the bump of `SigmaBump`, in its bare form.

    .. math:: y = \exp(-\sigma / (\sigma - x^2)) \text{ for } |x| < \sigma, \quad \text{else } 0

    Where sigma > 1 and the range goes beyond [-1, 1] this is NaN, infinite or enormous between sqrt(sigma) and sigma:
    such points are left out and counted. Inside [-1, 1] there are none.

    Args:
        sigma: at least 0.
        num_points: how many are drawn.
        span: ends of the range.
        seed: the same seed, the same points.
        limit: largest |y| that is kept.

    Raises:
        ValueError: as `draw_bump`; or nothing is left.
    """

    def value(x: NDArray[np.float64]) -> NDArray[np.float64]:
        with np.errstate(all="ignore"):
            return np.where(np.abs(x) < sigma, np.exp(-sigma / (sigma - x * x)), 0.0)

    _check("sigma", sigma)
    return _drawn(value, num_points, span, seed, limit)


def _check(name: str, width: float) -> None:
    if not 0.0 <= width < np.inf:
        message = f"{name}: expected a finite number of at least 0, received {width}."
        raise ValueError(message)


def _drawn(
    value: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    num_points: int,
    span: tuple[float, float],
    seed: int,
    limit: float,
) -> BumpSamples:
    low, high = span
    if num_points < 1 or not -np.inf < low < high < np.inf:
        message = f"expected at least one point and a range low < high, received {num_points} points and {span}."
        raise ValueError(message)
    drawn = np.random.default_rng(seed).uniform(0.0, 1.0, num_points)
    x = (low * (1.0 - drawn) + high * drawn).astype(np.float32)  # high - low may leave the floats
    y = value(x.astype(np.float64))
    with np.errstate(invalid="ignore"):
        kept = np.abs(y) <= limit  # false for NaN
    if not kept.any():
        message = (
            f"all of {num_points} points were removed: every value is NaN, infinite or above {limit:g} in size. Choose "
            "a range that meets the support."
        )
        raise ValueError(message)
    return BumpSamples(x[kept, None], y[kept, None].astype(np.float32), int((~kept).sum()))
