"""The registry of activations: roles, slopes, ranges of parameters, and counterexamples that really are some."""

import keras
import numpy as np
import pytest

from training import activations
from training.activations import ActivationRefusedError, Role

HIDDEN = ("softplus", "relu", "leaky_relu", "elu", "smooth_leaky", "linear")
NEVER = (
    "sigmoid", "tanh", "softsign", "gelu", "silu", "swish", "mish", "selu", "relu6", "log_sigmoid", "sparse_sigmoid",
    "hard_sigmoid", "hard_tanh", "hard_silu", "hard_swish", "hard_shrink", "soft_shrink", "tanh_shrink",
)  # fmt: skip
GRID = np.linspace(-30.0, 30.0, 60_001)


def values(function, points) -> np.ndarray:
    """Return an elementwise Keras function of float64 numbers, in float64."""
    return np.asarray(function(keras.ops.convert_to_tensor(np.asarray(points, dtype=np.float64))))


def softplus(x):
    """Return softplus in NumPy."""
    return np.logaddexp(0.0, x)


def test_registry_has_the_roles_of_the_theory():
    """Which activation may stand where is a table, after Amos et al. and the composition rule."""
    assert HIDDEN == activations.names(Role.HIDDEN)
    assert ("squared_leaky",) == activations.names(Role.FIRST)
    assert set(NEVER) == set(activations.names(Role.NEVER))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("softplus", softplus),
        ("relu", lambda x: np.maximum(x, 0.0)),
        ("leaky_relu(0.3)", lambda x: np.maximum(x, 0.3 * x)),
        ("elu", lambda x: np.where(x > 0.0, x, np.expm1(np.minimum(x, 0.0)))),
        ("smooth_leaky(0.2, 4)", lambda x: 0.2 * x + 0.8 * softplus(4.0 * x) / 4.0),
        ("linear", lambda x: x),
        ("squared_leaky(0.2)", lambda x: np.maximum(x, 0.2 * x) ** 2),
    ],
)
def test_activation_equals_its_closed_form(name, expected):
    """Each function is the one that its name promises; TensorFlow keeps a leaky ReLU's slope in float32."""
    function = activations.resolve(name, Role.FIRST).function
    np.testing.assert_allclose(values(function, GRID), expected(GRID), rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize("name", [*HIDDEN, "leaky_relu(0)", "leaky_relu(1)", "smooth_leaky(0.5, 10)"])
def test_hidden_activation_is_convex_and_non_decreasing_with_its_stated_slopes(name):
    """Second differences are non-negative and slopes lie in the stated range on a fine grid: no refutation."""
    activation = activations.resolve(name)
    assert (Role.HIDDEN, True, True) == (activation.role, activation.convex, activation.non_decreasing)
    slopes = np.diff(values(activation.function, GRID)) / np.diff(GRID)
    assert slopes.min() >= activation.slope[0] - 1e-9
    assert slopes.max() <= activation.slope[1] + 1e-9
    assert np.diff(slopes).min() >= -1e-9


@pytest.mark.parametrize(
    ("name", "flat"),
    [("relu", True), ("leaky_relu", True), ("linear", True), ("smooth_leaky(1.0)", True),
     ("softplus", False), ("elu", False), ("smooth_leaky", False), ("squared_leaky", False)],
)  # fmt: skip
def test_activation_says_whether_its_second_derivative_is_zero_almost_everywhere(name, flat):
    """The statement agrees with second differences away from zero."""
    activation = activations.resolve(name, Role.FIRST)
    away = np.array([-1.5, -1.0, -0.5])
    second = np.diff(values(activation.function, away), n=2)
    assert flat == activation.second_derivative_zero_ae
    assert flat == bool(np.abs(second[0]) < 1e-12)


def assert_violates_midpoint_convexity(counterexample):
    """Check the three points: the middle is the midpoint, and the function lies above the chord there."""
    left, middle, right = counterexample.points
    assert (left + right) / 2 == middle
    assert counterexample.values[1] > (counterexample.values[0] + counterexample.values[2]) / 2 + 1e-9


@pytest.mark.parametrize("name", NEVER)
def test_activation_that_is_never_allowed_is_refused_with_a_true_counterexample(name):
    """The three points violate midpoint convexity, and the values are those of Keras' own function."""
    for role in (Role.HIDDEN, Role.FIRST):
        with pytest.raises(ActivationRefusedError, match=rf"'{name}' is not convex: f\(x\) = {name}") as refused:
            activations.resolve(name, role)
        counterexample = refused.value.counterexample
        assert_violates_midpoint_convexity(counterexample)
        keras_function = getattr(keras.activations, name, None) or keras.activations.get(name)
        np.testing.assert_allclose(
            values(keras_function, counterexample.points), counterexample.values, rtol=1e-6, atol=1e-9
        )


def test_squared_leaky_is_refused_in_a_hidden_layer_with_the_counterexample_of_the_absolute_value():
    """Phi(|x| - 1) is 0.04 at 0 and 0 at both ends: convex is not enough for a hidden activation."""
    with pytest.raises(ActivationRefusedError, match="first layer only") as refused:
        activations.resolve("squared_leaky(0.2)", Role.HIDDEN)
    counterexample = refused.value.counterexample
    assert_violates_midpoint_convexity(counterexample)
    squared = activations.resolve("squared_leaky(0.2)", Role.FIRST).function
    inner = np.abs(np.array(counterexample.points)) - 1.0
    np.testing.assert_allclose(values(squared, inner), counterexample.values, atol=1e-12)
    assert (-1.0, 0.0, 1.0) == counterexample.points
    assert 0.04 == pytest.approx(counterexample.values[1])


@pytest.mark.parametrize(
    "name", ["leaky_relu(1.5)", "leaky_relu(-0.1)", "smooth_leaky(2)", "smooth_leaky(-1)", "elu(2)"]
)
def test_parameter_that_breaks_the_role_is_refused_with_a_true_counterexample(name):
    """A slope above 1 or below 0, or elu with alpha above 1, is refused with three points."""
    with pytest.raises(ActivationRefusedError) as refused:
        activations.resolve(name)
    assert_violates_midpoint_convexity(refused.value.counterexample)


@pytest.mark.parametrize(
    "name", ["", "softplus(1)", "leaky_relu(x)", "leaky_relu(nan)", "leaky_relu(0.1, 0.2)", "elu(0.5)", "nonsense",
             "smooth_leaky(0.2, 0)", "smooth_leaky(0.2, -1)", "squared_leaky(2)", None, abs],
)  # fmt: skip
def test_anything_else_is_refused(name):
    """Unknown names, odd parameters and callables are refused: a property cannot be read off a function."""
    with pytest.raises(ActivationRefusedError, match=r"^activation: "):
        activations.resolve(name)


@pytest.mark.parametrize("name", [*HIDDEN, "smooth_leaky(0.1, 3)"])
def test_canonical_name_resolves_to_itself(name):
    """What a configuration stores reads back to the same activation."""
    canonical = activations.resolve(name).name
    assert canonical == activations.resolve(canonical).name


def test_smooth_leaky_converges_to_leaky():
    """The largest difference is at most (1 - alpha) ln 2 / beta, and reached at 0."""
    for beta in (1.0, 8.0, 64.0):
        smooth = values(activations.resolve(f"smooth_leaky(0.2, {beta})").function, GRID)
        difference = np.abs(smooth - np.maximum(GRID, 0.2 * GRID)).max()
        assert 0.8 * np.log(2.0) / beta == pytest.approx(difference, rel=1e-9)
