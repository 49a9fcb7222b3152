"""The registry of activations: roles, slopes, ranges of parameters, and counterexamples that really are some."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from training import activations
from training.activations import ActivationRefusedError, Role
from training.layers.bump import Bump
from training.layers.gaussian_bump import GaussianBump
from training.layers.sigma_bump import SigmaBump

HIDDEN = (
    "softplus", "relu", "leaky_relu", "elu", "smooth_leaky", "linear", "squareplus", "celu", "sparse_plus", "threshold",
    "exponential", "relu_squared",
)  # fmt: skip
FIRST = ("squared_leaky", "abs", "square", "log_cosh", "symmetric_softplus")
NEVER = (
    "sigmoid", "tanh", "softsign", "gelu", "silu", "swish", "mish", "selu", "relu6", "log_sigmoid", "sparse_sigmoid",
    "hard_sigmoid", "hard_tanh", "hard_silu", "hard_swish", "hard_shrink", "soft_shrink", "tanh_shrink",
    "celu_squared", "softmax", "log_softmax", "sparsemax", "glu", "bump", "sigma_bump", "gaussian_bump",
)  # fmt: skip
MIXING = {
    "softmax": lambda x: keras.activations.softmax(keras.ops.stack([x, 0 * x], axis=-1))[..., 0],
    "log_softmax": lambda x: keras.activations.log_softmax(keras.ops.stack([x, 0 * x], axis=-1))[..., 0],
    "sparsemax": lambda x: keras.activations.sparsemax(keras.ops.stack([x, 0 * x], axis=-1))[..., 0],
    "glu": lambda x: keras.activations.glu(keras.ops.stack([0 * x + 1, x], axis=-1))[..., 0],
    "celu_squared": lambda x: keras.ops.square(keras.activations.celu(x)),
    "bump": lambda x: Bump(dtype="float64")(x),
    "sigma_bump": lambda x: SigmaBump(dtype="float64")(x),
    "gaussian_bump": lambda x: GaussianBump(dtype="float64")(x),
}
"""Never allowed, and no elementwise functions of Keras: what their counterexamples are of."""
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
    assert FIRST == activations.names(Role.FIRST)
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
        ("squareplus", lambda x: (x + np.sqrt(x**2 + 4.0)) / 2.0),
        ("squareplus(0.25)", lambda x: (x + np.sqrt(x**2 + 0.25)) / 2.0),
        ("elu(0.5)", lambda x: np.where(x > 0.0, x, 0.5 * np.expm1(np.minimum(x, 0.0)))),
        ("celu(3)", lambda x: np.where(x > 0.0, x, 3.0 * np.expm1(np.minimum(x, 0.0) / 3.0))),
        ("sparse_plus", lambda x: np.where(x > 1.0, x, 0.25 * (np.clip(x, -1.0, 1.0) + 1.0) ** 2)),
        ("threshold(1.5, 1.5)", lambda x: np.maximum(x, 1.5)),
        ("exponential", np.exp),
        ("relu_squared", lambda x: np.maximum(x, 0.0) ** 2),
        ("abs", np.abs),
        ("square", np.square),
        ("log_cosh", lambda x: np.log(np.cosh(x))),
        ("symmetric_softplus", lambda x: np.log(2.0 * np.cosh(x / 2.0))),
    ],
)
def test_activation_equals_its_closed_form(name, expected):
    """Each function is the one that its name promises; TensorFlow keeps a leaky ReLU's slope in float32."""
    function = activations.resolve(name, Role.FIRST).function
    np.testing.assert_allclose(values(function, GRID), expected(GRID), rtol=1e-7, atol=1e-12)


FINE = np.linspace(-30.0, 30.0, 600_001)
OFFERED = (
    *HIDDEN, *FIRST, "leaky_relu(0)", "leaky_relu(1)", "smooth_leaky(0.5, 10)", "smooth_leaky(0, 2)",
    "smooth_leaky(1, 2)", "elu(0)", "elu(0.5)", "celu(0.05)", "celu(40)", "squareplus(0.01)", "squareplus(100)",
    "threshold(-2, -2)", "threshold(3, 3)", "squared_leaky(0)", "squared_leaky(1)",
)  # fmt: skip


@pytest.mark.parametrize("name", OFFERED)
def test_d2_t1_offered_activation_is_convex_with_its_role_and_slopes(name):
    """On 600,001 points in float64 no second difference is negative, no slope is out of range, and the role fits."""
    activation = activations.resolve(name, Role.FIRST)
    points = FINE / 1.5 if name == "exponential" else FINE
    found = values(activation.function, points)
    step = points[1] - points[0]
    noise = 16.0 * np.finfo(np.float64).eps * np.maximum(np.abs(found), 30.0)[1:] / step
    slopes = np.diff(found) / step
    assert activation.convex
    assert (np.diff(slopes) >= -2.0 * noise[1:]).all()
    room = noise + 1e-7 * np.abs(slopes)  # TensorFlow keeps a leaky ReLU's slope in float32
    assert (slopes >= activation.slope[0] - room).all()
    assert (slopes <= activation.slope[1] + room).all()
    assert (activation.role is Role.HIDDEN) == activation.non_decreasing == bool((slopes >= -noise).all())
    assert activation.second_derivative_zero_ae == bool((np.diff(slopes) > 4.0 * noise[1:]).mean() < 1e-4)
    assert activation.reason
    assert bool(activation.parameters) == bool(activation.ranges)


