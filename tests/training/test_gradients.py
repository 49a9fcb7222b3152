"""Input gradients that are differentiable again."""

import numpy as np
import tensorflow as tf

from training.gradients import input_gradient

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
