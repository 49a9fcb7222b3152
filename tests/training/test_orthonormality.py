"""The constraint that keeps columns orthonormal, and its check."""

import numpy as np
import pytest

from training.orthonormality import NotOrthonormalError, Orthonormal, check_orthonormal

RNG = np.random.default_rng(0)


def projected(matrix: np.ndarray) -> np.ndarray:
    """Return what the constraint makes of a matrix."""
    return np.asarray(Orthonormal()(matrix.astype(np.float32)), float)


@pytest.mark.parametrize("shape", [(5, 1), (5, 3), (4, 4)])
def test_projected_matrix_has_orthonormal_columns_and_spans_the_same(shape):
    """The columns are orthonormal, and the first k of them span what the first k of the matrix do."""
    matrix = RNG.normal(size=shape)
    found = projected(matrix)
    np.testing.assert_allclose(found.T @ found, np.eye(shape[1]), atol=1e-5)
    np.testing.assert_allclose(found @ (found.T @ matrix), matrix, atol=1e-5)
    triangle = found.T @ matrix
    np.testing.assert_allclose(triangle, np.triu(triangle), atol=1e-5)
    assert (np.diag(triangle) > 0).all()


def test_orthonormal_matrix_comes_back_as_it_is():
    """Projecting twice is projecting once, and a rotation stays the same rotation."""
    once = projected(RNG.normal(size=(5, 3)))
    np.testing.assert_allclose(projected(once), once, atol=1e-6)


def test_dependent_columns_are_completed_and_a_nan_is_kept():
    """Two equal columns give two orthonormal ones; divergence is not hidden."""
    found = projected(np.ones((4, 2)))
    np.testing.assert_allclose(found.T @ found, np.eye(2), atol=1e-5)
    assert np.isnan(projected(np.full((4, 2), np.nan))).any()


@pytest.mark.parametrize("matrix", [np.eye(3) * 1.001, np.ones((3, 2)), np.full((3, 2), np.nan), np.zeros((3, 1))])
def test_matrix_without_orthonormal_columns_is_refused(matrix):
    """The message says how far they are from it."""
    check_orthonormal(np.eye(3)[:, :2], "mine")
    with pytest.raises(NotOrthonormalError, match="mine: expected orthonormal columns, received columns whose"):
        check_orthonormal(matrix, "mine")
