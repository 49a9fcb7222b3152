"""Input gradients that are differentiable again, and the gradients that an optimiser receives."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

from training.gradients import MissingGradientError, input_gradient, loss_gradients

X = np.random.default_rng(0).normal(size=(6, 3))
W = np.random.default_rng(1).normal(size=3)


def score(x, w=W):
    """Return sum_j w_j x_j^4 + exp(x_0 x_1) of each row."""
    return tf.reduce_sum(w * x**4, axis=1) + tf.exp(x[:, 0] * x[:, 1])


def expected(x: np.ndarray) -> np.ndarray:
    """Return the gradient of `score` in closed form."""
    gradient = 4.0 * W * x**3
    gradient[:, :2] += np.exp(x[:, 0] * x[:, 1])[:, None] * x[:, 1::-1]
    return gradient


def test_input_gradient_equals_its_closed_form_eagerly_and_compiled():
    """Row by row, whatever the number of rows, in the rows' own dtype."""
    x = tf.constant(X)
    np.testing.assert_allclose(input_gradient(score, x), expected(X), rtol=1e-12)
    np.testing.assert_allclose(input_gradient(score, X), expected(X), rtol=1e-12)
    np.testing.assert_allclose(tf.function(lambda x: input_gradient(score, x))(x), expected(X), rtol=1e-12)
    assert (tf.float64, (1, 3)) == (input_gradient(score, x[:1]).dtype, input_gradient(score, x[:1]).shape)


def test_input_gradient_of_a_row_does_not_depend_on_the_others():
    """Scores are row-wise, so each row gets the same gradient alone and among others."""
    together = input_gradient(score, tf.constant(X)).numpy()
    alone = [input_gradient(score, tf.constant(row[None])).numpy()[0] for row in X]
    np.testing.assert_allclose(together, alone, rtol=1e-14)


def test_outer_tape_differentiates_the_input_gradient_for_rows_and_variables():
    """Second derivatives come out: 12 w x^2 + ... on the diagonal for the rows, 4 x^3 for w."""
    x, w = tf.constant(X), tf.Variable(W)
    with tf.GradientTape() as tape:
        tape.watch(x)
        total = tf.reduce_sum(input_gradient(lambda x: score(x, w), x)[:, 2])
    into_x, into_w = tape.gradient(total, [x, w])
    hessian_row = np.zeros_like(X)
    hessian_row[:, 2] = 12.0 * W[2] * X[:, 2] ** 2
    np.testing.assert_allclose(into_x, hessian_row, rtol=1e-12)
    np.testing.assert_allclose(into_w, [0.0, 0.0, np.sum(4.0 * X[:, 2] ** 3)], rtol=1e-12)


TARGETS = np.random.default_rng(2).normal(size=(6, 1)).astype(np.float32)
ROWS = X.astype(np.float32)


def network(*, frozen: bool = False) -> keras.Model:
    """Return a network with a shared layer, a regulariser, and a layer that may be frozen."""
    keras.utils.set_random_seed(3)
    x = keras.Input((3,))
    shared = keras.layers.Dense(3, activation="softplus", kernel_regularizer=keras.regularizers.L2(0.1), name="shared")
    z = keras.layers.Dense(4, activation="softplus", trainable=not frozen, name="middle")(shared(shared(x)))
    return keras.Model(x, keras.layers.Dense(1, name="last")(z))


def absolute_error(y, predicted):
    """Return the absolute error of each entry."""
    return ops.abs(y - predicted)


class Recorder(keras.optimizers.SGD):
    """Plain SGD that keeps what it is handed."""

    def apply(self, grads, trainable_variables=None):
        """Keep the list and take the step."""
        self.received = list(grads)
        return super().apply(grads, trainable_variables)


