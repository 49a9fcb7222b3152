"""The networks against float64 NumPy, their convexity, their round trip and the graph they leave."""

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.oracle import icnn as oracle
from training.activations import ActivationRefusedError, Role, resolve
from training.config import ConfigError, NetworkConfig
from training.constraints import NegativeWeightError
from training.datasets import DataError
from training.icnn import InputConvexNetwork, PenalizedNetwork, Units, create_network, create_potential

ACTIVATIONS = ("softplus", "relu", "leaky_relu(0.2)", "elu", "smooth_leaky(0.1, 2.0)")
SHIPPED = Path(__file__).parents[2] / "models" / "tumours" / "1" / "model.keras"
RAW = np.random.default_rng(1).normal([0.0, 200.0, -3.0], [1.0, 30.0, 0.01], (200, 3)).astype(np.float32)


def network(activation: str = "softplus", hidden=(16, 8), quadratic=0.05, target=None, seed=3) -> InputConvexNetwork:
    """Return a network for `RAW`."""
    config = NetworkConfig(hidden=hidden, activation=activation, quadratic=quadratic)
    return create_network(config, RAW, seed=seed, target=target)


def potential(activation: str = "smooth_leaky(0.2, 1.0)", first: str = "squared_leaky(0.2)", hidden=(7, 5), seed=3):
    """Return a potential from `RAW` to rows elsewhere, its weights drawn anew so that nothing is as at the start."""
    config = NetworkConfig(hidden=hidden, activation=activation, first_activation=first, quadratic=0.05)
    model = create_potential(config, RAW, RAW[:150] * 2.0 + 40.0, seed=seed)
    rng = np.random.default_rng(seed)
    for variable in model.trainable_variables:
        drawn = 0.5 * rng.normal(size=variable.shape)
        constrained = variable.path.endswith("/kernel") and "/first/" not in variable.path
        variable.assign(np.abs(drawn) if constrained and "quadratic_form" not in variable.path else drawn)
    return model


def saved(model: keras.Model, folder: Path) -> oracle.Checkpoint:
    """Save a model and return the numbers in its file."""
    model.save(folder / "m.keras")
    return oracle.read_checkpoint(folder / "m.keras")


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


@pytest.mark.parametrize("hidden", [(8,), (7, 5), (4, 6, 3)])
@pytest.mark.parametrize("first", ["", "squared_leaky(0.2)", "squared_leaky(0.7)", "softplus"])
def test_potential_equals_float64_numpy_from_the_checkpoint(first, hidden, tmp_path):
    """With a squared first layer, both quadratic terms and the samples' units, for scores and gradients."""
    model = potential(first=first, hidden=hidden)
    checkpoint = saved(model, tmp_path)
    score, gradient = score_and_gradient(model, RAW)
    expected, slopes = oracle.score(checkpoint, RAW), oracle.gradient(checkpoint, RAW)
    assert (200,) == score.shape == model.compute_output_shape(RAW.shape)
    assert np.abs(score - expected).max() <= 3e-6 * np.abs(expected).max()
    assert np.abs(gradient - slopes).max() <= 1e-5 * np.abs(slopes).max()


@pytest.mark.parametrize("first", ["softplus", "squared_leaky(0.2)"])
def test_oracle_gradient_of_a_potential_equals_its_central_differences(first, tmp_path):
    """The yardstick's chain rule knows the first activation, the quadratic form and the units."""
    checkpoint = saved(potential(first=first), tmp_path)
    slopes = oracle.gradient(checkpoint, RAW)
    assert np.abs(oracle.central_differences(checkpoint, RAW) - slopes).max() <= 1e-6 * np.abs(slopes).max()


def test_oracle_reads_every_part_of_a_potential(tmp_path):
    """Leaving out the first activation, the form or the units gives other scores: none is overlooked."""
    checkpoint = saved(potential(), tmp_path)
    scores = oracle.score(checkpoint, RAW)
    for part in ({"first_activation": ""}, {"form": None}, {"potential": None}, {"quadratic": 0.0}):
        other = oracle.score(oracle.dataclasses.replace(checkpoint, **part), RAW)
        assert np.abs(other - scores).max() > 1e-3 * np.abs(scores).max()


