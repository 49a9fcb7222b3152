"""Decisions and loops: values and derivatives of the branch taken, in every form, eagerly and compiled."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from training.functions.control_flow import cond, while_loop
from training.functions.registry import FunctionRefusedError
from training.layers.function import Function

UP, DOWN = np.array([[2.0], [1.5], [0.5]]), np.array([[-2.0], [-1.5], [-0.5]])


def python_if(x):
    """Return x^3 where the batch sums to more than 0, else -x^2."""
    y = -(x**2)
    if ops.sum(x) > 0.0:
        y = x**3
    return y


def with_cond(x):
    """Return the same by TensorFlow's cond, behind ours."""
    return cond(ops.sum(x) > 0.0, lambda: x**3, lambda: -(x**2))


def with_where(x):
    """Return x^3 for each component above 0, else -x^2."""
    return ops.where(x > 0.0, x**3, -(x**2))


def with_while_loop(x):
    """Return x^4 by three turns of TensorFlow's while_loop, behind ours."""
    return while_loop(lambda i, _y: i < 3, lambda i, y: (i + 1, y * x), [0, x], maximum_iterations=5)[1]


def python_while(x):
    """Return x times its powers until the largest is at least 10: as many turns as the data need."""
    y = x
    while ops.max(ops.abs(y)) < 10.0:
        y = y * x
    return y


def python_for(x):
    """Return x^4."""
    y = x
    for _ in tf.range(3):
        y = y * x
    return y


def branches(x):
    """Return value, slope and curvature of the decision in closed form."""
    return (x**3, 3 * x**2, 6 * x) if x.sum() > 0 else (-(x**2), -2 * x, np.full_like(x, -2.0))


def fourth(x):
    """Return value, slope and curvature of x^4."""
    return x**4, 4 * x**3, 12 * x**2


FORMS = {
    "if": (python_if, tf.function(python_if), branches),
    "cond": (with_cond, with_cond, branches),
    "where": (with_where, with_where, branches),
    "while_loop": (with_while_loop, with_while_loop, fourth),
    "while": (python_while, tf.function(python_while), fourth),  # 2, 4, 8, 16
    "for": (python_for, tf.function(python_for), fourth),
}


def two_derivatives(function, x):
    """Return value, slope and curvature of a function of each number, by nested tapes."""
    with tf.GradientTape() as outer:
        outer.watch(x)
        with tf.GradientTape() as inner:
            inner.watch(x)
            y = function(x)
        slope = inner.gradient(y, x)
    return y, slope, outer.gradient(slope, x)


def differences(function, x, step=1e-3):
    """Return slope and curvature of a function by central differences, the batch moved as a whole."""
    below, here, above = (np.asarray(function(tf.constant(x + move))) for move in (-step, 0.0, step))
    return (above - below) / (2 * step), (above - 2 * here + below) / step**2


@pytest.mark.parametrize("form", FORMS)
def test_s18_a_control_flow_has_the_value_slope_and_curvature_of_eager_python(form, register_function):
    """Each form, compiled and in a layer, equals plain eager Python, its finite differences and the closed form."""
    eager, written, closed_form = FORMS[form]
    register_function("form", written)
    layer = Function("form", dtype="float64")
    compiled = tf.function(lambda x: two_derivatives(layer, x), input_signature=[tf.TensorSpec([None, 1], tf.float64)])
    for x in (UP, DOWN):
        expected = closed_form(x)
        for found in (two_derivatives(eager, tf.constant(x)), compiled(tf.constant(x))):
            for part, truth in zip(found, expected, strict=True):
                np.testing.assert_allclose(part, truth, rtol=1e-12)
        np.testing.assert_allclose(layer(x), expected[0], rtol=1e-12)
        for part, truth in zip(differences(eager, x), expected[1:], strict=True):
            np.testing.assert_allclose(part, truth, rtol=1e-5)


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda x: ops.where(x > 0.0, 3.0 * x, -x), -1.0),
        (lambda x: ops.where(x >= 0.0, 3.0 * x, -x), 3.0),
        (lambda x: cond(ops.sum(x) > 0.0, lambda: 3.0 * x, lambda: -x), -1.0),
        (lambda x: cond(ops.sum(x) >= 0.0, lambda: 3.0 * x, lambda: -x), 3.0),
    ],
)
def test_s18_b_derivative_at_a_switching_point_is_that_of_the_side_the_predicate_takes(function, expected):
    """At 0 a strict comparison takes the other branch, and the derivative is that branch's, eagerly and compiled."""
    x = tf.zeros([1], tf.float64)
    for run in (lambda x: two_derivatives(function, x)[1], tf.function(lambda x: two_derivatives(function, x)[1])):
        assert [expected] == run(x).numpy().tolist()


