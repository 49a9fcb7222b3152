"""How functions depend on variables, read off their operations: against derivatives that are written down by hand."""

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from training import activations
from training.activations import Role, resolve
from training.dependence import Dependence, dependence

X = np.random.default_rng(0).normal(size=(8, 3)).astype(np.float32)


def variable(name: str, *shape: int) -> keras.Variable:
    """Return a variable of ones, which are no zeros that a factor could hide behind."""
    return keras.Variable(np.ones(shape, np.float32), name=name)


def of(function: Any, **shapes: tuple[int, ...]) -> Dependence:
    """Return how `function(x, **variables)` depends on variables of these shapes."""
    made = {name: variable(name, *shape) for name, shape in shapes.items()}
    return dependence(lambda x: function(x, **made), X, made)


def facts(found: Dependence, name: str) -> str:
    """Return what moves with a variable: v(alue), u(neven) and s(lope); - where it is only seen."""
    letters = zip("vus", (found.moved, found.uneven, found.mixed), strict=True)
    return "".join(letter for letter, names in letters if name in names) or ("-" if name in found.seen else "")


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda x, b: x + b, "v"),
        (lambda x, b: 3.0 * b - x, "v"),
        (lambda x, b: x * b, "vus"),
        (lambda x, b: x / b, "vus"),
        (lambda x, b: b / x, "vus"),
        (lambda x, b: tf.nn.relu(x + b), "vu"),
        (lambda x, b: tf.nn.leaky_relu(x + b), "vu"),
        (lambda x, b: tf.maximum(x + b, 0.2 * (x + b)), "vu"),
        (lambda x, b: tf.abs(x) + b, "v"),
        (lambda x, b: tf.reduce_max(x + b, axis=1), "vu"),
        (lambda x, b: tf.where(x > 0.0, x + b, 0.1 * x), "vu"),
        (lambda x, b: tf.where(x[0] > 0.0, b, 0.1 * b) + x, "vu"),
        (lambda x, b: tf.square(x + b), "vus"),
        (lambda x, b: (x + b) * (x + b), "vus"),
        (lambda x, b: tf.math.softplus(x + b), "vus"),
        (lambda x, b: tf.math.softplus(tf.nn.relu(x + b)), "vus"),
        (lambda x, b: tf.nn.relu(tf.math.softplus(x) + b), "vu"),
        (lambda x, b: tf.math.softplus(x) + tf.exp(b), "v"),
        (lambda x, b: x * tf.cast(x + b > 0.0, tf.float32), "-"),
        (lambda x, b: tf.where(tf.abs(x) < b, tf.exp(x), 0.0), "-"),
        (lambda x, b: x + tf.round(b), "-"),
        (lambda x, b: x + tf.stop_gradient(b), "-"),
        (lambda x, b: x + 0.0 * tf.square(x + b), "-"),
        (lambda x, b: x if b is not None else b, ""),
        (lambda x, b: tf.gather(b, tf.argmax(x, axis=1)), "vu"),
        (lambda x, b: tf.cast(x > 0.0, tf.float32) * b, "vu"),
        (lambda x, b: tf.reduce_logsumexp(x + b, axis=1), "vus"),
    ],
)  # fmt: skip
def test_dependence_is_that_of_the_derivatives_of_a_function(function, expected):
    """Whether d/db is zero, the same at all rows, and whether d2/db dx is zero, are read off the operations."""
    assert expected == facts(of(function, b=(3,)), "b")


def test_kernels_move_slopes_and_biases_only_through_curvature():
    """A dense layer's kernel is a factor of the row; its bias moves the slope only where the activation bends."""
    for activation, expected in (("linear", "v"), ("relu", "vu"), ("softplus", "vus"), ("elu", "vus")):
        layer = keras.layers.Dense(4, activation=activation)
        layer.build((None, 3))
        found = dependence(layer, X, {one.name: one for one in layer.trainable_variables})
        assert ("vus", expected) == (facts(found, "kernel"), facts(found, "bias"))


