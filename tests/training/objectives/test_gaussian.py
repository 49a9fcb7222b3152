"""The affine map between two samples against covariances whose map is known."""

import numpy as np
import pytest

from training.objectives.gaussian import fit_map


def sample(covariance: np.ndarray, mean: np.ndarray, seed: int = 0, rows: int = 500) -> np.ndarray:
    """Return rows whose mean and covariance over all rows are exactly these."""
    raw = np.random.default_rng(seed).normal(size=(rows, len(mean)))
    raw -= raw.mean(axis=0)
    white = raw @ np.linalg.inv(np.linalg.cholesky(raw.T @ raw / rows)).T
    return white @ np.linalg.cholesky(covariance).T + mean


def covariance_of(rows: np.ndarray) -> np.ndarray:
    """Return the covariance over all rows."""
    centred = rows - rows.mean(axis=0)
    return centred.T @ centred / len(rows)


def test_map_between_diagonal_covariances_scales_each_feature():
    """Standard deviations 1 and 2 to 3 and 1/2: each feature less its mean times 3 and 1/4, plus the new mean."""
    source = sample(np.diag([1.0, 4.0]), np.array([1.0, -1.0]))
    target = sample(np.diag([9.0, 0.25]), np.array([10.0, 20.0]), seed=1)
    rows = np.array([[1.0, -1.0], [2.0, 3.0]])
    np.testing.assert_allclose([[10.0, 20.0], [13.0, 21.0]], fit_map(source, target)(rows), rtol=1e-9)


def test_map_is_the_symmetric_positive_one_that_takes_one_covariance_to_the_other():
    """These three properties have one solution (Olkin, Pukelsheim 1982), also where the covariances do not commute."""
    generator = np.random.default_rng(3)
    first, second = (m @ m.T + 0.1 * np.eye(4) for m in generator.normal(size=(2, 4, 4)))
    map_rows = fit_map(sample(first, np.zeros(4)), sample(second, np.ones(4), seed=1))
    matrix = map_rows(np.eye(4)) - map_rows(np.zeros((1, 4)))
    np.testing.assert_allclose(matrix, matrix.T, atol=1e-9)
    np.testing.assert_allclose(second, matrix @ first @ matrix, atol=1e-8)
    assert np.linalg.eigvalsh(matrix).min() > 0.0


def test_feature_without_variation_goes_to_the_targets_mean():
    """A singular covariance has no inverse root: what cannot be told apart is sent to the middle, and is finite."""
    source = np.column_stack([np.array([0.0, 1.0, 2.0]), np.full(3, 7.0)])
    target = np.column_stack([np.array([0.0, 2.0, 4.0]), np.array([1.0, 2.0, 3.0])])
    np.testing.assert_allclose([[0.0, 2.0], [4.0, 2.0]], fit_map(source, target)(source[[0, 2]]), atol=1e-9)
    nearly = source + 1e-9 * np.random.default_rng(0).normal(size=source.shape)
    assert np.abs(fit_map(nearly, target)(nearly)).max() < 1e3


def test_single_row_is_moved_to_the_other():
    """No covariance at all leaves the shift of the means."""
    assert [[5.0, 6.0]] == fit_map(np.array([[1.0, 2.0]]), np.array([[5.0, 6.0]]))(np.array([[1.0, 2.0]])).tolist()


def test_map_of_one_feature_is_a_line():
    """From deviation 1 to 3."""
    source, target = sample(np.eye(1), np.zeros(1)), sample(9.0 * np.eye(1), np.full(1, 5.0), seed=2)
    assert 11.0 == pytest.approx(fit_map(source, target)(np.array([[2.0]]))[0, 0])
