"""One column in a few numbers: where its values lie, how many in each place, and how far another night's differ.

Below `fingerprint`, which keeps one of these for each column, and `drift`, which compares. NumPy and SciPy's functions.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtrc, chdtri

BINS = 10
"""Bins of a column of many values: its deciles."""

MAX_VALUES = 16
"""A column of at most so many distinct values is kept value by value."""

_ROWS_PER_VALUE = 5
_MIN_EXPECTED = 5.0
_HALF_A_ROW = 0.5
_DEVIATIONS = 3.0

Floats = NDArray[np.floating]
Counts = NDArray[np.int64]


@dataclasses.dataclass(frozen=True, eq=False)
class Histogram:
    """The values of one column, in float32, as a model gets them.

    Args:
        places: [k], increasing: the upper ends of all bins but the last, each bin with its upper end; or, where the
            values are few, these values.
        counts: rows in each bin [k + 1], or of each value [k].
        minimum: smallest value.
        maximum: largest value.
        few: whether `places` are values.
        bad: cells of the column that were missing or infinite, among all rows that were read.
    """

    places: Floats
    counts: Counts
    minimum: float
    maximum: float
    few: bool
    bad: int = 0

    @property
    def rows(self) -> int:
        """The number of values."""
        return int(self.counts.sum())

    def count(self, values: Floats) -> Counts:
        """Return how many of `values` [m] lie in each place of `counts`; of few values, others are in none."""
        found = _in_float32(values)
        places = np.searchsorted(self.places, found, side="left")
        if self.few:
            places = np.minimum(places, len(self.places) - 1)
            places = places[self.places[places] == found]
        return np.bincount(places, minlength=len(self.counts)).astype(np.int64)

    def outside(self, values: Floats, widening: float) -> int:
        """Return how many of `values` [m] are none of the few values, or lie outside of the range made wider.

        Args:
            values: of another night.
            widening: how far beyond either end is still inside, as a share of the range.
        """
        found = _in_float32(values)
        if self.few:
            return len(found) - int(self.count(values).sum())
        margin = widening * (self.maximum - self.minimum)
        return int(((found < self.minimum - margin) | (found > self.maximum + margin)).sum())

    @property
    def usually_outside(self) -> float:
        """The share of rows that are `outside` of it, without any widening, where nothing changed.

        Of n rows and one more, each is the smallest or the largest with the same probability; a value that nobody had
        yet has about that of the values that one row had (I. Good, The population frequencies of species and the
        estimation of population parameters, Biometrika 40, 1953).
        """
        alone = int((self.counts == 1).sum()) if self.few else 1
        return min((alone + 1) / (self.rows + 1), 1.0)

    def gone(self, counts: Counts, tail: float) -> list[float]:
        """Return the values, of few, that no row has any more though chance would leave some, but for `tail`.

        Args:
            counts: as `count` returns them for another night of m rows.
            tail: a value of share p is gone where (1 - p)^m is less, p taken three standard errors smaller.
        """
        if not self.few:
            return []
        share = self.counts / self.rows
        least = np.maximum(share - _DEVIATIONS * np.sqrt(share * (1 - share) / self.rows), 0.0)
        missed = (counts == 0) & ((1.0 - least) ** max(int(counts.sum()), 1) < tail)
        return [float(value) for value in self.places[missed]]

    def to_document(self) -> dict[str, Any]:
        """Return the histogram as JSON values; nine digits are all of a float32."""
        document: dict[str, Any] = {
            "values" if self.few else "edges": [_short(place) for place in self.places],
            "counts": self.counts.tolist(),
            "bad": self.bad,
        }
        return document if self.few else {**document, "min": _short(self.minimum), "max": _short(self.maximum)}


def take(values: Floats, bad: int = 0) -> Histogram:
    """Return the histogram of one column.

    Args:
        values: [n], at least one, all finite.
        bad: cells that were dropped before.
    """
    found = _in_float32(values)
    distinct, counts = np.unique(found, return_counts=True)
    low, high = float(distinct[0]), float(distinct[-1])
    if len(distinct) == 1 or len(distinct) <= min(MAX_VALUES, len(found) // _ROWS_PER_VALUE):
        return Histogram(distinct, counts.astype(np.int64), low, high, few=True, bad=bad)
    edges = np.unique(np.quantile(found, np.arange(1, BINS) / BINS, method="inverted_cdf"))
    edges = edges[edges < high]  # no bin is empty
    counts = np.bincount(np.searchsorted(edges, found, side="left"), minlength=len(edges) + 1)
    return Histogram(edges, counts.astype(np.int64), low, high, few=False, bad=bad)


def from_document(document: Mapping[str, Any]) -> Histogram:
    """Return what `to_document` wrote.

    Raises:
        ValueError, KeyError, TypeError: it is not that.
    """
    few = "values" in document
    places = _in_float32(np.asarray(document["values" if few else "edges"], dtype=np.float64))
    counts = np.asarray(document["counts"], dtype=np.int64)
    wanted = len(places) if few else len(places) + 1
    if (
        places.ndim != 1
        or counts.shape != (wanted,)
        or not wanted
        or (counts < 1).any()
        or (np.diff(places) <= 0).any()
    ):
        message = f"{len(places)} places and {len(counts)} counts are no histogram"
        raise ValueError(message)
    ends = places if few else _in_float32(np.asarray([document["min"], document["max"]], dtype=np.float64))
    return Histogram(places, counts, float(ends[0]), float(ends[-1]), few, int(document["bad"]))


def stability_index(before: Counts, after: Counts, rows: int | None = None) -> tuple[float, int]:
    r"""Return the population stability index and the number of groups of bins that it was computed over.

    .. math:: \mathrm{PSI} = \sum_i (p_i - q_i) \ln(p_i / q_i)

    with p and q the shares of rows in group i, before and after: Kullback and Leibler's symmetric divergence (S.
    Kullback, R. Leibler, On information and sufficiency, Annals of Mathematical Statistics 22, 1951), known under this
    name from credit scoring (N. Siddiqi, Credit Risk Scorecards, 2006, where 0.1 counts as a small and 0.25 as a large
    change). Neighbouring bins are taken together until chance alone would leave five rows in each on the smaller side;
    a group that is empty counts as half a row.

    Args:
        before: rows in each bin, none of them empty.
        after: rows in the same bins.
        rows: how many rows there are after, where some are in no bin; None: their sum.
    """
    total, others = int(before.sum()), int(after.sum()) if rows is None else rows
    starts = _groups(before / total * min(total, others))
    if len(starts) < 2:
        return 0.0, len(starts)
    p = np.add.reduceat(before, starts) / total
    q = np.maximum(np.add.reduceat(after, starts), _HALF_A_ROW) / others
    return float(np.sum((p - q) * np.log(p / q))), len(starts)


def chance(groups: int, before: int, after: int, tail: float) -> float:
    r"""Return the stability index that chance alone exceeds with probability `tail`.

    Without any drift the index is distributed as :math:`(1/n + 1/m)\,\chi^2_{B-1}`, whose mean is
    :math:`(B - 1)(1/n + 1/m)` (B. Yurdakul, Statistical properties of the population stability index, Western Michigan
    University, 2018); of few rows it is a little more often above, 8 % instead of 5 % where m is 100. Where the m rows
    contain some of the n, chance does less, and this is on the safe side.

    Args:
        groups: B.
        before: n.
        after: m.
        tail: a probability.
    """
    return 0.0 if groups < 2 else float((1.0 / before + 1.0 / after) * chdtri(groups - 1, tail))


def is_above(count: int, rows: int, *, usual: float, allowed: float, tail: float) -> bool:
    """Tell whether `count` of `rows` rows are more than is allowed, and more than chance makes of what is usual.

    Args:
        count: rows that show something.
        rows: all of them.
        usual: the share that shows it where nothing changed; `count` must have a binomial tail below `tail` then.
        allowed: the share, beyond the usual one, that may.
        tail: a probability.
    """
    if count == 0 or count <= (usual + allowed) * rows:
        return False
    return usual <= 0.0 or float(bdtrc(count - 1, rows, usual)) < tail


def _groups(expected: Floats) -> NDArray[np.int64]:
    """Return where each group of neighbouring bins begins, so that every one has enough expected rows."""
    starts, held = [0], 0.0
    for place, one in enumerate(expected):
        if held >= _MIN_EXPECTED and expected[place:].sum() >= _MIN_EXPECTED:
            starts.append(place)
            held = 0.0
        held += float(one)
    return np.asarray(starts, dtype=np.int64)


def _in_float32(values: Floats) -> NDArray[np.float64]:
    """Return the values as float32 has them, -0.0 as 0.0."""
    return np.asarray(values, dtype=np.float32).astype(np.float64) + 0.0


def _short(value: float) -> float:
    return float(f"{value:.9g}")
