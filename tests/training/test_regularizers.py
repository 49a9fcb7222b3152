"""Penalties on a whole kernel: pairwise orthogonality against NumPy, functions of one's own, and the bad example."""

import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf

from training import regularizers
from training.regularizers import KernelFunction, NegativeRegularizationWarning, PairwiseOrthogonality


@keras.saving.register_keras_serializable(package="test_regularizers")
def mirrored(kernel):
    """Return the thread's demonstration penalty: the kernel times its copy reversed along the filters, summed."""
    return keras.ops.sum(kernel * keras.ops.flip(kernel, axis=-1))


@keras.saving.register_keras_serializable(package="test_regularizers")
def squared(kernel):
    """Return the sum of squares."""
    return keras.ops.sum(keras.ops.square(kernel))


def kernel_of(*shape: int) -> np.ndarray:
    """Return normal float64 numbers, the same ones for a shape."""
    return np.random.default_rng(shape).normal(size=shape)


def by_hand(kernel: np.ndarray, power: int = 2, *, cosine: bool = False) -> tuple[float, np.ndarray]:
    """Return the penalty and its gradient, pair by pair."""
    columns = kernel.reshape(-1, kernel.shape[-1])
    value, gradient = 0.0, np.zeros_like(columns)
    for i in range(columns.shape[1]):
        for j in range(i):
            a, b = columns[:, i], columns[:, j]
            scale = np.linalg.norm(a) * np.linalg.norm(b) if cosine else 1.0
            c = a @ b / scale
            value += c**power
            slope = power * c ** (power - 1)
            gradient[:, i] += slope * (b / scale - (c * a / (a @ a) if cosine else 0.0))
            gradient[:, j] += slope * (a / scale - (c * b / (b @ b) if cosine else 0.0))
    return value, gradient.reshape(kernel.shape)


def value_and_gradient(regularizer, kernel: np.ndarray) -> tuple[float, np.ndarray]:
    """Return what a tape finds."""
    variable = tf.Variable(kernel)
    with tf.GradientTape() as tape:
        value = regularizer(variable)
    return float(value), tape.gradient(value, variable).numpy()


