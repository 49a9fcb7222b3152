"""S7: activations with and without a decorator, steps compiled and not, and the loss read as a number in all four."""

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from training import trainer
from training.audit import Rule, audit
from training.config import NetworkConfig, ObjectiveConfig, TrainerConfig
from training.datasets import Samples, Table
from training.icnn import create_potential
from training.objectives.minimax import Minimax
from training.objectives.regression import Regression
from training.objectives.supervised import SupervisedRun

COMBINATIONS = tuple(itertools.product((False, True), (False, True)))
"""Whether activations are decorated, and whether steps are compiled."""

X, Y = (np.random.default_rng(seed).normal(seed, 1.0, (64, 3)) for seed in (0, 1))
LIMITS = TrainerConfig(steps=2, batch=32, learning_rate=0.01, evaluate_every=1)


def by_maximum(x: Any) -> Any:
    """Return a leaky ReLU as users write it, for which TensorFlow says None where it says 0 of `leaky_relu`."""
    return tf.maximum(x, 0.2 * x)


def decorate(network: Any, function: Callable[[Any], Any] | None, *, decorated: bool) -> None:
    """Give a network's hidden layers an activation, None: their own, under `tf.function` or plain."""
    for layer in network.constrained[:-1]:
        chosen = function or layer.activation.function
        chosen = tf.function(chosen, autograph=False) if decorated else chosen
        layer.activation = dataclasses.replace(layer.activation, function=chosen)


def minimax(
    *, decorated: bool, compiled: bool, activation: str = "smooth_leaky", function: Callable[[Any], Any] | None = None
) -> Minimax:
    """Return a run of the minimax on small networks."""
    data = Samples(*(Table(tuple("abc"), rows, np.empty((len(rows), 0))) for rows in (X, Y)))
    network = create_potential(NetworkConfig((6, 5), activation, "squared_leaky"), X, Y, seed=5)
    run = Minimax(network, data, data, LIMITS, ObjectiveConfig(inner_steps=1), compiled=compiled)
    for each in (run.network, run.f, run.g):
        decorate(each, function, decorated=decorated)
    return run


class Recording:
    """An optimiser that keeps the first gradients that it is given, and takes its steps.

    Args:
        optimizer: takes the steps.
        variables: what is trained.
    """

    def __init__(self, optimizer: Any, variables: list[Any]) -> None:
        self.optimizer = optimizer
        self.count = tf.Variable(0)
        self.gradients = {variable.path: tf.Variable(tf.zeros(variable.shape)) for variable in variables}

    def apply(self, gradients: Any, variables: Any) -> None:
        """Keep the gradients, if they are the first, and take the step."""
        for gradient, variable in zip(gradients, variables, strict=True):
            kept = self.gradients[variable.path]
            kept.assign(tf.where(self.count == 0, gradient, kept))
        self.count.assign_add(1)
        self.optimizer.apply(gradients, variables)


@dataclasses.dataclass(frozen=True)
class Told:
    """What a run of two steps told: its history, and the gradients of the first step."""

    history: trainer.History
    gradients: dict[str, np.ndarray]


@pytest.fixture(scope="module")
def told() -> Iterator[dict[tuple[bool, bool], Told]]:
    """Return what each combination tells; steps are traced where no variable may be read."""
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        refuse_reading(patch)
        for decorated, compiled in COMBINATIONS:
            run = minimax(decorated=decorated, compiled=compiled)
            run.start_loss = lambda: 0.0  # the warm-up takes 200 steps
            run._optimizers = {name: Recording(one, run._trained(name)) for name, one in run._optimizers.items()}
            history = trainer.fit(run, LIMITS)
            kept = [one.gradients for one in run._optimizers.values()]
            gradients = {path: gradient.numpy() for each in kept for path, gradient in each.items()}
            found[decorated, compiled] = Told(history, gradients)
        yield found


def refuse_reading(patch: pytest.MonkeyPatch) -> None:
    """Refuse `numpy()` of variables while a function is traced: that would put today's number into the graph."""
    read = keras.Variable.numpy

    def refuse(variable: Any) -> Any:
        if not tf.executing_eagerly():
            message = f"{variable.path} was read while a step was traced"
            raise AssertionError(message)
        return read(variable)

    patch.setattr(keras.Variable, "numpy", refuse)


