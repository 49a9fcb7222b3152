"""Losses row by row, compared between two sets of rows: is one of them harder, or easier, than chance allows?

Below `evidence`, which asks it of new rows and of held-out ones. NumPy only.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]


@dataclasses.dataclass(frozen=True)
class Moments:
    """What is kept of the losses of some rows.

    Args:
        rows: how many, at least two.
        mean: their mean.
        variance: their variance about it (over the number of rows).
    """

    rows: int
    mean: float
    variance: float

    def to_document(self) -> dict[str, float]:
        """Return the moments as JSON values."""
        return dataclasses.asdict(self)


def moments(losses: Floats) -> Moments | None:
    """Return the moments of losses [n], or None of fewer than two rows or of numbers that are not finite."""
    values = np.asarray(losses, dtype=np.float64)
    if len(values) < 2 or not np.isfinite(values).all():
        return None
    return Moments(len(values), float(values.mean()), float(values.var()))


def from_document(document: Any) -> Moments | None:
    """Return what `to_document` wrote, or None where it is not that."""
    if not isinstance(document, Mapping):
        return None
    rows, mean, variance = (document.get(name) for name in ("rows", "mean", "variance"))
    if type(rows) is not int or not isinstance(mean, int | float) or not isinstance(variance, int | float):
        return None
    return Moments(rows, float(mean), float(variance)) if rows > 1 and variance >= 0 else None


def unit_of(document: Any) -> float | None:
    """Return the unit of losses (`bounded`) that stands beside moments, or None where there is none above 0."""
    value = document.get("unit") if isinstance(document, Mapping) else None
    return float(value) if isinstance(value, int | float) and value > 0 else None


def bounded(losses: Floats, unit: float) -> NDArray[np.float64]:
    r"""Return losses [n] as errors from 0 to 1, so that a few huge ones do not hide how many are large.

    .. math:: 1 - e^{-\ell / u}

    Of the logistic loss with u = 1 that is |y - p|, how far the probability was off; of the squared error with u twice
    its mean, Welsch's robust loss (R. Dennis, R. Welsch, Techniques for nonlinear least squares and robust regression,
    Communications in Statistics 7, 1978).
    """
    errors: NDArray[np.float64] = -np.expm1(-np.asarray(losses, dtype=np.float64) / unit)
    return errors


def excess(first: Moments, second: Moments) -> float:
    r"""Return how much larger the mean of the second losses is, in standard errors of a permutation of all rows.

    .. math::
        z = \frac{\bar b - \bar a}{\sqrt{S^2\,(1/n + 1/m)}}, \qquad
        S^2 = \frac{\sum_i (a_i - \bar c)^2 + \sum_j (b_j - \bar c)^2}{n + m - 1}

    with :math:`\bar c` the mean of all: the exact standard deviation of the difference where rows are dealt to the two
    sets by chance (E. Pitman, Significance tests which may be applied to samples from any populations, Supplement to
    the Journal of the Royal Statistical Society 4, 1937). A few huge losses enlarge S too, so that no single row makes
    z large.

    Args:
        first: of losses a [n].
        second: of losses b [m].
    """
    total = first.rows + second.rows
    mean = (first.rows * first.mean + second.rows * second.mean) / total
    squares = sum(one.rows * (one.variance + (one.mean - mean) ** 2) for one in (first, second))
    spread = np.sqrt(squares / (total - 1) * (1.0 / first.rows + 1.0 / second.rows))
    return float((second.mean - first.mean) / spread) if spread > 0.0 else 0.0


def paired_excess(losses: Floats, others: Floats) -> float:
    """Return the mean of others - losses over its standard error; 0 where both are equal everywhere.

    Args:
        losses: [n], finite.
        others: [n], of the same rows.
    """
    differences = np.asarray(others, dtype=np.float64) - losses
    error = float(differences.std(ddof=1)) / np.sqrt(len(differences)) if len(differences) > 1 else 0.0
    return float(differences.mean() / error) if error > 0.0 else 0.0
