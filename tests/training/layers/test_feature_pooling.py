"""Pooling of neighbouring features: three reductions that keep convexity, and the others refused."""

import numpy as np
import pytest

from training.layers.feature_pooling import FeaturePooling
from training.refusals import ArgumentRefusedError

X = np.random.default_rng(0).normal(size=(7, 6)).astype(np.float32)
GROUPS = X.astype(float).reshape(7, 2, 3)


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("average", GROUPS.mean(axis=-1)),
        ("max", GROUPS.max(axis=-1)),
        ("log_sum_exp", 0.5 * np.logaddexp.reduce(GROUPS / 0.5, axis=-1)),
    ],
)
def test_pooling_equals_its_formula(mode, expected):
    """Each group of neighbours gives one number, as NumPy in float64 has it."""
    layer = FeaturePooling(3, mode, temperature=0.5)
    np.testing.assert_allclose(np.asarray(layer(X)), expected, rtol=1e-5, atol=1e-6)
    assert [] == layer.weights
    np.testing.assert_array_equal(X, np.asarray(FeaturePooling(1, mode)(X)))


@pytest.mark.parametrize("mode", ["min", "median", "product", "range", "l2"])
def test_mode_that_does_not_keep_convexity_is_refused_with_three_points(mode):
    """The message holds the counterexample and what to use."""
    with pytest.raises(ArgumentRefusedError, match=f"mode: '{mode}' .* above .* Use one of: average, max") as caught:
        FeaturePooling(2, mode)
    left, middle, right = caught.value.counterexample.values
    assert middle > (left + right) / 2


@pytest.mark.parametrize("arguments", [(0,), (2.0,), (True,), (2, "sum"), (2, None)])
def test_size_and_mode_that_are_not_known_are_refused(arguments):
    """Neither has a counterexample, and both are named."""
    with pytest.raises(ValueError, match=r"(size: expected a whole number|mode: expected one of average, max)"):
        FeaturePooling(*arguments)


@pytest.mark.parametrize("width", [None, 5])
def test_width_that_is_no_multiple_of_the_size_is_refused(width):
    """No feature is left out."""
    with pytest.raises(ValueError, match=f"width is a multiple of 2, received {width}"):
        FeaturePooling(2).build((None, width))
