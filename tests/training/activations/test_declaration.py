"""Users' own activations: what is declared, what a scan refutes, and that it confirms nothing."""

import keras
import numpy as np
import pytest
from keras import ops

from training import activations
from training.activations import ActivationRefusedError, Curvature, Role, registry
from training.layers.dense_partially_constrained import DensePartiallyConstrained


@pytest.fixture(autouse=True)
def forgotten(monkeypatch):
    """Forget after each test what it declared."""
    monkeypatch.setattr(registry, "_DECLARED", dict(registry._DECLARED))


def huber(x):
    """Return 0 below 0, x^2 / 2 up to 1, x - 1/2 above."""
    return ops.where(x > 1.0, x - 0.5, 0.5 * ops.square(ops.relu(x)))


def declared(function, **changes):
    """Declare a function as Huber's would be, but for the changes."""
    arguments = {"role": "hidden", "slope": (0.0, 1.0), "curvature": "curved on a part of the line", **changes}
    return activations.declare("mine", function, **arguments)


def test_declared_function_is_taken_by_name_and_by_itself():
    """A layer may be given either, and its configuration holds the name."""
    activation = declared(huber, derivative=lambda x: ops.clip(x, 0.0, 1.0))
    assert (Role.HIDDEN, True, False) == (
        activation.role, activation.non_decreasing, activation.second_derivative_zero_ae,
    )  # fmt: skip
    for given in ("mine", huber, activation):
        layer = DensePartiallyConstrained(3, given)
        assert "mine" == layer.get_config()["activation"]
    z = np.linspace(-3.0, 3.0, 11, dtype=np.float32).reshape(-1, 1)
    layer = DensePartiallyConstrained(
        1, huber, kernel_initializer="ones", passthrough_initializer="zeros", bias_initializer="zeros"
    )
    expected = np.where(z > 1.0, z - 0.5, 0.5 * np.maximum(z, 0.0) ** 2)
    np.testing.assert_allclose(np.asarray(layer([z, 0.0 * z])), expected, rtol=1e-6)


def test_function_that_was_not_declared_is_refused_with_the_remedy():
    """Properties cannot be read off a function, whatever it is called."""

    def softplus(x):
        return ops.tanh(x)

    for function in (huber, softplus, lambda x: x):
        with pytest.raises(ActivationRefusedError, match=r"Declare it with training\.activations\.declare"):
            DensePartiallyConstrained(3, function)


@pytest.mark.parametrize(
    ("function", "changes", "said"),
    [
        (lambda x: ops.tanh(x), {}, "declared as convex, and is not"),
        (lambda x: ops.relu(x) - 1e-4 * ops.square(ops.relu(x - 20.0)), {}, "declared as convex, and is not"),
        (lambda x: ops.square(x), {"slope": (0.0, 60.0)}, "declared as non-decreasing, and is not"),
        (lambda x: ops.abs(x) * 1e-3, {"slope": (0.0, 1.0), "curvature": "piecewise linear"}, "non-decreasing"),
        (huber, {"slope": (0.0, 0.5)}, "declared with slopes from 0 to 0.5, and has slopes from 0 to 1"),
        (huber, {"slope": (0.5, 1.0)}, "declared with slopes from 0.5"),
        (ops.softplus, {"curvature": Curvature.KINKED}, "declared as piecewise linear, and is curved"),
        (huber, {"derivative": lambda x: ops.clip(x, 0.0, 1.01)}, "is not that of its function"),
        (lambda x: ops.log(x), {}, "does not give a finite number"),
        (lambda x: ops.sum(x), {}, "does not give a finite number for each"),
        (huber, {"role": "never"}, "declared as not convex"),
    ],
)
def test_declaration_that_numbers_contradict_is_refused(function, changes, said):
    """Convexity, monotonicity, slopes, curvature, derivative and finiteness can each be refuted."""
    with pytest.raises(ActivationRefusedError, match=said) as refused:
        declared(function, **changes)
    if "convex, and" in said or "decreasing" in said:
        left, middle, right = refused.value.counterexample.values
        assert middle > (left + right) / 2.0
    with pytest.raises(ActivationRefusedError, match="not known"):
        activations.resolve("mine")


def test_falling_function_declared_for_the_first_layer_brings_its_own_counterexample():
    """In a hidden layer it is refused with three points that the scan saw."""
    declared(lambda x: ops.softplus(-x), role="first layer only", slope=(-1.0, 0.0), curvature="curved")
    assert "mine" == activations.resolve("mine", Role.FIRST).name
    with pytest.raises(ActivationRefusedError, match="first layer only") as refused:
        activations.resolve("mine")
    left, middle, right = refused.value.counterexample.values
    assert middle > (left + right) / 2.0


@pytest.mark.parametrize("name", ["softplus", "tanh", "Mine", "my activation", "1st", "", "mine(2)"])
def test_name_that_is_taken_or_no_plain_word_is_refused(name):
    """Nobody redefines softplus, and a name must read back."""
    with pytest.raises(ActivationRefusedError, match="expected a plain name of your own"):
        activations.declare(name, huber, role="hidden", slope=(0, 1), curvature="curved on a part of the line")


def test_second_function_of_one_name_is_refused_and_the_same_one_is_not():
    """A name stands for one function in a process."""
    declared(huber)
    declared(huber)
    with pytest.raises(ActivationRefusedError, match="declared already"):
        declared(lambda x: huber(x))


def test_scan_confirms_nothing():
    """A function that bends down outside of what is scanned passes: what is served is proved from its files."""
    declared(lambda x: ops.relu(x) - 0.5 * ops.relu(x - 31.0), curvature="piecewise linear")
    points = keras.ops.convert_to_tensor([30.0, 31.0, 32.0])
    left, middle, right = np.asarray(activations.resolve("mine").function(points))
    assert middle > (left + right) / 2.0