def test_s7_a_all_four_combinations_give_the_same_loss_and_gradients(told):
    """To 1e-6 of the largest entry, for every variable that the audit does not list."""
    first = told[False, False]
    assert 16 == len(first.gradients)  # of 18, two are listed
    assert all(np.any(gradient) for gradient in first.gradients.values())
    for other in told.values():
        assert first.history.train_loss[1] == pytest.approx(other.history.train_loss[1], rel=1e-6)
        for path, gradient in other.gradients.items():
            scale = max(float(np.abs(first.gradients[path]).max()), 0.1)
            np.testing.assert_allclose(gradient, first.gradients[path], rtol=0.0, atol=1e-6 * scale)


def test_s7_b_history_holds_plain_floats_in_all_four(told):
    """Every number of the curves is a Python float, whatever made it."""
    for one in told.values():
        history = one.history
        curves = [history.train_loss, history.validation_loss, *history.curves.values()]
        assert {float} == {type(number) for curve in curves for number in curve}
        assert (0, 1, 2) == history.steps


@pytest.mark.parametrize(("decorated", "compiled"), COMBINATIONS)
def test_s7_b_history_of_a_regression_holds_plain_floats_in_all_four(decorated, compiled):
    """A loss of values is told as the minimax is."""
    table = Table(tuple("abc"), X, (X**2).sum(axis=1))
    task = Regression()
    network = task.create_network(NetworkConfig(hidden=(4, 4)), table, 1)
    decorate(network, None, decorated=decorated)
    history = trainer.fit(SupervisedRun(network, task.loss, table, table, LIMITS, compiled=compiled), LIMITS)
    assert {float} == {type(number) for number in (*history.train_loss, *history.validation_loss)}


def test_s7_tensor_of_a_compiled_function_is_a_number_outside_alone():
    """Inside there is nothing to read, which Python says with an AttributeError; what it returns can be read."""

    @partial(tf.function, autograph=False)
    def inside(x: Any) -> Any:
        return x.numpy()

    @partial(tf.function, autograph=False)
    def outside(x: Any) -> Any:
        return 2.0 * x

    with pytest.raises(AttributeError, match="numpy"):
        inside(tf.constant(1.0))
    assert 2.0 == outside(tf.constant(1.0)).numpy()


def test_s7_c_no_step_reads_a_number_while_it_is_compiled(told, monkeypatch):
    """All steps were traced where a variable's `numpy` is refused; a loss that calls it is caught there by name."""
    assert set(COMBINATIONS) == set(told)
    refuse_reading(monkeypatch)
    table = Table(tuple("abc"), X, X[:, 0])
    task = Regression()
    network = task.create_network(NetworkConfig(hidden=(4,)), table, 1)

    def reading(model: Any, x: Any, y: Any) -> Any:
        return task.loss(model, x, y) * float(model.first.bias.numpy().sum() + 1.0)

    with pytest.raises(AssertionError, match="first/bias was read while a step was traced"):
        SupervisedRun(network, reading, table, table, LIMITS)._step.get_concrete_function()


@pytest.mark.parametrize(("decorated", "compiled"), COMBINATIONS)
def test_s7_d_audit_lists_the_same_variables_in_all_four(decorated, compiled):
    """Structurally zero is structurally zero, whether TensorFlow says None, or, of what is decorated, 0."""
    run = minimax(decorated=decorated, compiled=compiled, activation="leaky_relu(0.2)", function=by_maximum)
    subject = run.subject()
    if compiled:
        subject = dataclasses.replace(subject, loss=tf.function(subject.loss, autograph=False))
    listed = {one.variable: one for one in audit(subject).listed}
    expected = {"f/output/bias": Rule.GAUGE, "g/hidden_1/bias": Rule.NO_CURVATURE, "g/output/bias": Rule.OUTPUT_BIAS}
    assert expected == {variable: one.rule for variable, one in listed.items()}
    assert ("0" if decorated else "None") == listed["g/hidden_1/bias"].answer
