"""The partially constrained dense layer: its formula, its sign, what alone can turn the sign off, and its penalty."""

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from training.activations import ActivationRefusedError
from training.constraints import NegativeWeightError
from training.layers.dense_partially_constrained import DensePartiallyConstrained


def rows(*shape: int) -> np.ndarray:
    """Return normal float32 numbers, the same ones for a shape whenever they are asked for."""
    return np.random.default_rng(shape).normal(size=shape).astype(np.float32)


def built(units: int = 4, **arguments) -> DensePartiallyConstrained:
    """Return a layer for z of width 3 and x of width 2."""
    layer = DensePartiallyConstrained(units, **arguments)
    layer.build([(None, 3), (None, 2)])
    return layer


def model_of(layer: DensePartiallyConstrained) -> keras.Model:
    """Return a functional model that is the layer."""
    z, x = keras.Input((3,)), keras.Input((2,))
    return keras.Model([z, x], layer([z, x]))


@pytest.mark.parametrize("lead", [(5,), (5, 7)])
@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("activation", [None, "softplus"])
def test_layer_equals_the_formula(lead, use_bias, activation):
    """The output is phi(z W + x A + b), for inputs of rank 2 and 3, with and without bias and activation."""
    layer = DensePartiallyConstrained(4, activation, use_bias)
    z, x = rows(*lead, 3), rows(*lead, 2)
    found = np.asarray(layer([z, x]))
    p = z.astype(float) @ layer.kernel.numpy() + x.astype(float) @ layer.passthrough.numpy()
    p = p if layer.bias is None else p + layer.bias.numpy()
    np.testing.assert_allclose(found, np.logaddexp(0.0, p) if activation else p, rtol=1e-5, atol=1e-6)
    assert (*lead, 4) == found.shape == layer.compute_output_shape([z.shape, x.shape])
    assert use_bias == (layer.bias is not None)


@pytest.mark.parametrize("initializer", [None, "glorot_uniform", keras.initializers.Constant(-1.0)])
def test_kernel_is_non_negative_right_after_build_whatever_initialises_it(initializer):
    """The projection belongs to the build, not to the first optimiser step."""
    layer = built(64, kernel_initializer=initializer)
    assert layer.kernel.numpy().min() >= 0.0
    assert layer.passthrough.numpy().min() < 0.0


@pytest.mark.parametrize("optimizer", [keras.optimizers.SGD, keras.optimizers.Adam, keras.optimizers.RMSprop])
def test_kernel_is_non_negative_after_every_step_and_passthrough_and_bias_are_free(optimizer):
    """A loss that pulls all weights far below zero leaves the kernel at zero and moves the others there."""
    start = keras.initializers.RandomUniform(0.1, 1.0, seed=1)  # within reach: a log-normal has far outliers
    layer = built(kernel_initializer=start, passthrough_initializer=start)
    model = model_of(layer)
    model.compile(optimizer(5.0), loss=lambda _, y: keras.ops.mean(y))
    z, x = np.abs(rows(16, 3)), np.abs(rows(16, 2))
    for _ in range(5):
        model.train_on_batch([z, x], np.zeros((16, 4)))
        assert layer.kernel.numpy().min() >= 0.0
    assert layer.kernel.numpy().max() == 0.0
    assert layer.passthrough.numpy().max() < 0.0
    assert layer.bias.numpy().max() < 0.0


@pytest.mark.parametrize("word", [None, "", "none", "Penalty", "projection ", False, ["penalty"]])
def test_positivity_that_is_neither_word_is_refused(word):
    """There is no other way in which a kernel could be left alone."""
    expected = "mine: positivity: expected 'projection', 'softplus', 'exp', 'square' or 'penalty', received"
    with pytest.raises(ValueError, match=expected):
        DensePartiallyConstrained(4, positivity=word, name="mine")


def penalised(constant: float = 3.0) -> DensePartiallyConstrained:
    """Return a layer in penalty mode with weights of both signs."""
    layer = built(positivity="penalty", regularizer_constant=constant, name="mine")
    layer.kernel.assign(rows(3, 4))
    return layer


