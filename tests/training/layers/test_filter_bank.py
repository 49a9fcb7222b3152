"""The bank of filters: what it computes, what it refuses, and its penalty."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from training.layers.filter_bank import FilterBank
from training.layers.filter_bank_model import FilterBankModel
from training.regularizers import PairwiseOrthogonality

BOTH = pytest.mark.parametrize("create", [FilterBank, FilterBankModel])


@keras.saving.register_keras_serializable(package="test_filter_bank")
class Doubling(keras.Model):
    """A subclassed model that makes a bank of its own and uses it twice."""

    def __init__(self, bank: FilterBank | None = None, **kwargs):
        super().__init__(**kwargs)
        self.bank = bank or FilterBank(3, 1, regularizer="pairwise_orthogonality", name="bank")

    def call(self, x):
        """Return the bank's outputs for the inputs and their doubles."""
        return keras.ops.concatenate([self.bank(x), self.bank(2.0 * x)], axis=-1)


def rows(*shape: int) -> np.ndarray:
    """Return normal float32 numbers, the same ones for a shape."""
    return np.random.default_rng(shape).normal(size=shape).astype(np.float32)


def whole(bank: FilterBank) -> tuple[np.ndarray, np.ndarray]:
    """Return the kernels and biases of the filters, put side by side by NumPy."""
    kernels, biases = ([np.asarray(getattr(part, name)) for part in bank.parts] for name in ("kernel", "bias"))
    return np.concatenate(kernels, axis=-1), np.concatenate(biases)


def offdiagonal(kernel: np.ndarray) -> tuple[float, np.ndarray]:
    """Return the penalty of pairwise orthogonality and its gradient, in float64 NumPy."""
    columns = kernel.reshape(-1, kernel.shape[-1]).astype(float)
    gram = columns.T @ columns
    gram -= np.diag(np.diag(gram))
    return float(np.sum(gram**2) / 2), (2.0 * columns @ gram).reshape(kernel.shape)


THREAD = ((7, 7, 1024), 1, 1, "valid")
SAME = ((6, 5, 3), 3, 1, "same")


@pytest.mark.parametrize(
    ("filters", "geometry"),
    [
        *((filters, geometry) for filters in (1, 2, 10) for geometry in (THREAD, SAME)),
        (10, ((9, 8, 2), (2, 3), 2, "valid")),
        (3, ((8, 6, 2), (3, 2), (2, 1), "same")),
        (2, ((11, 3), 4, 3, "valid")),
        (2, ((4, 4, 4, 2), 2, 1, "valid")),
    ],
)
def test_s8_a_bank_equals_one_convolution_with_the_kernels_side_by_side(filters, geometry):
    """For 1, 2 and 10 filters in 1 to 3 axes of space, with several strides and paddings, it is Keras' own to 1e-6."""
    shape, *arguments = geometry
    bank = FilterBank(filters, *arguments, bias_initializer="normal")
    x = rows(2, *shape)
    found = np.asarray(bank(x))
    layer = {2: keras.layers.Conv1D, 3: keras.layers.Conv2D, 4: keras.layers.Conv3D}[len(shape)]
    single = layer(filters, *arguments)
    single.build(x.shape)
    single.set_weights(whole(bank))
    np.testing.assert_allclose(found, np.asarray(single(x)), rtol=0.0, atol=1e-6)
    assert found.shape == bank.compute_output_shape(x.shape)


def test_s8_a_bank_equals_a_sum_over_the_window_in_numpy():
    """A 2 x 3 window with stride 2 is the sum that it says, in float64."""
    bank = FilterBank(4, (2, 3), 2, bias_initializer="normal", dtype="float64")
    x = rows(2, 6, 7, 3).astype(float)
    found = np.asarray(bank(x))
    kernel, bias = whole(bank)
    expected = np.empty((2, 3, 3, 4))
    for i in range(3):
        for j in range(3):
            window = x[:, 2 * i : 2 * i + 2, 2 * j : 2 * j + 3]
            expected[:, i, j] = np.tensordot(window, kernel, axes=3) + bias
    np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize(("size", "shape"), [(None, (3, 4)), ((2, 3), (2, 4, 5, 2))])
def test_bank_gradients_equal_central_differences_in_float64(size, shape):
    """For the inputs, and for each filter's kernel and bias."""
    bank = FilterBank(3, size, dtype="float64")
    x = tf.Variable(rows(*shape).astype(float))
    bank.build(shape)
    places = [x, *(variable.value for variable in bank.variables)]
    cotangent = np.random.default_rng(1).normal(size=bank.compute_output_shape(shape))

    def value() -> tf.Tensor:
        return tf.reduce_sum(cotangent * tf.square(bank(x.read_value())))

    with tf.GradientTape() as tape:
        total = value()
    for place, slope in zip(places, tape.gradient(total, places), strict=True):
        direction = np.random.default_rng(2).normal(size=place.shape)
        ends = []
        for sign in (1.0, -1.0):
            place.assign_add(sign * 1e-5 * direction)
            ends.append(float(value()))
            place.assign_sub(sign * 1e-5 * direction)
        assert (ends[0] - ends[1]) / 2e-5 == pytest.approx(np.sum(slope.numpy() * direction), rel=1e-7, abs=1e-9)


