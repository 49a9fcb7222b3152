"""The leaky ReLU with trained slopes: its formula, that its slopes stay in [0, 1], and its proof."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from service.errors import VersionRefusedError
from training.finalization import prove_model
from training.layers.dense_partially_constrained import DensePartiallyConstrained
from training.layers.prelu import PReLU, SlopeError

ROWS = np.random.default_rng(1).normal(size=(50, 4), scale=3.0).astype(np.float32)


def built(**arguments) -> PReLU:
    """Return a layer of four channels."""
    layer = PReLU(**arguments)
    layer.build((None, 4))
    return layer


@pytest.mark.parametrize("lead", [(50,), (5, 10)])
def test_d2_t1_prelu_equals_its_formula_channel_by_channel(lead):
    """Above zero it is x, below alpha x with the channel's own alpha, for inputs of any rank."""
    layer = built()
    slopes = np.array([0.0, 0.25, 0.7, 1.0])
    layer.alpha.assign(slopes)
    x = ROWS.reshape(*lead, 4)
    np.testing.assert_allclose(np.asarray(layer(x)), np.where(x > 0, x, slopes * x), rtol=1e-6)
    assert x.shape == layer.compute_output_shape(x.shape)


@pytest.mark.parametrize("start", [0.2, -3.0, 5.0, 0.0, 1.0])
def test_d2_t1_slopes_are_in_the_unit_interval_after_build_and_every_step(start):
    """Whatever initialises them, and however far a step would take them."""
    for sign in (1.0, -1.0):
        layer = built(alpha_initializer=keras.initializers.Constant(start))
        assert np.full(4, min(max(start, 0.0), 1.0), np.float32) == pytest.approx(layer.alpha.numpy())
        x = keras.Input((4,))
        model = keras.Model(x, layer(x))
        model.compile(keras.optimizers.SGD(100.0), loss=lambda _, y, sign=sign: sign * keras.ops.mean(y))
        model.train_on_batch(ROWS, np.zeros((50, 4)))
        assert {1.0 if sign > 0.0 else 0.0} == set(layer.alpha.numpy().tolist())


def test_slopes_out_of_range_are_refused_by_save_and_load(tmp_path):
    """A plain assign goes unseen until then, and NaN is no slope either."""
    layer = built(name="mine")
    x = keras.Input((4,))
    model = keras.Model(x, layer(x))
    for slope in (1.5, -1e-6, np.nan):
        layer.alpha.assign([0.0, 0.5, slope, 1.0])
        with pytest.raises(SlopeError, match=r"mine/alpha: expected slopes from 0 to 1, received .* at \[2\]"):
            model.save(tmp_path / "m.keras")
        with pytest.raises(SlopeError, match="mine/alpha"):
            layer.load_own_variables({"0": np.array([0.0, 0.5, slope, 1.0])})


def test_saved_layer_reads_back_bit_for_bit_with_its_arguments(tmp_path):
    """By its registered name, which is not that of Keras' own layer."""
    layer = built(alpha_initializer=keras.initializers.RandomUniform(0.0, 1.0, seed=2), alpha_regularizer="l2")
    x = keras.Input((4,))
    model = keras.Model(x, layer(x))
    model.save(tmp_path / "m.keras")
    again = keras.saving.load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(np.asarray(model(ROWS)), np.asarray(again(ROWS)))
    assert layer.get_config() == again.layers[-1].get_config()
    assert "convex_scoring>PReLU" == keras.saving.get_registered_name(PReLU)


def test_prelu_gradients_equal_central_differences_in_float64():
    """For slopes and inputs, away from the kink."""
    layer = built(dtype="float64", alpha_initializer=keras.initializers.RandomUniform(0.1, 0.9, seed=2))
    x = tf.Variable(ROWS.astype(float))
    with tf.GradientTape() as tape:
        y = tf.reduce_sum(tf.square(layer(x.value())))
    alpha = layer.alpha.numpy()
    for found, index in zip(tape.gradient(y, [layer.alpha.value, x]), range(2), strict=True):
        below = np.where(ROWS > 0, 0.0, ROWS.astype(float))
        expected = (
            2.0 * (alpha * below**2).sum(axis=0)
            if index == 0
            else np.where(ROWS > 0, 2.0 * ROWS.astype(float), 2.0 * alpha**2 * ROWS)
        )
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-10)


def test_d2_prelu_in_a_hidden_layer_is_proved_and_with_a_slope_above_one_refused():
    """The prover reads the slopes from the exported files, each channel's own."""
    x = keras.Input((4,))
    layer = PReLU(alpha_initializer=keras.initializers.RandomUniform(0.0, 1.0, seed=2))
    z = layer(DensePartiallyConstrained(5)([keras.layers.Dense(6, "softplus")(x), x]))
    model = keras.Model(x, DensePartiallyConstrained(1)([z, x]))
    assert 4 == prove_model(model, 4).dim
    layer.alpha.assign([0.0, 1.0, 1.1, 0.5, 0.2])
    with pytest.raises(VersionRefusedError) as refusal:
        prove_model(model, 4)
    assert "atom-convex" == refusal.value.rule