@pytest.mark.parametrize("spread", [1.0, 10.0])
@pytest.mark.parametrize("first", ["", "squared_leaky(0.2)"])
def test_potential_satisfies_the_midpoint_inequality(first, spread, tmp_path):
    """10,000 random pairs find no midpoint above its chord, though the first activation falls below zero."""
    checkpoint = saved(potential(first=first), tmp_path)
    left, right, middle = pairs(spread)
    ends = oracle.score(checkpoint, left), oracle.score(checkpoint, right)
    slack = 1e-12 * (np.abs(ends[0]) + np.abs(ends[1]) + 1.0)
    assert (oracle.score(checkpoint, middle) <= 0.5 * (ends[0] + ends[1]) + slack).all()


@pytest.mark.parametrize("activation", ["softplus", "smooth_leaky(0.1, 2.0)"])
def test_oracle_gradient_equals_its_central_differences(activation, tmp_path):
    """The yardstick's chain rule agrees with differences of its own forward pass."""
    network(activation).save(tmp_path / "m.keras")
    checkpoint = oracle.read_checkpoint(tmp_path / "m.keras")
    slopes = oracle.gradient(checkpoint, RAW)
    assert np.abs(oracle.central_differences(checkpoint, RAW) - slopes).max() <= 1e-7 * np.abs(slopes).max()


@pytest.mark.parametrize("spread", [1.0, 3.0, 10.0])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_d2_t7_network_satisfies_the_midpoint_inequality(activation, spread, tmp_path):
    """10,000 random pairs find no midpoint above its chord beyond float64 rounding."""
    network(activation).save(tmp_path / "m.keras")
    checkpoint = oracle.read_checkpoint(tmp_path / "m.keras")
    left, right, middle = pairs(spread)
    ends = oracle.score(checkpoint, left), oracle.score(checkpoint, right)
    slack = 1e-12 * (np.abs(ends[0]) + np.abs(ends[1]) + 1.0)
    assert (oracle.score(checkpoint, middle) <= 0.5 * (ends[0] + ends[1]) + slack).all()


def test_d2_t7_midpoint_inequality_is_violated_after_sign_flips(tmp_path):
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


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 0.9])
def test_d9_4_passthrough_has_its_share_of_the_variance_at_the_start(share):
    """The argument is the variance of a passthrough's weights times d; the default is one half, and reads back."""
    model = InputConvexNetwork(4, (300, 300), "relu", passthrough_share=share, seed=1)
    assert share == pytest.approx(float(np.var(model.constrained[0].passthrough.numpy())) * 4, rel=0.15)
    assert share == InputConvexNetwork.from_config(model.get_config()).passthrough_share
    assert 0.5 == InputConvexNetwork(4, (3,)).passthrough_share


@pytest.mark.parametrize("share", [-0.1, 1.0, 2.0, np.nan])
def test_d9_4_share_that_is_none_is_refused(share):
    """With all of the variance from the passthrough the layers below would have no say."""
    with pytest.raises(ValueError, match=r"passthrough_share: expected a number in \[0, 1\)"):
        InputConvexNetwork(4, (3,), passthrough_share=share)


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


def test_squared_leaky_is_refused_after_the_first_layer_with_its_counterexample():
    """Of |x| - 1 it has 0.04 in the middle and 0 at both ends: the three points come with the refusal."""
    first = InputConvexNetwork(3, (4, 4), "softplus", first_activation="squared_leaky(0.2)")
    assert ("squared_leaky(0.2)", "softplus") == (first.first_activation.name, first.activation.name)
    for arguments in (
        {"activation": "squared_leaky(0.2)"},
        {"activation": "squared_leaky", "first_activation": "relu"},
    ):
        for network_class in (InputConvexNetwork, PenalizedNetwork):
            with pytest.raises(ActivationRefusedError, match="first layer only") as refused:
                network_class(3, (4, 4), **arguments)
            assert (-1.0, 0.0, 1.0) == refused.value.counterexample.points
            assert pytest.approx((0.0, 0.04, 0.0)) == refused.value.counterexample.values


def test_network_with_a_squared_hidden_layer_would_not_be_convex():
    """What the refusal prevents: the yardstick, which checks nothing, computes the counterexample by such a network."""
    both_ways, one = np.array([[1.0, -1.0]]), np.ones((2, 1))
    middle = (one, np.zeros((1, 1)), np.array([-1.0]))
    output = (np.ones((1, 1)), np.zeros((1, 1)), np.zeros(1))
    identity = np.zeros(1), np.ones(1)
    checkpoint = oracle.Checkpoint(
        *identity, (both_ways, np.zeros(2)), (middle, output), "squared_leaky(0.2)", 0.0, (0.0, 1.0), "relu"
    )
    scores = oracle.score(checkpoint, np.array([[-1.0], [0.0], [1.0]]))
    assert pytest.approx([0.0, 0.04, 0.0]) == scores.tolist()


