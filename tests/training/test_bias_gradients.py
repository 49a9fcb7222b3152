"""D1 and S6: which biases the minimax loss leaves without a gradient, why TensorFlow says None or 0, and what helps.

Most networks here are plain TensorFlow functions, as the question was asked; the library's own stand at the end.
docs/bias-gradients.md tells the same in words.
"""

import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from training.activations import resolve
from training.gradients import input_gradient
from training.icnn import InputConvexNetwork, PenalizedNetwork

PAGE = Path(__file__).parents[2] / "docs" / "bias-gradients.md"
ROWS, DIM, WIDTH = 64, 3, 5
NONE, ZERO, OTHER = "None", "0", "non-zero"

Activation = Callable[[Any], Any]


def by_maximum(x: Any) -> Any:
    """Return a leaky ReLU as users write it."""
    return tf.maximum(x, 0.2 * x)


def squared(x: Any) -> Any:
    """Return the square of a leaky ReLU, for the first layer."""
    return tf.square(by_maximum(x))


def linear(x: Any) -> Any:
    """Return x."""
    return x


def smooth_leaky(x: Any) -> Any:
    """Return 0.2 x + 0.8 softplus(x): a leaky ReLU without its kink."""
    return 0.2 * x + 0.8 * tf.math.softplus(x)


ACTIVATIONS: dict[str, Activation] = {
    "maximum": by_maximum,
    "leaky_relu": lambda x: tf.nn.leaky_relu(x, 0.2),
    "relu": tf.nn.relu,
    "softplus": tf.math.softplus,
    "elu": tf.nn.elu,
    "smooth_leaky": smooth_leaky,
    "relu_squared": lambda x: tf.square(tf.nn.relu(x)),
}


class Plain:
    """z_0 = phi_0(x A_0 + b_0), z_k = phi_k(z_{k-1} W_k + x A_k + b_k), W_k >= 0; the last layer has one unit.

    Args:
        activations: phi_0, phi_1, ...
        seed: of the weights.
        output_bias: whether the last layer has one.
    """

    def __init__(self, activations: Sequence[Activation], seed: int, *, output_bias: bool = True) -> None:
        rng = np.random.default_rng(seed)
        self.activations = activations
        self.variables: dict[str, Any] = {}
        last = len(activations) - 1
        for k in range(last + 1):
            units = 1 if k == last else WIDTH
            self.variables[f"A{k}"] = tf.Variable(rng.normal(size=(DIM, units)))
            if k > 0:
                self.variables[f"W{k}"] = tf.Variable(np.abs(rng.normal(size=(WIDTH, units))) / WIDTH)
            if k < last or output_bias:
                self.variables[f"b{k}"] = tf.Variable(0.1 * rng.normal(size=units))

    def __call__(self, x: Any) -> Any:
        """Return the scores [n] of rows [n, d]."""
        z: Any = None
        for k, activation in enumerate(self.activations):
            p = x @ self.variables[f"A{k}"] + self.variables.get(f"b{k}", 0.0)
            z = activation(p if z is None else p + z @ self.variables[f"W{k}"])
        return z[:, 0]


def rows() -> tuple[Any, Any]:
    """Return source and target rows."""
    rng = np.random.default_rng(0)
    return tf.constant(rng.normal(size=(ROWS, DIM))), tf.constant(rng.normal(1.0, 2.0, (ROWS, DIM)))


def transport_loss(f: Activation, g: Activation, x: Any, y: Any) -> Any:
    """Return V = E[f(grad g(Y)) - <Y, grad g(Y)>] - E[f(X)]."""
    with tf.GradientTape() as tape:
        tape.watch(y)
        scores = g(y)
    back = tape.gradient(scores, y)
    return tf.reduce_mean(f(back) - tf.reduce_sum(y * back, axis=1)) - tf.reduce_mean(f(x))


def gradients(f: Plain, g: Plain, *, compiled: bool) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    """Return V and its gradients for f's and g's variables, eagerly or as one compiled step."""
    x, y = rows()

    def step() -> Any:
        with tf.GradientTape(persistent=True) as tape:
            value = transport_loss(f, g, x, y)
        return value, tape.gradient(value, f.variables), tape.gradient(value, g.variables)

    return (tf.function(step, autograph=False) if compiled else step)()


def state(gradient: Any) -> str:
    """Return what a gradient says: None, exactly zero, or something."""
    if gradient is None:
        return NONE
    return OTHER if np.any(gradient.numpy() != 0.0) else ZERO