@pytest.mark.parametrize("lead", [(5,), (5, 4)])
@pytest.mark.parametrize("use_bias", [True, False])
def test_s8_c_dense_bank_is_a_matrix_product(lead, use_bias):
    """Without a size the filters are columns of a dense layer, over the last axis of rows of any rank."""
    bank = FilterBank(6, use_bias=use_bias, bias_initializer="normal", dtype="float64")
    x = rows(*lead, 3).astype(float)
    found = np.asarray(bank(x))
    expected = x @ np.concatenate([np.asarray(part.kernel) for part in bank.parts], -1)
    if use_bias:
        expected = expected + whole(bank)[1]
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert (*lead, 6) == found.shape == bank.compute_output_shape(x.shape)


@BOTH
@pytest.mark.parametrize("size", [None, 1])
def test_s8_b_filter_i_is_output_channel_i(create, size):
    """A filter of ones among filters of zeros shows in its own channel only, and `parts` are in that order."""
    for index in range(3):
        bank = create(3, size, kernel_initializer="zeros")
        x = np.ones((2, 4, 2), np.float32)
        bank.build(x.shape)
        bank.parts[index].kernel.assign(np.ones(bank.parts[index].kernel.shape))
        expected = np.zeros((2, 4, 3))
        expected[..., index] = 2.0
        np.testing.assert_array_equal(expected, np.asarray(bank(x)))
        assert [0, 1, 2] == [part.index for part in bank.layers]


@pytest.mark.parametrize("filters", [0, -1, 2.0, "3", None, True])
def test_s8_d_number_of_filters_that_is_not_positive_is_refused(filters):
    """Zero, negative, and what is no whole number."""
    with pytest.raises(ValueError, match="mine: filters: expected a whole number of at least 1"):
        FilterBank(filters, name="mine")


@pytest.mark.parametrize(
    "arguments",
    [
        {"kernel_size": 0}, {"kernel_size": (2, 0)}, {"kernel_size": 1.5}, {"kernel_size": ()}, {"kernel_size": True},
        {"kernel_size": 2, "strides": 0}, {"kernel_size": 2, "strides": (1, -1)}, {"kernel_size": 2, "padding": "full"},
        {"strides": 2}, {"padding": "same"},
    ],
)  # fmt: skip
def test_geometry_that_makes_no_sense_is_refused_at_construction(arguments):
    """Sizes and strides are positive whole numbers, and dense columns have neither strides nor padding."""
    with pytest.raises(ValueError, match=r"kernel_size|strides|padding"):
        FilterBank(2, **arguments)


@pytest.mark.parametrize(
    ("size", "shape", "said"),
    [
        (None, (None, None), "known last dimension"),
        (None, (3,), "rank 2 or more"),
        (2, (None, 4, 4, None), "known last dimension"),
        (2, (None, 4), "axes of space"),
        ((2, 2), (None, 9, 3), "axes of space"),
        (5, (None, 4, 4, 3), "."),
    ],
)
def test_input_shape_that_does_not_fit_is_refused_by_build(size, shape, said):
    """Unknown channels, a wrong rank, and a window larger than the space."""
    with pytest.raises(ValueError, match=said):
        FilterBank(2, size).build(shape)


@BOTH
@pytest.mark.parametrize("batch", [None, 2])
def test_s8_e_bank_works_in_functional_sequential_and_subclassed_models(create, batch):
    """All three kinds of model give the outputs of the bank by itself, for a known and an unknown batch size."""
    bank, x = create(3, 1), rows(2, 5, 4)
    expected = np.asarray(bank(x))
    inputs = keras.Input((5, 4), batch_size=batch)
    for model in (keras.Model(inputs, bank(inputs)), keras.Sequential([inputs, bank])):
        assert (batch, 5, 3) == model.output_shape
        np.testing.assert_allclose(model.predict_on_batch(x), expected, rtol=1e-6)
    doubling = Doubling(bank)
    np.testing.assert_allclose(doubling.predict_on_batch(x)[..., :3], expected, rtol=1e-6)


def test_dense_bank_hands_a_mask_on_and_a_convolution_does_not():
    """Rows that are masked stay so where each row has its own output, and Keras warns where they do not."""
    x = keras.layers.Masking()(np.array([[[1.0], [0.0]]], np.float32))
    assert [[True, False]] == np.asarray(FilterBank(2)(x)._keras_mask).tolist()
    with pytest.warns(UserWarning, match="does not support mask"):
        FilterBank(2, 1)(x)


def test_mixed_precision_keeps_the_variables_and_the_penalty_in_float32():
    """Computation follows the policy, storage and the sum over pairs do not."""
    bank = FilterBank(3, regularizer="pairwise_orthogonality", dtype="mixed_bfloat16")
    assert "bfloat16" == keras.backend.standardize_dtype(bank(rows(2, 4)).dtype)
    assert {"float32"} == {variable.dtype for variable in bank.variables}
    assert tf.float32 == bank.losses[0].dtype