@pytest.mark.parametrize("first", ["tanh", "gelu", "leaky_relu(2)", "nonsense"])
def test_first_activation_that_is_not_convex_is_refused_by_its_key(first):
    """Any monotonicity will do in the first layer, but convex it must be."""
    with pytest.raises(ActivationRefusedError):
        InputConvexNetwork(3, (4,), first_activation=first)
    with pytest.raises(
        ConfigError, match=r"^network.first_activation: expected a convex activation, received"
    ) as caught:
        create_network(NetworkConfig(first_activation=first), RAW, seed=1)
    assert "network.first_activation" == caught.value.key


@pytest.mark.parametrize("word", ["penalty", "projection", None])
def test_class_called_convex_has_no_argument_that_takes_its_constraint_away(word):
    """Its layers know a penalty mode, but it offers no way to it: not by an argument, not by a configuration."""
    with pytest.raises((TypeError, ValueError), match="positivity"):
        InputConvexNetwork(3, (4, 4), positivity=word)
    config = InputConvexNetwork(3, (4, 4)).get_config()
    with pytest.raises((TypeError, ValueError), match="positivity"):
        InputConvexNetwork.from_config({**config, "positivity": word})
    model = InputConvexNetwork(3, (4, 4), regularizer_constant=0.0)
    assert {"projection"} == {layer.positivity for layer in model.constrained}
    assert [] == model.losses
    optimizer = keras.optimizers.SGD(1e3)
    kernels = [layer.kernel for layer in model.constrained]
    optimizer.apply([tf.ones(kernel.shape) for kernel in kernels], kernels)
    assert {0.0} == {float(kernel.numpy().max()) for kernel in kernels}


def test_penalized_network_is_no_input_convex_network(tmp_path):
    """It shares the recursion, but neither class nor file passes for the other; negative weights it may hold."""
    arguments = {"dim": 3, "hidden": (5, 4), "activation": "smooth_leaky", "potential": True, "seed": 5}
    convex, drawn = InputConvexNetwork(**arguments), PenalizedNetwork(**arguments, regularizer_constant=2.5)
    assert not isinstance(drawn, InputConvexNetwork)
    assert not isinstance(convex, PenalizedNetwork)
    for left, right in zip(convex.get_weights(), drawn.get_weights(), strict=True):
        np.testing.assert_array_equal(left, right)
    drawn.constrained[0].kernel.assign(np.full((5, 4), -0.5))
    drawn.verify()
    drawn.save(tmp_path / "m.keras")
    again = keras.saving.load_model(tmp_path / "m.keras")
    assert PenalizedNetwork is type(again)
    assert drawn.get_config() == again.get_config()
    again(RAW[:1])
    assert [2.5 * 20 * 0.25, 0.0] == [float(loss) for loss in again.losses]


def test_saved_potential_reads_back_bit_for_bit(tmp_path):
    """Arguments, weights, form and units come back, and scores and gradients with them."""
    model = potential()
    model.save(tmp_path / "m.keras")
    again = keras.saving.load_model(tmp_path / "m.keras")
    assert model.get_config() == again.get_config()
    assert ("squared_leaky(0.2)", True) == (again.get_config()["first_activation"], again.get_config()["potential"])
    for left, right in zip(score_and_gradient(model, RAW), score_and_gradient(again, RAW), strict=True):
        np.testing.assert_array_equal(left, right)
    for left, right in zip(vars(model.units).values(), vars(again.units).values(), strict=True):
        np.testing.assert_array_equal(left, right)


def test_shipped_network_of_before_potentials_still_loads():
    """Its configuration knows neither first activation nor potential, and its scores are those of the yardstick."""
    model = keras.saving.load_model(SHIPPED)
    assert (("softplus", "softplus"), False) == (
        (model.activation.name, model.first_activation.name),
        model.get_config()["potential"],
    )
    checkpoint = oracle.read_checkpoint(SHIPPED)
    assert ("", None, None) == (checkpoint.first_activation, checkpoint.form, checkpoint.potential)
    rows = np.random.default_rng(0).normal(checkpoint.mean, checkpoint.scale, (50, model.dim)).astype(np.float32)
    expected = oracle.score(checkpoint, rows)
    assert np.abs(model(rows).numpy() - expected).max() <= 1e-6 * np.abs(expected).max()


