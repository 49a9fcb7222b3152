"""The start of kernels above units of several pieces."""

import math

import numpy as np
import pytest

from training.piece_initializers import PieceLogNormal, piece_moments, reduced_moments


@pytest.mark.parametrize(
    ("pieces", "mean", "variance"),
    [(1, 0.0, 1.0), (2, 1 / math.sqrt(math.pi), 1 - 1 / math.pi), (3, 1.5 / math.sqrt(math.pi), 0.559467)],
)
def test_moments_of_the_largest_normal_are_the_known_ones(pieces, mean, variance):
    """The first order statistics of normals: Harter (1961), to a hundredth."""
    found = reduced_moments(pieces, 0.0)
    assert mean == pytest.approx(found[0], abs=0.015)
    assert variance == pytest.approx(found[1], abs=0.025)


def test_moments_of_the_smooth_maximum_tend_to_those_of_the_maximum_and_of_the_sum():
    """A small temperature gives the maximum, a large one the mean plus t log p."""
    np.testing.assert_allclose(reduced_moments(3, 1e-4), reduced_moments(3, 0.0), atol=1e-3)
    mean, variance = reduced_moments(4, 1e3)
    assert 1e3 * math.log(4) == pytest.approx(mean, abs=0.02)
    assert 0.25 == pytest.approx(variance, abs=0.01)


@pytest.mark.parametrize(("pieces", "temperature"), [(2, 0.0), (4, 0.0), (3, 1.0)])
def test_weights_carry_pieces_on_with_the_stated_mean_variance_and_covariance(pieces, temperature):
    """Below are normal pieces of correlation 0.4; over rows and weights z W + b is what the docstring states."""
    draw, units, rows = np.random.default_rng(0), 128, 1000
    common, own = draw.normal(size=(rows, 1, 1)), draw.normal(size=(rows, units, pieces))
    below = math.sqrt(0.4) * common + math.sqrt(0.6) * own
    reduced = below.max(axis=-1)
    if temperature:
        reduced = temperature * np.log(np.exp(below / temperature).sum(axis=-1))
    target = piece_moments(units, pieces, temperature)
    values = reduced @ draw.normal(target.mean, math.sqrt(target.variance), (units, 3000)) + target.bias
    shared = target.mean**2 * reduced.sum(axis=1).var()  # what the mean weight alone would give
    assert 0.0 == pytest.approx(values.mean(), abs=0.15)
    second = float(np.square(values).mean() - shared)
    assert 0.5 * 0.2 == pytest.approx(second, rel=0.15)
    covariance = np.cov(values[:, :400].T)[~np.eye(400, dtype=bool)].mean()
    assert shared == pytest.approx(covariance, rel=0.15)
    assert shared < 0.5 * 0.8


def test_initializer_draws_positive_weights_with_these_moments():
    """All weights are positive, with the mean and variance of the rule, the same ones at each call."""
    initializer = PieceLogNormal(3, 0.5, seed=1)
    weights = np.asarray(initializer((64, 20000)), float)
    target = piece_moments(64, 3, 0.5)
    assert weights.min() > 0.0
    assert target.mean == pytest.approx(weights.mean(), rel=0.02)
    assert target.variance == pytest.approx(weights.var(), rel=0.2)
    np.testing.assert_array_equal(weights, np.asarray(initializer((64, 20000)), float))