@pytest.mark.parametrize("shape", [(5, 3), (3, 5), (2, 2, 3, 4), (1, 1, 8, 10), (4, 1)])
@pytest.mark.parametrize("cosine", [False, True])
@pytest.mark.parametrize("power", [2, 6])
def test_d8_t1_orthogonality_and_its_gradient_equal_a_double_loop(shape, cosine, power):
    """Value and gradient are those of a loop over the pairs in float64 NumPy, for any shape of kernel."""
    kernel = kernel_of(*shape)
    value, gradient = value_and_gradient(PairwiseOrthogonality(3.0, cosine=cosine, power=power), kernel)
    expected, slopes = by_hand(kernel, power, cosine=cosine)
    assert 3.0 * expected == pytest.approx(value, rel=1e-10, abs=1e-12)
    np.testing.assert_allclose(gradient, 3.0 * slopes, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("cosine", [False, True])
def test_d8_t1_gradient_equals_finite_differences(cosine):
    """Central differences of the penalty itself, entry by entry in float64."""
    kernel, regularizer = kernel_of(4, 3), PairwiseOrthogonality(cosine=cosine)
    gradient = value_and_gradient(regularizer, kernel)[1]
    for index in np.ndindex(kernel.shape):
        step = np.zeros_like(kernel)
        step[index] = 1e-6
        slope = (float(regularizer(tf.constant(kernel + step))) - float(regularizer(tf.constant(kernel - step)))) / 2e-6
        assert slope == pytest.approx(gradient[index], rel=1e-6, abs=1e-8)


def test_d8_t1_gradient_has_the_factor_of_the_formula():
    """It is 2 K offdiag(K^T K), as the formula with one half says."""
    kernel = kernel_of(6, 4)
    gram = kernel.T @ kernel
    expected = 2.0 * kernel @ (gram - np.diag(np.diag(gram)))
    np.testing.assert_allclose(value_and_gradient(PairwiseOrthogonality(), kernel)[1], expected, rtol=1e-10)


@pytest.mark.parametrize("cosine", [False, True])
def test_d8_t4_orthonormal_columns_cost_nothing_and_two_equal_ones_cost_one(cosine):
    """An orthonormal kernel has R = 0 to rounding, two equal unit columns R = 1."""
    regularizer = PairwiseOrthogonality(cosine=cosine)
    orthonormal = np.linalg.qr(kernel_of(7, 5))[0]
    assert float(regularizer(tf.constant(orthonormal))) < 1e-28
    twice = np.repeat(orthonormal[:, :1], 2, axis=1)
    assert 1.0 == pytest.approx(float(regularizer(tf.constant(twice))), rel=1e-12)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_cosine_of_a_zero_filter_is_finite_in_every_dtype(dtype):
    """A filter of zeros costs nothing, and its gradient is finite."""
    kernel = tf.Variable(tf.cast([[0.0, 1.0], [0.0, 1.0]], dtype))
    with tf.GradientTape() as tape:
        value = PairwiseOrthogonality(cosine=True)(kernel)
    assert 0.0 == float(value)
    assert np.isfinite(np.asarray(tape.gradient(value, kernel), dtype=float)).all()


@pytest.mark.parametrize("power", [1, 3, 0, -2, 2.0, True])
def test_power_that_is_not_even_is_refused(power):
    """An odd power would be signed."""
    with pytest.raises(ValueError, match="power: expected an even whole number"):
        PairwiseOrthogonality(power=power)


@pytest.mark.parametrize("strength", [-1.0, np.nan, np.inf, "1", True])
@pytest.mark.parametrize("create", [PairwiseOrthogonality, lambda strength: KernelFunction(mirrored, strength)])
def test_strength_that_is_negative_or_no_number_is_refused(create, strength):
    """A negative factor would reward what it is there to cost."""
    with pytest.raises(ValueError, match="strength: expected a finite number of at least 0"):
        create(strength)


def test_cosine_that_is_no_boolean_is_refused():
    """The plain penalty and that of cosines are two things, and a number is neither."""
    with pytest.raises(TypeError, match="cosine: expected True or False"):
        PairwiseOrthogonality(cosine=1)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("pairwise_orthogonality", {"strength": 1.0, "cosine": False, "power": 2}),
        ("pairwise_cosine_orthogonality", {"strength": 1.0, "cosine": True, "power": 2}),
        (PairwiseOrthogonality(0.5, power=4), {"strength": 0.5, "cosine": False, "power": 4}),
        (mirrored, {"function": "test_regularizers>mirrored", "strength": 1.0}),
        ("test_regularizers>mirrored", {"function": "test_regularizers>mirrored", "strength": 1.0}),
    ],
)
def test_s9_a_regulariser_is_given_by_name_or_as_a_function_of_the_kernel(given, expected):
    """Names, objects and registered functions are resolved, and come back from their configuration."""
    resolved = regularizers.resolve(given)
    assert expected == resolved.get_config()
    again = regularizers.resolve(keras.regularizers.serialize(resolved))
    assert (type(resolved), expected) == (type(again), again.get_config())


def test_resolve_takes_none_and_the_regularisers_of_keras():
    """None stays None, and an L2 is a function of the whole kernel too."""
    penalty = keras.regularizers.L2(0.1)
    assert (None, penalty) == (regularizers.resolve(None), regularizers.resolve(penalty))


@pytest.mark.parametrize("given", ["orthogonal", 3, "package>unknown", lambda kernel: kernel, keras.ops.sum])
def test_s9_a_function_that_no_file_could_name_is_refused(given):
    """A lambda, a function that is not registered and an unknown name are refused, with what is expected."""
    with pytest.raises(ValueError, match=r"expected .*registered function"):
        regularizers.resolve(given)