@pytest.mark.parametrize("name", [*activations.names(Role.HIDDEN), *activations.names(Role.FIRST)])
def test_registry_and_operations_agree_on_which_activations_bend(name):
    """What the registry says of the second derivative is what its function's operations say."""
    activation = resolve(name, Role.FIRST)
    assert activation.second_derivative_zero_ae == (
        "s" not in facts(of(lambda x, b: activation.function(x + b), b=(3,)), "b")
    )


def test_smooth_leaky_of_slope_one_is_seen_to_be_a_line():
    """The curved part has the factor 0 there, which the operations show as the registry does."""
    activation = resolve("smooth_leaky(1)")
    assert activation.second_derivative_zero_ae
    assert "v" == facts(of(lambda x, b: activation.function(x + b), b=(3,)), "b")


def test_compiled_functions_are_followed_into_their_bodies():
    """A decorator hides an operation from a tape outside, not from this walk; nor does one inside another."""
    inner = tf.function(lambda x: tf.maximum(x, 0.2 * x))
    outer = tf.function(lambda x: tf.square(inner(x)))
    assert "vu" == facts(of(lambda x, b: inner(x + b), b=(3,)), "b")
    assert "vus" == facts(of(lambda x, b: outer(x + b), b=(3,)), "b")


def test_branches_and_loops_are_followed_into_their_bodies():
    """A variable in one branch of two counts, one in the condition alone does not, and a loop's rounds add up."""

    def branches(x, a, b, c):
        return tf.cond(tf.reduce_sum(c) > 0.0, lambda: tf.nn.relu(x + a), lambda: x * b)

    found = of(branches, a=(3,), b=(3,), c=(3,))
    assert ["vu", "vus", "-"] == [facts(found, name) for name in "abc"]
    assert {"c": frozenset({"Greater"})} == found.cuts

    def loop(x, a, b):
        return tf.while_loop(lambda k, _: k < 3, lambda k, z: (k + 1, tf.nn.relu(z * a + b)), (0, x))[1]

    found = of(loop, a=(3,), b=(3,))
    assert ["vus", "vu"] == [facts(found, name) for name in "ab"]  # b is multiplied by a, which no row moves


def test_custom_gradients_do_not_hide_what_the_function_is():
    """A function whose gradient its author wrote is judged by its own operations."""

    @tf.custom_gradient
    def square(x):
        return x * x, lambda upstream: 2.0 * tf.stop_gradient(x) * upstream

    assert "vus" == facts(of(lambda x, b: square(x + b), b=(3,)), "b")


def test_kinks_and_cuts_name_the_operations_on_the_way():
    """What a variable goes through, and what loses it, is told by the operations' names."""
    found = of(lambda x, a, b: tf.nn.relu(tf.abs(x + a)) + tf.round(x + tf.sign(b)), a=(3,), b=(3,))
    assert {"a": frozenset({"Abs", "Relu"})} == found.kinks
    assert {"b": frozenset({"Sign"})} == found.cuts


def test_layers_of_keras_are_read_as_what_they_are():
    """Convolution, batch normalisation and PReLU at inference: factors move slopes, shifts move none."""
    image = np.ones((2, 6, 6, 2), np.float32)
    model = keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            keras.layers.Conv2D(3, 2, name="conv"),
            keras.layers.BatchNormalization(name="norm"),
            keras.layers.PReLU(name="prelu"),
            keras.layers.GlobalMaxPooling2D(),
            keras.layers.Dense(1, name="out"),
        ]
    )
    found = dependence(model, image, {"/".join(one.path.split("/")[-2:]): one for one in model.trainable_variables})
    expected = dict.fromkeys(("conv/kernel", "norm/gamma", "prelu/alpha", "out/kernel"), "vus")
    expected |= {"conv/bias": "vu", "norm/beta": "vu", "out/bias": "v"}
    assert expected == {name: facts(found, name) for name in expected}
