"""The partially constrained dense layer: its formula, its sign, what alone can turn the sign off, and its penalty."""

import inspect
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from training.activations import ActivationRefusedError, ConvexActivation, resolve
from training.constraints import NegativeWeightError
from training.initializers import moments
from training.layers.dense_partially_constrained import DensePartiallyConstrained
from training.positivity import FLOOR, WORDS


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


@pytest.mark.parametrize("rank", [2, 3])
@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("activation", [None, "softplus"])
def test_s2_b_output_equals_float64_numpy_to_1e_6_for_random_sizes(rank, use_bias, activation):
    """The output is phi(z W + x A + b), for inputs of rank 2 and 3, with and without bias and activation."""
    random = np.random.default_rng([rank, use_bias])
    for _ in range(5):
        n, d, units, *lead = (int(size) for size in random.integers(1, 20, 2 + rank))
        layer = DensePartiallyConstrained(units, activation, use_bias, bias_initializer="random_normal")
        z, x = rows(*lead, n), rows(*lead, d)
        found = np.asarray(layer([z, x]))
        p = z.astype(float) @ layer.kernel.numpy() + x.astype(float) @ layer.passthrough.numpy()
        p = p if layer.bias is None else p + layer.bias.numpy()
        expected = np.logaddexp(0.0, p) if activation else p
        assert np.abs(found - expected).max() <= 1e-6 * max(1.0, np.abs(expected).max())
        assert (*lead, units) == found.shape == layer.compute_output_shape([z.shape, x.shape])
        assert use_bias == (layer.bias is not None)


@pytest.mark.parametrize("initializer", [None, "glorot_uniform", keras.initializers.Constant(-1.0)])
def test_d2_t5_kernel_is_non_negative_right_after_build_whatever_initialises_it(initializer):
    """The projection belongs to the build, not to the first optimiser step."""
    layer = built(64, kernel_initializer=initializer)
    assert layer.kernel.numpy().min() >= 0.0
    assert layer.passthrough.numpy().min() < 0.0


@pytest.mark.parametrize("optimizer", ["SGD", "Adam", "RMSprop", "AdamW", "Lion", "Nadam", "Adagrad"])
def test_d2_t5_kernel_is_non_negative_after_every_step_and_the_others_are_free(optimizer):
    """A loss that pulls all weights far below zero leaves the kernel at zero and moves the others there."""
    start = keras.initializers.RandomUniform(0.1, 1.0, seed=1)  # within reach: a log-normal has far outliers
    layer = built(kernel_initializer=start, passthrough_initializer=start)
    model = model_of(layer)
    model.compile(getattr(keras.optimizers, optimizer)(5.0), loss=lambda _, y: keras.ops.mean(y))
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
def test_s3_a_penalty_and_its_gradient_equal_float64_numpy(constant):
    """The value is c times the sum of max(-W, 0)^2, its gradient -2 c max(-W, 0); the others are not penalised."""
    layer = penalised(constant)
    negative = np.maximum(-layer.kernel.numpy().astype(float), 0.0)
    assert (negative > 0.0).any()
    value, (kernel, passthrough, bias) = penalty_and_gradients(layer)
    assert constant * np.sum(negative**2) == pytest.approx(value, rel=1e-6)
    np.testing.assert_allclose(kernel, -2.0 * constant * negative, rtol=1e-6)
    assert (None, None) == (passthrough, bias)


def test_s3_b_penalty_is_zero_for_a_non_negative_kernel_and_any_passthrough():
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


def test_s3_d_penalty_counts_once_when_a_layer_is_used_twice():
    """It belongs to the weights, not to the call: a model that uses the layer twice pays once."""
    layer = penalised()
    z, x = keras.Input((3,)), keras.Input((2,))
    twice = keras.Model([z, x], layer([z, x]) + layer([2.0 * z, x]))
    twice([rows(5, 3), rows(5, 2)])
    expected = 3.0 * np.sum(np.maximum(-layer.kernel.numpy().astype(float), 0.0) ** 2)
    assert [pytest.approx(expected, rel=1e-6)] == [float(loss) for loss in twice.losses]