def biases(g: Plain, *, compiled: bool = False) -> list[str]:
    """Return the state of each bias's gradient in g, against an f with curvature everywhere."""
    f = Plain([tf.math.softplus, tf.math.softplus, linear], seed=1)
    found = gradients(f, g, compiled=compiled)[2]
    return [state(found[name]) for name in sorted(found) if name.startswith("b")]


EAGER_AND_COMPILED = pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])


TABLE = {
    "maximum": (NONE, NONE, NONE),
    "leaky_relu": (ZERO, NONE, ZERO),
    "relu": (ZERO, NONE, ZERO),
    "softplus": (OTHER, NONE, OTHER),
    "elu": (OTHER, NONE, OTHER),
    "smooth_leaky": (OTHER, NONE, OTHER),
    "relu_squared": (OTHER, NONE, OTHER),
}
"""Per activation after a squared first layer: hidden bias, bias of a linear output, bias of an activated output."""


@EAGER_AND_COMPILED
@pytest.mark.parametrize("activation", TABLE)
def test_d1_t1_biases_of_g_get_the_gradients_of_the_table_when_the_first_layer_is_squared(activation, compiled):
    """The first bias always gets one, a later bias only where its activation is curved, a linear output's never."""
    phi, (hidden, linear_output, activated_output) = ACTIVATIONS[activation], TABLE[activation]
    assert [OTHER, hidden, linear_output] == biases(Plain([squared, phi, linear], seed=2), compiled=compiled)
    assert [OTHER, hidden, activated_output] == biases(Plain([squared, phi, phi], seed=2), compiled=compiled)


def test_table_of_the_page_is_the_table_of_these_tests():
    """What docs/bias-gradients.md tells of each activation is what the tests here see."""
    rows = re.findall(r"^\| `(\w+)` \| (.+) \| (.+) \| (.+) \|$", PAGE.read_text(), re.MULTILINE)
    assert TABLE == {activation: tuple(states) for activation, *states in rows}


@EAGER_AND_COMPILED
@pytest.mark.parametrize(("activation", "said"), [("maximum", NONE), ("leaky_relu", ZERO), ("relu", ZERO)])
def test_no_bias_of_g_gets_a_gradient_when_the_first_layer_is_piecewise_linear_too(activation, said, compiled):
    """It is the square in the first layer, not its place, that gives the first bias its gradient."""
    phi = ACTIVATIONS[activation]
    assert [said, said, NONE] == biases(Plain([phi, phi, linear], seed=2), compiled=compiled)


@EAGER_AND_COMPILED
def test_none_becomes_zero_when_only_the_activation_is_compiled(compiled):
    """A compiled call answers zeros for what it does not connect: another word, and as little information."""
    phi = tf.function(by_maximum, autograph=False)
    assert [OTHER, ZERO, NONE] == biases(Plain([squared, phi, linear], seed=2), compiled=compiled)
    assert [OTHER, ZERO, ZERO] == biases(Plain([squared, phi, phi], seed=2), compiled=compiled)


def test_none_becomes_zero_when_unconnected_gradients_are_asked_for_as_zeros():
    """The argument changes the word, and only for what had no gradient."""
    f, g = Plain([tf.math.softplus, linear], seed=1), Plain([squared, by_maximum, linear], seed=2)
    states = []
    for unconnected in (tf.UnconnectedGradients.NONE, tf.UnconnectedGradients.ZERO):
        with tf.GradientTape() as tape:
            value = transport_loss(f, g, *rows())
        found = tape.gradient(value, g.variables, unconnected_gradients=unconnected)
        states.append([state(found[name]) for name in ("b0", "b1", "b2")])
    assert [[OTHER, NONE, NONE], [OTHER, ZERO, ZERO]] == states


def test_gradients_explode_when_every_layer_squares_a_relu():
    """A bend in every layer is no cure if it is that of a square: slopes of g multiply, and f squares them."""

    def square(x: Any) -> Any:
        return tf.square(tf.nn.relu(x))

    largest = {}
    for phi in (tf.math.softplus, square):
        f, g = (Plain([phi, phi, phi], seed=seed) for seed in (1, 2))
        of_g = gradients(f, g, compiled=False)[2]
        largest[phi] = max(float(tf.reduce_max(tf.abs(of_g[name]))) for name in ("b0", "b1", "b2"))
    assert largest[square] > 1e3 * largest[tf.math.softplus]


