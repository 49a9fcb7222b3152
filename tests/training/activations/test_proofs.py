"""Every activation that is offered is proved from exported files, and every refused one is refused there too."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from service.errors import VersionRefusedError
from service.program.certification import Certified, certify
from service.program.curvature import prove
from service.program.evaluation import evaluate
from tests.service.program.functions import lifted, score_of, total
from training import activations
from training.activations import Role

WITH_PARAMETERS = (
    "leaky_relu(0)", "leaky_relu(1)", "elu(0.5)", "elu(0)", "celu(0.3)", "celu(7)", "squareplus(0.1)",
    "threshold(1.5, 1.5)", "threshold(-2, -2)", "smooth_leaky(0, 3)", "smooth_leaky(1, 2)", "smooth_leaky(0.1, 10)",
    "squared_leaky(0)",
)  # fmt: skip
HIDDEN = (*activations.names(Role.HIDDEN), *WITH_PARAMETERS)
FIRST = (*activations.names(Role.FIRST), "squared_leaky(1)", "squared_leaky(0.01)")
ROWS = np.random.default_rng(3).normal(size=(60, 3), scale=2.0).astype(np.float32)


def of_convex(name):
    """Return the sum of an activation of |x| and its relatives, which are convex and not affine."""
    function = activations.resolve(name, Role.FIRST).function
    return lambda x: total(function(tf.abs(x) - [0.5, 1.0, 2.0]))


def of_affine(name):
    """Return the sum of an activation of an affine function of the row."""
    function = activations.resolve(name, Role.FIRST).function
    return lambda x: total(function(2.0 * x - [0.5, 0.0, -1.0]))


@pytest.mark.parametrize("name", HIDDEN)
def test_d2_hidden_activation_is_proved_of_a_convex_argument(name):
    """The prover knows it as convex and non-decreasing, and its program computes what TensorFlow computes."""
    program = lifted(of_convex(name))
    prove(program)
    expected = score_of(of_convex(name))(ROWS)
    found = evaluate(program, ROWS.astype(float))[0]
    assert np.abs(found - expected).max() <= 1e-6 * max(1.0, np.abs(expected).max())


@pytest.mark.parametrize("name", FIRST)
def test_d2_first_activation_is_proved_of_an_affine_argument_and_refused_of_a_convex_one(name):
    """The prover draws the same line as the registry between the two roles."""
    program = lifted(of_affine(name))
    prove(program)
    expected = score_of(of_affine(name))(ROWS)
    found = evaluate(program, ROWS.astype(float))[0]
    assert np.abs(found - expected).max() <= 1e-6 * max(1.0, np.abs(expected).max())
    with pytest.raises(VersionRefusedError):
        prove(lifted(of_convex(name)))


@pytest.mark.parametrize("name", [name for name in activations.names(Role.NEVER) if hasattr(keras.activations, name)])
def test_d2_t3_forbidden_activation_is_refused_by_the_prover_in_both_roles(name):
    """Whoever writes it past the registry gets no certificate, of an affine argument as of a convex one."""
    function = getattr(keras.activations, name)
    for argument in (lambda x: 2.0 * x - [0.5, 0.0, -1.0, 1.0], lambda x: tf.abs(x) - [0.5, 1.0, 2.0, 6.0]):
        with pytest.raises(VersionRefusedError):
            prove(lifted(lambda x, argument=argument: total(function(argument(x))), 4))


@pytest.mark.parametrize(
    "function",
    [
        lambda x: tf.square(keras.ops.celu(x)),
        lambda x: keras.ops.leaky_relu(x, 1.5),
        lambda x: keras.ops.elu(x, 1.1),
        lambda x: keras.ops.celu(x, -1.0),
        lambda x: keras.ops.threshold(x, 1.0, 2.0),
        lambda x: keras.ops.threshold(x, 1.0, 0.0),
    ],
)
def test_d2_t3_parameter_out_of_range_is_refused_by_the_prover(function):
    """What the registry refuses by a parameter's bound has no proof either."""
    with pytest.raises(VersionRefusedError):
        prove(lifted(lambda x: total(function(2.0 * x - [0.5, 0.0, -1.0]))))


def test_d2_every_offered_activation_is_proved_from_one_exported_saved_model(tmp_path):
    """A model that sums a small network for each of them is proved from its files, so each is."""
    rng = np.random.default_rng(4)
    kept = tf.Module()
    kept.numbers = []

    def drawn(*shape, positive=False):
        values = rng.normal(size=shape)
        kept.numbers.append(tf.Variable(np.abs(values) if positive else values, dtype=tf.float32))
        return kept.numbers[-1]

    parts = []
    for name in activations.names(Role.HIDDEN) + activations.names(Role.FIRST):
        activation = activations.resolve(name, Role.FIRST)
        then = activation.function if activation.role is Role.HIDDEN else tf.nn.softplus
        weights = drawn(3, 4), drawn(4), drawn(4, 2, positive=True), drawn(3, 2), drawn(2, 1, positive=True)
        parts.append((activation.function, then, weights))

    @tf.function(input_signature=[tf.TensorSpec([None, 3], tf.float32)])
    def score(x):
        result = tf.zeros_like(x[:, 0])
        for first, then, (a, b, w, c, out) in parts:
            result += tf.squeeze(then(first(0.1 * x @ a + b) @ w + x @ c) @ out, -1)
        return {"score": result}

    tf.saved_model.save(kept, str(tmp_path), signatures=score)
    certified = certify(tmp_path)
    assert isinstance(certified, Certified)
    assert 3 == certified.dim
