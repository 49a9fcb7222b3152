"""Sums, multiples, quotients, maxima and constant choices, with NumPy's broadcasting over features."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests.service.program.foreign_graphs import Case, check, refusal, refusal_of_nodes

DRAWN = np.random.default_rng(7)
ROW = DRAWN.standard_normal((1, 4)).astype(np.float32)
COLUMN = DRAWN.standard_normal((3, 1)).astype(np.float32)
MASK = np.array([True, False, True, False])


def grid(x: Any) -> Any:
    """Return rows [n, 3, 4] of [n, 12]."""
    return tf.reshape(x, [-1, 3, 4])


def of(v: Any) -> Any:
    """Return one row as [3, 4]."""
    return v.reshape(3, 4)


CASES = {
    "bias of channels": Case(lambda x: tf.nn.bias_add(grid(x), ROW[0]), lambda v: of(v) + ROW.astype(float)),
    "column": Case(lambda x: COLUMN - grid(x), lambda v: COLUMN.astype(float) - of(v)),
    "column times row": Case(lambda x: grid(x) * (COLUMN * ROW), lambda v: of(v) * (COLUMN * ROW).astype(float)),
    "constant with an axis for rows": Case(lambda x: grid(x) * ROW[np.newaxis], lambda v: of(v) * ROW.astype(float)),
    "two broadcast functions": Case(lambda x: grid(x)[:, :1] - grid(x)[:, :, 1:2], lambda v: of(v)[:1] - of(v)[:, 1:2]),
    "function spread by a constant": Case(
        lambda x: grid(x)[:, :, :1] * ROW, lambda v: of(v)[:, :1] * ROW.astype(float)
    ),
    "sum of many": Case(lambda x: tf.add_n([x, tf.nn.relu(x), -x, 0.5 * x]), lambda v: np.maximum(v, 0) + v / 2),
    "quotient by a column": Case(lambda x: grid(x) / COLUMN, lambda v: of(v) / COLUMN.astype(float)),
    "quotient or nothing": Case(
        lambda x: tf.math.divide_no_nan(x[:, :4], tf.constant([2.0, 0.0, -4.0, 0.0])),
        lambda v: v[:4] * np.array([0.5, 0, -0.25, 0]),
    ),
    "maximum with a constant": Case(lambda x: tf.maximum(x, 0.25), lambda v: np.maximum(v, 0.25)),
    "maximum with constants": Case(lambda x: tf.maximum(COLUMN, grid(x)), lambda v: np.maximum(of(v), COLUMN)),
    "maximum of broadcast functions": Case(
        lambda x: tf.maximum(grid(x)[:, :1], grid(x)), lambda v: np.maximum(of(v)[:1], of(v))
    ),
    "choice by a constant mask": Case(
        lambda x: tf.where(MASK, grid(x), -grid(x)),
        lambda v: np.where(MASK, of(v), -of(v)),
    ),
    "choice that is no choice": Case(lambda x: tf.where(tf.constant(True), x, tf.exp(x)), lambda v: v),
    "choice of a constant by a mask": Case(
        lambda x: tf.where(MASK, grid(x), 2.0),
        lambda v: np.where(MASK, of(v), 2.0),
    ),
    "weights that are kept positive": Case(
        lambda x: tf.nn.relu(grid(x)) * tf.nn.softplus(tf.constant(ROW)),
        lambda v: np.maximum(of(v), 0) * np.logaddexp(0, ROW.astype(float)),
    ),
    "weights that are squares": Case(
        lambda x: tf.nn.relu(grid(x)) * tf.square(tf.constant(ROW)) + tf.nn.relu(grid(x)) * tf.exp(tf.constant(COLUMN)),
        lambda v: np.maximum(of(v), 0) * (np.square(ROW.astype(float)) + np.exp(COLUMN.astype(float))),
    ),
    "standardised": Case(
        lambda x: (grid(x) - COLUMN) / tf.maximum(tf.sqrt(tf.abs(tf.constant(ROW))), 1e-7),
        lambda v: (of(v) - COLUMN) / np.sqrt(np.abs(ROW.astype(float))),
    ),
    "value past a stopped gradient": Case(lambda x: tf.identity_n([x, 2 * x])[1], lambda v: 2 * v),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_arithmetic_of_features_is_its_own_function(name: str) -> None:
    """Score and gradient are those of the op written in float64, and those that TensorFlow computes."""
    check(CASES[name])


def total(tensor: Any) -> Any:
    """Return the sum over the last axis."""
    return tf.reduce_sum(tensor, -1)


REFUSED: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "constant of as many rows": ("row-axis", lambda x: total(x + np.ones((7, 12), "f4"))),
    "constant of more axes": ("row-axis", lambda x: total(total(x + np.ones((2, 1, 12), "f4")))),
    "rows against features": ("row-axis", lambda x: total(x[:, 0] + x)),
    "maximum with as many rows": ("row-axis", lambda x: total(tf.maximum(x, np.ones((7, 12), "f4")))),
    "choice among rows": (
        "row-axis", lambda x: total(tf.raw_ops.Select(condition=np.array([True, False]), x=x, y=2 * x)),
    ),
    "rows as weights of a mask": ("row-axis", lambda x: total(tf.where(np.ones((7, 1), bool), x, 2 * x))),
    "quotient of the row": ("atom-convex", lambda x: total(1.0 / x[:, :2])),
    "product of two features": ("not-lifted", lambda x: x[:, 0] * x[:, 1]),
    "weights that cancel": (
        "not-lifted",
        lambda x: total(tf.nn.relu(x)) * (tf.exp(tf.constant(1.0)) - 2.718281745910644),
    ),
    "weights that are a falling function": (
        "nonneg-scale",
        lambda x: total(tf.nn.relu(x)) * tf.tanh(tf.constant(-1.0)),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_arithmetic_that_is_not_understood_is_refused_by_its_rule(name: str) -> None:
    """What meets the row axis, multiplies two functions or hangs on rounding is refused."""
    rule, function = REFUSED[name]
    assert rule == refusal(function).rule


MALFORMED: dict[str, tuple[str, list[Any]]] = {
    "sum of nothing": ("not-lifted", [("AddN", (), {})]),
    "choice by numbers": ("not-lifted", [np.ones(3), ("SelectV2", (1, 0, 0), {})]),
    "integers beyond 32 bits": ("not-lifted", [np.array([2**30]), ("Mul", (1, 1), {}), ("Reshape", (0, 2), {})]),
    "root of a negative weight": ("finite-weights", [np.full(3, -1.0), ("Sqrt", (1,), {}), ("Mul", (0, 2), {})]),
    "root of a denormal weight": (
        "not-lifted", [np.full(3, 1e-40, "f4"), ("Rsqrt", (1,), {}), ("Mul", (0, 2), {})],
    ),
    "exponential beyond float32": (
        "finite-weights", [np.full(3, 100.0, "f4"), ("Exp", (1,), {}), ("Mul", (0, 2), {})],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MALFORMED)
def test_arithmetic_that_no_export_writes_is_refused_by_its_rule(name: str) -> None:
    """Constants that leave their type, and inputs that do not fit, are refused."""
    rule, nodes = MALFORMED[name]
    assert rule == refusal_of_nodes(*nodes)