def test_loss_is_the_same_number_whatever_is_compiled():
    """Activation plain or compiled, step eager or compiled: one loss, and the same gradients where there are any."""
    f = Plain([tf.math.softplus, tf.math.softplus, linear], seed=1)
    found = [
        gradients(f, Plain([squared, phi, linear], seed=2), compiled=compiled)
        for phi in (by_maximum, tf.function(by_maximum, autograph=False))
        for compiled in (False, True)
    ]
    first = found[0]
    for value, of_f, of_g in found[1:]:
        assert float(first[0]) == pytest.approx(float(value), rel=1e-12)
        for name in of_f:
            np.testing.assert_allclose(first[1][name], of_f[name], rtol=1e-9, atol=1e-14)
        for name in ("A0", "A1", "A2", "W1", "W2", "b0"):
            np.testing.assert_allclose(first[2][name], of_g[name], rtol=1e-9, atol=1e-14)


@EAGER_AND_COMPILED
@pytest.mark.parametrize(
    ("activations", "expected"),
    [
        ([squared, by_maximum, tf.math.softplus, linear], [OTHER, OTHER, OTHER, NONE]),
        ([squared, tf.math.softplus, by_maximum, linear], [OTHER, OTHER, NONE, NONE]),
        ([by_maximum, by_maximum, tf.math.softplus, linear], [OTHER, OTHER, OTHER, NONE]),
    ],
)
def test_one_curved_activation_gives_gradients_to_all_biases_before_it(activations, expected, compiled):
    """A bias acts on the slope of g through its own curvature and that of every later layer."""
    assert expected == biases(Plain(activations, seed=3), compiled=compiled)


def test_zero_is_the_truth_of_a_piecewise_linear_g():
    """Moving the hidden bias by less than the distance to any kink leaves every slope of g as it is, bit for bit."""
    g = Plain([squared, by_maximum, linear], seed=2)
    _, y = rows()
    slopes = {}
    for bias in ("b1", "b0"):
        before = input_gradient(g, y).numpy()
        g.variables[bias].assign_add(np.full(WIDTH, 1e-7))
        slopes[bias] = np.array_equal(before, input_gradient(g, y).numpy())
    assert {"b1": True, "b0": False} == slopes


@EAGER_AND_COMPILED
def test_every_bias_of_f_gets_a_gradient_but_that_of_a_linear_output(compiled):
    """The function f enters by its value, so kinks do no harm; a constant added to it cancels, to exactly 0.0."""
    g = Plain([tf.math.softplus, tf.math.softplus, linear], seed=2)
    for phi in (by_maximum, tf.math.softplus):
        of_f = gradients(Plain([squared, phi, linear], seed=1), g, compiled=compiled)[1]
        assert [OTHER, OTHER, ZERO] == [state(of_f[name]) for name in ("b0", "b1", "b2")]
        assert [0.0] == of_f["b2"].numpy().tolist()
        of_f = gradients(Plain([squared, phi, phi], seed=1), g, compiled=compiled)[1]
        assert [OTHER, OTHER, OTHER] == [state(of_f[name]) for name in ("b0", "b1", "b2")]


def test_d1_t5_output_bias_of_f_is_a_gauge_that_changes_nothing():
    """Ten more or less on f leaves V and every gradient as they are, up to rounding."""
    f, g = (Plain([squared, tf.math.softplus, linear], seed=seed) for seed in (1, 2))
    before = gradients(f, g, compiled=False)
    f.variables["b2"].assign_add([10.0])
    after = gradients(f, g, compiled=False)
    assert float(before[0]) == pytest.approx(float(after[0]), rel=1e-12, abs=1e-12)
    for left, right in zip(before[1:], after[1:], strict=True):
        for name in left:
            assert (left[name] is None) == (right[name] is None)
            if left[name] is not None:
                np.testing.assert_allclose(left[name], right[name], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("alpha", "beta"), [(0.2, 1.0), (0.0, 3.0), (0.5, 40.0), (0.2, 1000.0)])
def test_d1_t4_smooth_leaky_is_within_its_bound_of_leaky_on_thirty_either_side(alpha, beta):
    """The supremum over [-30, 30] of the difference is (1 - alpha) ln 2 / beta, reached at 0: it falls with beta."""
    x = np.linspace(-30.0, 30.0, 600_001)
    smooth = resolve(f"smooth_leaky({alpha}, {beta})").function(x).numpy()
    difference = np.abs(smooth - np.maximum(x, alpha * x))
    bound = (1.0 - alpha) * np.log(2.0) / beta
    assert difference.max() <= bound + 1e-12
    assert bound == pytest.approx(difference[np.argmin(np.abs(x))], rel=1e-9)