def test_s3_d_penalty_counts_once_beside_regularisers_of_a_layer_used_twice():
    """The kernel's regulariser counts once too, the outputs' at each use: they are other outputs."""
    layer = built(
        positivity="penalty", kernel_regularizer=keras.regularizers.L1(1.0), activity_regularizer="l2", name="mine"
    )
    layer.kernel.assign(np.full((3, 4), -2.0))
    z, x = keras.Input((3,)), keras.Input((2,))
    twice = keras.Model([z, x], layer([z, x]) + layer([2.0 * z, x]))
    twice([rows(5, 3), rows(5, 2)])
    assert 4 == len(twice.losses)
    assert [24.0, 48.0] == [value for value in sorted(float(loss) for loss in twice.losses) if value in (24.0, 48.0)]


def test_s3_c_penalty_is_none_when_its_constant_is_zero_or_the_kernel_is_projected():
    """The factor 0 removes it, and a projected layer has no losses, whatever the factor."""
    assert 0.0 == penalty_and_gradients(penalised(0.0))[0]
    projected = built(regularizer_constant=5.0)
    projected([rows(5, 3), rows(5, 2)])
    assert [] == projected.losses


def test_s2_h_activity_regularizer_stands_beside_the_penalty():
    """A Keras regulariser of the output adds a loss of its own."""
    layer = built(positivity="penalty", activity_regularizer=keras.regularizers.L1(1.0))
    layer.kernel.assign(np.full((3, 4), -1.0))
    outputs = np.asarray(layer([rows(5, 3), rows(5, 2)]), dtype=float)
    expected = sorted([12.0, np.abs(outputs).sum() / 5.0])
    assert pytest.approx(expected, rel=1e-5) == sorted(float(loss) for loss in layer.losses)


@pytest.mark.parametrize("constant", [-1.0, -1e-9, np.nan, np.inf, True, "1", None])
def test_s3_c_regularizer_constant_that_is_negative_or_no_number_is_refused(constant):
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


def test_s2_i_layer_gradients_equal_central_differences_in_float64():
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
def test_s2_a_activation_that_breaks_convexity_is_refused_at_construction(activation):
    """The refusal comes with three points, before there are any weights."""
    with pytest.raises(ActivationRefusedError) as refused:
        DensePartiallyConstrained(4, activation)
    left, middle, right = refused.value.counterexample.values
    assert middle > (left + right) / 2


@pytest.mark.parametrize("units", [0, -3, 2.5, True, "4", None])
def test_s2_c_iii_units_that_are_no_positive_whole_number_are_refused(units):
    """A boolean or a float is not a number of units."""
    with pytest.raises(ValueError, match=r"units: expected a whole number of at least 1"):
        DensePartiallyConstrained(units)


@pytest.mark.parametrize("dtype", ["int32", "bool", "complex64", "complex128"])
def test_s2_c_1_and_ii_dtype_that_is_not_floating_is_refused_by_layer_and_dtype(dtype):
    """A sign has no meaning for complex weights, and the sentence says so."""
    with pytest.raises(TypeError, match=f"mine: dtype: expected a floating dtype, received {dtype}") as refused:
        DensePartiallyConstrained(4, dtype=dtype, name="mine")
    assert ("no sign" in str(refused.value)) == dtype.startswith("complex")


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
def test_s2_c_2_3_vi_shapes_that_are_no_pair_of_known_widths_are_refused(shapes, said):
    """The message names the layer and the input that is wrong."""
    with pytest.raises(ValueError, match=f"mine: .*{said}"):
        DensePartiallyConstrained(4, name="mine").build(shapes)


@pytest.mark.parametrize(
    ("shapes", "said"),
    [
        (((4, 3), (4, 5)), r"passthrough input: expected a last dimension of 2, received \(4, 5\)"),
        (((4, 2), (4, 2)), r"kernel input: expected a last dimension of 3, received \(4, 2\)"),
        (((3,), (4, 2)), r"kernel input: expected rank 2 or more, received the shape \(3,\)"),
        (((4, 3), (2,)), r"passthrough input: expected rank 2 or more, received the shape \(2,\)"),
        (((7, 4, 3), (4, 2)), r"expected two inputs of one rank"),
    ],
)
def test_s2_c_i_wrong_rank_or_width_at_call_names_the_layer_and_the_input(shapes, said):
    """It is refused by the layer, not by a matrix product, eagerly and when a model is put together."""
    with pytest.raises(ValueError, match=f"mine: {said}"):
        built(name="mine")([rows(*shape) for shape in shapes])
    symbols = [keras.KerasTensor(shape) for shape in shapes]
    with pytest.raises(ValueError, match=f"mine: {said}"):
        built(name="mine")(symbols)