def penalty_and_gradients(layer: DensePartiallyConstrained) -> tuple[float, list[np.ndarray | None]]:
    """Return the sum of the layer's losses in a call, and its gradient for kernel, passthrough and bias."""
    with tf.GradientTape() as tape:
        layer([rows(5, 3), rows(5, 2)])
        penalty = tf.add_n(layer.losses)
    found = tape.gradient(penalty, [layer.kernel.value, layer.passthrough.value, layer.bias.value])
    return float(penalty), [None if gradient is None else gradient.numpy() for gradient in found]


@pytest.mark.parametrize("constant", [3, 0.25, 1e-3])
def test_penalty_and_its_gradient_equal_float64_numpy(constant):
    """The value is c times the sum of max(-W, 0)^2, its gradient -2 c max(-W, 0); the others are not penalised."""
    layer = penalised(constant)
    negative = np.maximum(-layer.kernel.numpy().astype(float), 0.0)
    assert (negative > 0.0).any()
    value, (kernel, passthrough, bias) = penalty_and_gradients(layer)
    assert constant * np.sum(negative**2) == pytest.approx(value, rel=1e-6)
    np.testing.assert_allclose(kernel, -2.0 * constant * negative, rtol=1e-6)
    assert (None, None) == (passthrough, bias)


def test_penalty_is_zero_for_a_non_negative_kernel_and_for_any_passthrough():
    """A zero weight and -0.0 cost nothing, and neither the passthrough nor the bias is looked at."""
    layer = penalised()
    kernel = np.abs(rows(3, 4))
    kernel[0, :2] = 0.0, -0.0
    layer.kernel.assign(kernel)
    layer.passthrough.assign(np.full((2, 4), -7.0))
    layer.bias.assign(np.full(4, -7.0))
    value, (gradient, _, _) = penalty_and_gradients(layer)
    assert 0.0 == value
    np.testing.assert_array_equal(np.zeros((3, 4)), gradient)


def test_penalty_counts_once_when_a_layer_is_used_twice():
    """It belongs to the weights, not to the call: a model that uses the layer twice pays once."""
    layer = penalised()
    z, x = keras.Input((3,)), keras.Input((2,))
    twice = keras.Model([z, x], layer([z, x]) + layer([2.0 * z, x]))
    twice([rows(5, 3), rows(5, 2)])
    expected = 3.0 * np.sum(np.maximum(-layer.kernel.numpy().astype(float), 0.0) ** 2)
    assert [pytest.approx(expected, rel=1e-6)] == [float(loss) for loss in twice.losses]


def test_penalty_is_none_when_its_constant_is_zero_or_the_kernel_is_projected():
    """The factor 0 removes it, and a projected layer has no losses, whatever the factor."""
    assert 0.0 == penalty_and_gradients(penalised(0.0))[0]
    projected = built(regularizer_constant=5.0)
    projected([rows(5, 3), rows(5, 2)])
    assert [] == projected.losses


def test_penalty_stands_beside_an_activity_regularizer():
    """A Keras regulariser of the output adds a loss of its own."""
    layer = built(positivity="penalty", activity_regularizer=keras.regularizers.L1(1.0))
    layer.kernel.assign(np.full((3, 4), -1.0))
    outputs = np.asarray(layer([rows(5, 3), rows(5, 2)]), dtype=float)
    expected = sorted([12.0, np.abs(outputs).sum() / 5.0])
    assert pytest.approx(expected, rel=1e-5) == sorted(float(loss) for loss in layer.losses)


@pytest.mark.parametrize("constant", [-1.0, -1e-9, np.nan, np.inf, True, "1", None])
def test_regularizer_constant_that_is_negative_or_no_number_is_refused(constant):
    """A negative factor would reward what it is there to cost."""
    with pytest.raises(ValueError, match="mine: regularizer_constant: expected a finite number of at least 0"):
        DensePartiallyConstrained(4, positivity="penalty", regularizer_constant=constant, name="mine")