@pytest.mark.parametrize("loss", ["mse", "huber", absolute_error])
def test_s16_a_mapping_is_what_the_optimiser_receives(loss):
    """Keras' own training step hands its optimiser these tensors, in this order, regulariser included."""
    model = network()
    function = keras.losses.get(loss)
    found = loss_gradients(model, function, ROWS, TARGETS)
    recorder = Recorder(0.1)
    model.compile(recorder, loss, run_eagerly=True)
    model.train_on_batch(ROWS, TARGETS)
    assert len(found) == len(recorder.received)
    for variable, received in zip(found, recorder.received, strict=True):
        np.testing.assert_allclose(found[variable], received, rtol=1e-5, atol=1e-7)
        assert received.dtype == found[variable].dtype


def test_s16_a_mapping_is_the_same_inside_a_compiled_step():
    """Under tf.function the same gradients come out, so that a training step can be written with it."""
    model = network()
    eager = loss_gradients(model, absolute_error, ROWS, TARGETS)
    compiled = tf.function(lambda x, y: list(loss_gradients(model, absolute_error, x, y).values()))
    for expected, found in zip(eager.values(), compiled(ROWS, TARGETS), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)


def test_s16_b_keys_are_the_trainable_variables_each_once_in_their_order():
    """A layer that is used twice has its variables once, and the order is the model's."""
    model = network()
    expected = ["shared/kernel", "shared/bias", "middle/kernel", "middle/bias", "last/kernel", "last/bias"]
    for _ in range(2):
        found = loss_gradients(model, absolute_error, ROWS, TARGETS)
        assert expected == [variable.path for variable in found]
        assert all(key is variable for key, variable in zip(found, model.trainable_variables, strict=True))


def test_s16_c_one_step_of_sgd_is_the_weight_less_the_rate_times_the_gradient():
    """Keras' optimiser moves each weight by 0.1 times its gradient, to 1e-7."""
    model = network()
    before = {variable.path: variable.numpy() for variable in model.trainable_variables}
    found = loss_gradients(model, absolute_error, ROWS, TARGETS)
    keras.optimizers.SGD(0.1).apply(list(found.values()), list(found))
    for variable, gradient in found.items():
        expected = before[variable.path].astype(np.float64) - 0.1 * gradient.numpy().astype(np.float64)
        np.testing.assert_allclose(variable.numpy(), expected, rtol=0, atol=1e-7)
        assert (variable.numpy() != before[variable.path]).any()


def test_s16_d_frozen_variables_are_absent():
    """What the optimiser must not move it is not handed, nor can it be asked for."""
    model = network(frozen=True)
    found = loss_gradients(model, absolute_error, ROWS, TARGETS)
    assert ["shared/kernel", "shared/bias", "last/kernel", "last/bias"] == [variable.path for variable in found]
    assert model.get_layer("middle").kernel not in found


def second_output_unused() -> keras.Model:
    """Return a network of which the loss sees one half."""
    x = keras.Input((3,))
    used, unused = keras.layers.Dense(1, name="used")(x), keras.layers.Dense(2, name="unused")(x)
    return keras.Model(x, [used, unused])


def first_only(y, predicted):
    """Return the squared error of the first output."""
    return ops.square(y - predicted[0])


def test_s16_e_missing_gradient_is_an_error_that_names_the_variables():
    """Variables that the loss does not see are named, each of them, and no other."""
    with pytest.raises(MissingGradientError, match=r"no gradient reaches unused/kernel, unused/bias\.") as missing:
        loss_gradients(second_output_unused(), first_only, ROWS, TARGETS)
    assert ("unused/kernel", "unused/bias") == missing.value.paths


def test_s16_e_missing_gradient_is_zero_for_listed_variables_alone():
    """What the audit lists gets zeros in the variable's shape; a list that is too short is still an error."""
    model = second_output_unused()
    found = loss_gradients(model, first_only, ROWS, TARGETS, unconnected={"unused/kernel", "unused/bias"})
    unused = model.get_layer("unused")
    assert (np.zeros((3, 2)).tolist(), [0.0, 0.0]) == tuple(found[each].numpy().tolist() for each in unused.weights)
    assert found[model.get_layer("used").kernel].numpy().any()
    with pytest.raises(MissingGradientError, match=r"no gradient reaches unused/bias\."):
        loss_gradients(model, first_only, ROWS, TARGETS, unconnected={"unused/kernel"})
