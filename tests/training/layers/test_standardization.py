"""Standardisation inside the graph."""

import keras
import numpy as np
import pytest

from training.layers.standardization import Standardization


def built(x: np.ndarray) -> Standardization:
    """Return a layer that has adapted to rows."""
    layer = Standardization(name="mine")
    layer.build(x.shape)
    layer.adapt(x)
    return layer


def test_adapted_layer_gives_mean_zero_and_deviation_one():
    """Training rows come out standardised, and the weights are float32 that no optimiser moves."""
    x = np.random.default_rng(0).normal([3.0, -50.0], [0.1, 20.0], (500, 2))
    layer = built(x)
    found = np.asarray(layer(x.astype(np.float32)), dtype=float)
    np.testing.assert_allclose(found.mean(axis=0), 0.0, atol=1e-5)
    np.testing.assert_allclose(found.std(axis=0), 1.0, rtol=1e-5)
    assert ["float32", "float32"] == [weight.dtype for weight in layer.weights]
    assert [] == layer.trainable_weights
    assert (None, 2) == layer.compute_output_shape((None, 2))


@pytest.mark.parametrize("constant", [0.0, 7.0, 1e-42, -3e38])
def test_constant_feature_has_scale_one(constant):
    """A feature without variation is centred and divided by 1, never by 0."""
    layer = built(np.column_stack([np.full(9, constant), np.arange(9.0)]))
    assert 1.0 == layer.scale.numpy()[0]
    assert layer.scale.numpy()[1] == pytest.approx(np.arange(9.0).std())


def test_feature_that_varies_only_beyond_float32_counts_as_constant():
    """The graph sees float32, so a variation below its resolution is none."""
    assert 1.0 == built(np.array([[1.0], [1.0 + 1e-12]])).scale.numpy()[0]


@pytest.mark.parametrize(
    ("mean", "scale"), [(0.0, 0.0), (0.0, -1.0), (0.0, np.inf), (0.0, np.nan), (np.nan, 1.0), (0.0, 1e-60)]
)
def test_statistics_that_are_not_finite_and_positive_are_refused(mean, scale):
    """A scale that rounds to 0 in float32 is refused too; the message names the feature."""
    layer = built(np.random.default_rng(0).normal(size=(9, 2)))
    with pytest.raises(ValueError, match="mine: expected a finite mean and a scale above 0 for feature 1"):
        layer.set_statistics(np.array([0.0, mean]), np.array([1.0, scale]))


def test_statistics_survive_a_save_and_a_negative_scale_is_refused_by_load(tmp_path):
    """The weights travel in the file, and a file with a bad scale does not load."""
    layer = built(np.random.default_rng(0).normal(5.0, 3.0, (9, 2)))
    model = keras.Sequential([keras.Input((2,)), layer])
    model.save(tmp_path / "m.keras")
    again = keras.saving.load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(layer.get_weights(), again.get_weights())
    layer.scale.assign([1.0, -1.0])
    model.save(tmp_path / "bad.keras")
    with pytest.raises(ValueError, match="scale above 0 for feature 1"):
        keras.saving.load_model(tmp_path / "bad.keras")