def test_penalised_kernel_starts_non_negative_and_an_optimiser_may_take_it_below_zero():
    """Nothing holds it: that is the difference to projection, which the same step leaves at zero."""
    lowest = {}
    for positivity in ("projection", "penalty"):
        layer = built(positivity=positivity, kernel_initializer="glorot_uniform")
        assert layer.kernel.numpy().min() >= 0.0
        model = model_of(layer)
        model.compile(keras.optimizers.SGD(5.0), loss=lambda _, y: keras.ops.mean(y))
        model.train_on_batch([np.abs(rows(16, 3)), np.abs(rows(16, 2))], np.zeros((16, 4)))
        lowest[positivity] = layer.kernel.numpy().min()
    assert 0.0 == lowest["projection"]
    assert lowest["penalty"] < 0.0


def test_penalised_layer_reads_back_bit_for_bit_with_negative_weights(tmp_path):
    """It promises no sign, so its file may hold any; word and factor are in its configuration."""
    layer = penalised()
    model = model_of(layer)
    layer.verify()
    model.save(tmp_path / "m.keras")
    again = keras.saving.load_model(tmp_path / "m.keras")
    assert ("penalty", 3.0) == (again.layers[-1].positivity, again.layers[-1].regularizer_constant)
    np.testing.assert_array_equal(layer.kernel.numpy(), again.layers[-1].kernel.numpy())
    z, x = rows(9, 3), rows(9, 2)
    np.testing.assert_array_equal(np.asarray(model([z, x])), np.asarray(again([z, x])))
    assert float(layer.losses[0]) == float(again.losses[0])


def test_layer_gradients_equal_central_differences_in_float64():
    """For kernel, passthrough, bias and both inputs."""
    layer = built(activation="softplus", dtype="float64")
    inputs = [tf.Variable(rows(5, 3).astype(float)), tf.Variable(rows(5, 2).astype(float))]
    places = [layer.kernel.value, layer.passthrough.value, layer.bias.value, *inputs]
    weights = np.random.default_rng(1).normal(size=(5, 4))

    def value() -> Any:
        return tf.reduce_sum(weights * layer([inputs[0].value(), inputs[1].value()]))

    with tf.GradientTape() as tape:
        total = value()
    for place, gradient in zip(places, tape.gradient(total, places), strict=True):
        direction = np.random.default_rng(2).normal(size=place.shape)
        ends = []
        for sign in (1.0, -1.0):
            place.assign_add(sign * 1e-6 * direction)
            ends.append(float(value()))
            place.assign_add(-sign * 1e-6 * direction)
        assert (ends[0] - ends[1]) / 2e-6 == pytest.approx(np.sum(gradient.numpy() * direction), rel=1e-7, abs=1e-9)


@pytest.mark.parametrize("activation", ["tanh", "gelu", "squared_leaky(0.2)", "leaky_relu(2)"])
def test_activation_that_breaks_convexity_is_refused_at_construction(activation):
    """The refusal comes with three points, before there are any weights."""
    with pytest.raises(ActivationRefusedError) as refused:
        DensePartiallyConstrained(4, activation)
    left, middle, right = refused.value.counterexample.values
    assert middle > (left + right) / 2


@pytest.mark.parametrize("units", [0, -3, 2.5, True, "4", None])
def test_units_that_are_no_positive_whole_number_are_refused(units):
    """A boolean or a float is not a number of units."""
    with pytest.raises(ValueError, match=r"units: expected a whole number of at least 1"):
        DensePartiallyConstrained(units)


@pytest.mark.parametrize("dtype", ["int32", "complex64"])
def test_dtype_that_is_not_floating_is_refused(dtype):
    """A sign has no meaning for complex weights."""
    with pytest.raises((TypeError, ValueError), match=r"dtype|complex64|int32"):
        DensePartiallyConstrained(4, dtype=dtype)


@pytest.mark.parametrize(
    ("shapes", "said"),
    [
        ([(None, 3)], "pair of inputs"),
        ([(None, 3), (None, 2), (None, 2)], "pair of inputs"),
        ((None, 3), "pair of inputs"),
        ([(None, None), (None, 2)], "kernel input"),
        ([(None, 3), (None, None)], "passthrough input"),
        ([(None, 3), (2,)], "passthrough input"),
    ],
)
def test_shapes_that_are_no_pair_of_known_widths_are_refused(shapes, said):
    """The message names the layer and the input that is wrong."""
    with pytest.raises(ValueError, match=f"mine: .*{said}"):
        DensePartiallyConstrained(4, name="mine").build(shapes)


