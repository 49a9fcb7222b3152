"""Batch normalisation: at inference it is an affine map whose signs are those of gamma; in training it mixes rows."""

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests.service.program.foreign_graphs import Case, check, refusal, refusal_of_nodes

DRAWN = np.random.default_rng(9)
GAMMA = DRAWN.standard_normal(3).astype(np.float32)
BETA = DRAWN.standard_normal(3).astype(np.float32)
MEAN = DRAWN.standard_normal(3).astype(np.float32)
VARIANCE = DRAWN.uniform(0.1, 3.0, 3).astype(np.float32)


def grid(x: Any) -> Any:
    """Return rows [n, 2, 2, 3] of [n, 12]."""
    return tf.reshape(x, [-1, 2, 2, 3])


def fused(x: Any, **options: Any) -> Any:
    """Return batch normalisation in one op."""
    return tf.compat.v1.nn.fused_batch_norm(grid(x), GAMMA, BETA, MEAN, VARIANCE, epsilon=0.01, **options)[0]


def by_hand(x: Any) -> Any:
    """Return batch normalisation as Keras writes it, on a variable and constants."""
    inverse = tf.math.rsqrt(tf.constant(VARIANCE) + 0.01) * GAMMA
    return grid(x) * inverse + (BETA - MEAN * inverse)


def expected(v: Any) -> Any:
    """Return batch normalisation of one row [12] in float64."""
    gamma, beta, mean, variance = (array.astype(np.float64) for array in (GAMMA, BETA, MEAN, VARIANCE))
    return (v.reshape(2, 2, 3) - mean) / np.sqrt(variance + 0.01) * gamma + beta


CASES = {
    "in one op": Case(lambda x: fused(x, is_training=False), expected),
    "by hand": Case(by_hand, expected),
    "with a root and a quotient": Case(
        lambda x: (grid(x) - MEAN) / tf.sqrt(tf.constant(VARIANCE) + 0.01) * GAMMA + BETA, expected
    ),
    "by the library's function": Case(
        lambda x: tf.nn.batch_normalization(grid(x), MEAN, VARIANCE, BETA, GAMMA, 0.01), expected
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_batch_normalization_at_inference_is_its_own_function(name: str) -> None:
    """Score and gradient are those of the formula in float64, and those that TensorFlow computes."""
    check(CASES[name])


def test_batch_normalization_in_training_is_refused_by_row_axis() -> None:
    """The mean of the batch mixes strangers' rows, in one op or by hand."""
    training = lambda x: tf.compat.v1.nn.fused_batch_norm(grid(x), GAMMA, BETA, is_training=True)[0]  # noqa: E731
    assert "row-axis" == refusal(lambda x: tf.reduce_sum(training(x), [1, 2, 3])).rule
    assert "row-axis" == refusal(lambda x: tf.reduce_sum(x - tf.nn.moments(x, [0])[0], -1)).rule


@pytest.mark.parametrize("norm", [lambda x: fused(x, is_training=False), by_hand])
def test_negative_gamma_after_a_convex_function_is_refused(norm: Any) -> None:
    """Signs of gamma count where the argument is convex, however the factor is written."""
    assert (GAMMA < 0).any()
    refused = refusal(lambda x: tf.reduce_sum(norm(tf.nn.softplus(x)), [1, 2, 3]))
    assert "nonneg-scale" == refused.rule


def test_negative_gamma_is_the_one_that_is_named() -> None:
    """The factor is computed from the variance and gamma; the message names gamma, and the place of its least entry."""
    module = tf.Module()
    module.gamma = tf.Variable([1.0, -2.0, 0.5], name="gamma")
    module.variance = tf.Variable([1.0, 1.0, 4.0], name="variance")

    def score(x: Any) -> Any:
        return tf.reduce_sum(grid(tf.nn.softplus(x)) * (tf.math.rsqrt(module.variance) * module.gamma), [1, 2, 3])

    reason = str(refusal(score))
    assert "gamma" in reason
    assert "variance" not in reason
    assert "-2.0 at [1]" in reason


def node(**attributes: Any) -> list[Any]:
    """Return the nodes of a fused batch normalisation of [n, 3]."""
    ones = [np.ones(3, np.float32)] * 4
    return [*ones, ("FusedBatchNormV3", (0, 1, 2, 3, 4), {"is_training": False, "epsilon": 0.01, **attributes})]


MALFORMED: dict[str, tuple[str, list[Any]]] = {
    "that does not say so": ("row-axis", node(is_training=None)),
    "channels first": ("not-lifted", node(data_format="NCHW")),
    "of other channels": ("not-lifted", [np.ones(2, np.float32), *node()[1:]]),
    "without statistics": ("not-lifted", [*node()[:2], ("FusedBatchNormV3", (0, 1, 2), {"is_training": False})]),
    "of a negative variance": ("finite-weights", [*node()[:3], np.full(3, -1, np.float32), node()[-1]]),
    "of no variance": ("finite-weights", [*node()[:3], np.zeros(3, np.float32), node(epsilon=0.0)[-1]]),
    "its second output": ("not-lifted", [*node(), ("Relu", ((5, 1),), {})]),
}  # fmt: skip


@pytest.mark.parametrize("name", MALFORMED)
def test_batch_normalization_that_no_export_writes_is_refused_by_its_rule(name: str) -> None:
    """Other forms, and variances without a root, are refused."""
    rule, nodes = MALFORMED[name]
    assert rule == refusal_of_nodes(*nodes)