@EAGER_AND_COMPILED
def test_s6_a_every_observation_of_the_question_comes_out_as_it_was_asked(compiled):
    """The first bias of g trains; later ones get None, or 0 under a decorator; every bias of f trains but the gauge."""
    decorated = tf.function(by_maximum, autograph=False)
    assert [OTHER, NONE, NONE, NONE] == biases(Plain([squared, by_maximum, by_maximum, linear], 2), compiled=compiled)
    assert [OTHER, ZERO, ZERO, NONE] == biases(Plain([squared, decorated, decorated, linear], 2), compiled=compiled)
    f = Plain([squared, by_maximum, by_maximum, linear], seed=1)
    of_f = gradients(f, Plain([squared, by_maximum, linear], seed=2), compiled=compiled)[1]
    assert [OTHER, OTHER, OTHER, ZERO] == [state(of_f[f"b{k}"]) for k in range(4)]


@EAGER_AND_COMPILED
def test_d1_t3_every_variable_moves_when_activations_are_curved_and_output_biases_left_out(compiled):
    """With both cures each variable of f and g has a gradient and is somewhere else after one optimiser step."""
    f, g = (Plain([squared, smooth_leaky, linear], seed=seed, output_bias=False) for seed in (1, 2))
    _, of_f, of_g = gradients(f, g, compiled=compiled)
    for network, found in ((f, of_f), (g, of_g)):
        assert {OTHER} == {state(gradient) for gradient in found.values()}
        before = {name: variable.numpy() for name, variable in network.variables.items()}
        variables = [keras.Variable(variable.numpy(), dtype="float64") for variable in network.variables.values()]
        keras.optimizers.Adam(0.01).apply(list(found.values()), variables)
        moved = zip(before.values(), variables, strict=True)
        assert all((old != new.numpy()).any() for old, new in moved)


def library_pair(activation: str) -> tuple[InputConvexNetwork, PenalizedNetwork]:
    """Return the library's two networks of a minimax."""
    form = {"dim": DIM, "hidden": (6, 5), "activation": activation, "potential": True}
    form["first_activation"] = "squared_leaky(0.2)"
    return InputConvexNetwork(**form, seed=1, name="f"), PenalizedNetwork(**form, seed=2, name="g")


def library_step(f: InputConvexNetwork, g: PenalizedNetwork) -> dict[Any, Any]:
    """Return the gradient of V for every trainable variable of both networks."""
    x, y = (tf.cast(side, tf.float32) for side in rows())

    @partial(tf.function, autograph=False)
    def step() -> Any:
        with tf.GradientTape() as tape:
            value = transport_loss(f.standard_score, g.standard_score, x, y)
        return tape.gradient(value, [variables, others])

    variables, others = f.trainable_variables, g.trainable_variables
    found = step()
    return dict(zip([v.path for v in variables + others], found[0] + found[1], strict=True))


@pytest.mark.parametrize("activation", ["smooth_leaky", "softplus", "elu"])
def test_librarys_networks_leave_only_the_output_biases_without_gradients_when_curved(activation):
    """Of all trainable variables of both networks exactly the two gauges get none, and all others move in one step."""
    f, g = library_pair(activation)
    found = library_step(f, g)
    without = {path: state(gradient) for path, gradient in found.items() if state(gradient) != OTHER}
    assert {"f/output/bias": ZERO, "g/output/bias": NONE} == without
    for network in (f, g):
        trained = [variable for variable in network.trainable_variables if variable.path not in without]
        before = [variable.numpy() for variable in trained]
        keras.optimizers.Adam(0.01).apply([found[variable.path] for variable in trained], trained)
        assert all((old != new.numpy()).any() for old, new in zip(before, trained, strict=True))


@pytest.mark.parametrize("activation", ["relu", "leaky_relu(0.2)"])
def test_librarys_networks_leave_hidden_biases_without_gradients_when_piecewise_linear(activation):
    """The question's own configuration, in the library's layers: the bias after the squared layer gets zeros."""
    found = library_step(*library_pair(activation))
    without = {path: state(gradient) for path, gradient in found.items() if state(gradient) != OTHER}
    assert {"f/output/bias": ZERO, "g/output/bias": NONE, "g/hidden_1/bias": ZERO} == without
