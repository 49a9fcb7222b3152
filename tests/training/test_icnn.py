"""The input-convex network against float64 NumPy, its convexity, its round trip and the graph it leaves."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.oracle import icnn as oracle
from training.activations import ActivationRefusedError
from training.config import ConfigError, NetworkConfig
from training.constraints import NegativeWeightError
from training.icnn import InputConvexNetwork, create_network

ACTIVATIONS = ("softplus", "relu", "leaky_relu(0.2)", "elu", "smooth_leaky(0.1, 2.0)")
RAW = np.random.default_rng(1).normal([0.0, 200.0, -3.0], [1.0, 30.0, 0.01], (200, 3)).astype(np.float32)


def network(activation: str = "softplus", hidden=(16, 8), quadratic=0.05, target=None, seed=3) -> InputConvexNetwork:
    """Return a network for `RAW`."""
    config = NetworkConfig(hidden=hidden, activation=activation, quadratic=quadratic)
    return create_network(config, RAW, seed=seed, target=target)


def score_and_gradient(model: InputConvexNetwork, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the model's scores and input gradients by automatic differentiation."""
    x = tf.constant(rows)
    with tf.GradientTape() as tape:
        tape.watch(x)
        score = model(x)
    return score.numpy(), tape.gradient(score, x).numpy()


def pairs(spread: float, number: int = 10_000) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return pairs of rows around the data, and their exact midpoints, in float32."""
    rng = np.random.default_rng(int(spread))
    deviation = RAW.std(axis=0) * spread
    left, right = (
        rng.normal(RAW.mean(axis=0), deviation, (number, 3)).astype(np.float32).astype(float) for _ in range(2)
    )
    return left, right, 0.5 * (left + right)


@pytest.mark.parametrize("hidden", [(8,), (16, 8), (4, 8, 4)])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_network_equals_float64_numpy_from_the_checkpoint(activation, hidden, tmp_path):
    """Scores within 1e-6 S and gradients within 1e-5 G of an independent forward and backward pass."""
    target = RAW[:, 0] * 40.0 + 150.0
    model = network(activation, hidden, target=target)
    model.save(tmp_path / "m.keras")
    checkpoint = oracle.read_checkpoint(tmp_path / "m.keras")
    score, gradient = score_and_gradient(model, RAW)
    expected, slopes = oracle.score(checkpoint, RAW), oracle.gradient(checkpoint, RAW)
    assert (200,) == score.shape == model.compute_output_shape(RAW.shape)
    assert np.abs(score - expected).max() <= 1e-6 * np.abs(expected).max()
    assert np.abs(gradient - slopes).max() <= 1e-5 * np.abs(slopes).max()


@pytest.mark.parametrize("activation", ["softplus", "smooth_leaky(0.1, 2.0)"])
def test_oracle_gradient_equals_its_central_differences(activation, tmp_path):
    """The yardstick's chain rule agrees with differences of its own forward pass."""
    network(activation).save(tmp_path / "m.keras")
    checkpoint = oracle.read_checkpoint(tmp_path / "m.keras")
    slopes = oracle.gradient(checkpoint, RAW)
    assert np.abs(oracle.central_differences(checkpoint, RAW) - slopes).max() <= 1e-7 * np.abs(slopes).max()


@pytest.mark.parametrize("spread", [1.0, 3.0, 10.0])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_network_satisfies_the_midpoint_inequality(activation, spread, tmp_path):
    """10,000 random pairs find no midpoint above its chord beyond float64 rounding."""
    network(activation).save(tmp_path / "m.keras")
    checkpoint = oracle.read_checkpoint(tmp_path / "m.keras")
    left, right, middle = pairs(spread)
    ends = oracle.score(checkpoint, left), oracle.score(checkpoint, right)
    slack = 1e-12 * (np.abs(ends[0]) + np.abs(ends[1]) + 1.0)
    assert (oracle.score(checkpoint, middle) <= 0.5 * (ends[0] + ends[1]) + slack).all()


def test_midpoint_inequality_is_violated_after_sign_flips(tmp_path):
    """The falsifier of the test above can fail: with every hidden kernel negated it finds violations."""
    network().save(tmp_path / "m.keras")
    checkpoint = oracle.read_checkpoint(tmp_path / "m.keras")
    flipped = tuple((-w, a, b) for w, a, b in checkpoint.constrained)
    broken = oracle.dataclasses.replace(checkpoint, constrained=flipped, quadratic=0.0)
    left, right, middle = pairs(3.0)
    chords = 0.5 * (oracle.score(broken, left) + oracle.score(broken, right))
    assert (oracle.score(broken, middle) > chords + 1e-6).any()


