"""The layer of a model's support: its formula, its radius, and its place in a network."""

import keras
import numpy as np
import pytest

from tests.oracle import bumps
from training.config import NetworkConfig
from training.icnn import InputConvexNetwork, create_network, create_potential
from training.layers.domain_weight import DomainWeight
from training.layers.positive_scale import WidthError


def test_weight_is_the_unit_peak_bump_of_the_distance():
    """Rows get the bump of their norm; enormous and infinite ones 0."""
    u = np.random.default_rng(0).normal(size=(300, 4)).astype(np.float32)
    layer = DomainWeight()
    layer.build((None, 4))
    layer.radius.assign(3.0)
    exact = bumps.bump(np.linalg.norm(u.astype(float), axis=1), 3.0, peak=1.0)[0]
    np.testing.assert_allclose(exact, layer(u), atol=2e-6)
    assert [1.0, 0.0, 0.0] == layer(np.float32([[0] * 4, [3e38] * 4, [np.inf, 0, 0, 0]])).numpy().tolist()
    assert (300,) == layer.compute_output_shape((300, 4))


def test_radius_is_one_and_a_half_times_the_quantile_and_one_for_rows_in_one_place():
    """`adapt` takes 1.5 times the 99 % quantile of the distances; rows that are all alike leave 1."""
    u = np.random.default_rng(1).normal(size=(1000, 3))
    layer = DomainWeight()
    layer.build((None, 3))
    layer.adapt(u)
    assert layer.radius.numpy() == pytest.approx(1.5 * np.quantile(np.linalg.norm(u, axis=1), 0.99), rel=1e-6)
    layer.adapt(np.zeros((5, 3)))
    assert 1.0 == layer.radius.numpy()
    layer.radius.assign(-1.0)
    with pytest.raises(WidthError, match="radius: expected finite widths above 0"):
        layer.verify()
    with pytest.raises(WidthError):
        layer.load_own_variables({"0": np.float32(np.nan)})


@pytest.mark.parametrize("potential", [False, True])
def test_network_with_support_weighs_raw_rows_and_nothing_trains_its_radius(potential, tmp_path):
    """Most training rows have a weight above a tenth, far ones 0; the score and its weights are those without it."""
    rng = np.random.default_rng(2)
    x = rng.normal(size=(500, 3)) * [1.0, 50.0, 0.01] + [5.0, -100.0, 0.0]
    make = (
        (lambda config: create_potential(config, x, x + 1.0, seed=1))
        if potential
        else (lambda config: create_network(config, x, seed=1))
    )
    settings = {"hidden": (5,), "activation": "smooth_leaky"}
    plain, network = (make(NetworkConfig(**settings, support=support)) for support in (False, True))
    assert len(plain.trainable_variables) == len(network.trainable_variables)
    np.testing.assert_array_equal(plain(x.astype(np.float32)), network(x.astype(np.float32)))
    weights = network.support(x.astype(np.float32)).numpy()
    assert (True, True) == ((weights >= 0).all(), (weights <= 1).all())
    assert np.mean(weights > 0.1) > 0.95
    assert 0.0 == network.support(np.float32([[1e6, 1e6, 1e6]])).numpy()[0]
    network.save(tmp_path / "network.keras")
    again = keras.models.load_model(tmp_path / "network.keras")
    np.testing.assert_array_equal(weights, again.support(x.astype(np.float32)))
    network.domain_weight.radius.assign(0.0)
    with pytest.raises(WidthError):
        network.verify()


def test_network_without_support_says_so():
    """Asking a network for what it does not have is an error with a remedy."""
    network = InputConvexNetwork(2, (3,))
    network.adapt_support(np.zeros((2, 2)))
    with pytest.raises(ValueError, match=r"expected a network with a domain weight.*support=True"):
        network.support(np.zeros((1, 2), np.float32))
