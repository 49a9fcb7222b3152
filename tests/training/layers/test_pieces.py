"""Maxout and log-sum-exp units: their formulas, their signs, and what may not be passed to them."""

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from training.constraints import NegativeWeightError
from training.layers.log_sum_exp import LogSumExp
from training.layers.maxout import Maxout

KINDS = pytest.mark.parametrize("kind", [Maxout, LogSumExp])


def rows(*shape: int) -> np.ndarray:
    """Return normal float32 numbers, the same ones for a shape whenever they are asked for."""
    return np.random.default_rng(shape).normal(size=shape).astype(np.float32)


def pieces_of(layer: Any, z: np.ndarray | None, x: np.ndarray) -> np.ndarray:
    """Return the values [n, units, pieces] in float64 NumPy."""
    values = x.astype(float) @ layer.passthrough.numpy()
    values = values if z is None else values + z.astype(float) @ layer.kernel.numpy()
    values = values if layer.bias is None else values + layer.bias.numpy()
    return values.reshape(len(x), layer.units, layer.pieces)


@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize("pair", [True, False])
@pytest.mark.parametrize("pieces", [1, 2, 5])
def test_maxout_equals_the_largest_piece_of_each_unit(pieces, pair, use_bias):
    """The output is the maximum over the pieces of z W + x A + b, and of x A + b where x comes alone."""
    layer, z, x = Maxout(4, pieces, use_bias), rows(7, 3), rows(7, 2)
    found = np.asarray(layer([z, x] if pair else x))
    expected = pieces_of(layer, z if pair else None, x).max(axis=-1)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert (use_bias, pair) == (layer.bias is not None, layer.kernel is not None)


@pytest.mark.parametrize("temperature", [0.05, 1.0, 7.0])
@pytest.mark.parametrize("pair", [True, False])
@pytest.mark.parametrize("pieces", [1, 3])
def test_log_sum_exp_equals_its_formula_and_lies_above_the_maximum(pieces, pair, temperature):
    """The output is t log sum exp(u / t), at most t log p above the largest piece."""
    layer, z, x = LogSumExp(4, pieces, temperature=temperature), rows(7, 3), rows(7, 2)
    found = np.asarray(layer([z, x] if pair else x), float)
    values = pieces_of(layer, z if pair else None, x)
    np.testing.assert_allclose(
        found, temperature * np.logaddexp.reduce(values / temperature, axis=-1), rtol=1e-5, atol=1e-5
    )
    above = found - values.max(axis=-1)
    assert above.min() >= -1e-5
    assert above.max() <= temperature * np.log(pieces) + 1e-5


def test_log_sum_exp_stays_finite_when_exponentials_would_not():
    """Pieces of 1e4 and -1e4 give their maximum, with finite gradients."""
    layer = LogSumExp(1, 2, use_bias=False, passthrough_initializer=keras.initializers.Ones())
    x = tf.constant([[1e4], [-1e4]])
    layer(x)
    layer.passthrough.assign([[1.0, -1.0]])
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x)
    np.testing.assert_array_equal(y.numpy()[:, 0], np.float32([1e4, 1e4]))
    np.testing.assert_array_equal(tape.gradient(y, x).numpy()[:, 0], [1.0, -1.0])


@KINDS
@pytest.mark.parametrize("initializer", [None, "glorot_uniform", keras.initializers.Constant(-1.0)])
def test_kernel_of_pieces_is_non_negative_right_after_build(kind, initializer):
    """The projection belongs to the build, whatever initialises the kernel, and the passthrough is free."""
    layer = kind(16, kernel_initializer=initializer)
    layer.build([(None, 8), (None, 3)])
    assert layer.kernel.numpy().min() >= 0.0
    assert layer.passthrough.numpy().min() < 0.0


