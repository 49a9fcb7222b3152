"""The quadratic term."""

import keras
import numpy as np
import pytest

from training.layers.quadratic import Quadratic


def test_quadratic_is_half_the_squared_norm_times_m():
    """Each row gives one number, m / 2 times its squared norm."""
    x = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)
    found = np.asarray(Quadratic(0.3)(x))
    np.testing.assert_allclose(found, 0.15 * np.sum(x.astype(float) ** 2, axis=1, keepdims=True), rtol=1e-6)
    assert (7, 1) == found.shape == Quadratic(0.3).compute_output_shape((7, 3))


@pytest.mark.parametrize("coefficient", [-1e-9, np.nan, np.inf])
def test_coefficient_that_is_negative_or_not_finite_is_refused(coefficient):
    """A negative coefficient would be concave."""
    with pytest.raises(ValueError, match="coefficient: expected a finite number of at least 0"):
        Quadratic(coefficient)


def test_quadratic_reads_back_from_its_configuration_and_has_no_weights():
    """The coefficient is a constant of the graph."""
    again = keras.layers.deserialize(keras.layers.serialize(Quadratic(0.25)))
    assert (0.25, []) == (again.coefficient, again.weights)
