"""ActNorm: its data-dependent start, and a scale that is positive whatever is learned."""

import keras
import numpy as np
import pytest

from training.layers.act_norm import ActNorm

X = np.random.default_rng(0).normal([3.0, -50.0, 7.0], [0.1, 20.0, 0.0], (500, 3)).astype(np.float32)


def model_of() -> tuple[keras.Model, ActNorm]:
    """Return a model that is the layer."""
    layer = ActNorm(name="mine")
    return keras.Sequential([keras.Input((3,)), layer]), layer


def test_adapted_act_norm_gives_mean_zero_and_variance_one():
    """A constant feature is centred and keeps its scale; the new layer changes nothing."""
    _, layer = model_of()
    np.testing.assert_array_equal(X, np.asarray(layer(X)))
    layer.adapt(X)
    found = np.asarray(layer(X), float)
    np.testing.assert_allclose(found.mean(axis=0), 0.0, atol=1e-4)
    np.testing.assert_allclose(found.std(axis=0), [1.0, 1.0, 0.0], rtol=1e-4, atol=1e-6)
    assert 0.0 == layer.log_scale.numpy()[2]


def test_scale_stays_positive_when_a_loss_pulls_it_down():
    """After steps that would make a plain scale negative the outputs still rise with the inputs, and both train."""
    model, layer = model_of()
    model.compile(keras.optimizers.Adam(1.0), loss=lambda _, y: keras.ops.mean(y * [[1.0, -1.0, 1.0]]))
    for _ in range(5):
        model.train_on_batch(np.abs(X), np.zeros((500, 3)))
    assert (np.exp(layer.log_scale.numpy()) > 0.0).all()
    assert (np.asarray(layer(X + 1.0)) > np.asarray(layer(X))).all()
    assert ["log_scale", "bias"] == [weight.name for weight in layer.trainable_weights]


@pytest.mark.parametrize(("log_scale", "bias"), [(100.0, 0.0), (-110.0, 0.0), (np.nan, 0.0), (0.0, np.inf)])
def test_scale_that_has_left_the_positive_floats_is_refused_by_save_and_load(log_scale, bias, tmp_path):
    """Overflow, underflow to zero and NaN are refused, with the feature."""
    model, layer = model_of()
    layer.log_scale.assign([0.0, log_scale, 0.0])
    layer.bias.assign([0.0, bias, 0.0])
    with pytest.raises(ValueError, match="mine: expected a finite shift and a scale above 0 for feature 1"):
        model.save(tmp_path / "bad.keras")
    written: dict[str, np.ndarray] = {}
    keras.layers.Layer.save_own_variables(layer, written)  # as a file that somebody else wrote
    with pytest.raises(ValueError, match="for feature 1"):
        layer.load_own_variables(written)