@pytest.mark.parametrize("name", OFFERED)
def test_d2_t1_derivative_equals_differences_and_the_tape(name):
    """The derivative function agrees with central differences, and at every point with automatic differentiation."""
    activation = activations.resolve(name, Role.FIRST)
    points = np.concatenate([np.linspace(-5.05, 5.05, 102), [0.0, 1.0, -1.0]])
    slopes = values(activation.derivative, points)
    inner = np.abs(points[:, None] - np.array([0.0, 1.0, -1.0, -2.0, 3.0])).min(axis=1) > 1e-3
    difference = (values(activation.function, points + 1e-6) - values(activation.function, points - 1e-6)) / 2e-6
    np.testing.assert_allclose(slopes[inner], difference[inner], rtol=1e-6, atol=1e-8)
    x = tf.constant(points)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = activation.function(x)
    np.testing.assert_allclose(slopes, tape.gradient(y, x).numpy(), rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize(
    ("inside", "outside"),
    [
        ("leaky_relu(0)", "leaky_relu(-1e-6)"), ("leaky_relu(1)", "leaky_relu(1.000001)"), ("elu(0)", "elu(-0.001)"),
        ("elu(1)", "elu(1.01)"), ("celu(1e-3)", "celu(-0.5)"), ("smooth_leaky(0, 1)", "smooth_leaky(-0.01, 1)"),
        ("smooth_leaky(1, 1)", "smooth_leaky(1.01, 1)"), ("smooth_leaky(0.2, 1000)", "smooth_leaky(0.2, -1)"),
        ("threshold(2, 2)", "threshold(2, 2.5)"), ("threshold(-1, -1)", "threshold(-1, -1.5)"),
        ("squared_leaky(0)", "squared_leaky(-0.1)"), ("squared_leaky(1)", "squared_leaky(1.5)"),
        ("smooth_leaky(0.2, 4)", "smooth_leaky(-3, 0.5)"),
    ],
)  # fmt: skip
def test_d2_t1_parameter_bound_is_refused_just_outside_with_a_true_counterexample(inside, outside):
    """The bound itself is taken; what is beyond is refused with three points, or, for S4's slope, by its range."""
    activations.resolve(inside, Role.FIRST)
    with pytest.raises(ActivationRefusedError, match="expects") as refused:
        activations.resolve(outside, Role.FIRST)
    counterexample = refused.value.counterexample
    if outside != "squared_leaky(1.5)":
        assert_violates_midpoint_convexity(counterexample, least=1e-12)


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


def assert_violates_midpoint_convexity(counterexample, least=1e-9):
    """Check the three points: the middle is the midpoint, and the function lies above the chord there."""
    left, middle, right = counterexample.points
    assert (left + right) / 2 == middle
    assert counterexample.values[1] > (counterexample.values[0] + counterexample.values[2]) / 2 + least


@pytest.mark.parametrize("name", NEVER)
def test_activation_that_is_never_allowed_is_refused_with_a_true_counterexample(name):
    """The three points violate midpoint convexity, and the values are those of Keras' own function."""
    for role in (Role.HIDDEN, Role.FIRST):
        with pytest.raises(ActivationRefusedError, match=rf"'{name}' is not convex: f\(x\) = .*{name}") as refused:
            activations.resolve(name, role)
        counterexample = refused.value.counterexample
        assert_violates_midpoint_convexity(counterexample)
        keras_function = MIXING.get(name) or getattr(keras.activations, name, None) or keras.activations.get(name)
        np.testing.assert_allclose(
            values(keras_function, counterexample.points), counterexample.values, rtol=1e-6, atol=1e-9
        )


@pytest.mark.parametrize("name", [*FIRST, "squared_leaky(1e-9)", "squared_leaky(1)"])
def test_d2_t2_first_only_activation_is_refused_in_a_hidden_layer_with_three_points(name):
    """Of |x| - c it is larger at 0 than at both ends, where the values are those of its own function."""
    with pytest.raises(ActivationRefusedError, match="first layer only") as refused:
        activations.resolve(name)
    shown = refused.value.counterexample
    assert_violates_midpoint_convexity(shown)
    width = shown.points[2]
    found = values(activations.resolve(name, Role.FIRST).function, [0.0, -width, 0.0])
    np.testing.assert_allclose(shown.values, found, rtol=1e-6, atol=1e-12)


def test_d2_t2_squared_leaky_is_refused_with_the_counterexample_of_the_absolute_value():
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
    "name", ["leaky_relu(1.5)", "leaky_relu(-0.1)", "smooth_leaky(2)", "smooth_leaky(-1)", "elu(2)", "celu(-1)"]
)
def test_parameter_that_breaks_the_role_is_refused_with_a_true_counterexample(name):
    """A slope above 1 or below 0, or elu with alpha above 1, is refused with three points."""
    with pytest.raises(ActivationRefusedError) as refused:
        activations.resolve(name)
    assert_violates_midpoint_convexity(refused.value.counterexample)


