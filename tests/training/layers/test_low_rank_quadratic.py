"""The quadratic of low rank: its formula, its convexity and its sign."""

import keras
import numpy as np
import pytest

from training.constraints import NegativeWeightError
from training.layers.low_rank_quadratic import LowRankQuadratic

RNG = np.random.default_rng(0)
X = RNG.normal(size=(7, 4)).astype(np.float32)


def built(rank: int = 2, units: int = 3) -> LowRankQuadratic:
    """Return a layer for rows of width 4 with random weights, a zero coefficient among them."""
    layer = LowRankQuadratic(rank, units, name="mine")
    layer.build((None, 4))
    coefficients = np.abs(RNG.normal(size=(rank, units)))
    coefficients[0, 0] = 0.0
    layer.coefficients.assign(coefficients)
    return layer


def test_low_rank_quadratic_equals_half_the_form_of_its_directions():
    """Each unit is x B diag(c) B^T x^T / 2 in float64 NumPy."""
    layer = built()
    b, c = layer.directions.numpy().astype(float), layer.coefficients.numpy().astype(float)
    expected = 0.5 * np.einsum("ni,ik,kj,lk,nl->nj", X, b, c, b, X)
    np.testing.assert_allclose(np.asarray(layer(X)), expected, rtol=1e-5)


def test_low_rank_quadratic_has_a_positive_semidefinite_form_of_that_rank():
    """The matrix of each unit, read off at the unit vectors and their sums, has no negative eigenvalue."""
    layer, eye = built(), np.eye(4, dtype=np.float32)
    single = np.asarray(layer(eye), float)
    pairs = np.asarray(layer((eye[:, None] + eye[None, :]).reshape(16, 4)), float).reshape(4, 4, 3)
    forms = pairs - single[:, None] - single[None, :]
    eigenvalues = np.linalg.eigvalsh(np.moveaxis(forms, 2, 0))
    assert eigenvalues.min() >= -1e-5
    assert [1, 2, 2] == [int((values > 1e-5).sum()) for values in eigenvalues]


def test_coefficients_of_low_rank_stay_non_negative_and_are_verified_at_a_save(tmp_path):
    """A loss that pulls them below zero leaves them at zero, and a negative one is not saved."""
    layer = built(units=1)
    model = keras.Sequential([keras.Input((4,)), layer])
    model.compile(keras.optimizers.SGD(50.0), loss=lambda _, y: keras.ops.mean(y))
    model.train_on_batch(X, np.zeros((7, 1)))
    np.testing.assert_array_equal(np.zeros((2, 1)), layer.coefficients.numpy())
    layer.coefficients.assign([[1.0], [-1.0]])
    with pytest.raises(NegativeWeightError, match=r"mine/coefficients: .*\[1, 0\]"):
        keras.Sequential([keras.Input((4,)), layer]).save(tmp_path / "bad.keras")


@pytest.mark.parametrize("arguments", [(0, 1), (1, 0), (2.5, 1), (1, True)])
def test_counts_that_are_no_positive_whole_numbers_are_refused_by_low_rank(arguments):
    """The message names the argument."""
    with pytest.raises(ValueError, match=r"(rank|units): expected a whole number of at least 1"):
        LowRankQuadratic(*arguments)
