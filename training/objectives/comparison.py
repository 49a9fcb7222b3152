"""Two versions compared on the same held-out rows: the metric of both, and how far chance alone moves them apart.

Beside the objectives, which say what a row's loss is; `gate` decides by what is found here. NumPy only.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from training.answers import Answers

_RESAMPLES = 400
_SEED = 20_260_101

Floats = NDArray[np.floating]
Metric = Callable[[Floats, Floats], float]
"""Scores [n] and targets [n] to one number; NaN where it is not defined."""


@dataclasses.dataclass(frozen=True)
class Comparison:
    """One metric of champion and challenger on the same rows.

    Args:
        champion: the champion's metric, or None without a champion.
        challenger: the challenger's metric; NaN where it is not defined.
        rows: how many rows were compared; of two samples, the smaller one's.
        standard_error: of the paired difference, or None without a champion.
        champion_error: standard error of the champion's metric less the floor, or None without a champion.
        method: how the standard error was found.
        floor: the metric of a perfect version, where that depends on the number of rows; else None.
    """

    champion: float | None
    challenger: float
    rows: int
    standard_error: float | None = None
    champion_error: float | None = None
    method: str = ""
    floor: float | None = None


def compare_scores(
    champion: Answers | None, challenger: Answers, targets: Floats, metric: Metric, *, is_area: bool = False
) -> Comparison:
    """Return a metric of the scores of both, with its standard errors.

    The standard errors are DeLong's for the area under the ROC curve of two and more rows of each class (E. DeLong, D.
    DeLong, D. Clarke-Pearson, Comparing the areas under two or more correlated receiver operating characteristic
    curves, Biometrics 44, 1988; by midranks as X. Sun, W. Xu, IEEE Signal Processing Letters 21, 2014), a paired
    bootstrap over rows for every other metric (B. Efron, R. Tibshirani, An Introduction to the Bootstrap, 1993, chapter
    6), with a fixed seed.

    Args:
        champion: answers of the version that is published, or None where there is none.
        challenger: answers of the version just trained, on the same rows.
        targets: [n], the rows' targets.
        metric: of scores and targets; answers that are not finite are never given to it and count as NaN.
        is_area: whether the metric is the area under the ROC curve.
    """
    value = metric(challenger.score, targets) if challenger.are_finite() else float("nan")
    if champion is None:
        return Comparison(None, value, len(targets))
    if not (champion.are_finite() and challenger.are_finite()):
        nan = float("nan")
        return Comparison(nan, value, len(targets), nan, nan, "none: answers that are not finite")
    old, new = (np.asarray(answers.score, dtype=np.float64) for answers in (champion, challenger))
    if is_area and 2 <= np.sum(np.asarray(targets) > 0.5) <= len(targets) - 2:
        error, champion_error, method = delong(old, new, targets)[1], area_error(old, targets), "DeLong"
    else:
        error, method = paired_bootstrap(old, new, targets, metric), f"paired bootstrap, {_RESAMPLES} resamples"
        champion_error = _bootstrap(lambda rows: metric(old[rows], targets[rows]), len(targets))
    return Comparison(metric(old, targets), value, len(targets), error, champion_error, method)


def delong(champion: Floats, challenger: Floats, targets: Floats) -> tuple[float, float]:
    r"""Return the difference of the two areas under the curve and its standard error.

    With midranks, for score k and m positive, n negative rows:

    .. math::
        V_{10}^k(i) = (R_k(i) - R_k^{+}(i)) / n, \quad V_{01}^k(j) = 1 - (R_k(j) - R_k^{-}(j)) / m, \quad
        S = \mathrm{cov}(V_{10}) / m + \mathrm{cov}(V_{01}) / n.

    Args:
        champion: scores [r].
        challenger: scores [r] of the same rows.
        targets: [r], 1 for positive rows, else 0; at least two of each for a standard error (else NaN).
    """
    areas, covariance = _areas([champion, challenger], targets)
    contrast = np.array([-1.0, 1.0])
    return float(areas[1] - areas[0]), float(np.sqrt(max(contrast @ covariance @ contrast, 0.0)))


def area_error(scores: Floats, targets: Floats) -> float:
    """Return DeLong's standard error of one area under the curve, NaN with fewer than two rows of either class."""
    return float(np.sqrt(_areas([scores], targets)[1][0, 0]))


def _areas(scores: Sequence[Floats], targets: Floats) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the areas [k] of k scores and their covariance S [k, k], NaN with fewer than two rows of either class."""
    positive = np.asarray(targets) > 0.5
    count, rest = int(positive.sum()), int((~positive).sum())
    inner = np.stack([(_midranks(s)[positive] - _midranks(s[positive])) / rest for s in scores])
    outer = np.stack([1 - (_midranks(s)[~positive] - _midranks(s[~positive])) / count for s in scores])
    if count < 2 or rest < 2:
        return inner.mean(axis=1), np.full((len(scores), len(scores)), np.nan)
    return inner.mean(axis=1), np.atleast_2d(np.cov(inner) / count + np.cov(outer) / rest)


def paired_bootstrap(champion: Floats, challenger: Floats, targets: Floats, metric: Metric) -> float:
    """Return the standard deviation, over resampled rows, of metric(challenger) - metric(champion)."""
    return _bootstrap(
        lambda rows: metric(challenger[rows], targets[rows]) - metric(champion[rows], targets[rows]), len(targets)
    )


def _bootstrap(statistic: Callable[[NDArray[np.intp]], float], count: int) -> float:
    """Return the standard deviation of `statistic` over `_RESAMPLES` draws of `count` rows with replacement."""
    generator = np.random.default_rng(_SEED)
    values = np.asarray([statistic(generator.integers(0, count, count)) for _ in range(_RESAMPLES)])
    finite = values[np.isfinite(values)]
    return float(finite.std(ddof=1)) if len(finite) > 1 else float("nan")


def _midranks(values: Floats) -> NDArray[np.float64]:
    """Return the ranks from 1, equal values sharing the mean of theirs."""
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks: NDArray[np.float64] = (last - (counts - 1) / 2.0)[places]
    return ranks
