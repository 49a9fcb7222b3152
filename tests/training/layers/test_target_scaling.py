"""The scaling of scores back into the target's units."""

import keras
import numpy as np
import pytest

from training.layers.target_scaling import TargetScaling


def built(y: np.ndarray) -> TargetScaling:
    """Return a layer that has adapted to targets."""
    layer = TargetScaling(name="mine")
    layer.build((None,))
    layer.adapt(y)
    return layer


def test_scores_come_back_in_the_targets_units():
    """0 is the mean of the targets and 1 is one standard deviation above it; no optimiser moves either."""
    layer = built(np.array([10.0, 30.0]))
    np.testing.assert_allclose(np.asarray(layer(np.array([0.0, 1.0], dtype=np.float32))), [20.0, 30.0])
    assert [] == layer.trainable_weights
    assert (None,) == layer.compute_output_shape((None,))


def test_constant_target_has_scale_one():
    """No variation is no division by zero."""
    assert 1.0 == float(built(np.full(5, 3.0)).scale.numpy())


@pytest.mark.parametrize(("name", "value"), [("scale", -1.0), ("scale", 0.0), ("scale", np.inf), ("mean", np.nan)])
def test_scale_that_is_not_positive_is_refused_by_verification_and_load(name, value, tmp_path):
    """A negative scale would turn convex into concave."""
    layer = built(np.array([10.0, 30.0]))
    getattr(layer, name).assign(value)
    with pytest.raises(ValueError, match="mine: expected a finite mean and a scale above 0"):
        layer.verify()
    keras.Sequential([keras.Input(()), layer]).save(tmp_path / "m.keras")
    with pytest.raises(ValueError, match="mine: expected a finite mean and a scale above 0"):
        keras.saving.load_model(tmp_path / "m.keras")
