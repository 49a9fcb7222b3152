"""Starts of networks: rescaled layers, the identity, and the best affine map, against closed forms."""

import numpy as np
import pytest
import tensorflow as tf

from training.config import NetworkConfig
from training.icnn import InputConvexNetwork, create_potential
from training.starts import optimal_matrix, rescale_layers, start_at_gaussian_map

ROWS = np.random.default_rng(2).normal([3.0, -1.0, 100.0], [1.0, 0.1, 20.0], (400, 3)).astype(np.float32)


def pre_activations(network, rows) -> list[np.ndarray]:
    """Return the pre-activations of every layer in float64 NumPy, the activation's values by Keras."""
    u = (rows - network.standardization.mean.numpy()) / network.standardization.scale.numpy()
    found = [u @ network.first.kernel.numpy() + network.first.bias.numpy()]
    activations = [network.first_activation.function, *[network.activation.function] * len(network.constrained)]
    for layer, activation in zip(network.constrained, activations, strict=False):
        z = np.asarray(activation(tf.constant(found[-1])))
        found.append(z @ layer.kernel.numpy() + u @ layer.passthrough.numpy() + layer.bias.numpy())
    return found


@pytest.mark.parametrize("activation", ["softplus", "squareplus", "relu", "smooth_leaky(0.2, 4)", "celu"])
def test_d9_rescaled_layers_have_mean_zero_and_variance_one_and_keep_their_signs(activation):
    """One shift and one positive gain a layer, also where the formulas are rough: softplus, and deep chains."""
    network = InputConvexNetwork(3, (24,) * 6, activation, first_activation="squared_leaky", seed=4)
    network.standardization.adapt(ROWS)
    before = [layer.kernel.numpy() for layer in (network.first, *network.constrained)]
    found = rescale_layers(network, ROWS)
    assert 7 == len(found)
    assert all(gain > 0.0 for _, gain in found)
    for p in pre_activations(network, ROWS.astype(float)):
        assert 0.0 == pytest.approx(p.mean(), abs=1e-4)
        assert 1.0 == pytest.approx(p.std(), rel=1e-4)
    for kernel, layer, (_, gain) in zip(before, (network.first, *network.constrained), found, strict=True):
        np.testing.assert_allclose(layer.kernel.numpy(), gain * kernel, rtol=1e-6)
    network.verify()


def test_d9_layer_that_gives_one_number_is_only_shifted():
    """Without any variance there is no gain to take, and nothing becomes infinite."""
    network = InputConvexNetwork(3, (4,), "relu", seed=4)
    network.first.kernel.assign(np.zeros((3, 4)))
    network.first.bias.assign(np.full(4, 5.0))
    network.constrained[0].passthrough.assign(np.zeros((3, 1)))
    found = rescale_layers(network, ROWS)
    assert [(-5.0, 1.0), 1.0] == [found[0], found[1][1]]
    np.testing.assert_allclose(np.asarray(network(ROWS)), 0.0, atol=1e-6)


def test_d9_5_identity_start_needs_no_training():
    """Before any step the gradient of a new potential is the row itself, up to its layers' small weight."""
    centred = (ROWS - ROWS.mean(axis=0)).astype(np.float32)
    config = NetworkConfig(hidden=(32, 32), activation="smooth_leaky", first_activation="squared_leaky", quadratic=0.0)
    network = create_potential(config, centred, centred, seed=1)
    assert np.sqrt(np.mean((mapped(network, centred) - centred) ** 2)) <= 0.05 * network.units.scale


def mapped(network, rows) -> np.ndarray:
    """Return the gradient of the potential."""
    x = tf.constant(rows)
    with tf.GradientTape() as tape:
        tape.watch(x)
        score = network(x)
    return tape.gradient(score, x).numpy()


def correlated(seed, mean, factor) -> np.ndarray:
    """Return normal rows of this mean, with covariance factor^T factor."""
    return (np.random.default_rng(seed).normal(size=(4000, 3)) @ np.asarray(factor) + mean).astype(np.float32)


@pytest.mark.parametrize("quadratic", [0.0, 0.05])
def test_d9_gaussian_start_is_the_closed_form_map_between_fitted_normal_distributions(quadratic):
    """Rows of one covariance are mapped to mean and covariance of the others at once, and by a symmetric matrix."""
    source = correlated(1, [5.0, 0.0, -2.0], [[1.0, 0.5, 0.0], [0.0, 1.0, 0.3], [0.0, 0.0, 0.8]])
    target = correlated(2, [-1.0, 3.0, 0.0], [[2.0, 0.0, 0.4], [0.0, 0.5, 0.0], [0.1, 0.0, 1.5]])
    config = NetworkConfig(hidden=(32, 32), activation="smooth_leaky", quadratic=quadratic)
    network = create_potential(config, source, target, seed=1)
    identity = np.abs(np.cov(mapped(network, source).T) - np.cov(target.T)).max()
    start_at_gaussian_map(network, source, target)
    image = mapped(network, source)
    assert np.abs(np.cov(image.T) - np.cov(target.T)).max() <= 0.1 * np.cov(target.T).max() < identity
    np.testing.assert_allclose(image.mean(axis=0), target.mean(axis=0), atol=0.05)
    covariances = [np.cov(rows.astype(float).T, bias=True) for rows in (source, target)]
    matrix = optimal_matrix(source, target)
    np.testing.assert_allclose(matrix @ covariances[0] @ matrix, covariances[1], rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(matrix, matrix.T, atol=1e-12)
    assert np.linalg.eigvalsh(matrix).min() > 0.0
    expected = target.mean(axis=0) + (source - source.mean(axis=0)) @ matrix
    assert np.sqrt(np.mean((image - expected) ** 2)) <= 0.06 * network.units.scale
    network.verify()


def test_d9_gaussian_start_of_a_flat_target_keeps_a_gradient_for_every_weight():
    """A direction in which the target does not vary gets a small root, not zero, which would be a saddle."""
    source = np.random.default_rng(1).normal(size=(300, 3)).astype(np.float32)
    target = source * np.array([1.0, 0.0, 1.0], np.float32)
    network = create_potential(NetworkConfig(hidden=(4,), quadratic=0.0), source, target, seed=1)
    start_at_gaussian_map(network, source, target)
    roots = np.linalg.svd(network.quadratic_form.kernel.numpy(), compute_uv=False)
    assert [1.0, 1.0, 1e-3] == pytest.approx(roots.tolist(), rel=1e-3)


def test_gaussian_start_is_refused_for_a_network_that_is_no_potential():
    """Only a potential has the quadratic form that it sets."""
    with pytest.raises(ValueError, match="expected a potential"):
        start_at_gaussian_map(InputConvexNetwork(3, (4,)), ROWS, ROWS)
