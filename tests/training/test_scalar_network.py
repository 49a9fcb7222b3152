"""The scalar input-convex network as it was asked for: its builder, by hand, its proof, and what spoils that."""

from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from service import model_version
from service.errors import VersionRefusedError
from service.program.certification import certify
from service.program.curvature import prove
from tests.contract.version_surgery import flipped, read_tensors, variable_keys, write_tensors
from tests.service.program.functions import lifted, total
from training.activations import ConvexActivation, Role
from training.finalization import prove_model
from training.icnn import InputConvexNetwork, PenalizedNetwork
from training.layers.dense_partially_constrained import DensePartiallyConstrained

ROWS = np.random.default_rng(8).normal(size=(40, 3)).astype(np.float32)
FREE = ("/passthrough", "/bias", "first/kernel")


@pytest.mark.parametrize(
    ("dim", "hidden"), [(1, (1,)), (1, (7, 3)), (2, (5,)), (3, (1, 1, 1)), (30, (4, 9, 2, 6)), (100, (3, 3))]
)
def test_s1_a_builder_makes_any_width_depth_and_dimension(dim, hidden):
    """One score a row, [batch], for any d >= 1, any number of layers >= 1 and any widths."""
    for make in (InputConvexNetwork, PenalizedNetwork):
        network = make(dim, hidden, seed=1)
        rows = np.random.default_rng(dim).normal(size=(5, dim)).astype(np.float32)
        assert (5,) == network(rows).shape == network.compute_output_shape(rows.shape)
        assert np.isfinite(np.asarray(network(rows))).all()
        shapes = [tuple(layer.kernel.shape) for layer in (network.first, *network.constrained)]
        assert list(zip((dim, *hidden), (*hidden, 1), strict=True)) == shapes
        assert {(dim, units) for units in (*hidden[1:], 1)} == {
            tuple(layer.passthrough.shape) for layer in network.constrained
        }


def by_hand(network: InputConvexNetwork) -> keras.Model:
    """Return the functional model of the same layers with the network's weights: first a dense one on the input."""
    x = keras.Input((network.dim,))
    first = keras.layers.Dense(network.hidden[0], activation=ConvexActivation(network.first_activation, Role.FIRST))
    z = first(x)
    layers = [DensePartiallyConstrained(units, network.activation) for units in network.hidden[1:]]
    layers.append(DensePartiallyConstrained(1))
    for layer in layers:
        z = layer([z, x])
    model = keras.Model(x, z)
    for layer, like in zip((first, *layers), (network.first, *network.constrained), strict=True):
        layer.set_weights(like.get_weights())
    return model


@pytest.mark.parametrize("hidden", [(4,), (8, 5), (6, 6, 6)])
@pytest.mark.parametrize("first", [None, "squared_leaky"])
def test_s1_b_functional_model_by_hand_equals_the_builders_output(hidden, first):
    """Dense on the row, then layers of two inputs, with the same weights: the same scores to 1e-6."""
    network = InputConvexNetwork(3, hidden, "smooth_leaky", first_activation=first, seed=5)
    expected = np.asarray(network(ROWS), float)
    found = np.asarray(by_hand(network)(ROWS), float)[:, 0]
    assert np.abs(found - expected).max() <= 1e-6 * max(1.0, np.abs(expected).max())


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Path:
    """Return the SavedModel of a small constrained network, with weights that are all far from zero."""
    network = InputConvexNetwork(3, (4, 3), "smooth_leaky", first_activation="squared_leaky", seed=2)
    random = np.random.default_rng(6)
    for variable in network.trainable_variables:
        drawn = random.uniform(0.1, 1.0, variable.shape)
        free = variable.path.endswith(FREE)
        variable.assign(drawn * random.choice([-1.0, 1.0], variable.shape) if free else drawn)
    folder = tmp_path_factory.mktemp("exported") / "network"
    kept = tf.Module()
    kept.numbers = [variable.value for variable in network.variables]  # Keras' own export saves each of them twice
    signature = tf.function(lambda x: {"score": network(x)}, input_signature=[tf.TensorSpec([None, 3], tf.float32)])
    tf.saved_model.save(kept, str(folder), signatures=signature)
    return folder


