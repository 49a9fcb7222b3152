"""The scan of a declaration: what it refutes, with three points that show it, and what it lets pass."""

import json

import numpy as np
import pytest

from training.activations import ActivationRefusedError, Curvature, Role
from training.functions.declarations import Properties, convexity_counterexample, monotonicity_counterexample, refute

CONVEX = Properties(convex=True, non_decreasing=False)
HIDDEN = Properties(convex=True, non_decreasing=True)


def softplus(x):
    """Return softplus."""
    return np.logaddexp(0.0, x)


def log_sum_exp(x):
    """Return the log-sum-exp of each row."""
    return np.logaddexp.reduce(x, axis=-1)


def gelu(x):
    """Return the tangent form of gelu."""
    return 0.5 * x * (1.0 + np.tanh(0.7978845608 * (x + 0.044715 * x**3)))


@pytest.mark.parametrize(
    ("properties", "role"),
    [(HIDDEN, Role.HIDDEN), (CONVEX, Role.FIRST), (Properties(False, True), Role.NEVER)],
)
def test_role_follows_from_what_is_declared(properties, role):
    """Convex and non-decreasing may stand anywhere, convex in the first layer, anything else nowhere."""
    assert role is properties.role


@pytest.mark.parametrize(
    ("forward", "shape", "properties"),
    [
        (softplus, (), Properties(True, True, (0.0, 1.0))),
        (lambda x: np.maximum(x, 0.2 * x), (), Properties(True, True, (0.2, 1.0), Curvature.KINKED)),
        (np.exp, (), HIDDEN),
        (np.abs, (), CONVEX),
        (lambda x: (x + np.sqrt(x * x + 4.0)) / 2.0, (), HIDDEN),
        (lambda x: -5.0 + 0.0 * x, (), Properties(True, True, (0.0, 0.0), Curvature.AFFINE)),
        (log_sum_exp, (4,), HIDDEN),
        (lambda x: np.linalg.norm(x, axis=-1), (3,), CONVEX),
        (lambda x: x.max(axis=(1, 2)), (2, 3), HIDDEN),
        (np.tanh, (), Properties(convex=False, non_decreasing=True)),
        (np.cos, (), Properties(convex=False, non_decreasing=False)),
    ],
)
def test_scan_lets_true_declarations_pass(forward, shape, properties):
    """Convex and non-decreasing functions of numbers and of rows are not refuted, rounding included."""
    assert refute("f", forward, shape, properties) is None


@pytest.mark.parametrize(
    ("forward", "shape"),
    [
        (np.tanh, ()),
        (gelu, ()),
        (lambda x: np.minimum(x, 29.9), ()),
        (lambda x: np.where(x > 0.0, x, 1.001 * x), ()),
        (lambda x: np.exp(x) - 1e-6 * x**2, ()),
        (lambda x: x[..., 0] * x[..., 1], (2,)),
        (lambda x: x.min(axis=-1), (3,)),
        (lambda x: np.stack([x[..., 0], -(x[..., 1] ** 2)], axis=-1), (2,)),
    ],
)
def test_scan_refutes_what_is_not_convex_with_three_points(forward, shape):
    """The middle of the three lies above the chord, and the values are those of the function."""
    found = refute("f", forward, shape, CONVEX)
    assert "is declared as convex, and is not: f(x) = f(" in found.reason
    left, middle, right = found.counterexample.points
    assert middle == pytest.approx((left + right) / 2, abs=1e-12)
    assert found.counterexample.values[1] > (found.counterexample.values[0] + found.counterexample.values[2]) / 2
    if not shape:
        values = forward(np.array(found.counterexample.points))
        np.testing.assert_allclose(values, found.counterexample.values, rtol=1e-12)


def test_scan_finds_a_small_bend_of_a_row_on_its_long_segments():
    """A slope that falls by 1e-9 from 1000 is lost in the rounding of neighbours, and seen from afar."""
    found = convexity_counterexample("f", lambda x: 1e3 * x[:, 0] - 1e-9 * np.maximum(x[:, 1], 0.0), (2,))
    assert found is not None


@pytest.mark.parametrize(
    ("forward", "shape", "properties"),
    [(np.abs, (), HIDDEN), (lambda x: np.exp(-x), (), HIDDEN), (lambda x: np.maximum(x, -0.1 * x), (), HIDDEN),
     (np.sin, (), Properties(convex=False, non_decreasing=True)), (lambda x: x[:, 0] - 0.01 * x[:, 1], (2,), HIDDEN),
     (lambda x: (x - x.mean(axis=-1, keepdims=True)), (3,), HIDDEN)],
)  # fmt: skip
def test_scan_refutes_what_falls_with_three_points_after_a_convex_function(forward, shape, properties):
    """The function of a convex argument made of |x| has its middle above its ends: D2.2's counterexample."""
    found = refute("f", forward, shape, properties)
    assert "is declared as non-decreasing, and is not" in found.reason
    left, middle, right = found.counterexample.points
    assert (0.0, 0.0) == (middle, left + right)
    foot, top, other = found.counterexample.values
    assert foot == other
    assert foot < top
    assert "|x|" in found.counterexample.function


def test_counterexample_of_a_falling_row_has_the_values_of_the_function():
    """The inner points can be read off its words: the function's values there are those that are stated."""
    found = monotonicity_counterexample("f", lambda x: x[:, 0] - x[:, 1], (2,))
    start, step = (np.array(json.loads(part)) for part in found.function[2:-1].split(" + |x| "))
    foot, top, _ = found.values
    assert (top, foot) == pytest.approx((start[0] - start[1], (start + step)[0] - (start + step)[1]))
    assert (step >= 0.0).all()


def test_scan_refutes_slopes_and_curvature_that_are_not_so():
    """Softplus has slopes up to 1 and curves; a declaration that says otherwise is refuted, without three points."""
    for properties, words in (
        (Properties(True, True, (0.0, 0.5)), "slopes from 0 to 0.5"),
        (Properties(True, True, (0.1, 1.0)), "slopes from 0.1 to 1"),
        (Properties(True, True, (0.0, 1.0), Curvature.KINKED), "is curved"),
    ):
        found = refute("f", softplus, (), properties)
        assert words in found.reason
        assert found.counterexample is None


@pytest.mark.parametrize(("forward", "shape"), [(np.log, ()), (lambda x: np.log(x).sum(axis=-1), (2,))])
def test_scan_refutes_a_function_that_is_not_finite(forward, shape):
    """A convex path gives any number to a function."""
    with np.errstate(invalid="ignore", divide="ignore"):
        found = refute("f", forward, shape, CONVEX)
        with pytest.raises(ActivationRefusedError, match="finite"):
            convexity_counterexample("f", forward, shape)
    assert "finite" in found.reason
    assert found.counterexample is None


def test_scan_misses_what_lies_beyond_its_reach():
    """A bend at a million is not seen, which is why a scan confirms nothing."""
    assert refute("f", lambda x: np.maximum(x, 0.0) - 2.0 * np.maximum(x - 1e6, 0.0), (), HIDDEN) is None
