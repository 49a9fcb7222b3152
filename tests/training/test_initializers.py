"""Initialisers for non-negative kernels: closed form, moments of one layer, and depth (Hoedt and Klambauer)."""

import keras
import numpy as np
import pytest

from training.initializers import NonNegativeLogNormal, PassthroughNormal, moments


@pytest.mark.parametrize("n", [16, 64, 128])
def test_d9_t1_moments_equal_the_closed_form_for_relu(n):
    """With alpha = 0 and rho = 1/2: mu = sqrt(6 pi / (n D)), b = -sqrt(3 n / D), sigma^2 = 1 / n."""
    d = 6.0 * (np.pi - 1.0) + (n - 1.0) * (3.0 * np.sqrt(3.0) + 2.0 * np.pi - 6.0)
    found = moments(n)
    assert np.sqrt(6.0 * np.pi / (n * d)) == pytest.approx(found.mean, rel=1e-12)
    assert -np.sqrt(3.0 * n / d) == pytest.approx(found.bias, rel=1e-12)
    assert 1.0 / n == pytest.approx(found.variance, rel=1e-12)


def test_d9_t4_kernel_is_positive_and_has_the_moments_in_its_log():
    """All weights are positive; the logarithm has the normal's mean and deviation to within sampling error."""
    kernel = np.asarray(NonNegativeLogNormal(share=0.0, seed=1)((128, 2000)))
    target = moments(128)
    variance = np.log1p(target.variance / target.mean**2)
    assert kernel.min() > 0.0
    assert np.log(target.mean) - variance / 2.0 == pytest.approx(np.log(kernel).mean(), abs=0.02)
    assert np.sqrt(variance) == pytest.approx(np.log(kernel).std(), rel=0.01)


@pytest.mark.parametrize(("slope", "share"), [(0.0, 0.0), (0.2, 0.0), (0.2, 0.5)])
def test_d9_t2_one_layer_keeps_mean_and_variance_and_the_correlation_less_the_share(slope, share):
    """Inputs of variance 1, correlation 1/2 give mean 0, second moment 1, cross moment (1 - share) / 2."""
    n, rows, draws = 128, 500, 200
    rng = np.random.default_rng(5)
    firsts, seconds, crosses = [], [], []
    for draw in range(draws):
        p = np.sqrt(0.5) * rng.normal(size=(rows, 1)) + np.sqrt(0.5) * rng.normal(size=(rows, n))
        kernel = np.asarray(NonNegativeLogNormal(slope, share, seed=draw)((n, 2)), dtype=np.float64)
        q = np.maximum(p, slope * p) @ kernel + moments(n, slope=slope, share=share).bias
        q += rng.normal(size=(rows, n)) @ np.asarray(PassthroughNormal(share, seed=draw)((n, 2)), dtype=np.float64)
        firsts.append(q.mean())
        seconds.append((q**2).mean())
        crosses.append((q[:, 0] * q[:, 1]).mean())
    assert 0.0 == pytest.approx(np.mean(firsts), abs=0.05)
    assert 1.0 == pytest.approx(np.mean(seconds), rel=0.15)
    assert 0.5 * (1.0 - share) == pytest.approx(np.mean(crosses), rel=0.15)


def test_d9_t3_twenty_layers_with_passthrough_stay_bounded_and_different():
    """With half the variance from it, the second moment stays and units differ, rescaled from data (last) or not."""
    n, d, slope, draws = 128, 16, 0.2, 20
    second, correlation = np.zeros((draws, 2)), np.zeros((draws, 2))
    for draw in range(draws):
        random = np.random.default_rng(draw)
        x = random.normal(size=(256, d))
        kernels = np.asarray(NonNegativeLogNormal(slope, 0.5, draw)((n, 20 * n)), np.float64).reshape(n, 20, n)
        passthroughs = np.asarray(PassthroughNormal(0.5, draw)((d, 20 * n)), np.float64).reshape(d, 20, n)
        bias = moments(n, slope=slope, share=0.5).bias
        p = np.stack([x @ np.asarray(PassthroughNormal(1.0, seed=1000 + draw)((d, n)), np.float64)] * 2)
        for layer in range(20):
            p = np.maximum(p, slope * p) @ kernels[:, layer] + x @ passthroughs[:, layer] + bias
            p[1] = (p[1] - p[1].mean()) / p[1].std()
        second[draw] = (p**2).mean(axis=(1, 2))
        correlation[draw] = [(np.corrcoef(side.T).sum() - n) / (n * (n - 1)) for side in p]
    assert (second.mean(axis=0) >= 0.3).all()
    assert (second.mean(axis=0) <= 2.0).all()
    assert (correlation.mean(axis=0) < 0.5).all()


def test_d9_t3_twenty_layers_without_passthrough_become_one_function():
    """The control of the test above: with a share of 0 all units agree after 20 layers, as D9.3 says."""
    n, slope = 128, 0.2
    p = np.random.default_rng(0).normal(size=(256, n))
    for layer in range(20):
        kernel = np.asarray(NonNegativeLogNormal(slope, 0.0, layer)((n, n)), dtype=np.float64)
        p = np.maximum(p, slope * p) @ kernel + moments(n, slope=slope).bias
    units = np.corrcoef(p.T)
    assert (units.sum() - n) / (n * (n - 1)) > 0.95


@pytest.mark.parametrize("initializer", [NonNegativeLogNormal(0.2, 0.3, 4), PassthroughNormal(0.3, 4)])
def test_initializer_reads_back_from_its_configuration_with_the_same_weights(initializer):
    """A seed gives the same weights at every call, also after a round trip."""
    again = keras.initializers.deserialize(keras.initializers.serialize(initializer))
    np.testing.assert_array_equal(np.asarray(initializer((5, 3))), np.asarray(again((5, 3))))


@pytest.mark.parametrize("kind", [NonNegativeLogNormal, PassthroughNormal])
def test_initializers_without_a_seed_differ_from_each_other_and_follow_the_global_seed(kind):
    """Two layers of one shape do not start equal, and a program that sets Keras' seed repeats itself."""
    keras.utils.set_random_seed(3)
    first, second = np.asarray(kind()((4, 4))), np.asarray(kind()((4, 4)))
    keras.utils.set_random_seed(3)
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(first, np.asarray(kind()((4, 4))))