def test_s18_a_every_form_trains_in_fit(register_function):
    """In one model with all forms side by side, each passes its gradient on to the weights before it."""
    x = keras.Input((1,))
    branches_of_model, weights = [], []
    for form, (_, written, _) in FORMS.items():
        register_function(form, written)
        before = keras.layers.Dense(1, use_bias=False, kernel_initializer="ones", name=f"before_{form}")
        branches_of_model.append(Function(form)(before(x)))
        weights.append(before)
    model = keras.Model(x, ops.sum(ops.concatenate(branches_of_model, axis=-1), axis=-1))
    model.compile(keras.optimizers.SGD(1e-4), "mse")
    model.fit(UP, np.zeros(3), batch_size=3, epochs=1, verbose=0)
    assert all(layer.kernel.numpy()[0, 0] != 1.0 for layer in weights)


class Chain(keras.Model):
    """Layers one after the other, called as they are and never with symbolic tensors before training."""

    def __init__(self, layers):
        """Take the layers."""
        super().__init__()
        self.chain = layers

    def call(self, x):
        """Return what the last layer returns."""
        for layer in self.chain:
            x = layer(x)
        return x


def python_and(x):
    """Return x where two tensors are true, else -x."""
    return x if ops.sum(x) > 0.0 and ops.max(x) > 0.0 else -x


@pytest.mark.parametrize("function", [python_if, python_while, python_for, python_and])
def test_s18_c_undecorated_python_fails_with_a_message_that_names_the_remedy(function, register_function):
    """A symbolic tensor has no value to decide on; the sentence names tf.function, where, cond and while_loop."""
    register_function("undecorated", function)
    layer = Function("undecorated", name="decider")
    layer(tf.constant(UP))  # eagerly there is a value
    with pytest.raises(FunctionRefusedError, match=r"decider: 'undecorated' .*@tf\.function.*where.*cond.*while_loop"):
        layer(keras.Input((1,)))


def test_s18_c_undecorated_if_fails_in_fit_with_the_same_message(register_function):
    """A model that was built eagerly meets its first symbolic tensor in fit, and says the same."""
    register_function("undecorated", python_if)
    model = Chain([keras.layers.Dense(1), Function("undecorated")])
    model(UP)
    model.compile("sgd", "mse")
    with pytest.raises(FunctionRefusedError, match=r"'undecorated' lets Python decide"):
        model.fit(UP, UP, verbose=0)


def test_s18_d_number_of_turns_depends_on_the_data():
    """One and the same compiled function takes as many turns as a batch needs."""
    compiled = tf.function(python_while)
    for start, power in ((2.0, 4), (4.0, 2), (1.5, 6), (20.0, 1)):
        assert start**power == pytest.approx(float(compiled(tf.constant([start], tf.float64))[0]))

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float64)])
    def bounded(x):
        largest = lambda y: ops.max(ops.abs(y)) < 10.0  # noqa: E731  # the condition of the loop, named for its line
        return while_loop(largest, lambda y: [y * x], [x], maximum_iterations=6)[0]

    for start, power in ((2.0, 4), (1.5, 6), (1.4, 7)):
        assert start**power == pytest.approx(float(bounded(tf.constant([start], tf.float64))[0]))


@pytest.mark.parametrize("compile_it", [False, True])
def test_s18_d_loop_raises_when_its_maximum_is_hit(compile_it):
    """A loop that would need an eighth turn ends with an error that names its maximum, and never with half a result."""

    def loop(x):
        below = lambda y: ops.max(ops.abs(y)) < 10.0  # noqa: E731  # the condition of the loop, named for its line
        return while_loop(below, lambda y: [y * x], [x], maximum_iterations=3)[0]

    run = tf.function(loop) if compile_it else loop
    assert 16.0 == float(run(tf.constant([2.0]))[0])
    with pytest.raises(tf.errors.InvalidArgumentError, match="still holds after 3 turns"):
        run(tf.constant([1.5]))


@pytest.mark.parametrize("maximum", [0, -1, 2.0, None])
def test_loop_refuses_a_maximum_that_is_none(maximum):
    """Without a maximum a loop may never end, so there is no default."""
    with pytest.raises(FunctionRefusedError, match="maximum_iterations: expected a whole number from 1"):
        while_loop(lambda _y: False, lambda y: [y], [tf.zeros([1])], maximum_iterations=maximum)


@pytest.mark.parametrize("predicate", [np.array([True, False]), np.array([True]), 1.0])
def test_s18_e_condition_with_components_is_refused_by_cond_with_the_explanation(predicate):
    """Decisions per component are for where, decisions per batch for cond."""
    with pytest.raises(FunctionRefusedError, match=r"per component use where\(.*per batch use cond"):
        cond(predicate, lambda: 1.0, lambda: 2.0)


def test_s18_e_where_decides_for_each_component():
    """The rows that cond would treat alike are decided one by one."""
    x = tf.constant([[2.0], [-3.0]])
    assert [[8.0], [-9.0]] == with_where(x).numpy().tolist()
    assert [[-4.0], [-9.0]] == with_cond(x).numpy().tolist()
