"""The partially constrained dense layer: its formula, its sign, and that nothing turns the sign off."""

import keras
import numpy as np
import pytest

from training.activations import ActivationRefusedError
from training.constraints import NegativeWeightError
from training.layers.dense_partially_constrained import DensePartiallyConstrained

RNG = np.random.default_rng(0)


def rows(*shape: int) -> np.ndarray:
    """Return normal float32 numbers."""
    return RNG.normal(size=shape).astype(np.float32)


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
    layer = built()
    model = model_of(layer)
    model.compile(optimizer(5.0), loss=lambda _, y: keras.ops.mean(y))
    z, x = np.abs(rows(16, 3)), np.abs(rows(16, 2))
    for _ in range(5):
        model.train_on_batch([z, x], np.zeros((16, 4)))
        assert layer.kernel.numpy().min() >= 0.0
    assert layer.kernel.numpy().max() == 0.0
    assert layer.passthrough.numpy().max() < 0.0
    assert layer.bias.numpy().max() < 0.0


@pytest.mark.parametrize("argument", ["kernel_constraint", "regularizer_constant", "positivity"])
def test_no_argument_replaces_the_constraint(argument):
    """The class that carries the name owns the invariant: there is nothing to turn off."""
    with pytest.raises((TypeError, ValueError), match=argument):
        DensePartiallyConstrained(4, **{argument: None})


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
    with pytest.raises(ValueError, match=r"Input 1 .*of layer 'mine'.* value 2, .* \(4, 5\)"):
        layer([rows(4, 3), rows(4, 5)])


def test_configuration_reads_back_with_every_argument():
    """`from_config(get_config())` is the same layer."""
    arguments = {
        "units": 6,
        "activation": "smooth_leaky(0.1, 2.0)",
        "use_bias": False,
        "kernel_initializer": "he_normal",
        "passthrough_initializer": keras.initializers.Constant(0.5),
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
