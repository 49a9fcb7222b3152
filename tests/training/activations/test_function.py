"""The activation as Keras layers take it: its role, its registered name, its parameters in the configuration."""

import keras
import numpy as np
import pytest

from training.activations import ActivationRefusedError, ConvexActivation

ROWS = np.random.default_rng(1).normal(size=(40, 3)).astype(np.float32)


def test_s4_c_squared_and_leaky_activations_are_saved_under_a_stable_name_with_alpha(tmp_path):
    """A Keras model that uses both reads back bit for bit, with alpha in the configuration and no custom objects."""
    model = keras.Sequential(
        [
            keras.Input((3,)),
            keras.layers.Dense(5, activation=ConvexActivation("squared_leaky(0.3)", "first layer only")),
            keras.layers.Dense(4, activation=ConvexActivation("leaky_relu", parameters={"alpha": 0.1})),
        ]
    )
    model.save(tmp_path / "m.keras")
    again = keras.saving.load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(np.asarray(model(ROWS)), np.asarray(again(ROWS)))
    configs = [layer.get_config()["activation"] for layer in again.layers]
    assert {"convex_scoring>ConvexActivation"} == {config["registered_name"] for config in configs}
    assert [
        {"name": "squared_leaky", "role": "first layer only", "parameters": {"alpha": 0.3}},
        {"name": "leaky_relu", "role": "hidden", "parameters": {"alpha": 0.1}},
    ] == [config["config"] for config in configs]


def test_activation_in_a_role_it_may_not_play_is_refused_also_from_a_configuration():
    """Neither the argument nor an edited file gets a falling activation into a hidden layer."""
    with pytest.raises(ActivationRefusedError, match="first layer only"):
        ConvexActivation("squared_leaky")
    config = ConvexActivation("squared_leaky", "first layer only").get_config()
    with pytest.raises(ActivationRefusedError, match="first layer only"):
        ConvexActivation.from_config({**config, "role": "hidden"})
    with pytest.raises(ActivationRefusedError, match="expects a slope from 0 to 1"):
        ConvexActivation("leaky_relu", parameters={"alpha": 1.5})


def test_unknown_parameter_or_role_is_refused_by_its_name():
    """A misspelt parameter is not ignored."""
    with pytest.raises(ValueError, match=r"'leaky_relu\(0.2\)' has no parameter \['slope'\]"):
        ConvexActivation("leaky_relu", parameters={"slope": 0.1})
    with pytest.raises(ValueError, match="output"):
        ConvexActivation("softplus", "output")