@pytest.mark.parametrize("initializer", ["orthogonal", "glorot_uniform", keras.initializers.RandomNormal(seed=3)])
def test_initialiser_draws_the_whole_kernel(initializer):
    """The filters start as columns of one draw: orthogonal ones are orthogonal, and none is another's copy."""
    bank = FilterBank(4, kernel_initializer=initializer)
    bank.build((None, 6))
    kernel = whole(bank)[0]
    assert 4 == np.linalg.matrix_rank(kernel)
    if initializer == "orthogonal":
        np.testing.assert_allclose(kernel.T @ kernel, np.eye(4), atol=1e-6)
    if not isinstance(initializer, str):
        np.testing.assert_array_equal(np.asarray(initializer((6, 4))), kernel)


@BOTH
@pytest.mark.parametrize("size", [None, 2])
def test_s9_b_penalty_and_gradient_are_those_of_a_single_layer_with_the_whole_kernel(create, size):
    """A convolution, or a dense layer, with the concatenated kernel and the same regulariser has the same loss."""
    bank = create(4, size, regularizer=PairwiseOrthogonality(0.5))
    single = keras.layers.Dense(4) if size is None else keras.layers.Conv2D(4, size)
    single.kernel_regularizer = PairwiseOrthogonality(0.5)
    for layer in (bank, single):
        layer.build((None, 5, 5, 3))
    single.set_weights(whole(bank))
    with tf.GradientTape(persistent=True) as tape:
        (found,), (expected,) = bank.losses, single.losses
    assert float(expected) == pytest.approx(float(found), rel=1e-6)
    gradients = tape.gradient(found, [part.kernel.value for part in bank.parts])
    np.testing.assert_allclose(np.concatenate(gradients, -1), tape.gradient(expected, single.kernel.value), rtol=1e-5)


def test_s9_d_frozen_filters_are_constants_to_the_penalty():
    """They shape the gradient of the trained ones, as the formula says, and receive none."""
    bank = FilterBank(5, regularizer="pairwise_orthogonality", trainable_parts=[True, False, True, False, True])
    bank.build((None, 6))
    value, gradient = offdiagonal(whole(bank)[0])
    with tf.GradientTape() as tape:
        loss = bank.losses[0]
    found = tape.gradient(loss, [part.kernel.value for part in bank.parts])
    assert value == pytest.approx(float(loss), rel=1e-5)
    assert [True, False, True, False, True] == [slope is not None for slope in found]
    for index in (0, 2, 4):
        np.testing.assert_allclose(found[index], gradient[:, index : index + 1], rtol=1e-4, atol=1e-6)


def test_s9_e_and_d8_t5_bank_that_is_used_twice_is_counted_once():
    """The penalty belongs to the weights: a model that uses the bank twice pays once, after one call or after three."""
    model = Doubling()
    for _ in range(3):
        model(rows(2, 5, 4))
        assert [pytest.approx(offdiagonal(whole(model.bank)[0])[0], rel=1e-5)] == [float(loss) for loss in model.losses]


def test_s11_a_compiled_losses_are_the_eager_ones_over_calls_and_changed_weights():
    """Nothing is frozen into the trace: a function of the model's losses follows the weights."""
    x = keras.Input((5, 4))
    model = keras.Model(x, FilterBank(3, 1, regularizer="pairwise_orthogonality")(x))
    bank, data = model.layers[-1], rows(2, 5, 4)

    @tf.function
    def losses(batch):
        model(batch)
        return model.losses

    for seed in range(3):
        for part in bank.parts:
            part.kernel.assign(rows(seed + 1, *part.kernel.shape)[0])
        expected = offdiagonal(whole(bank)[0])[0]
        for _ in range(2):
            assert [pytest.approx(expected, rel=1e-6)] == [float(loss) for loss in losses(data)]
        assert [pytest.approx(expected, rel=1e-6)] == [float(loss) for loss in model.losses]


@pytest.mark.parametrize("jit_compile", [False, True])
def test_s11_b_compiled_gradients_of_the_losses_are_those_of_the_formula(jit_compile):
    """The gradient of the summed losses for the trainable weights is that of D8.1; biases have none."""
    bank = FilterBank(3, 1, regularizer="pairwise_orthogonality", trainable_parts=[True, True, False])
    bank.build((None, 5, 4))

    def gradients():
        with tf.GradientTape() as tape:
            total = tf.add_n(bank.losses)
        return [slope for slope in tape.gradient(total, bank.trainable_weights) if slope is not None]

    expected = offdiagonal(whole(bank)[0])[1]
    found = tf.function(gradients, jit_compile=jit_compile)()
    assert 2 == len(found) == len(bank.trainable_weights) - 2
    np.testing.assert_allclose(np.concatenate(found, -1), expected[..., :2], rtol=1e-5, atol=1e-7)
