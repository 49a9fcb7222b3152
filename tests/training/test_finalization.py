"""From a penalised network to a proved one: what is clipped, what that costs, and what is still refused."""

import keras
import numpy as np
import pytest

from service.errors import VersionRefusedError
from service.program.evaluation import evaluate
from tests.oracle.falsifier import falsify
from training.activations import ConvexActivation, Role
from training.constraints import NegativeWeightError
from training.finalization import constrained_layers, finalize, prove_model
from training.icnn import InputConvexNetwork, PenalizedNetwork
from training.layers.dense_partially_constrained import DensePartiallyConstrained
from training.positivity import FORMS

X = np.random.default_rng(1).uniform(-1.0, 1.0, (300, 2)).astype(np.float32)
Y = (X**2).sum(axis=1) - X[:, 0] * X[:, 1] + np.cos(3.0 * X[:, 1])


def trained() -> PenalizedNetwork:
    """Return a penalised network after some steps of fitting a function that is not convex."""
    network = PenalizedNetwork(2, (6, 5), "smooth_leaky", regularizer_constant=1e-3, seed=2)
    network.compile(keras.optimizers.Adam(0.03), loss="mse")
    network.fit(X, Y, batch_size=100, epochs=20, verbose=0, shuffle=False)
    return network


def test_d2_t6_finalized_penalised_network_is_proved_and_reports_its_loss_before_and_after():
    """The loss without penalties is that of NumPy, before and after; what comes out is an input-convex network."""
    network = trained()
    kernels = [layer.kernel.numpy() for layer in network.constrained]
    assert min(kernel.min() for kernel in kernels) < 0.0
    with pytest.raises(VersionRefusedError) as refusal:
        prove_model(network, 2)
    assert "nonneg-matmul" == refusal.value.rule
    before = float(np.mean((np.asarray(network(X), float) - Y) ** 2))
    result = finalize(network, X, Y)
    assert InputConvexNetwork is type(result.network)
    for layer, kernel in zip(result.network.constrained, kernels, strict=True):
        np.testing.assert_array_equal(np.maximum(kernel, 0.0), layer.kernel.numpy())
        assert int((kernel < 0.0).sum()) == result.clipped[layer.name]
    assert before == pytest.approx(result.loss_before, rel=1e-5)
    program = result.certified.program
    after = float(np.mean((evaluate(program, X.astype(float))[0] - Y) ** 2))
    assert after == pytest.approx(result.loss_after, rel=1e-4)
    assert result.loss_after > result.loss_before
    assert f"{sum(result.clipped.values())} negative weights were clipped" in str(result)
    score = lambda rows: evaluate(program, rows)[0]  # noqa: E731
    assert falsify(score, None, X.astype(float), pairs=500, exact=True) is None


def by_hand(**arguments) -> keras.Model:
    """Return a functional model of two partially constrained layers over a dense one."""
    x = keras.Input((2,))
    z = keras.layers.Dense(4, activation=ConvexActivation("squared_leaky", Role.FIRST))(x)
    z = DensePartiallyConstrained(3, "softplus", name="middle", **arguments)([z, x])
    return keras.Model(x, DensePartiallyConstrained(1, name="last", **arguments)([z, x]))


def test_s3_f_finalized_functional_model_is_proved_in_place_and_holds_its_kernels():
    """A model by hand is clipped where it stands, nested models included, and its layers are projected ones after."""
    model = by_hand(positivity="penalty")
    kernel = np.random.default_rng(5).normal(size=(4, 3))
    model.get_layer("middle").kernel.assign(kernel)
    inputs = keras.Input((2,))
    outer = keras.Model(inputs, model(inputs))
    assert ["middle", "last"] == [layer.name for layer in constrained_layers(outer)]
    result = finalize(outer, X, Y, loss=lambda y, score: keras.ops.abs(y - score))
    assert {"middle": int((kernel < 0.0).sum()), "last": 0} == result.clipped
    assert outer is result.network
    assert {"projection"} == {layer.positivity for layer in constrained_layers(outer)}
    assert float(np.mean(np.abs(np.asarray(outer(X), float)[:, 0] - Y))) == pytest.approx(result.loss_after, rel=1e-5)


def test_finalization_proves_nothing_that_another_layer_spoils():
    """A plain dense layer with negative weights on the way is refused by the prover, by its rule."""
    x = keras.Input((2,))
    z = DensePartiallyConstrained(3, "softplus", positivity="penalty")([keras.layers.Dense(4, "relu")(x), x])
    model = keras.Model(x, keras.layers.Dense(1, kernel_initializer=keras.initializers.Constant(-1.0))(z))
    with pytest.raises(VersionRefusedError) as refusal:
        finalize(model, X, Y)
    assert "nonneg-matmul" == refusal.value.rule


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_finalization_refuses_a_kernel_that_left_the_numbers(number):
    """Clipping would hide a divergence."""
    model = by_hand(positivity="penalty")
    model.get_layer("last").kernel.assign(np.full((3, 1), number))
    with pytest.raises(NegativeWeightError, match="last/kernel"):
        finalize(model, X, Y)


@pytest.mark.parametrize("positivity", FORMS)
def test_d2_kernel_of_free_weights_is_proved_from_the_exported_files(positivity):
    """The prover sees the effective weights, in the precision that is served; no finalisation is needed."""
    model = by_hand(positivity=positivity)
    for layer in constrained_layers(model):
        layer.raw_kernel.assign(np.random.default_rng(3).normal(size=layer.raw_kernel.shape))
    program = prove_model(model, 2).program
    expected = np.asarray(model(X), float)[:, 0]
    assert np.abs(evaluate(program, X.astype(float))[0] - expected).max() <= 1e-5 * np.abs(expected).max()
