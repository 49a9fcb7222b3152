"""Histograms of columns: bins, ties, few values, and the stability index by closed forms and by chance."""

import json

import numpy as np
import pytest

from training import histogram


def psi(p: np.ndarray, q: np.ndarray) -> float:
    """Return the index by its definition."""
    return float(sum((a - b) * np.log(a / b) for a, b in zip(p, q, strict=True)))


def test_deciles_have_a_tenth_of_the_rows_each():
    """Of 1 to 1000 the edges are 100, 200, ..., 900, and every bin has 100 values."""
    found = histogram.take(np.random.default_rng(0).permutation(1000) + 1.0)
    assert list(range(100, 1000, 100)) == found.places.tolist()
    assert ([100] * 10, 1.0, 1000.0, False) == (found.counts.tolist(), found.minimum, found.maximum, found.few)
    assert [100] * 10 == found.count(np.arange(1.0, 1001.0)).tolist()


def test_ties_share_a_bin_and_no_bin_is_empty():
    """Of 700 zeros and 300 distinct values the zeros are one bin, and counts of the same rows are the same."""
    values = np.concatenate([np.zeros(700), np.arange(1.0, 301.0)])
    found = histogram.take(values)
    assert [700, 100, 100, 100] == found.counts.tolist()
    assert found.counts.tolist() == found.count(values).tolist()


@pytest.mark.parametrize(("values", "expected"), [([5.0] * 40, {5.0: 40}), ([0.0, 1.0, 1.0] * 10, {0.0: 10, 1.0: 20})])
def test_constant_and_binary_columns_are_kept_by_value(values, expected):
    """Few values need no bins; a value that was not there is in none of them, and outside."""
    found = histogram.take(np.array(values))
    assert (True, expected) == (found.few, dict(zip(found.places.tolist(), found.counts.tolist(), strict=True)))
    assert (0, 1) == (int(found.count(np.array([0.5])).sum()), found.outside(np.array([0.5]), 0.1))


def test_values_are_compared_as_float32_has_them():
    """A file with more digits than a model gets has no other values, and -0 is 0."""
    found = histogram.take(np.array([0.1, 0.1, 0.0, 0.0] * 5))
    assert 0 == found.outside(np.array([0.1 + 1e-12, float(np.float32(0.1)), -0.0]), 0.0)


def test_stability_index_is_that_of_the_closed_form():
    """(0.1, 0.9) to (0.2, 0.8) is 0.1 ln 2 + 0.1 ln (9/8), and equal shares are 0."""
    found, groups = histogram.stability_index(np.array([100, 900]), np.array([200, 800]))
    assert (pytest.approx(0.1 * np.log(2.0) + 0.1 * np.log(9.0 / 8.0)), 2) == (found, groups)
    assert (0.0, 2) == histogram.stability_index(np.array([100, 900]), np.array([20, 180]))


@pytest.mark.parametrize("shift", [0.25, 0.5, 1.0])
def test_stability_index_of_a_shifted_normal_column_is_that_of_its_bins(shift):
    """With 100,000 rows the index is the one of the exact shares of a normal distribution's deciles."""
    from scipy.stats import norm

    generator = np.random.default_rng(1)
    found = histogram.take(generator.normal(size=100_000))
    after = found.count(generator.normal(size=100_000) + shift)
    edges = norm.ppf(np.arange(1, 10) / 10)
    shares = np.diff(np.concatenate([[0.0], norm.cdf(edges - shift), [1.0]]))
    assert pytest.approx(psi(np.full(10, 0.1), shares), rel=0.1) == histogram.stability_index(found.counts, after)[0]


def test_small_bins_are_taken_together_and_empty_ones_count_half_a_row():
    """Where 10 rows are compared, ten bins of a tenth become two of a half; none of 10 rows is 0.05."""
    before = np.full(10, 100)
    after = np.array([2, 2, 2, 2, 2, 0, 0, 0, 0, 0])
    expected = psi(np.array([0.5, 0.5]), np.array([1.0, 0.05]))
    assert (pytest.approx(expected), 2) == histogram.stability_index(before, after)
    assert (0.0, 1) == histogram.stability_index(before, np.array([4] + [0] * 9))


def test_chance_exceeds_the_index_as_often_as_it_is_said_to():
    """Of 600 pairs of samples of 1000 and 500 rows without drift, about 5 % are above the bound for 5 %."""
    generator = np.random.default_rng(2)
    found = []
    for _ in range(600):
        one = histogram.take(generator.normal(size=1000))
        found.append(histogram.stability_index(one.counts, one.count(generator.normal(size=500))))
    assert 0.02 < np.mean([value > histogram.chance(groups, 1000, 500, 0.05) for value, groups in found]) < 0.08
    mean = np.mean([value for value, _ in found])
    assert pytest.approx((10 - 1) * (1 / 1000 + 1 / 500), rel=0.1) == mean


def test_outside_counts_what_lies_beyond_the_widened_range():
    """Of 0 to 100, made wider by a tenth, -11 and 111 are outside and -9 and 109 are not."""
    found = histogram.take(np.arange(101.0))
    assert 2 == found.outside(np.array([-11.0, -9.0, 50.0, 109.0, 111.0]), 0.1)


def test_gone_names_a_value_that_chance_does_not_explain():
    """A fifth of the rows had the 2; of 100 rows none has it: (4/5)^100 is no chance, of 5 rows it is."""
    found = histogram.take(np.array([0.0, 1.0, 1.0, 1.0, 2.0] * 100))
    many, few = (found.count(np.array([0.0, 1.0, 1.0, 1.0, 1.0] * times)) for times in (20, 1))
    assert ([2.0], []) == (found.gone(many, 1e-6), found.gone(few, 1e-6))


@pytest.mark.parametrize(
    ("count", "expected"), [(0, False), (5, False), (6, False), (11, True)], ids=["none", "allowed", "chance", "more"]
)
def test_is_above_asks_for_more_than_allowed_and_more_than_chance(count, expected):
    """Of 100 rows 1 % is usual and 4 % more are allowed: 5 are, 6 have a tail of 0.0005, 11 one of 1e-8."""
    assert expected is histogram.is_above(count, 100, usual=0.01, allowed=0.04, tail=1e-4)


@pytest.mark.parametrize("values", [np.arange(50.0) / 3.0, np.array([1.0, 2.0] * 10), np.array([7.0])])
def test_document_is_json_and_reads_back(values):
    """What the manifest keeps is the histogram to the last bit of a float32."""
    found = histogram.take(values, bad=3)
    again = histogram.from_document(json.loads(json.dumps(found.to_document())))
    assert (found.places.tolist(), found.counts.tolist()) == (again.places.tolist(), again.counts.tolist())
    assert (found.minimum, found.maximum, found.few, 3) == (again.minimum, again.maximum, again.few, again.bad)


@pytest.mark.parametrize(
    "document",
    [
        {"edges": [1.0], "counts": [1], "min": 0, "max": 2, "bad": 0},
        {"edges": [2.0, 1.0], "counts": [1, 1, 1], "min": 0, "max": 2, "bad": 0},
        {"values": [1.0], "counts": [0], "bad": 0},
        {"values": [], "counts": [], "bad": 0},
        {"values": [1.0], "counts": [1]},
        {"values": "x", "counts": [1], "bad": 0},
    ],
)
def test_document_that_is_no_histogram_is_refused(document):
    """Counts that do not fit, places that do not rise, empty bins and missing keys are errors."""
    with pytest.raises((ValueError, KeyError, TypeError)):
        histogram.from_document(document)