@pytest.mark.parametrize(
    "name", ["", "softplus(1)", "leaky_relu(x)", "leaky_relu(nan)", "leaky_relu(0.1, 0.2)", "elu(x)", "nonsense",
             "smooth_leaky(0.2, 0)", "squareplus(0)", "squareplus(-1)", "celu(0)", "relu(1)", None, abs, len],
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


def test_s4_a_leaky_and_squared_leaky_have_their_closed_forms_and_derivatives():
    """At 1, 1e-3 and 30 of both signs: leaky' is 1 or alpha, squared' 2x or 2 alpha^2 x, squared'' 2 or 2 alpha^2."""
    points = np.array([1.0, 1e-3, 30.0, -1.0, -1e-3, -30.0])
    above = points > 0.0
    for alpha in (0.2, 0.7):
        for name, expected in {
            "leaky_relu": (np.where(above, points, alpha * points), np.where(above, 1.0, alpha), 0.0 * points),
            "squared_leaky": (
                np.where(above, points**2, alpha**2 * points**2),
                np.where(above, 2.0 * points, 2.0 * alpha**2 * points),
                np.where(above, 2.0, 2.0 * alpha**2),
            ),
        }.items():
            function = activations.resolve(f"{name}({alpha})", Role.FIRST).function
            x = tf.constant(points)
            with tf.GradientTape() as outer:
                outer.watch(x)
                with tf.GradientTape() as inner:
                    inner.watch(x)
                    y = function(x)
                slope = inner.gradient(y, x)
            second = outer.gradient(slope, x, unconnected_gradients="zero")
            for found, wanted in zip((y, slope, second), expected, strict=True):
                np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("name", ["leaky_relu", "squared_leaky"])
@pytest.mark.parametrize("alpha", [-0.01, 1.01, -5.0, 7.0])
def test_s4_b_slope_outside_zero_to_one_is_refused(name, alpha):
    """Above 1 it is no leak any more, below 0 it falls on the left or rises there twice."""
    with pytest.raises(ActivationRefusedError, match=f"'{name}' expects a slope from 0 to 1, received {alpha:g}"):
        activations.resolve(f"{name}({alpha})", Role.FIRST)


def test_s4_d_squared_leaky_is_allowed_first_only_and_shows_why():
    """The registry takes it for the first layer; in another one it answers with D2.2's three points."""
    assert Role.FIRST is activations.resolve("squared_leaky", Role.FIRST).role
    with pytest.raises(ActivationRefusedError) as refused:
        activations.resolve("squared_leaky")
    shown = refused.value.counterexample
    assert ((-1.0, 0.0, 1.0), pytest.approx((0.0, 0.04, 0.0))) == (shown.points, shown.values)


def test_s4_e_smooth_leaky_stands_beside_them_and_is_what_is_recommended_where_slopes_count():
    """It bends everywhere, so that every bias gets a gradient; a network's own default is softplus, which bends too."""
    assert "smooth_leaky" == activations.CURVED
    assert (Role.HIDDEN, False) == (resolved(activations.CURVED).role, resolved().second_derivative_zero_ae)


def resolved(name=activations.CURVED):
    """Return the recommended activation."""
    return activations.resolve(name)


def test_squared_leaky_of_slope_zero_is_the_squared_relu_and_may_stand_anywhere():
    """Without a falling side it is non-decreasing, and there is no counterexample that could be given."""
    activation = activations.resolve("squared_leaky(0)")
    assert (Role.HIDDEN, None) == (activation.role, activation.counterexample)


def test_function_of_keras_is_taken_for_its_name():
    """By identity: `keras.activations.softplus` is softplus, `keras.activations.gelu` is refused as gelu."""
    for function, name in (
        (keras.activations.softplus, "softplus"), (keras.ops.relu, "relu"), (keras.ops.absolute, "abs"),
        (keras.activations.squareplus, "squareplus(4.0)"), (keras.activations.exponential, "exponential"),
        (keras.activations.leaky_relu, "leaky_relu(0.2)"), (keras.ops.exp, "exponential"),
    ):  # fmt: skip
        assert name == activations.resolve(function, Role.FIRST).name
    with pytest.raises(ActivationRefusedError, match="'gelu' is not convex"):
        activations.resolve(keras.activations.gelu)


def test_activation_object_is_believed_nothing_but_its_name():
    """One made by hand that calls tanh softplus gives the registry's softplus."""
    liar = activations.Activation(
        "softplus", keras.ops.tanh, Role.HIDDEN, True, True, (0.0, 1.0), activations.Curvature.CURVED
    )
    np.testing.assert_allclose(softplus(GRID), values(activations.resolve(liar).function, GRID), rtol=1e-12)
    with pytest.raises(ActivationRefusedError, match="'tanh' is not convex"):
        activations.resolve(activations.Activation(**{**vars(liar), "name": "tanh"}))