@pytest.mark.parametrize("number", [0, 1, 3])
def test_s2_c_vi_anything_but_two_inputs_is_refused_at_call(number):
    """One tensor of two rows is no pair either."""
    for inputs in ([rows(4, 3)] * number, tuple([rows(4, 3)] * number)):
        with pytest.raises(ValueError, match=f"mine: expected a pair of inputs .*received {number} inputs"):
            built(name="mine")(inputs)
    for inputs in (tf.zeros((2, 4, 3)), {"z": rows(4, 3), "x": rows(4, 2)}, rows(2, 4, 3)):
        with pytest.raises(ValueError, match="mine: expected a pair of inputs"):
            built(name="mine")(inputs)
    for inputs in ([[1.0], [2.0]], [None, rows(4, 2)]):
        with pytest.raises(ValueError, match="mine: kernel input: expected a tensor"):
            built(name="mine")(inputs)


def test_s2_c_2_unknown_width_is_refused_by_layer_and_input_and_says_why():
    """The sentence names the layer, which input it is, and that the last dimension is None."""
    for shapes, which in (([(None, None), (None, 2)], "kernel"), ([(None, 3), (None, None)], "passthrough")):
        with pytest.raises(ValueError, match=f"mine: {which} input: .*last dimension is None"):
            DensePartiallyConstrained(4, name="mine").build(shapes)


def test_s2_c_4_variables_have_their_shapes_dtype_and_specification():
    """Kernel [3, 4], passthrough [2, 4], bias [4], trainable, and two input specifications with fixed last axes."""
    layer = built(dtype="float64")
    assert [(3, 4), (2, 4), (4,)] == [tuple(variable.shape) for variable in layer.trainable_variables]
    assert {"float64"} == {variable.dtype for variable in layer.variables}
    assert layer.built
    assert [(2, {-1: 3}), (2, {-1: 2})] == [(spec.min_ndim, spec.axes) for spec in layer.input_spec]
    assert [2, 2] == [spec.min_ndim for spec in DensePartiallyConstrained(4).input_spec]


def test_s2_c_v_input_dim_is_refused_and_an_input_shape_wins():
    """It would describe one of two inputs; beside an explicit `input_shape` it says nothing."""
    with pytest.raises(ValueError, match="mine: input_dim: this layer has two inputs"):
        DensePartiallyConstrained(4, input_dim=3, name="mine")
    with pytest.warns(UserWarning, match="Do not pass an `input_shape`"):  # Keras' own, for any layer
        layer = DensePartiallyConstrained(4, input_dim=3, input_shape=(7,))
    assert (7,) == layer._input_shape_arg


EVERY_ARGUMENT = {
    "units": 6,
    "activation": "smooth_leaky(0.1, 2.0)",
    "use_bias": True,
    "kernel_initializer": "he_normal",
    "passthrough_initializer": keras.initializers.Constant(0.5),
    "bias_initializer": "ones",
    "kernel_constraint": keras.constraints.MaxNorm(2.0, axis=1),
    "passthrough_constraint": "unit_norm",
    "bias_constraint": "non_neg",
    "kernel_regularizer": "l2",
    "passthrough_regularizer": keras.regularizers.L1(0.25),
    "bias_regularizer": keras.regularizers.L1L2(0.5, 0.125),
    "activity_regularizer": keras.regularizers.L2(0.75),
    "positivity": "penalty",
    "regularizer_constant": 0.5,
    "name": "mine",
    "dtype": "float64",
    "trainable": False,
}