def test_call_with_a_wrong_width_names_the_layer_and_the_input():
    """A wrong last dimension is refused by the layer, not by a matrix product."""
    layer = built(name="mine")
    with pytest.raises(ValueError, match=r"mine: passthrough input: expected a last dimension of 2, .* \(4, 5\)"):
        layer([rows(4, 3), rows(4, 5)])


def test_configuration_reads_back_with_every_argument():
    """`from_config(get_config())` is the same layer."""
    arguments = {
        "units": 6,
        "activation": "smooth_leaky(0.1, 2.0)",
        "use_bias": False,
        "kernel_initializer": "he_normal",
        "passthrough_initializer": keras.initializers.Constant(0.5),
        "positivity": "penalty",
        "regularizer_constant": 0.5,
        "name": "mine",
        "dtype": "float64",
        "trainable": False,
    }
    layer = DensePartiallyConstrained(**arguments)
    again = DensePartiallyConstrained.from_config(layer.get_config())
    assert layer.get_config() == again.get_config()
    assert (6, "smooth_leaky(0.1, 2.0)", False, "mine", "float64", False) == (
        again.units, again.activation.name, again.use_bias, again.name, again.variable_dtype, again.trainable,
    )  # fmt: skip
    assert ("penalty", 0.5) == (again.positivity, again.regularizer_constant)


def test_saved_model_reads_back_bit_for_bit_by_its_registered_name(tmp_path):
    """A `.keras` file needs no custom objects, and gives the same output bits."""
    model = model_of(built(activation="softplus"))
    model.save(tmp_path / "m.keras")
    again = keras.saving.load_model(tmp_path / "m.keras")
    z, x = rows(9, 3), rows(9, 2)
    np.testing.assert_array_equal(np.asarray(model([z, x])), np.asarray(again([z, x])))
    assert "convex_scoring>DensePartiallyConstrained" == keras.saving.get_registered_name(DensePartiallyConstrained)


def test_negative_kernel_is_refused_by_save(tmp_path):
    """A plain assign bypasses the constraint, but not the save."""
    layer = built(name="mine")
    model = model_of(layer)
    layer.kernel.assign(-np.ones((3, 4)))
    with pytest.raises(NegativeWeightError, match="mine/kernel"):
        model.save(tmp_path / "m.keras")


@pytest.mark.filterwarnings("ignore:Skipping nested container:UserWarning")  # Keras, on its way to the error
def test_negative_kernel_is_refused_by_load(tmp_path, monkeypatch):
    """A file with one flipped sign, saved by other means, does not load."""
    layer = built(name="mine")
    model = model_of(layer)
    kernel = np.ones((3, 4))
    kernel[2, 1] = -1.0
    layer.kernel.assign(kernel)
    with monkeypatch.context() as other_means:
        other_means.setattr(DensePartiallyConstrained, "verify", lambda _: None)
        model.save(tmp_path / "m.keras")
    with pytest.raises(ValueError, match=r"mine/kernel: expected finite weights >= 0, .*\[2, 1\]"):
        keras.saving.load_model(tmp_path / "m.keras")


def test_sign_flips_in_passthrough_and_bias_are_allowed(tmp_path):
    """Affine functions may be added with any sign: no verification looks at them."""
    layer = built()
    model = model_of(layer)
    layer.passthrough.assign(-layer.passthrough.numpy())
    layer.bias.assign(-np.ones(4))
    layer.verify()
    model.save(tmp_path / "m.keras")
    again = keras.saving.load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(model.get_weights()[1], again.get_weights()[1])


def test_mixed_precision_keeps_the_variables_in_float32():
    """Computation follows the policy, storage does not."""
    layer = built(dtype="mixed_bfloat16")
    assert "float32" == layer.kernel.dtype
    assert "bfloat16" == keras.backend.standardize_dtype(layer([rows(4, 3), rows(4, 2)]).dtype)