def test_new_potential_maps_by_the_shift_of_means():
    """Before any step each source row goes to itself less the source's mean plus the target's, within a few percent."""
    target = np.random.default_rng(2).normal([50.0, -4.0, 900.0], [20.0, 20.0, 20.0], (300, 3))
    for hidden in ((8,), (64, 64), (32,) * 5):
        config = NetworkConfig(hidden=hidden, activation="smooth_leaky", first_activation="squared_leaky")
        model = create_potential(config, RAW, target, seed=3)
        _, mapped = score_and_gradient(model, RAW)
        shifted = RAW.astype(float) - RAW.mean(axis=0, dtype=float) + target.mean(axis=0)
        assert np.sqrt(np.mean((mapped - shifted) ** 2)) <= 0.05 * model.units.scale


def test_potentials_units_are_those_of_both_samples():
    """Each side is centred at its own mean, and one scale is the root mean square of all standard deviations."""
    source = np.array([[0.0, 10.0], [2.0, 10.0]])
    target = np.array([[1.0, 5.0], [1.0, 11.0], [1.0, 8.0], [1.0, 8.0]])
    units = create_potential(NetworkConfig(hidden=(2,)), source, target, seed=1).units
    np.testing.assert_array_equal([[1.0, 10.0], [1.0, 8.0]], [units.source_mean, units.target_mean])
    assert np.sqrt((1.0 + 0.0 + 0.0 + 4.5) / 4.0) == pytest.approx(units.scale)
    np.testing.assert_array_equal([1.0, 8.0], units.swapped().source_mean)
    np.testing.assert_array_equal([1.0, 10.0], units.swapped().target_mean)
    still = create_potential(NetworkConfig(hidden=(2,)), source[:1], target[:1], seed=1).units
    assert 1.0 == still.scale


@pytest.mark.parametrize("factor", [1e20, 1e-20])
def test_potential_of_samples_whose_squares_leave_float32_is_refused(factor):
    """The scale's square is a weight: it would be infinite, or 0."""
    with pytest.raises(DataError, match=r"common standard deviation is from 1e-15 to 1e\+15, .* received .*e.*\. Look"):
        create_potential(NetworkConfig(hidden=(2,)), RAW * factor, RAW * factor, seed=1)


def test_swapped_units_map_back_what_units_map():
    """With the identity as potential, a raw source row goes to the target's place, and from there back."""
    there = InputConvexNetwork(3, (2,), "softplus", potential=True)
    there.constrained[-1].kernel.assign(np.zeros((2, 1)))
    back = InputConvexNetwork.from_config(there.get_config())
    back.set_weights(there.get_weights())
    units = Units(np.array([100.0, -5.0, 0.0]), np.array([3.0, 70.0, -8.0]), 12.5)
    there.set_units(units)
    back.set_units(units.swapped())
    rows = np.random.default_rng(0).normal(units.source_mean, 12.5, (20, 3)).astype(np.float32)
    _, mapped = score_and_gradient(there, rows)
    np.testing.assert_allclose(mapped, rows - units.source_mean + units.target_mean, atol=1e-4)
    np.testing.assert_allclose(score_and_gradient(back, mapped)[1], rows, atol=1e-4)


def test_potential_refuses_a_target_scaling_and_others_have_no_units():
    """A potential has units of its own, and only a potential has."""
    with pytest.raises(ValueError, match="a potential has units of its own"):
        InputConvexNetwork(3, (4,), potential=True, target_scaling=True)
    with pytest.raises(ValueError, match="expected a potential"):
        network().units.swapped()
    with pytest.raises(ValueError, match="expected a potential"):
        network().set_units(Units(np.zeros(3), np.zeros(3), 1.0))


@pytest.mark.parametrize(
    ("hidden", "activation", "first"),
    [((4, 4), "softplus", "relu"), ((4, 4), "elu", ""), ((4,), "relu", "softplus"), ((4,), "linear", "squared_leaky")],
)
def test_potential_takes_layers_whose_biases_its_inverse_trains(hidden, activation, first):
    """A kink below a curved layer does no harm, nor does an activation that no layer has."""
    config = NetworkConfig(hidden=hidden, activation=activation, first_activation=first)
    model = create_potential(config, RAW, RAW, seed=1)
    last = model.first_activation if len(hidden) == 1 else model.activation
    assert not resolve(last.name, Role.FIRST).second_derivative_zero_ae


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
