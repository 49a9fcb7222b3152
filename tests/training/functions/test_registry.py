"""Registration: names, what is checked of a function, and analytic gradients against finite differences."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from training.functions import registry
from training.functions.declarations import Properties
from training.functions.registry import FunctionRefusedError

HIDDEN = Properties(convex=True, non_decreasing=True)
CONVEX = Properties(convex=True, non_decreasing=False)
RANDOM = np.random.default_rng(0)


def twice(x):
    """Return 2x."""
    return 2.0 * x


def naive_softmax(x):
    """Return softmax composed of exp, sum and division."""
    exponentials = ops.exp(x)
    return exponentials / ops.sum(exponentials, axis=-1, keepdims=True)


def stable_softmax(x):
    """Return softmax with the largest entry taken off."""
    return naive_softmax(x - ops.stop_gradient(ops.max(x, axis=-1, keepdims=True)))


def softmax_gradient(x, upstream):
    """Return s (u - <s, u>)."""
    s = stable_softmax(x)
    return s * (upstream - ops.sum(upstream * s, axis=-1, keepdims=True))


def log_sum_exp(x):
    """Return the log-sum-exp of each row."""
    largest = ops.stop_gradient(ops.max(x, axis=-1, keepdims=True))
    return ops.squeeze(largest, axis=-1) + ops.log(ops.sum(ops.exp(x - largest), axis=-1))


def log_sum_exp_gradient(x, upstream):
    """Return the softmax, times what comes from above."""
    return upstream[..., None] * stable_softmax(x)


def derivatives(function, x):
    """Return f, the gradient of sum(sin f), and the gradient of a weighted sum of that, by nested tapes."""
    x = tf.constant(x)
    weights = tf.constant(np.random.default_rng(5).normal(size=x.shape), x.dtype)
    with tf.GradientTape() as outer:
        outer.watch(x)
        with tf.GradientTape() as inner:
            inner.watch(x)
            y = function(x)
            total = tf.reduce_sum(tf.sin(y))
        gradient = inner.gradient(total, x)
        along = tf.reduce_sum(weights * gradient)
    return y.numpy(), gradient.numpy(), outer.gradient(along, x).numpy()


@pytest.mark.parametrize("name", ["", "1st", "a b", "a/b", "x" * 65, "über"])
def test_register_refuses_a_name_that_is_none(name):
    """A name goes into files, so it is plain."""
    with pytest.raises(FunctionRefusedError, match=r"^name: expected letters, digits"):
        registry.register(name)(twice)


def test_register_refuses_a_name_that_is_taken(register_function):
    """A name means one function, or a saved model would change its meaning."""
    register_function("taken", twice)
    with pytest.raises(FunctionRefusedError, match="'taken' is the name of a registered function"):
        registry.register("taken")(ops.exp)
    assert registry.resolve("taken").forward is twice


def test_registered_function_is_found_by_name_and_by_itself(register_function):
    """The decorator leaves the function as it is, and both ways lead to one entry."""
    assert register_function("found", twice) is twice
    assert registry.resolve("found") is registry.resolve(twice)


@pytest.mark.parametrize("function", ["nobody", ops.exp])
def test_resolve_refuses_what_is_not_registered_with_the_remedy(function):
    """The sentence says why (names, never code) and what to do (register, import)."""
    with pytest.raises(FunctionRefusedError, match=r"never.*(import the module|Register it)"):
        registry.resolve(function)


@pytest.mark.parametrize(
    ("forward", "arguments", "reason"),
    [
        (lambda x: ops.sum(x), {}, r"answers \[\] to 25 rows"),
        (lambda x: ops.sum(x, axis=1), {}, r"cannot be evaluated on tensors \[25\] of float32"),
        (lambda x: tf.constant(2.0) * x, {"properties": HIDDEN}, "constants as Python numbers"),
        (lambda x: x - ops.mean(x, axis=0), {"properties": CONVEX, "row_shape": (3,)}, "otherwise alone than among"),
        (lambda x: x[::-1], {"gradient": lambda _x, u: u[::-1]}, "otherwise alone than among"),
        (lambda x: x[:, ::-1] if len(x.shape) == 2 else x, {"properties": HIDDEN}, "does not compute number by number"),
        (ops.log, {"properties": CONVEX}, "not finite at the sample"),
        (lambda x: ops.exp(x**4), {"properties": HIDDEN, "sample": np.ones(3)}, "does not give a finite number"),
        (twice, {"sample": np.ones((4, 2)), "row_shape": (3,)}, r"expected the shape \[n, 3\]"),
    ],
)
def test_register_refuses_what_cannot_be_checked_or_mixes_rows(forward, arguments, reason):
    """Each reason is said, and the name stays free."""
    with pytest.raises(FunctionRefusedError, match=reason):
        registry.register("refused", **arguments)(forward)
    with pytest.raises(FunctionRefusedError, match="not registered"):
        registry.resolve("refused")


@pytest.mark.parametrize(
    ("forward", "arguments"),
    [
        (ops.tanh, {"properties": CONVEX}),
        (ops.gelu, {"properties": HIDDEN}),
        (ops.abs, {"properties": HIDDEN}),
        (lambda x: ops.max(x, axis=-1) - ops.min(x, axis=-1), {"properties": HIDDEN, "row_shape": (3,)}),
        (naive_softmax, {"properties": HIDDEN, "row_shape": (3,), "gradient": softmax_gradient}),
    ],
)
def test_s15_f_declaration_that_a_scan_refutes_is_refused_with_three_points(forward, arguments):
    """The three points come with the refusal, violate midpoint convexity, and stand in its sentence."""
    with pytest.raises(
        FunctionRefusedError, match=r"is declared as .*, and is not: .* above .* the mean of"
    ) as refused:
        registry.register("refused", **arguments)(forward)
    found = refused.value.counterexample
    assert found.points[1] == pytest.approx((found.points[0] + found.points[2]) / 2, abs=1e-12)
    assert found.values[1] > (found.values[0] + found.values[2]) / 2
    assert str(found) in str(refused.value)


@pytest.mark.parametrize(
    ("forward", "arguments", "passes"),
    [
        (ops.round, {}, False),
        (ops.sign, {}, False),
        (lambda x: ops.cast(x > 0.0, x.dtype), {}, False),
        (lambda x: ops.argmax(x, axis=-1), {"row_shape": (3,)}, False),
        (ops.relu, {}, True),
        (lambda x: x + ops.round(x), {}, True),
        (lambda x: 0.0 * x, {}, True),
    ],
)
def test_register_notes_whether_gradients_pass(forward, arguments, passes, register_function):
    """Rounding, sign, comparison and argmax let none through; a constant has a gradient, which is zero."""
    register_function("noted", forward, **arguments)
    assert passes == registry.resolve("noted").passes_gradient


@pytest.mark.parametrize(
    ("forward", "gradient", "arguments"),
    [
        (lambda x: x * x, lambda x, u: 2.0 * x * u, {}),
        (twice, lambda _x, u: 2.0 * u, {}),
        (naive_softmax, softmax_gradient, {"row_shape": (5,)}),
        (log_sum_exp, log_sum_exp_gradient, {"row_shape": (20,)}),
        (ops.log, lambda x, u: u / x, {"sample": np.array([0.1, 1.0, 50.0])}),
        (ops.relu, lambda x, u: u * ops.cast(x > 0.0, u.dtype), {}),
    ],
)
def test_s19_a_registration_accepts_gradients_that_agree_with_finite_differences(
    forward, gradient, arguments, register_function
):
    """Gradients and their own derivatives that are right to 1e-6 in float64 pass, kinks away from the sample too."""
    register_function("analytic", forward, gradient=gradient, **arguments)
    assert registry.resolve("analytic").gradient is gradient


@pytest.mark.parametrize("factor", [1.01, 1.0 + 1e-5, 0.0, -1.0])
@pytest.mark.parametrize(
    ("forward", "gradient", "shape"),
    [(lambda x: x * x, lambda x, u: 2.0 * x * u, ()), (naive_softmax, softmax_gradient, (3,))],
)
def test_s19_b_wrong_gradient_is_refused_with_the_measured_error(forward, gradient, shape, factor):
    """A factor on the gradient is measured as what it is, and the number stands in the sentence."""
    with pytest.raises(FunctionRefusedError, match="the gradient is off by") as refused:
        registry.register("wrong", gradient=lambda x, u: factor * gradient(x, u), row_shape=shape)(forward)
    assert abs(factor - 1.0) == pytest.approx(refused.value.error, rel=1e-3)
    assert f"{refused.value.error:.3g}" in str(refused.value)


def test_s19_b_wrong_entry_of_a_gradient_is_refused():
    """One of twenty entries off by a thousandth is found, though the nineteen others are right."""
    weights = np.ones(20)
    weights[7] = 1.001
    with pytest.raises(FunctionRefusedError, match="the gradient is off by"):
        registry.register("wrong", gradient=lambda x, u: weights * softmax_gradient(x, u), row_shape=(20,))(
            naive_softmax
        )


@pytest.mark.parametrize(
    "gradient",
    [
        lambda x, u: 2.0 * tf.stop_gradient(x) * u,
        lambda x, u: 2.0 * x * tf.stop_gradient(u),
        lambda x, u: tf.numpy_function(lambda x, u: 2.0 * x * u, [x, u], x.dtype),
    ],
)
def test_s19_b_gradient_that_cannot_be_differentiated_is_refused_with_the_measured_error(gradient):
    """Right first derivatives are not enough: the second one is missing, which is an error of 1."""
    with pytest.raises(FunctionRefusedError, match="the gradient's own derivative is off by 1 ") as refused:
        registry.register("hidden", gradient=gradient)(lambda x: x * x)
    assert 1.0 == refused.value.error


def test_s19_a_gradient_that_is_not_finite_is_refused():
    """A gradient that is NaN at the sample does not pass because no comparison with NaN holds."""
    with pytest.raises(FunctionRefusedError, match="the gradient is off by nan"):
        registry.register("nan", gradient=lambda x, u: 2.0 * x * u * np.nan)(lambda x: x * x)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("forward", "gradient"), [(naive_softmax, softmax_gradient), (log_sum_exp, log_sum_exp_gradient)]
)
def test_s19_c_analytic_gradient_equals_the_automatic_one(forward, gradient, dtype, register_function):
    """Value, gradient and second derivative are those of automatic differentiation to 1e-6."""
    register_function("analytic", forward, gradient=gradient, row_shape=(4,))
    x = RANDOM.normal(scale=2.0, size=(6, 4)).astype(dtype)
    for found, expected in zip(derivatives(registry.resolve("analytic"), x), derivatives(forward, x), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-6)
        assert dtype == found.dtype.name


def test_s19_c_analytic_softmax_is_finite_at_ten_thousand_where_the_naive_composition_is_not(register_function):
    """At inputs of +-1e4 the naive value and gradient are NaN, the analytic ones finite and equal to closed forms."""
    register_function("soft_max", stable_softmax, gradient=softmax_gradient, row_shape=(3,))
    register_function("log_sum", log_sum_exp, gradient=log_sum_exp_gradient, row_shape=(3,))
    x = np.array([[1e4, -1e4, 0.0], [-1e4, -1e4, -1e4], [1e4, 1e4, -1e4]], np.float32)
    assert not np.isfinite(derivatives(naive_softmax, x)[0]).all()
    assert not np.isfinite(derivatives(naive_softmax, x)[1]).all()
    for name in ("soft_max", "log_sum"):
        assert all(np.isfinite(part).all() for part in derivatives(registry.resolve(name), x))
    shares = np.array([[1, 0, 0], [1 / 3, 1 / 3, 1 / 3], [0.5, 0.5, 0]], np.float32)
    np.testing.assert_allclose(derivatives(registry.resolve("soft_max"), x)[0], shares, atol=1e-7)
    value, gradient, _ = derivatives(registry.resolve("log_sum"), x)
    np.testing.assert_allclose(value, [1e4, -1e4 + np.log(3.0), 1e4 + np.log(2.0)], rtol=1e-6)
    np.testing.assert_allclose(gradient, np.cos(value)[:, None] * shares, atol=1e-6)


def test_s19_d_analytic_gradient_does_not_excuse_a_declaration(register_function):
    """With a right gradient a false declaration is refused as without, and a true one is kept."""
    for gradient in (None, softmax_gradient):
        with pytest.raises(FunctionRefusedError, match="is declared as convex, and is not"):
            registry.register("soft", properties=HIDDEN, gradient=gradient, row_shape=(3,))(stable_softmax)
    register_function("log_sum", log_sum_exp, properties=HIDDEN, gradient=log_sum_exp_gradient, row_shape=(3,))
    assert HIDDEN == registry.resolve("log_sum").properties


def test_gradient_under_compilation_is_the_eager_one(register_function):
    """In a tf.function the analytic gradient is used too, to second order."""
    register_function("log_sum", log_sum_exp, gradient=log_sum_exp_gradient, row_shape=(3,))
    function = registry.resolve("log_sum")
    x = RANDOM.normal(size=(5, 3))

    @tf.function
    def compiled(x):
        with tf.GradientTape() as outer:
            outer.watch(x)
            with tf.GradientTape() as inner:
                inner.watch(x)
                y = function(x)
            gradient = inner.gradient(y, x)
        return gradient, outer.gradient(gradient, x, output_gradients=x)

    gradient, second = compiled(tf.constant(x))
    shares = np.exp(x - np.logaddexp.reduce(x, axis=-1)[:, None])
    np.testing.assert_allclose(gradient, shares, rtol=1e-12)
    np.testing.assert_allclose(second, shares * (x - (shares * x).sum(axis=1, keepdims=True)), rtol=1e-10, atol=1e-15)


def test_registered_function_needs_no_keras_lambda(register_function):
    """What is registered is served by a layer of ours; Keras' registry of custom objects does not know it."""
    register_function("plain", twice)
    assert keras.saving.get_registered_object("convex_scoring>plain") is None
    assert 4.0 == float(registry.resolve("plain")(tf.constant([2.0]))[0])