@pytest.mark.parametrize("filters", [2, 3, 10])
def test_s13_a_gradient_of_a_filter_is_twice_the_mirrored_one_exactly(filters):
    """For the demonstration penalty it is 2 k_{n+1-i}, bit for bit in float32, the middle one its own mirror."""
    kernel = kernel_of(1, 1, 6, filters).astype(np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NegativeRegularizationWarning)
        gradient = value_and_gradient(KernelFunction(mirrored), kernel)[1]
    np.testing.assert_array_equal(2.0 * kernel[..., ::-1], gradient)


@pytest.mark.parametrize("filters", [2, 3, 10])
def test_s13_b_value_is_the_sum_over_mirrored_pairs(filters):
    """The demonstration penalty equals the sum of the inner products of filters i and n + 1 - i."""
    kernel = kernel_of(1, 1, 6, filters)
    columns = kernel.reshape(6, filters)
    expected = sum(columns[:, i] @ columns[:, filters - 1 - i] for i in range(filters))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NegativeRegularizationWarning)
        assert expected == pytest.approx(float(KernelFunction(mirrored)(tf.constant(kernel))), rel=1e-12)


def test_s13_c_demonstration_penalty_falls_without_end_and_overlooks_parallel_filters():
    """Growing opposite filters take its value to minus infinity, and a kernel of parallel ones may cost it nothing."""
    axis = kernel_of(5)
    axis /= np.linalg.norm(axis)
    values = []
    for scale in (1.0, 10.0, 1e3, 1e6, 1e9):
        with pytest.warns(NegativeRegularizationWarning):
            values.append(float(KernelFunction(mirrored)(tf.constant(scale * np.stack([axis, -axis], axis=1)))))
    np.testing.assert_allclose(values, [-2.0, -200.0, -2e6, -2e12, -2e18], rtol=1e-12)
    other = np.linalg.qr(np.stack([axis, kernel_of(5, 1)[:, 0]], axis=1))[0][:, 1]
    parallel = np.stack([axis, axis, other, other], axis=1)
    assert 0.0 == pytest.approx(float(KernelFunction(mirrored)(tf.constant(parallel))), abs=1e-12)
    assert 2.0 == pytest.approx(float(PairwiseOrthogonality()(tf.constant(parallel))), rel=1e-12)
    assert "no lower bound" in " ".join(KernelFunction.__doc__.split())


def test_s13_d_negative_value_is_warned_of_by_the_name_of_the_function():
    """The warning tells name and value, and a regulariser that is not negative gives none."""
    kernel = tf.constant([[1.0, -2.0]])
    with pytest.warns(NegativeRegularizationWarning, match=r"'test_regularizers>mirrored' returned -8: .*0 or more"):
        KernelFunction(mirrored, 2.0)(kernel)
    KernelFunction(squared)(kernel)
    PairwiseOrthogonality()(kernel)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_s13_d_negative_value_is_warned_of_in_a_compiled_function_soon_after(jit_compile):
    """A compiled function that was traced with a good value warns before a later call, under XLA too."""
    kernel, owner = tf.Variable([[1.0, 2.0]]), object()
    function = tf.function(
        lambda: regularizers.penalty(KernelFunction(mirrored), lambda: [kernel.read_value()], owner),
        jit_compile=jit_compile,
    )
    assert 4.0 == float(function())
    kernel.assign([[1.0, -2.0]])
    with pytest.warns(NegativeRegularizationWarning, match="mirrored"):
        assert -4.0 == float(function())


def test_single_convolution_takes_the_regulariser_as_its_own():
    """It is a Keras regulariser: a Conv2D has it in `losses` and in its configuration."""
    layer = keras.layers.Conv2D(4, 2, kernel_regularizer=PairwiseOrthogonality(2.0))
    layer.build((None, 5, 5, 3))
    expected = 2.0 * by_hand(layer.kernel.numpy().astype(float))[0]
    assert [pytest.approx(expected, rel=1e-5)] == [float(loss) for loss in layer.losses]
    assert PairwiseOrthogonality(2.0).get_config() == layer.get_config()["kernel_regularizer"]["config"]