def test_s1_c_constrained_network_is_proved_and_one_that_is_not_is_refused(exported):
    """The certificate of the class that is held convex, and the refusal of the one that is only drawn there."""
    assert 3 == certify(exported).dim
    drawn = PenalizedNetwork(3, (4, 3), seed=2)
    drawn.constrained[0].kernel.assign(-np.full((4, 3), 1e-6))
    with pytest.raises(VersionRefusedError) as refusal:
        prove_model(drawn, 3)
    assert "nonneg-matmul" == refusal.value.rule


def test_d2_t3_every_sign_flip_of_a_constrained_weight_is_refused_and_d2_t4_no_other(exported):
    """Each weight of W and w is negated in turn and refused by the sign rule; each of A and b, and the proof stands."""
    tensors = read_tensors(exported)
    refused = proved = 0
    try:
        for name, key in variable_keys(tensors).items():
            if not name.endswith((*FREE, "/kernel")):
                continue
            for index in np.ndindex(tensors[key].shape):
                write_tensors(exported, flipped(tensors, key, index))
                if name.endswith(FREE):
                    proved += certify(exported).dim == 3
                    continue
                with pytest.raises(VersionRefusedError) as refusal:
                    certify(exported)
                assert "nonneg-matmul" == refusal.value.rule
                refused += 1
    finally:
        write_tensors(exported, tensors)
    assert (4 * 3 + 3, 3 * 4 + 4 + 3 * 3 + 3 + 3 + 1) == (refused, proved)


@pytest.mark.parametrize(
    "block",
    [
        lambda z: keras.ops.layer_normalization(z),
        lambda z: keras.ops.rms_normalization(z),
        lambda z: keras.ops.softmax(z, axis=-1),
        lambda z: tf.math.l2_normalize(z, axis=-1),
        lambda z: (z - [0.1, 0.2, 0.3]) * [1.0, -1e-9, 1.0],
        lambda z: tf.squeeze(keras.ops.dot_product_attention(*[tf.reshape(z, (-1, 3, 1, 1))] * 3), (2, 3)),
        lambda z: z * tf.reverse(z, [1]),
        lambda z: tf.minimum(z, 1.0),
        lambda z: -z,
    ],
    ids=["layer normalization", "rms normalization", "softmax", "unit norm", "negative scale", "attention", "product",
         "minimum", "negation"],
)  # fmt: skip
def test_d2_t3_forbidden_block_on_the_way_of_a_convex_unit_is_refused(block):
    """Of softplus units it has no certificate; without the block the same function has one."""
    prove(lifted(lambda x: total(tf.nn.softplus(x))))
    with pytest.raises(VersionRefusedError):
        prove(lifted(lambda x: total(block(tf.nn.softplus(x)) * [0.5, 1.0, 2.0])))


@pytest.mark.parametrize(
    "block",
    [
        lambda z: (z - [0.1, 0.2, 0.3]) / tf.sqrt([0.5, 2.0, 1.0]) * [0.0, 1.5, 1.0] - [1.0, 0.0, -1.0],
        lambda z: z * tf.exp([-3.0, 0.0, 2.0]),
        lambda z: tf.reduce_logsumexp(z, axis=-1, keepdims=True),
        lambda z: tf.reduce_max(z, axis=-1, keepdims=True),
        lambda z: tf.reduce_mean(z, axis=-1, keepdims=True),
        lambda z: tf.concat([z, 2.0 * z], axis=-1),
    ],
    ids=["batch normalization", "ActNorm", "log-sum-exp", "maximum", "mean", "concatenation"],
)
def test_d2_4_allowed_block_on_the_way_of_a_convex_unit_is_proved(block):
    """What keeps convexity is not refused: a positive affine scale, pools, joints."""
    prove(lifted(lambda x: total(tf.nn.softplus(block(tf.nn.softplus(x))))))


def test_s1_d_network_trains_saves_loads_and_is_served(trained_once):
    """The version that the training command published answers through the service what its `model.keras` computes."""
    (folder,) = (trained_once / "models" / "small").glob("1")
    network = keras.saving.load_model(folder / "model.keras")
    assert InputConvexNetwork is type(network)
    rows = np.random.default_rng(1).normal([0.0, 100.0, 3.0], [1.0, 20.0, 0.1], (50, 3)).astype(np.float32)
    version = model_version.load(folder)
    try:
        score, gradient = version.score_and_gradient(rows)
    finally:
        version.close()
    expected = np.asarray(network(rows), float)
    assert np.abs(score - expected).max() <= 1e-5 * np.abs(expected).max()
    assert (50, 3) == gradient.shape
