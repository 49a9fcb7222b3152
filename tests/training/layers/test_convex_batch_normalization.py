"""Batch normalisation with a factor that is not negative."""

import keras
import numpy as np
import pytest

from training.constraints import NegativeWeightError
from training.layers.convex_batch_normalization import ConvexBatchNormalization

X = np.random.default_rng(0).normal(2.0, 3.0, (60, 3)).astype(np.float32)


def model_of(**arguments) -> tuple[keras.Model, ConvexBatchNormalization]:
    """Return a model that is the layer."""
    layer = ConvexBatchNormalization(name="mine", **arguments)
    return keras.Sequential([keras.Input((3,)), layer]), layer


def test_normalization_equals_the_formula_at_inference():
    """It is gamma (x - mean) / sqrt(variance + epsilon) + beta, by the averages that training kept."""
    model, layer = model_of(momentum=0.5, epsilon=0.25)
    model.compile(keras.optimizers.SGD(0.1), "mse")
    model.train_on_batch(X, np.ones((60, 3)))
    gamma, beta, mean, variance = (weight.astype(float) for weight in layer.get_weights())
    expected = gamma * (X - mean) / np.sqrt(variance + 0.25) + beta
    np.testing.assert_allclose(np.asarray(model(X, training=False)), expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(mean, 0.5 * X.astype(float).mean(axis=0), rtol=1e-5)


def test_gamma_stays_non_negative_after_steps_that_pull_it_down():
    """Plain batch normalisation would learn a negative factor here; this one ends at zero."""
    model, layer = model_of()
    model.compile(keras.optimizers.SGD(2.0), "mse")
    for _ in range(5):
        model.train_on_batch(X, -X)
        assert layer.gamma.numpy().min() >= 0.0
    assert 0.0 == layer.gamma.numpy().max()


def test_gamma_and_averages_are_verified_at_a_save(tmp_path):
    """A negative factor and a negative variance are refused."""
    model, layer = model_of()
    layer.gamma.assign([1.0, -0.5, 1.0])
    with pytest.raises(NegativeWeightError, match=r"mine/gamma: .*\[1\]"):
        model.save(tmp_path / "bad.keras")
    layer.gamma.assign([1.0, 0.5, 1.0])
    layer.moving_variance.assign([1.0, -1.0, 1.0])
    with pytest.raises(ValueError, match="mine: expected finite averages and variances of at least 0"):
        model.save(tmp_path / "bad.keras")


@pytest.mark.parametrize("arguments", [{"gamma_constraint": None}, {"gamma_initializer": "zeros"}, {"axis": 1}])
def test_argument_that_would_replace_the_constraint_is_not_taken(arguments):
    """Keras' other arguments are not offered: none may stand in the constraint's place."""
    with pytest.raises((TypeError, ValueError), match=next(iter(arguments))):
        ConvexBatchNormalization(**arguments)


@pytest.mark.parametrize("arguments", [{"momentum": 1.0}, {"momentum": -0.1}, {"epsilon": 0.0}, {"epsilon": np.nan}])
def test_momentum_and_epsilon_out_of_range_are_refused(arguments):
    """The message names the argument."""
    with pytest.raises(ValueError, match=f"{next(iter(arguments))}: expected a"):
        ConvexBatchNormalization(**arguments)