def test_s2_c_iv_configuration_reads_back_with_every_argument():
    """`from_config(get_config())` is the same layer, and no argument of the constructor is missing in the test."""
    layer = DensePartiallyConstrained(**EVERY_ARGUMENT)
    config = layer.get_config()
    again = DensePartiallyConstrained.from_config(config)
    assert config == again.get_config()
    named = set(inspect.signature(DensePartiallyConstrained.__init__).parameters) - {"self", "kwargs"}
    assert named <= set(EVERY_ARGUMENT)
    assert set(EVERY_ARGUMENT) <= set(config)
    for name in ("units", "use_bias", "positivity", "regularizer_constant", "name", "trainable"):
        assert EVERY_ARGUMENT[name] == getattr(again, name)
    for name in named - {"units", "use_bias", "positivity", "regularizer_constant", "activation"}:
        first, second = getattr(layer, name), getattr(again, name)
        assert (type(first), first.get_config()) == (type(second), second.get_config())
    assert ("smooth_leaky(0.1, 2.0)", "float64") == (again.activation.name, again.variable_dtype)
    plain = DensePartiallyConstrained(1).get_config()
    changed = {name for name, value in config.items() if value != plain.get(name)}
    assert set(EVERY_ARGUMENT) - {"use_bias"} == changed


def test_s2_a_defaults_are_the_documented_ones():
    """None everywhere but a bias, a projection and the constant 1; the initialisers are those of `initializers`."""
    config = DensePartiallyConstrained(4).get_config()
    nothing = [name for name, value in config.items() if value is None]
    kinds = ("initializer", "constraint", "regularizer")
    assert {f"{weight}_{kind}" for weight in ("kernel", "passthrough", "bias") for kind in kinds} == set(nothing)
    assert (True, "projection", 1.0, "linear", True) == (
        config["use_bias"], config["positivity"], config["regularizer_constant"], config["activation"],
        config["trainable"],
    )  # fmt: skip
    assert DensePartiallyConstrained(4).activity_regularizer is None
    layer = built(5000)
    n, mean = 3, moments(3, share=0.5).mean
    assert mean == pytest.approx(layer.kernel.numpy().mean(), rel=0.1)
    assert np.sqrt(0.5 / 2.0) == pytest.approx(layer.passthrough.numpy().std(), rel=0.05)
    np.testing.assert_allclose(layer.bias.numpy(), -n * mean / np.sqrt(2.0 * np.pi), rtol=1e-6)


def test_s2_a_initialisers_may_be_names_objects_and_callables():
    """Each of the three weights has its own; under a user's kernel the bias starts at zero."""
    layer = built(
        400,
        kernel_initializer="glorot_uniform",
        passthrough_initializer=keras.initializers.RandomUniform(3.0, 4.0),
        bias_initializer=lambda shape, dtype=None: keras.ops.full(shape, 7.0, dtype),
    )
    limit = np.sqrt(6.0 / 403.0)
    kernel, passthrough = layer.kernel.numpy(), layer.passthrough.numpy()
    assert 0.0 <= kernel.min() <= kernel.max() <= limit
    assert 0.4 < (kernel == 0.0).mean() < 0.6
    assert 3.0 <= passthrough.min() <= passthrough.max() <= 4.0
    np.testing.assert_array_equal(np.full(400, 7.0), layer.bias.numpy())
    np.testing.assert_array_equal(np.zeros(4), built(kernel_initializer="ones").bias.numpy())


@pytest.mark.parametrize("use_bias", [True, False, 1, 0])
def test_s2_a_bias_is_none_when_it_is_not_used(use_bias):
    """Without a bias there is no variable, and the attribute is None."""
    layer = built(use_bias=use_bias)
    assert bool(use_bias) == (layer.bias is not None)
    assert (3 if use_bias else 2) == len(layer.variables)


@pytest.mark.parametrize(
    "activation",
    ["softplus", keras.activations.softplus, keras.ops.softplus, ConvexActivation("softplus"), resolve("softplus")],
    ids=["name", "Keras activation", "Keras operation", "object", "of the registry"],
)
def test_s2_a_activation_may_be_a_name_a_function_or_an_object(activation):
    """All of them are softplus, and the configuration says so by its name."""
    layer = built(activation=activation)
    z, x = rows(9, 3), rows(9, 2)
    plain = built(kernel_initializer=keras.initializers.Constant(0.0))
    plain.set_weights(layer.get_weights())
    np.testing.assert_allclose(
        np.asarray(layer([z, x])), np.logaddexp(0.0, np.asarray(plain([z, x]), float)), rtol=1e-5, atol=1e-6
    )
    assert "softplus" == layer.get_config()["activation"]