@KINDS
@pytest.mark.parametrize("optimizer", [keras.optimizers.SGD, keras.optimizers.Adam])
def test_kernel_of_pieces_is_non_negative_after_every_step(kind, optimizer):
    """A loss that pulls all weights far below zero leaves the kernel at zero."""
    start = keras.initializers.RandomUniform(0.1, 1.0, seed=1)
    z, x = keras.Input((3,)), keras.Input((2,))
    layer = kind(4, kernel_initializer=start, passthrough_initializer=start)
    model = keras.Model([z, x], layer([z, x]))
    model.compile(optimizer(5.0), loss=lambda _, y: keras.ops.mean(y))
    data = [np.abs(rows(16, 3)) + 0.1, np.abs(rows(16, 2))]
    for _ in range(5):
        model.train_on_batch(data, np.zeros((16, 4)))
        assert layer.kernel.numpy().min() >= 0.0
    assert 0.0 == layer.kernel.numpy().min()


@KINDS
def test_negative_kernel_of_pieces_is_refused_by_save_and_load(kind, tmp_path):
    """A plain assignment goes unseen until then, and `verify` looks at any time."""
    z, x = keras.Input((3,)), keras.Input((2,))
    layer = kind(4, name="mine")
    model = keras.Model([z, x], layer([z, x]))
    kernel = layer.kernel.numpy()
    kernel[1, 2] = -1e-9
    layer.kernel.assign(kernel)
    for refused in (layer.verify, lambda: model.save(tmp_path / "bad.keras")):
        with pytest.raises(NegativeWeightError, match=r"mine/kernel: expected finite weights >= 0.*\[1, 2\]"):
            refused()
    written: dict[str, Any] = {}
    keras.layers.Layer.save_own_variables(layer, written)  # as a file that somebody else wrote
    with pytest.raises(NegativeWeightError, match="mine/kernel"):
        layer.load_own_variables(written)


@KINDS
@pytest.mark.parametrize("arguments", [{"units": 0}, {"units": True}, {"units": 2.5}, {"pieces": 0}, {"pieces": -3}])
def test_count_that_is_no_positive_whole_number_is_refused_by_pieces(kind, arguments):
    """The message names the argument and what came."""
    (name, value), everything = *arguments.items(), {"units": 2, **arguments}
    with pytest.raises(ValueError, match=f"{name}: expected a whole number of at least 1, received {value}"):
        kind(**everything)


@KINDS
@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ([(None, 3), (None, 2), (None, 2)], "expected a pair of inputs"),
        ([(None, None), (None, 2)], "kernel input: expected rank 2 or more and a known width"),
        ([(None, 3), (None, None)], "passthrough input: expected rank 2 or more and a known width"),
        ((3,), "passthrough input: expected rank 2 or more"),
    ],
)
def test_shapes_that_do_not_fit_are_refused_by_pieces(kind, shapes, message):
    """The message says which of the inputs is wrong."""
    with pytest.raises(ValueError, match=message):
        kind(2).build(shapes)


@KINDS
def test_integer_dtype_is_refused_by_pieces(kind):
    """Weights are floats."""
    with pytest.raises(TypeError, match="expected a floating dtype, received int32"):
        kind(2, dtype="int32")


@pytest.mark.parametrize("temperature", [0.0, np.nan, np.inf, True, "1"])
def test_temperature_that_is_no_positive_number_is_refused(temperature):
    """Zero is no temperature: the maximum has a layer of its own."""
    with pytest.raises(ValueError, match="temperature: expected a finite number above 0"):
        LogSumExp(2, temperature=temperature)


@KINDS
@pytest.mark.parametrize("pieces", [1, 2, 4])
def test_deep_chain_of_pieces_neither_explodes_nor_collapses_at_the_start(kind, pieces):
    """Sixteen layers carry rows of unit variance on with a spread between a third and three."""
    keras.utils.set_random_seed(3)
    x = np.random.default_rng(0).normal(size=(500, 10)).astype(np.float32)
    z = kind(64, pieces)(x)
    for _ in range(15):
        z = kind(64, pieces)([z, x])
    values = np.asarray(z, float)
    assert 1 / 3 <= values.std(axis=0).mean() <= 3.0
    assert np.abs(values.mean()) <= 5.0
