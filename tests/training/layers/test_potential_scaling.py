"""The scaling of a potential into the units of the samples: formula, gradient map, and the scales it refuses."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from training.layers.potential_scaling import PotentialScaling

RNG = np.random.default_rng(0)
U = RNG.normal(size=(9, 3)).astype(np.float32)
POTENTIAL = RNG.normal(size=9).astype(np.float32)
MEAN, SCALE = np.array([100.0, -3.0, 0.5]), 7.5


def built(mean: np.ndarray = MEAN, scale: float = SCALE) -> PotentialScaling:
    """Return a layer for rows of width 3 with these statistics."""
    layer = PotentialScaling(name="mine")
    layer.build([(None,), (None, 3)])
    layer.set_statistics(mean, scale)
    return layer


def model_of(layer: PotentialScaling) -> keras.Model:
    """Return a functional model that is the layer."""
    potential, u = keras.Input(()), keras.Input((3,))
    return keras.Model([potential, u], layer([potential, u]))


def test_scaling_equals_the_formula():
    """The output is s^2 phi + s <u, mean>, in float64 NumPy."""
    layer = built()
    found = np.asarray(layer([POTENTIAL, U]))
    expected = SCALE**2 * POTENTIAL.astype(float) + SCALE * (U.astype(float) @ MEAN)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-4)
    assert (9,) == found.shape == tuple(layer.compute_output_shape([(9,), (9, 3)]))


def test_scaled_potential_maps_raw_rows_to_raw_rows():
    """Where grad phi maps u to v, the gradient for x = s u + m is s v + mean: the target's raw row."""
    source_mean = np.array([-20.0, 0.0, 4.0], np.float32)
    x = tf.constant(SCALE * U + source_mean)
    layer = built()
    with tf.GradientTape() as tape:
        tape.watch(x)
        u = (x - source_mean) / np.float32(SCALE)
        score = layer([tf.reduce_sum(u**4 / 4.0 + 2.0 * u, axis=1), u])
    standard = ((x.numpy().astype(float) - source_mean) / SCALE) ** 3 + 2.0
    np.testing.assert_allclose(tape.gradient(score, x), SCALE * standard + MEAN, rtol=1e-5, atol=1e-4)


def test_scaling_starts_without_effect_and_no_optimiser_moves_it():
    """Before it is set, mean is 0 and scale 1, and neither is trained."""
    layer = PotentialScaling()
    np.testing.assert_array_equal(POTENTIAL, np.asarray(layer([POTENTIAL, U])))
    assert ([], 2) == (layer.trainable_weights, len(layer.weights))


@pytest.mark.parametrize(
    ("mean", "scale"),
    [(0.0, 0.0), (0.0, -1.0), (0.0, np.nan), (0.0, np.inf), (0.0, 1e-30), (0.0, 1e30), (np.nan, 1.0), (np.inf, 1.0)],
)
def test_statistics_with_which_convexity_is_lost_are_refused(mean, scale):
    """A scale that is not positive, or whose square is 0 or infinite in float32, and a mean that is no number."""
    with pytest.raises(ValueError, match="mine: expected finite means and a scale whose square is a number above 0"):
        built(np.array([0.0, mean, 0.0]), scale)


def test_statistics_of_a_wrong_width_are_refused():
    """Two means for three features are none."""
    with pytest.raises(ValueError, match="shape"):
        built(np.zeros(2), 1.0)


@pytest.mark.filterwarnings("ignore:Skipping nested container:UserWarning")  # Keras, on its way to the error
def test_scaling_reads_back_bit_for_bit_and_a_negative_scale_is_refused_by_load(tmp_path):
    """The statistics travel in the file, and a file that would turn convex into concave does not load."""
    model = model_of(built())
    model.save(tmp_path / "m.keras")
    again = keras.saving.load_model(tmp_path / "m.keras")
    for left, right in zip(model.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(left, right)
    inputs = [POTENTIAL, U]
    np.testing.assert_array_equal(np.asarray(model(inputs)), np.asarray(again(inputs)))
    model.layers[-1].scale.assign(-SCALE)
    model.save(tmp_path / "bad.keras")
    with pytest.raises(ValueError, match=r"mine: expected finite means and a scale .* received the scale -7\.5"):
        keras.saving.load_model(tmp_path / "bad.keras")
