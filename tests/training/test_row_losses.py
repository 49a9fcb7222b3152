"""Row losses: moments, bounded errors and excesses by closed forms, and how often chance is taken for a change."""

import json

import numpy as np
import pytest

from training import row_losses


def test_excess_is_the_difference_over_the_deviation_of_all_permutations():
    """Of 3 + 4 numbers, the standard deviation over all 35 ways to deal them is that of the formula."""
    import itertools

    values = np.array([0.1, 0.4, 0.2, 0.9, 1.5, 0.8, 0.3])
    differences = []
    for chosen in itertools.combinations(range(7), 3):
        mask = np.isin(np.arange(7), chosen)
        differences.append(values[~mask].mean() - values[mask].mean())
    expected = (values[3:].mean() - values[:3].mean()) / np.std(differences)
    first, second = row_losses.moments(values[:3]), row_losses.moments(values[3:])
    assert pytest.approx(expected) == row_losses.excess(first, second)
    assert pytest.approx(-expected) == row_losses.excess(second, first)


def test_excess_of_equal_losses_is_none():
    """Two sets of the same constant do not differ."""
    same = row_losses.moments(np.ones(5))
    assert 0.0 == row_losses.excess(same, same)


def test_paired_excess_is_students_statistic():
    """The mean difference over its standard error; equal losses give 0."""
    from scipy.stats import ttest_rel

    a, b = np.random.default_rng(0).random((2, 40))
    assert pytest.approx(ttest_rel(b, a).statistic) == row_losses.paired_excess(a, b)
    assert 0.0 == row_losses.paired_excess(a, a)


def test_bounded_logistic_loss_is_the_error_of_the_probability():
    """For label 1 and probability p the loss is -ln p and the error 1 - p."""
    p = np.array([0.9, 0.5, 1e-9])
    np.testing.assert_allclose(1.0 - p, row_losses.bounded(-np.log(p), 1.0))


def test_moments_read_back_and_anything_else_is_none():
    """A manifest without them, or with something else in their place, has none."""
    found = row_losses.moments(np.array([1.0, 2.0, 4.0]))
    document = json.loads(json.dumps({**found.to_document(), "unit": 2.0}))
    assert (found, 2.0) == (row_losses.from_document(document), row_losses.unit_of(document))
    for other in (None, 3, {}, {**document, "rows": 1}, {**document, "variance": -1.0}, {**document, "mean": None}):
        assert None is row_losses.from_document(other)
    assert [None, None] == [row_losses.unit_of(other) for other in ({"unit": 0.0}, None)]


@pytest.mark.parametrize("losses", [np.array([1.0]), np.array([1.0, np.nan]), np.array([])])
def test_moments_of_one_row_or_of_nan_are_none(losses):
    """Nothing can be told of them."""
    assert None is row_losses.moments(losses)


def test_excess_of_skewed_losses_of_few_rows_is_seldom_large():
    """Of 4,000 pairs of sets in which one row in thirty is wrong, fewer than one in 500 exceeds 3.5."""
    generator = np.random.default_rng(0)
    found = []
    for _ in range(4000):
        first, second = (generator.random(rows) ** 20 + (generator.random(rows) < 1 / 30) * 0.5 for rows in (90, 40))
        found.append(row_losses.excess(row_losses.moments(first), row_losses.moments(second)))
    assert np.mean(np.array(found) > 3.5) < 1 / 500
