"""Slices, choices, splits and joins of features: each is its own function; none may choose among the rows."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests.service.program.foreign_graphs import Case, check, refusal, refusal_of_nodes


def grid(x: Any) -> Any:
    """Return rows [n, 3, 4] of [n, 12]."""
    return tf.reshape(x, [-1, 3, 4])


def parts_joined_in_another_order(x: Any) -> Any:
    """Return three parts of unequal sizes, the last one first."""
    first, second, third = tf.split(x, [2, -1, 3], axis=1)
    return tf.concat([third, first, 2 * second], 1)


CASES = {
    "range": Case(lambda x: x[:, 2:7], lambda v: v[2:7]),
    "one feature": Case(lambda x: x[:, 3], lambda v: v[3:4]),
    "last feature": Case(lambda x: x[..., -1], lambda v: v[-1:]),
    "steps": Case(lambda x: x[:, 1::3], lambda v: v[1::3]),
    "steps backwards": Case(lambda x: x[:, ::-2], lambda v: v[::-2]),
    "two axes": Case(lambda x: grid(x)[:, 1:, ::2], lambda v: v.reshape(3, 4)[1:, ::2]),
    "new axis": Case(lambda x: grid(x)[:, tf.newaxis, 1, :, tf.newaxis], lambda v: v[4:8]),
    "all rows by their number": Case(lambda x: x[: tf.shape(x)[0], 1:3], lambda v: v[1:3]),
    "slice by begin and size": Case(
        lambda x: tf.slice(grid(x), [0, 1, 0], [-1, 2, 3]),
        lambda v: v.reshape(3, 4)[1:, :3],
    ),
    "slice of all rows by their number": Case(
        lambda x: tf.slice(x, [0, 4], tf.stack([tf.shape(x)[0], 2])), lambda v: v[4:6]
    ),
    "gather": Case(lambda x: tf.gather(x, [5, 0, 5, 11], axis=1), lambda v: v[[5, 0, 5, 11]]),
    "gather by a matrix": Case(
        lambda x: tf.gather(grid(x), [[2, 0], [1, 1]], axis=1),
        lambda v: v.reshape(3, 4)[[[2, 0], [1, 1]]],
    ),
    "split": Case(lambda x: tf.split(x, 3, axis=1)[1] - 2 * tf.split(x, 3, axis=-1)[2], lambda v: v[4:8] - 2 * v[8:]),
    "split by sizes": Case(parts_joined_in_another_order, lambda v: np.concatenate([v[9:], v[:2], 2 * v[2:9]])),
    "unpack": Case(lambda x: tf.unstack(grid(x), axis=1)[2] + tf.unstack(grid(x), axis=1)[0], lambda v: v[8:] + v[:4]),
    "stack": Case(lambda x: tf.stack([x, 2 * x, x], axis=2), lambda v: np.stack([v, 2 * v, v], 1)),
    "stack before the features": Case(lambda x: tf.stack([x, x + 1], axis=1), lambda v: np.stack([v, v + 1])),
    "concatenation": Case(
        lambda x: tf.concat([x, tf.nn.relu(x), x[:, :2]], 1),
        lambda v: np.concatenate([v, np.maximum(v, 0), v[:2]]),
    ),
    "concatenation of matrices": Case(
        lambda x: tf.concat([grid(x), grid(x)[:, :, 1:2]], axis=-1),
        lambda v: np.concatenate([v.reshape(3, 4), v.reshape(3, 4)[:, 1:2]], 1),
    ),
    "constant sliced and joined": Case(
        lambda x: x * tf.concat([tf.constant(np.arange(24.0, dtype="f4"))[2:22:2], [1.0, -1.0]], 0),
        lambda v: v * np.append(np.arange(2.0, 22, 2), [1, -1]),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_slice_of_features_is_its_own_function(name: str) -> None:
    """Score and gradient are those of the op written in float64, and those that TensorFlow computes."""
    check(CASES[name])


def total(tensor: Any) -> Any:
    """Return the sum over the last axis."""
    return tf.reduce_sum(tensor, -1)


ROW_AXIS: dict[str, Callable[[Any], Any]] = {
    "first rows": lambda x: total(x[:2]),
    "every other row": lambda x: total(x[::2]),
    "rows backwards": lambda x: total(x[::-1]),
    "first row": lambda x: total(x) + total(x[0]),
    "new axis in front": lambda x: total(total(x[tf.newaxis])),
    "slice of rows": lambda x: total(tf.slice(x, [1, 0], [-1, -1])),
    "gather of rows": lambda x: total(tf.gather(x, [0, 0])),
    "gather of rows by negative axis": lambda x: total(tf.gather(x, [0], axis=-2)),
    "split of rows": lambda x: total(tf.split(x, 2, axis=0)[0]),
    "unpacked rows": lambda x: total(tf.raw_ops.Unpack(value=x, num=2, axis=0)[0]),
    "stacked rows": lambda x: total(tf.stack([x, x], axis=0)[0]),
    "rows after rows": lambda x: total(tf.concat([x, x], 0)),
}  # fmt: skip


@pytest.mark.parametrize("name", ROW_AXIS)
def test_slice_that_chooses_among_the_rows_is_refused_by_row_axis(name: str) -> None:
    """A row's score would hang on its place in the batch."""
    assert "row-axis" == refusal(ROW_AXIS[name]).rule