def test_saved_network_reads_back_bit_for_bit(tmp_path):
    """A `.keras` file restores arguments, weights and statistics."""
    model = network(target=RAW[:, 0])
    model.save(tmp_path / "m.keras")
    again = keras.saving.load_model(tmp_path / "m.keras")
    assert model.get_config() == again.get_config()
    np.testing.assert_array_equal(model(RAW).numpy(), again(RAW).numpy())
    np.testing.assert_array_equal(model.standardization.scale.numpy(), again.standardization.scale.numpy())


def test_same_seed_gives_the_same_weights_and_another_seed_others():
    """The start depends on the seed alone, not on what was made before."""
    first, _, second, other = network(seed=5), network(seed=8), network(seed=5), network(seed=6)
    for left, right in zip(first.get_weights(), second.get_weights(), strict=True):
        np.testing.assert_array_equal(left, right)
    assert not np.array_equal(first.first.kernel.numpy(), other.first.kernel.numpy())


def test_new_network_starts_with_scores_of_ordinary_size():
    """On standardised data of any depth the first scores neither vanish nor explode."""
    for hidden in ((64,), (64, 64), (32,) * 8):
        deviation = float(np.std(network(hidden=hidden, quadratic=0.0)(RAW)))
        assert 0.1 < deviation < 3.0


def test_verification_names_the_layer_of_a_negative_weight():
    """Each constrained kernel is looked at, the output's included; passthrough and bias are not."""
    model = network()
    for layer in model.constrained:
        layer.passthrough.assign(-layer.passthrough.numpy())
        layer.bias.assign(-1.0 - layer.bias.numpy())
    model.verify()
    for name in ("hidden_1", "output"):
        model = network()
        layer = next(layer for layer in model.constrained if layer.name == name)
        layer.kernel.assign(np.full(layer.kernel.shape, -1e-30))
        with pytest.raises(NegativeWeightError, match=f"{name}/kernel"):
            model.verify()


@pytest.mark.filterwarnings("ignore:Skipping nested container:UserWarning")  # Keras, on its way to the error
def test_network_with_a_negative_weight_neither_saves_nor_loads(tmp_path, monkeypatch):
    """The file formats of Keras carry no network that need not be convex."""
    model = network()
    model.constrained[0].kernel.assign(np.full((16, 8), -1.0))
    with pytest.raises(NegativeWeightError, match="hidden_1/kernel"):
        model.save(tmp_path / "m.keras")
    with monkeypatch.context() as other_means:
        other_means.setattr(type(model.constrained[0]), "verify", lambda _: None)
        model.save(tmp_path / "bad.keras")
    with pytest.raises(ValueError, match=r"could not be loaded.*(?s:.*)hidden_1"):
        keras.saving.load_model(tmp_path / "bad.keras")


def test_network_without_hidden_layers_or_with_a_bad_activation_is_refused():
    """The recursion needs a layer, and hidden activations must be convex and non-decreasing."""
    with pytest.raises(ValueError, match="hidden: expected at least one width"):
        InputConvexNetwork(3, ())
    for activation in ("tanh", "squared_leaky(0.2)"):
        with pytest.raises(ActivationRefusedError):
            InputConvexNetwork(3, (4,), activation)


@pytest.mark.parametrize(("activation", "op"), [("softplus", "Softplus"), ("leaky_relu(0.2)", "LeakyRelu")])
def test_graph_holds_only_ops_that_the_prover_lifts(activation, op):
    """What tracing leaves is a handful of plain ops; any other would have to be taught to the prover first."""
    model = network(activation, target=RAW[:, 0])
    signature = [tf.TensorSpec([None, 3], tf.float32)]
    graph = tf.function(model, input_signature=signature).get_concrete_function().graph.as_graph_def()
    plain = {"Placeholder", "Const", "ReadVariableOp", "Identity", "NoOp"}
    arithmetic = {"Sub", "RealDiv", "MatMul", "BiasAdd", "AddV2", "Square", "Sum", "Mul", "Squeeze"}
    assert {*arithmetic, op} == {node.op for node in graph.node} - plain


@pytest.mark.parametrize("activation", ["tanh", "squared_leaky", "softpluss", "leaky_relu(2)"])
def test_configured_activation_that_is_refused_names_its_key_and_what_is_offered(activation):
    """A user reads which key, why, and what to write instead; nothing is offered that would be refused again."""
    with pytest.raises(ConfigError) as caught:
        create_network(NetworkConfig(activation=activation), RAW, seed=1)
    assert "network.activation" == caught.value.key
    base, _, offered = str(caught.value).removesuffix(".").partition("Use one of: ")
    assert activation.partition("(")[0] in base
    for name in filter(None, offered.split(", ")):
        create_network(NetworkConfig(hidden=(2,), activation=name), RAW, seed=1)
    assert bool(offered) == ("(" not in activation)  # a bad parameter says its range instead