def test_s2_d_constraint_on_the_kernel_changes_only_the_kernel():
    """It holds from `build` on and after each step, in addition to the sign; the others know nothing of it."""
    start = keras.initializers.RandomUniform(1.0, 2.0, seed=3)
    common = {"passthrough_initializer": start, "bias_initializer": start}
    layer = built(kernel_initializer=start, kernel_constraint=keras.constraints.MaxNorm(0.5), **common)
    free = built(kernel_initializer=start, **common)
    for name in ("passthrough", "bias"):
        np.testing.assert_array_equal(getattr(free, name).numpy(), getattr(layer, name).numpy())
    model = model_of(layer)
    model.compile(keras.optimizers.SGD(1.0), loss=lambda _, y: -keras.ops.mean(y))
    for _ in range(3):
        norms = np.linalg.norm(layer.kernel.numpy(), axis=0)
        np.testing.assert_allclose(norms, 0.5, rtol=1e-5)
        assert layer.kernel.numpy().min() >= 0.0
        model.train_on_batch([np.abs(rows(16, 3)), np.abs(rows(16, 2))], np.zeros((16, 4)))
    assert np.linalg.norm(layer.passthrough.numpy(), axis=0).min() > 1.0


class Negate(keras.constraints.Constraint):
    """A constraint that asks for negative weights."""

    def __call__(self, w):
        """Return weights that are all negative."""
        return -keras.ops.abs(w) - 1.0


def test_s2_d_no_constraint_of_a_user_makes_a_projected_kernel_negative():
    """Whatever it returns is projected once more: the class keeps its promise against its arguments."""
    layer = built(kernel_constraint=Negate(), passthrough_constraint=Negate(), bias_constraint=Negate())
    np.testing.assert_array_equal(np.zeros((3, 4)), layer.kernel.numpy())
    assert layer.passthrough.numpy().max() <= -1.0
    assert layer.bias.numpy().max() <= -1.0
    model = model_of(layer)
    model.compile("sgd", loss=lambda _, y: keras.ops.mean(y))
    model.train_on_batch([rows(16, 3), rows(16, 2)], np.zeros((16, 4)))
    assert layer.kernel.numpy().min() >= 0.0
    assert layer.passthrough.numpy().max() <= -1.0


@pytest.mark.parametrize("weight", ["kernel", "passthrough", "bias"])
def test_s2_a_regularizer_of_one_weight_counts_that_weight_alone(weight):
    """The loss is that regulariser's value of that weight, with every kind of positivity, and beside a penalty."""
    for positivity in WORDS:
        layer = built(positivity=positivity, **{f"{weight}_regularizer": keras.regularizers.L1(2.0)})
        layer([rows(5, 3), rows(5, 2)])
        expected = 2.0 * np.abs(keras.ops.convert_to_numpy(getattr(layer, weight)).astype(float)).sum()
        assert expected == pytest.approx(float(sum(layer.losses)), rel=1e-5)
        assert (2 if positivity == "penalty" else 1) == len(layer.losses)


def test_s2_e_masks_pass_through_and_change_no_number():
    """The output's mask is true where both inputs' masks are; the numbers are those without masks."""
    layer = built()
    z, x = tf.constant(rows(2, 5, 3)), tf.constant(rows(2, 5, 2))
    plain = layer([z, x])
    masks = [tf.constant(np.random.default_rng(seed).random((2, 5)) > 0.4) for seed in (1, 2)]
    for given in ((masks[0], None), (None, masks[1]), tuple(masks), (None, None)):
        inputs = [tf.identity(z), tf.identity(x)]
        for each, mask in zip(inputs, given, strict=True):
            if mask is not None:
                keras.src.backend.set_keras_mask(each, mask)
        y = layer(inputs)
        np.testing.assert_array_equal(plain.numpy(), y.numpy())
        found = keras.src.backend.get_keras_mask(y)
        known = [mask.numpy() for mask in given if mask is not None]
        assert (found is None) == (not known)
        if known:
            np.testing.assert_array_equal(np.logical_and.reduce(known), found.numpy())
    assert layer.supports_masking
    assert "Masks: " in DensePartiallyConstrained.__doc__