def test_shift_of_the_rows_is_refused_by_its_op() -> None:
    """Roll is understood along no axis."""
    assert "not-lifted" == refusal(lambda x: total(x - tf.roll(x, 1, axis=0))).rule


MALFORMED: dict[str, tuple[str, list[Any]]] = {
    "places that are computed": ("row-axis", [("StridedSlice", (0, 0, 0, 0), {})]),
    "place beyond the last": ("not-lifted", [np.array([3]), np.array(1), ("GatherV2", (0, 1, 2), {})]),
    "negative place": ("not-lifted", [np.array([-1]), np.array(1), ("GatherV2", (0, 1, 2), {})]),
    "places of floats": ("not-lifted", [np.array([1.0]), np.array(1), ("GatherV2", (0, 1, 2), {})]),
    "places of each batch": ("not-lifted", [np.array([[0]]), np.array(1), ("GatherV2", (0, 1, 2), {"batch_dims": 1})]),
    "unequal parts": ("not-lifted", [np.array(1), ("Split", (1, 0), {"num_split": 2})]),
    "parts of another sum": ("not-lifted", [np.array([1, 1]), np.array(1), ("SplitV", (0, 1, 2), {})]),
    "negative part": ("not-lifted", [np.array([4, -1]), np.array(1), ("SplitV", (0, 1, 2), {})]),
    "third of two parts": (
        "not-lifted", [np.array([1, 2]), np.array(1), ("SplitV", (0, 1, 2), {}), ("Relu", ((3, 2),), {})],
    ),
    "slice beyond the last": ("not-lifted", [np.array([0, 1]), np.array([-1, 3]), ("Slice", (0, 1, 2), {})]),
    "slice of more axes": (
        "not-lifted", [np.zeros(3, int), np.full(3, 9), np.ones(3, int), ("StridedSlice", (0, 1, 2, 3), {})],
    ),
    "two ellipses": (
        "not-lifted",
        [np.zeros(2, int), np.zeros(2, int), np.ones(2, int), ("StridedSlice", (0, 1, 2, 3), {"ellipsis_mask": 3})],
    ),
    "gathered without end": (
        "size-limit", [np.zeros(2_000_000, int), np.array(1), ("GatherV2", (0, 1, 2), {})],
    ),
    "joined of unequal shapes": (
        "not-lifted", [np.array([0, 0]), np.array([-1, 2]), ("Slice", (0, 1, 2), {}), ("Pack", (0, 3), {"axis": 1})],
    ),
    "joined with a constant": ("not-lifted", [np.ones((1, 2), "f4"), np.array(1), ("ConcatV2", (0, 1, 2), {})]),
}  # fmt: skip


@pytest.mark.parametrize("name", MALFORMED)
def test_slice_that_no_export_writes_is_refused_by_its_rule(name: str) -> None:
    """Places out of range, parts that do not fit and sizes without end are refused."""
    rule, nodes = MALFORMED[name]
    assert rule == refusal_of_nodes(*nodes)
