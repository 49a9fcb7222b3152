"""The diagonal quadratic: its formula, its sign and its start."""

import keras
import numpy as np
import pytest

from training.constraints import NegativeWeightError
from training.layers.diagonal_quadratic import DiagonalQuadratic

X = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)


def test_diagonal_quadratic_equals_half_the_weighted_squares():
    """Each unit is half the sum of its coefficients times the squares, in float64 NumPy."""
    layer = DiagonalQuadratic(2)
    layer.build((None, 3))
    coefficients = np.array([[0.5, 0.0], [2.0, 1.0], [0.0, 3.0]])
    layer.coefficients.assign(coefficients)
    np.testing.assert_allclose(np.asarray(layer(X)), 0.5 * X.astype(float) ** 2 @ coefficients, rtol=1e-6)


@pytest.mark.parametrize("initial", [0, 0.25, 3.0])
def test_coefficients_start_where_they_are_told_to(initial):
    """Every coefficient is the number given."""
    layer = DiagonalQuadratic(2, initial=initial)
    layer.build((None, 3))
    np.testing.assert_array_equal(np.full((3, 2), initial, np.float32), layer.coefficients.numpy())


def test_coefficients_stay_non_negative_under_an_optimizer_and_are_verified_at_a_save(tmp_path):
    """A loss that pulls them below zero leaves them at zero, and a negative one is not saved."""
    layer = DiagonalQuadratic(initial=0.5, name="mine")
    model = keras.Sequential([keras.Input((3,)), layer])
    model.compile(keras.optimizers.SGD(5.0), loss=lambda _, y: keras.ops.mean(y))
    model.train_on_batch(X, np.zeros((7, 1)))
    np.testing.assert_array_equal(np.zeros((3, 1)), layer.coefficients.numpy())
    layer.coefficients.assign([[1.0], [-1.0], [1.0]])
    with pytest.raises(NegativeWeightError, match=r"mine/coefficients: .*\[1, 0\]"):
        keras.Sequential([keras.Input((3,)), layer]).save(tmp_path / "bad.keras")


@pytest.mark.parametrize("units", [0, -1, 1.5, True])
def test_units_that_are_no_positive_whole_number_are_refused_by_the_quadratic(units):
    """The message names the argument."""
    with pytest.raises(ValueError, match="units: expected a whole number of at least 1"):
        DiagonalQuadratic(units)