def test_s2_e_mask_of_a_masking_layer_reaches_the_layer_after():
    """In a functional model with `Masking` in front, what follows sees the mask."""
    z = keras.Input((5, 3))
    y = built()([keras.layers.Masking()(z), keras.layers.Masking()(z[..., :2])])
    model = keras.Model(z, keras.layers.GlobalAveragePooling1D()(y))
    data = rows(2, 5, 3)
    data[:, 3:] = 0.0
    shown = keras.Model(z, y)(data)
    np.testing.assert_allclose(np.asarray(model(data)), np.asarray(shown)[:, :3].mean(axis=1), rtol=1e-5)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
@pytest.mark.parametrize("positivity", WORDS)
def test_s2_f_mixed_precision_keeps_variables_and_penalty_in_float32(policy, positivity):
    """Computation and outputs follow the policy; variables, penalty and regulariser do not."""
    layer = built(
        dtype=policy, positivity=positivity, kernel_regularizer="l2", activation="softplus", kernel_initializer="ones"
    )
    if positivity == "penalty":
        layer.kernel.assign(rows(3, 4))
    z, x = rows(4, 3), rows(4, 2)
    y = layer([z, x])
    assert {"float32"} == {variable.dtype for variable in layer.variables}
    assert policy.removeprefix("mixed_") == keras.backend.standardize_dtype(y.dtype)
    assert {"float32"} == {keras.backend.standardize_dtype(loss.dtype) for loss in layer.losses}
    exact = built(positivity=positivity, activation="softplus")
    exact.set_weights(layer.get_weights())
    np.testing.assert_allclose(
        np.asarray(keras.ops.cast(y, "float32")), np.asarray(exact([z, x])), rtol=0.05, atol=0.05
    )
    if positivity == "penalty":
        expected = np.sum(np.maximum(-layer.kernel.numpy().astype(float), 0.0) ** 2)
        assert expected == pytest.approx(float(layer.losses[0]), rel=1e-6)


REPARAMETRISED = ("softplus", "exp", "square")


@pytest.mark.parametrize("positivity", REPARAMETRISED)
def test_d2_kernel_of_free_weights_is_their_function_and_starts_at_the_initialiser(positivity):
    """W is log(1 + exp V), exp V or V^2; its start is the projected initialiser, at least the floor."""
    layer = built(positivity=positivity, kernel_initializer="glorot_uniform", name="mine")
    raw = layer.raw_kernel.numpy().astype(float)
    function = {"softplus": lambda v: np.logaddexp(0.0, v), "exp": np.exp, "square": np.square}[positivity]
    np.testing.assert_allclose(keras.ops.convert_to_numpy(layer.kernel), function(raw), rtol=1e-5)
    keras.utils.set_random_seed(5)
    start = np.asarray(keras.initializers.GlorotUniform(seed=9)((3, 4)))
    layer = built(positivity=positivity, kernel_initializer=keras.initializers.GlorotUniform(seed=9))
    np.testing.assert_allclose(keras.ops.convert_to_numpy(layer.kernel), np.maximum(start, FLOOR), rtol=1e-4)
    assert ["raw_kernel", "passthrough", "bias"] == [variable.name for variable in layer.variables]


@pytest.mark.parametrize("positivity", REPARAMETRISED)
def test_d2_t5_kernel_of_free_weights_is_non_negative_after_steps_that_pull_it_down(positivity):
    """Nothing is clipped, and nothing needs to be: no value of the free weights makes a negative kernel."""
    layer = built(positivity=positivity)
    model = model_of(layer)
    model.compile(keras.optimizers.SGD(0.5), loss=lambda _, y: keras.ops.mean(y))
    before = keras.ops.convert_to_numpy(layer.kernel)
    for _ in range(5):
        model.train_on_batch([np.abs(rows(16, 3)), np.abs(rows(16, 2))], np.zeros((16, 4)))
        assert keras.ops.convert_to_numpy(layer.kernel).min() >= 0.0
    assert (keras.ops.convert_to_numpy(layer.kernel) < before).all()


