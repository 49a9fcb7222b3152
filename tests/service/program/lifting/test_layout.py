"""Reshapes, transpositions, repetitions and paddings of features: each is its own function; none may touch the rows."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests.service.program.foreign_graphs import Case, check, refusal, refusal_of_nodes

MIX = np.random.default_rng(5).standard_normal((3, 2)).astype(np.float32)


def grid(x: Any) -> Any:
    """Return rows [n, 2, 2, 3] of [n, 12]."""
    return tf.reshape(x, [-1, 2, 2, 3])


def keras_flatten(x: Any) -> Any:
    """Return [n, 12] as Keras' Flatten writes it."""
    return tf.reshape(x, tf.stack([tf.shape(x)[0], 12]))


CASES = {
    "reshape and back": Case(lambda x: tf.reshape(grid(x), [-1, 12]), lambda v: v),
    "flatten by the number of rows": Case(lambda x: keras_flatten(grid(x)), lambda v: v),
    "size left to the reshape": Case(
        lambda x: tf.reshape(x, tf.stack([tf.shape(x)[0], 4, -1]))[:, :, 0], lambda v: v[::3]
    ),
    "transpose": Case(lambda x: tf.transpose(grid(x), [0, 3, 1, 2]), lambda v: v.reshape(2, 2, 3).transpose(2, 0, 1)),
    "reverse": Case(lambda x: tf.reverse(grid(x), [1, 3]), lambda v: v.reshape(2, 2, 3)[::-1, :, ::-1]),
    "reverse by negative axis": Case(lambda x: tf.reverse(x, [-1]), lambda v: v[::-1]),
    "expand and squeeze": Case(
        lambda x: tf.squeeze(tf.expand_dims(tf.expand_dims(x, 1), -1), [1, 3]) * np.float32(2), lambda v: 2 * v
    ),
    "tile": Case(lambda x: tf.tile(grid(x), [1, 2, 1, 3]), lambda v: np.tile(v.reshape(2, 2, 3), (2, 1, 3))),
    "repeat as Keras upsamples": Case(
        lambda x: tf.repeat(grid(x), 2, axis=2), lambda v: np.repeat(v.reshape(2, 2, 3), 2, 1)
    ),
    "broadcast": Case(
        lambda x: tf.broadcast_to(tf.reshape(x, [-1, 1, 12]), tf.stack([tf.shape(x)[0], 3, 12])),
        lambda v: np.tile(v, (3, 1)),
    ),
    "pad": Case(
        lambda x: tf.pad(grid(x), [[0, 0], [1, 0], [0, 2], [1, 1]]),
        lambda v: np.pad(v.reshape(2, 2, 3), [(1, 0), (0, 2), (1, 1)]),
    ),
    "pad by a constant": Case(
        lambda x: tf.pad(x, [[0, 0], [2, 1]], constant_values=-1.5),
        lambda v: np.pad(v, (2, 1), constant_values=-1.5),
    ),
    "mirror without the edge": Case(
        lambda x: tf.pad(grid(x), [[0, 0], [1, 1], [0, 0], [2, 0]], mode="REFLECT"),
        lambda v: np.pad(v.reshape(2, 2, 3), [(1, 1), (0, 0), (2, 0)], mode="reflect"),
    ),
    "mirror with the edge": Case(
        lambda x: tf.pad(x, [[0, 0], [3, 12]], mode="SYMMETRIC"), lambda v: np.pad(v, (3, 12), mode="symmetric")
    ),
    "filled by rows": Case(
        lambda x: tf.concat([x, tf.fill(tf.stack([tf.shape(x)[0], 2]), 0.5)], 1), lambda v: np.append(v, [0.5, 0.5])
    ),
    "zeros and ones like rows": Case(
        lambda x: tf.concat([tf.ones_like(x), tf.zeros_like(x) + x], 1), lambda v: np.append(np.ones(12), v)
    ),
    "blocks apart and together": Case(
        lambda x: tf.batch_to_space(3 * tf.space_to_batch(grid(x), [2, 2], [[1, 1], [0, 2]]), [2, 2], [[1, 1], [0, 2]]),
        lambda v: 3 * v,
    ),
    "axis merged behind the rows": Case(
        lambda x: tf.reshape(tf.nn.softplus(tf.reshape(x, [-1, 3]) @ MIX + 1.0), [-1, 4, 2]),
        lambda v: np.logaddexp(0, v.reshape(4, 3) @ MIX.astype(np.float64) + 1),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_layout_of_features_is_its_own_function(name: str) -> None:
    """Score and gradient are those of the op written in float64, and those that TensorFlow computes."""
    check(CASES[name])


def total(tensor: Any) -> Any:
    """Return the sum over the last axis."""
    return tf.reduce_sum(tensor, -1)


ROW_AXIS: dict[str, Callable[[Any], Any]] = {
    "transposed rows": lambda x: total(tf.transpose(x)),
    "reversed rows": lambda x: total(tf.reverse(x, [0])),
    "reversed rows by negative axis": lambda x: total(tf.reverse(x, [-2])),
    "tiled rows": lambda x: total(tf.tile(x, [2, 1])),
    "padded rows": lambda x: total(tf.pad(x, [[1, 0], [0, 0]])),
    "mirrored rows": lambda x: total(tf.pad(x, [[1, 1], [0, 0]], mode="SYMMETRIC")),
    "squeezed wherever it may": lambda x: total(tf.squeeze(x)),
    "expanded in front": lambda x: total(total(tf.expand_dims(x, 0))),
    "rows as the second axis": lambda x: total(tf.reshape(x, tf.stack([12, tf.shape(x)[0]]))),
    "one row of all": lambda x: total(tf.reshape(x, [1, -1])),
    "rows merged with features, summed": lambda x: total(tf.reshape(x, [-1])),
    "rows merged with features, as the score": lambda x: tf.reshape(x, [-1]),
    "halves merged as other rows": lambda x: total(tf.reshape(x, [-1, 6])) + total(tf.reshape(x[:, ::-1], [-1, 6])),
    "merged in another way": lambda x: total(tf.reshape(x, [-1, 6])[:, :3] + tf.reshape(x, [-1, 3])),
    "blocks met by rows": lambda x: total(tf.space_to_batch(tf.reshape(x, [-1, 12, 1]), [2], [[0, 0]])[:, :, 0]),
    "constant with as many rows": lambda x: total(x + tf.broadcast_to(tf.ones([1]), tf.stack([12, tf.shape(x)[0]]))),
    "number of rows as a feature": lambda x: total(x) + tf.cast(tf.size(x), tf.float32),
    "number of rows as a power": lambda x: total(x) * tf.cast(tf.shape(x)[0] * tf.shape(x)[0], tf.float32),
}  # fmt: skip


@pytest.mark.parametrize("name", ROW_AXIS)
def test_layout_that_touches_the_rows_is_refused_by_row_axis(name: str) -> None:
    """A batch would mix strangers' rows, or count them."""
    assert "row-axis" == refusal(ROW_AXIS[name]).rule


MALFORMED: dict[str, tuple[str, list[Any]]] = {
    "permutation that repeats an axis": ("not-lifted", [np.array([0, 0]), ("Transpose", (0, 1), {})]),
    "paddings of another rank": ("not-lifted", [np.array([[0, 0]]), ("Pad", (0, 1), {})]),
    "negative padding": ("not-lifted", [np.array([[0, 0], [-1, 0]]), ("Pad", (0, 1), {})]),
    "mirror of more than there is": (
        "not-lifted", [np.array([[0, 0], [4, 0]]), ("MirrorPad", (0, 1), {"mode": "SYMMETRIC"})],
    ),
    "mirror of another mode": ("not-lifted", [np.array([[0, 0], [1, 0]]), ("MirrorPad", (0, 1), {"mode": "WRAP"})]),
    "padding without end": ("size-limit", [np.array([[0, 0], [2**40, 0]]), ("Pad", (0, 1), {})]),
    "tiles without end": ("size-limit", [np.array([1, 2**40]), ("Tile", (0, 1), {})]),
    "constant without end": (
        "size-limit",
        [np.array([2**20, 2**20]), np.ones(()), ("Fill", (1, 2), {}), ("AddV2", (0, 3), {})],
    ),
    "axes that are floats": ("not-lifted", [np.array([1.0]), ("ReverseV2", (0, 1), {})]),
    "axis beyond the last": ("not-lifted", [np.array([2]), ("ReverseV2", (0, 1), {})]),
    "shape of other rows": ("row-axis", [("Reshape", (0, 0), {})]),
    "blocks of no size": ("row-axis", [np.array([0]), np.array([[0, 0]]), ("SpaceToBatchND", (0, 1, 2), {})]),
    "blocks that do not fit": (
        "not-lifted", [np.array([2]), np.array([[0, 0]]), ("SpaceToBatchND", (0, 1, 2), {})],
    ),
    "blocks that were never parted": (
        "row-axis", [np.array([2]), np.array([[0, 0]]), ("BatchToSpaceND", (0, 1, 2), {})],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MALFORMED)
def test_layout_that_no_export_writes_is_refused_by_its_rule(name: str) -> None:
    """Sizes are counted before memory is taken, and forms that TensorFlow would not run are refused."""
    rule, nodes = MALFORMED[name]
    assert rule == refusal_of_nodes(*nodes)
