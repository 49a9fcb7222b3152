"""The projection onto non-negative weights, and the check of them."""

import keras
import numpy as np
import pytest

from training.constraints import NegativeWeightError, NonNegative, check_non_negative


def test_projection_is_the_positive_part():
    """Negative entries become 0, the others stay, and projecting twice is projecting once."""
    weights = keras.ops.convert_to_tensor(np.array([[-1.5, 0.0], [2.0, -1e-30]], dtype=np.float32))
    once = NonNegative()(weights)
    np.testing.assert_array_equal([[0.0, 0.0], [2.0, 0.0]], np.asarray(once))
    np.testing.assert_array_equal(np.asarray(once), np.asarray(NonNegative()(once)))


def test_projection_keeps_a_nan():
    """Divergence is not hidden as a zero."""
    assert np.isnan(np.asarray(NonNegative()(keras.ops.convert_to_tensor([np.nan])))).all()


def test_projection_is_registered_for_saving():
    """A saved constraint reads back by its registered name."""
    config = keras.constraints.serialize(NonNegative())
    assert "convex_scoring>NonNegative" == config["registered_name"]
    assert isinstance(keras.constraints.deserialize(config), NonNegative)


@pytest.mark.parametrize("bad", [-1e-45, -1.0, np.nan, np.inf, -np.inf])
def test_check_refuses_one_bad_weight_and_names_it(bad):
    """The smallest negative float is enough, and the message says where it is."""
    weights = np.zeros((3, 2), dtype=np.float32)
    weights[2, 1] = bad
    with pytest.raises(NegativeWeightError, match=r"layer/kernel: .* at \[2, 1\] \(1 such weights of 6\)"):
        check_non_negative(weights, "layer/kernel")


def test_check_passes_zeros_of_both_signs():
    """-0.0 is not negative."""
    check_non_negative(np.array([0.0, -0.0, 1.0]), "kernel")
