"""Sums, means, maxima and minima over features: each is its own function, with TensorFlow's way to count."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests.service.program.foreign_graphs import Case, check, refusal, refusal_of_nodes

WEIGHTS = np.random.default_rng(3).standard_normal((12, 6)).astype(np.float32)

COUNTED = np.arange(1.0, 13, dtype=np.float32)


def grid(x: Any) -> Any:
    """Return rows [n, 2, 3, 2] of [n, 12]."""
    return tf.reshape(x, [-1, 2, 3, 2])


def of(v: Any) -> Any:
    """Return one row [12] as [2, 3, 2]."""
    return v.reshape(2, 3, 2)


CASES = {
    "sum of all": Case(lambda x: tf.reduce_sum(x, 1), lambda v: v.sum(keepdims=True)),
    "sum over one axis": Case(lambda x: tf.reduce_sum(grid(x), 2), lambda v: of(v).sum(1)),
    "sum over two axes, kept": Case(
        lambda x: tf.reduce_sum(grid(x), [1, -1], keepdims=True),
        lambda v: of(v).sum((0, 2)),
    ),
    "sum over no axis": Case(lambda x: tf.reduce_sum(x, []), lambda v: v),
    "mean of all": Case(lambda x: tf.reduce_mean(x, -1), lambda v: v.mean(keepdims=True)),
    "mean over the grid": Case(lambda x: tf.reduce_mean(grid(x), [1, 2]), lambda v: of(v).mean((0, 1))),
    "maximum of all": Case(lambda x: tf.reduce_max(x, 1), lambda v: v.max(keepdims=True)),
    "maximum over one axis": Case(lambda x: tf.reduce_max(grid(x), 2, keepdims=True), lambda v: of(v).max(1)),
    "maximum over the grid": Case(lambda x: tf.reduce_max(grid(x), [1, 2]), lambda v: of(v).max((0, 1))),
    "maxout": Case(
        lambda x: tf.reduce_max(tf.reshape(x @ WEIGHTS, [-1, 2, 3]), -1),
        lambda v: (v @ WEIGHTS.astype(np.float64)).reshape(2, 3).max(1),
    ),
    "maximum of convex functions": Case(
        lambda x: tf.reduce_max(tf.abs(grid(x)), 3), lambda v: np.abs(of(v)).max(2)
    ),
    "weights that are a mean of constants": Case(
        lambda x: tf.nn.relu(x) * tf.reduce_mean(tf.constant(np.arange(1.0, 25, dtype="f4").reshape(2, 12)), 0),
        lambda v: np.maximum(v, 0) * np.arange(1.0, 25).reshape(2, 12).mean(0),
    ),
    "weights divided by their sum": Case(
        lambda x: tf.nn.relu(x) * (tf.constant(COUNTED) / tf.reduce_sum(COUNTED)),
        lambda v: np.maximum(v, 0) * np.arange(1.0, 13) / 78,
    ),
    "product of sizes": Case(
        lambda x: tf.reshape(grid(x), tf.stack([tf.shape(x)[0], tf.reduce_prod(tf.shape(grid(x))[1:])])), lambda v: v
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_reduction_of_features_is_its_own_function(name: str) -> None:
    """Score and gradient are those of the op written in float64, and those that TensorFlow computes."""
    check(CASES[name])


def total(tensor: Any) -> Any:
    """Return the sum over the last axis."""
    return tf.reduce_sum(tensor, -1)


ROW_AXIS: dict[str, Callable[[Any], Any]] = {
    "sum over the rows": lambda x: total(x) + tf.reduce_sum(x[:, 0], 0),
    "mean over the rows": lambda x: total(x - tf.reduce_mean(x, 0, keepdims=True)),
    "maximum over rows and features": lambda x: total(x) - tf.reduce_max(x),
    "sum over the rows by a negative axis": lambda x: total(x - tf.reduce_sum(x, -2, keepdims=True)),
    "mean over the rows of a grid": lambda x: total(total(grid(x) - tf.reduce_mean(grid(x), [0, 1], True))[:, 0]),
    "sum over merged rows": lambda x: total(tf.reshape(tf.reduce_sum(tf.reshape(x, [-1, 3]), 0) + x[:, :3], [-1, 3])),
}  # fmt: skip


@pytest.mark.parametrize("name", ROW_AXIS)
def test_reduction_over_the_rows_is_refused_by_row_axis(name: str) -> None:
    """A row's score would hang on its neighbours."""
    assert "row-axis" == refusal(ROW_AXIS[name]).rule


def test_minimum_of_functions_that_are_not_known_to_be_concave_is_refused() -> None:
    """min(|x|) has two valleys; the refusal is the proof's."""
    assert refusal(lambda x: tf.reduce_min(tf.abs(x), 1)).rule in {"nonneg-scale", "maximum"}
    assert refusal(lambda x: tf.reduce_min(x, 1)).rule in {"nonneg-scale", "maximum"}


MALFORMED: dict[str, tuple[str, list[Any]]] = {
    "product of features": ("not-lifted", [np.array(1), ("Prod", (0, 1), {})]),
    "product of rows": ("row-axis", [np.array(0), ("Prod", (0, 1), {})]),
    "axes of floats": ("not-lifted", [np.array(1.0), ("Sum", (0, 1), {})]),
    "axes that are computed": ("row-axis", [("Sum", (0, 0), {})]),
    "constant sum beyond float32": (
        "finite-weights", [np.full(4, 3e38, "f4"), np.array(0), ("Sum", (1, 2), {}), ("AddV2", (0, 3), {})],
    ),
    "constant sum of another type": (
        "cast", [np.ones(4, np.float16), np.array(0), ("Sum", (1, 2), {}), ("AddV2", (0, 3), {})],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MALFORMED)
def test_reduction_that_no_export_writes_is_refused_by_its_rule(name: str) -> None:
    """Products, strange axes and constants that leave their type are refused."""
    rule, nodes = MALFORMED[name]
    assert rule == refusal_of_nodes(*nodes)


def test_weights_that_are_a_sum_which_cancels_are_refused() -> None:
    """1 + 1e-7 - 1 in float32 hangs on the order of the sum, so that its sign is no ground for a proof."""
    terms = tf.constant([1.0, 1e-7, -1.0])
    assert "not-lifted" == refusal(lambda x: total(tf.nn.softplus(x)) * tf.reduce_sum(terms * terms[0])).rule
