"""The trained quadratic form: its formula, its gradients, its start at the identity and its convexity."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from training.layers.quadratic_form import QuadraticForm

RNG = np.random.default_rng(0)
X = RNG.normal(size=(7, 3)).astype(np.float32)
B = RNG.normal(size=(3, 3)).astype(np.float32)


def built(kernel: np.ndarray | None = None) -> QuadraticForm:
    """Return a layer for rows of width 3, with these weights."""
    layer = QuadraticForm(name="mine")
    layer.build((None, 3))
    if kernel is not None:
        layer.kernel.assign(kernel)
    return layer


def value_and_gradients(layer: QuadraticForm, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the outputs, and the gradients of their sum for the rows and for the weights."""
    x = tf.constant(rows)
    with tf.GradientTape() as tape:
        tape.watch(x)
        outputs = layer(x)
    into_x, into_kernel = tape.gradient(outputs, [x, layer.kernel.value])
    return outputs.numpy(), into_x.numpy(), into_kernel.numpy()


def test_form_equals_half_the_squared_length_of_the_image():
    """Each row gives one number, x B B^T x^T / 2 in float64 NumPy."""
    found = np.asarray(built(B)(X))
    x, b = X.astype(float), B.astype(float)
    expected = 0.5 * np.einsum("ni,ij,nj->n", x, b @ b.T, x)[:, None]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert (7, 1) == found.shape == built().compute_output_shape((7, 3))


def test_gradients_of_the_form_equal_their_closed_forms():
    """It is x B B^T for the rows, and x^T x B for the weights."""
    _, into_x, into_kernel = value_and_gradients(built(B), X)
    x, b = X.astype(float), B.astype(float)
    np.testing.assert_allclose(into_x, x @ b @ b.T, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(into_kernel, x.T @ x @ b, rtol=1e-4, atol=1e-5)


def test_new_form_has_the_identity_as_its_gradient():
    """A transport that starts with it maps each row to itself, bit for bit, and its one weight is trained."""
    layer = built()
    value, into_x, _ = value_and_gradients(layer, X)
    np.testing.assert_array_equal(X, into_x)
    np.testing.assert_allclose(value[:, 0], 0.5 * np.sum(X.astype(float) ** 2, axis=1), rtol=1e-6)
    assert [(3, 3)] == [weight.shape for weight in layer.trainable_weights]


@pytest.mark.parametrize("kernel", [B, -B, -np.eye(3), np.zeros((3, 3)), np.diag([5.0, -1e-3, 0.0])])
def test_form_is_convex_whatever_its_weights_are(kernel):
    """Its Hessian has no negative eigenvalue beyond rounding, with negative, singular and zero weights too."""
    layer = built(kernel)
    hessian = np.stack([value_and_gradients(layer, row[None])[1][0] for row in np.eye(3, dtype=np.float32)])
    np.testing.assert_allclose(hessian, hessian.T, atol=1e-6)
    assert np.linalg.eigvalsh(hessian.astype(float)).min() >= -1e-6


def test_form_reads_back_from_its_configuration_and_bit_for_bit_from_a_file(tmp_path):
    """A `.keras` file keeps the weights, and needs no custom object to be read."""
    model = keras.Sequential([keras.Input((3,)), built(B)])
    model.save(tmp_path / "m.keras")
    again = keras.saving.load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(B, again.get_weights()[0])
    np.testing.assert_array_equal(np.asarray(model(X)), np.asarray(again(X)))
    layer = built()
    assert layer.get_config() == QuadraticForm.from_config(layer.get_config()).get_config()
