"""The exact distance between samples, against all permutations and closed forms."""

import itertools

import numpy as np
import pytest

from training.assignment import w2_squared


def by_all_permutations(first: np.ndarray, second: np.ndarray) -> float:
    """Return the least mean squared distance over every one-to-one assignment."""
    orders = itertools.permutations(range(len(first)))
    return min(float(np.mean(np.sum((first - second[list(order)]) ** 2, axis=1))) for order in orders)


@pytest.mark.parametrize("dim", [1, 2, 5])
@pytest.mark.parametrize("rows", [1, 2, 6])
def test_distance_equals_the_least_over_all_permutations(rows, dim):
    """Brute force over n! assignments gives the same number."""
    rng = np.random.default_rng(rows)
    first, second = rng.normal(size=(rows, dim)), rng.normal(1.0, 3.0, (rows, dim))
    assert by_all_permutations(first, second) == pytest.approx(w2_squared(first, second), rel=1e-12)


def test_distance_in_one_dimension_is_that_of_the_sorted_samples():
    """On the line the monotone assignment is the best one, at a size that no brute force reaches."""
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=500), rng.gamma(2.0, size=500)
    expected = np.mean((np.sort(first) - np.sort(second)) ** 2)
    assert expected == pytest.approx(w2_squared(first[:, None], second[:, None]), rel=1e-12)


def test_distance_of_a_shifted_sample_is_the_square_of_the_shift():
    """Without the factor one half, whatever the order of the rows; of a sample to itself it is zero."""
    rng = np.random.default_rng(0)
    rows, shift = rng.normal(size=(200, 3)), np.array([3.0, -4.0, 12.0])
    assert pytest.approx(169.0, rel=1e-12) == w2_squared(rows, rng.permutation(rows) + shift)
    assert 0.0 == w2_squared(rows, rng.permutation(rows))


def test_distance_is_computed_in_float64_from_float32_rows():
    """Far from zero, single precision would lose a distance of this size."""
    rows = np.full((3, 1), 1e4, np.float32)
    moved = np.nextafter(rows, np.float32(np.inf))
    assert (float(moved[0, 0]) - 1e4) ** 2 == pytest.approx(w2_squared(rows, moved), rel=1e-12)


@pytest.mark.parametrize("shape", [(4, 2), (6, 2), (5, 3), (5,)])
def test_samples_of_unequal_shapes_are_refused(shape):
    """Some rows would find no partner, in silence."""
    with pytest.raises(ValueError, match=r"two samples of one shape \[n, d\], received"):
        w2_squared(np.zeros((5, 2)), np.zeros(shape))