@pytest.mark.parametrize("positivity", REPARAMETRISED)
def test_d2_kernel_of_free_weights_reads_back_and_refuses_a_kernel_constraint(positivity, tmp_path):
    """Saved and loaded bit for bit; a constraint would move the free weights, and is refused with the reason."""
    model = model_of(built(positivity=positivity, activation="relu"))
    model.save(tmp_path / "m.keras")
    again = keras.saving.load_model(tmp_path / "m.keras")
    z, x = rows(9, 3), rows(9, 2)
    np.testing.assert_array_equal(np.asarray(model([z, x])), np.asarray(again([z, x])))
    with pytest.raises(ValueError, match="mine: kernel_constraint: a constraint moves a variable"):
        DensePartiallyConstrained(4, positivity=positivity, kernel_constraint="max_norm", name="mine")


def test_d2_relu_of_free_weights_is_refused_with_its_reason():
    """A weight that is once below zero would stay there: its gradient is zero."""
    with pytest.raises(ValueError, match="no gradient any more"):
        DensePartiallyConstrained(4, positivity="relu")


def test_s3_e_penalty_of_one_layer_stands_beside_a_projection_of_another_in_one_step():
    """Of two layers in one loss, one is held and the other drawn, and the loss has the one penalty."""
    held, drawn = built(positivity="projection", name="f"), built(positivity="penalty", name="g")
    drawn.kernel.assign(-np.abs(rows(3, 4)))
    z, x = keras.Input((3,)), keras.Input((2,))
    model = keras.Model([z, x], held([z, x]) - drawn([z, x]))
    model.compile(keras.optimizers.SGD(0.05), loss=lambda _, y: 0.0 * keras.ops.mean(y))
    before = drawn.kernel.numpy()
    model.train_on_batch([rows(16, 3), rows(16, 2)], np.zeros((16, 4)))
    np.testing.assert_allclose(drawn.kernel.numpy(), before * (1.0 - 2.0 * 0.05), rtol=1e-5)
    assert held.kernel.numpy().min() >= 0.0
    assert 1 == len(model.losses)


def test_s3_f_finalize_clips_and_holds_a_penalised_layer():
    """It returns how many weights were negative, is a projected layer from then on, and its configuration says so."""
    layer = penalised()
    kernel = layer.kernel.numpy()
    with_constraint = built(positivity="penalty", kernel_constraint=keras.constraints.MaxNorm(0.1))
    assert int((kernel < 0.0).sum()) == layer.finalize()
    np.testing.assert_array_equal(np.maximum(kernel, 0.0), layer.kernel.numpy())
    assert ("projection", 0) == (layer.get_config()["positivity"], layer.finalize())
    model = model_of(layer)
    model.compile(keras.optimizers.SGD(5.0), loss=lambda _, y: keras.ops.mean(y))
    model.train_on_batch([np.abs(rows(16, 3)), np.abs(rows(16, 2))], np.zeros((16, 4)))
    assert layer.kernel.numpy().min() >= 0.0
    assert [] == model.losses
    with_constraint.finalize()
    assert np.linalg.norm(with_constraint.kernel.numpy(), axis=0).max() <= 0.1 + 1e-6
    assert "never a certificate" in " ".join(DensePartiallyConstrained.__doc__.split())


def test_s2_g_saved_model_reads_back_bit_for_bit_by_its_registered_name(tmp_path):
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
def test_d2_t5_negative_kernel_is_refused_by_load(tmp_path, monkeypatch):
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


def test_d2_t4_sign_flips_in_passthrough_and_bias_are_allowed(tmp_path):
    """Affine functions may be added with any sign: no verification looks at them."""
    layer = built()
    model = model_of(layer)
    layer.passthrough.assign(-layer.passthrough.numpy())
    layer.bias.assign(-np.ones(4))
    layer.verify()
    model.save(tmp_path / "m.keras")
    again = keras.saving.load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(model.get_weights()[1], again.get_weights()[1])
