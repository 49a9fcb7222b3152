"""The fit loop: it learns, repeats itself, stays convex at every step, stops early, sees divergence, and is resumed."""

import dataclasses
import re

import keras
import numpy as np
import pytest

from training import trainer
from training.checkpoints import Checkpoint
from training.config import NetworkConfig, ObjectiveConfig, TrainerConfig
from training.datasets import Samples, Table
from training.objectives.classification import Classification
from training.objectives.regression import Regression
from training.objectives.supervised import SupervisedRun
from training.objectives.transport import Transport
from training.runs import DivergenceError, State

X = np.random.default_rng(0).normal(size=(400, 3))
BOWL = Table(("a", "b", "c"), X, 100.0 + 5.0 * (X**2).sum(axis=1) + X[:, 0], "rows.csv", "", 400)
TRAIN, VALIDATION = BOWL.take(np.arange(400) < 300), BOWL.take(np.arange(400) >= 300)
NETWORK = NetworkConfig(hidden=(16, 16), quadratic=0.0)
REGRESSION = Regression()


def settings(**changes) -> TrainerConfig:
    """Return short settings."""
    return TrainerConfig(**{"steps": 60, "batch": 32, "evaluate_every": 10, "learning_rate": 0.01, **changes})


def fitted(seed: int = 7, **changes):
    """Return a network fitted to the bowl, and the history."""
    model = REGRESSION.create_network(NETWORK, TRAIN, seed)
    return model, fit(model, TRAIN, VALIDATION, settings(seed=seed, **changes))


def fit(model, train, validation, limits, *told):
    """Return the history of a regression run."""
    return trainer.fit(REGRESSION.start(model, train, validation, limits), limits, *told)


def weights_of(model: keras.Model) -> list[bytes]:
    """Return the bytes of every weight."""
    return [weight.tobytes() for weight in model.get_weights()]


def test_fit_learns_a_convex_function():
    """A bowl that no affine function explains is learnt to R2 > 0.95 on rows that it never saw."""
    model, history = fitted(steps=600)
    scores = model(VALIDATION.x.astype(np.float32)).numpy()
    assert REGRESSION.score_metrics(scores, VALIDATION.y)["r2"] > 0.95
    assert history.validation_loss[-1] < 0.1 * history.validation_loss[0]


def test_two_trainings_with_one_seed_give_the_same_bytes_and_another_seed_others():
    """Determinism is bit for bit, weights and curves."""
    first, curves = fitted()
    keras.utils.set_random_seed(12345)
    second, again = fitted()
    other, _ = fitted(seed=8)
    assert weights_of(first) == weights_of(second)
    assert curves == again
    assert weights_of(first) != weights_of(other)


def test_fit_stops_early_and_leaves_the_best_weights():
    """Patience counts evaluations; the weights are those of the smallest validation loss, not the last ones."""
    rng = np.random.default_rng(1)
    noise = Table(TRAIN.features, TRAIN.x[:40], rng.normal(size=40), "noise.csv", "", 40)
    unseen = Table(TRAIN.features, VALIDATION.x, rng.normal(size=100), "noise.csv", "", 100)
    model = REGRESSION.create_network(NETWORK, noise, 7)
    history = fit(model, noise, unseen, settings(steps=2000, patience=3, learning_rate=0.02))
    best = int(np.argmin(history.validation_loss))
    assert history.stopped_early
    assert history.steps[-1] < 2000
    assert len(history.steps) - 1 - best == 3
    assert history.steps[best] == history.best_step
    scores = model(unseen.x.astype(np.float32)).numpy()
    loss = np.mean((scores - unseen.y) ** 2) / np.var(noise.y)
    assert history.validation_loss[best] == pytest.approx(loss, rel=1e-4)


def test_history_evaluates_at_the_start_at_the_interval_and_at_the_end():
    """The curves begin before the first step, and a budget that is no multiple still ends in an evaluation."""
    told = []
    model = REGRESSION.create_network(NETWORK, TRAIN, 7)
    history = fit(model, TRAIN, VALIDATION, settings(steps=25), lambda *values: told.append(values))
    assert (0, 10, 20, 25) == history.steps
    assert not history.stopped_early
    assert list(zip(history.steps, history.train_loss, history.validation_loss, strict=True)) == told
    assert all(type(loss) is float for loss in history.train_loss + history.validation_loss)


def test_warm_start_is_never_worse_on_the_validation_rows_than_its_start():
    """The start is a candidate: with a step size that ruins everything, the old weights stay."""
    model, _ = fitted(steps=300)
    before = weights_of(model)
    history = fit(model, TRAIN, VALIDATION, settings(learning_rate=1.0, steps=20))
    assert 0 == history.best_step
    assert before == weights_of(model)


def test_divergence_is_an_error_that_names_step_and_quantity_and_keeps_the_last_good_weights():
    """Rows whose loss overflows float32 end the run; the network has finite weights again."""
    x = np.where(np.arange(64)[:, None] == 5, 3e38, TRAIN.x[:64])
    wild = Table(TRAIN.features, x, TRAIN.y[:64], "wild.csv", "", 64)
    model = REGRESSION.create_network(NetworkConfig(hidden=(4,)), TRAIN, 7)
    before = weights_of(model)
    with pytest.raises(DivergenceError, match=r"diverged at step \d+: the .* loss is (inf|nan)\. Lower") as seen:
        fit(model, wild, VALIDATION, settings())
    assert (0, "the training loss") == (seen.value.step, seen.value.quantity)
    assert before == weights_of(model)


def test_divergence_in_the_middle_restores_the_best_weights():
    """A loss that turns NaN after some steps is caught at that step."""

    def turning(model, x, y):
        """Return the loss, divided by zero over zero when the output bias has moved by 0.5."""
        far = keras.ops.cast(keras.ops.max(keras.ops.abs(model.first.bias)) > 0.5, "float32")
        return REGRESSION.loss(model, x, y) * (1.0 - far) / (1.0 - far)

    model = REGRESSION.create_network(NETWORK, TRAIN, 7)
    limits = settings(learning_rate=0.05)
    with pytest.raises(DivergenceError, match="nan") as seen:
        trainer.fit(SupervisedRun(model, turning, TRAIN, VALIDATION, limits), limits)
    assert seen.value.step > 0
    assert all(np.isfinite(weight).all() for weight in model.get_weights())
    assert np.abs(model.first.bias.numpy()).max() <= 0.5


class Scripted:
    """A run whose numbers are written down: weight k after k steps.

    Args:
        losses: validation loss after 0, 1, 2, ... steps; NaN in a second curve where it says so.
        fails_at: the step that raises by itself.
    """

    names = ("loss", "loss")
    keeps_best = True

    def __init__(self, losses, *, distances=None, fails_at=None):
        self.losses, self.distances, self.fails_at = losses, distances or losses, fails_at
        self.weight = np.zeros(1)

    def start_loss(self):
        """Return a loss."""
        return 9.0

    def step(self):
        """Add one to the weight."""
        self.weight = self.weight + 1.0
        if self.weight[0] == self.fails_at:
            raise DivergenceError(int(self.weight[0]), "the inner map", float("inf"))
        return float(self.weight[0])

    def validation(self):
        """Return two numbers of which the first counts."""
        return {"loss": self.losses[int(self.weight[0])], "map_error": self.distances[int(self.weight[0])]}

    def weights(self):
        """Return the weight."""
        return [self.weight]

    def restore(self, weights):
        """Take the weight."""
        (self.weight,) = weights

    def state(self):
        """Return the weight."""
        return State({"weight": self.weight}, {})

    def resume(self, state):
        """Take the weight."""
        self.weight = state.arrays["weight"]

    def verify(self):
        """Find nothing."""


def test_fit_stops_by_the_first_number_of_a_run_and_keeps_the_others_as_curves():
    """A second curve that falls all the time neither ends the run nor chooses the weights."""
    run = Scripted([5.0, 3.0, 4.0, 4.5, 4.6], distances=[50.0, 40.0, 30.0, 20.0, 10.0])
    history = trainer.fit(run, settings(steps=9, evaluate_every=1, patience=2))
    assert ((5.0, 3.0, 4.0, 4.5), (9.0, 1.0, 2.0, 3.0)) == (history.validation_loss, history.train_loss)
    assert {"map_error": (50.0, 40.0, 30.0, 20.0)} == history.curves
    assert (1, True, 1.0) == (history.best_step, history.stopped_early, run.weight[0])


def test_fit_keeps_the_last_weights_of_a_run_that_does_not_keep_the_best():
    """Its validation loss rises from the start: no patience ends it, and the last weights are those that it has."""
    run = Scripted([1.0, 2.0, 3.0, 4.0])
    run.keeps_best = False
    history = trainer.fit(run, settings(steps=3, evaluate_every=1, patience=1))
    assert (3, False, False) == (history.best_step, history.stopped_early, history.chosen)
    assert 3.0 == run.weights()[0]


def test_fit_restores_the_best_weights_when_a_run_diverges_by_itself():
    """A run may see more than its loss shows; whatever it raises, the network is left with its best weights."""
    run = Scripted([5.0, 3.0, 4.0, 4.5], fails_at=3.0)
    with pytest.raises(DivergenceError, match="at step 3: the inner map is inf"):
        trainer.fit(run, settings(steps=9, evaluate_every=1))
    assert 1.0 == run.weight[0]


def test_fit_refuses_a_curve_that_is_not_finite():
    """A number beside the loss that leaves the finite ones ends the run and is named."""
    run = Scripted([5.0, 3.0, 2.0], distances=[1.0, 1.0, float("nan")])
    with pytest.raises(DivergenceError, match="at step 2: the validation map error is nan"):
        trainer.fit(run, settings(steps=9, evaluate_every=1))
    assert 1.0 == run.weight[0]


class KilledError(BaseException):
    """What stands for a kill: nothing on the way may take it for a failure."""


class Mortal:
    """A run that dies in the middle of a step.

    Args:
        run: which one.
        steps: how many it takes before.
    """

    def __init__(self, run, steps):
        self._run, self._left = run, steps

    def __getattr__(self, name):
        """Be that run in all else."""
        return getattr(self._run, name)

    def step(self):
        """Take a step; the last one changes the weights and does not return."""
        loss = self._run.step()
        self._left -= 1
        if self._left == 0:
            raise KilledError
        return loss


CLASSES = Table(("a", "b", "c"), X, (BOWL.y > 115.0).astype(float), "rows.csv", "", 400)
WITH_CONTEXT = Table(("a", "b"), X, BOWL.y, "rows.csv", "", 400, context=("c",))
SMALL = NetworkConfig(hidden=(4,))
JOBS = {
    "classification": (Classification(), CLASSES, dataclasses.replace(SMALL, support=True)),
    "regression": (Regression(), WITH_CONTEXT, dataclasses.replace(SMALL, context_units=3)),
    "transport": (
        Transport(ObjectiveConfig(inner_steps=2, averaging=0.9), 32),
        Samples(dataclasses.replace(BOWL, y=np.zeros((400, 0))), dataclasses.replace(BOWL, x=X + 2.0)),
        dataclasses.replace(SMALL, activation="smooth_leaky"),
    ),
}
LIMITS = settings(steps=23, evaluate_every=7, patience=2)
INTERVAL = 5


def begun(name):
    """Return a run of one of the jobs before its first step, as a process that has just started makes it."""
    objective, data, network = JOBS[name]
    sides = (data, data) if name == "transport" else (data.take(np.arange(400) < 300), data.take(np.arange(400) >= 300))
    model = objective.create_network(network, sides[0], 7)
    return objective.start(model, *sides, LIMITS)


def finished(run, folder, told):
    """Return the history of a run with a checkpoint in a folder."""
    return trainer.fit(run, LIMITS, checkpoint=Checkpoint(folder, {"job": 1}, told.append, every=INTERVAL))


def bytes_of(run):
    """Return the bytes of all that a run may export or go on with."""
    state = run.state()
    return {name: array.tobytes() for name, array in state.arrays.items()}, state.numbers


@pytest.mark.parametrize("name", JOBS)
def test_run_that_is_killed_twice_ends_with_the_bits_of_one_that_is_not(name, tmp_path):
    """Weights, moments, averages, order of rows, best weights, patience, curves: after two deaths all are the same."""
    run, resumed = begun(name), begun(name)
    start, told = run.state(), []
    history = trainer.fit(run, LIMITS)
    whole = bytes_of(run)
    run.resume(start)
    with pytest.raises(KilledError):
        finished(Mortal(run, 9), tmp_path, told)  # from the start into step 9
    with pytest.raises(KilledError):
        finished(Mortal(run, 8), tmp_path, told)  # from step 5 into step 13, past an evaluation
    assert history == finished(resumed, tmp_path, told)
    assert whole == bytes_of(resumed)
    assert [5, 10] == [int(re.search(r"goes on after step (\d+) of at most 23", line)[1]) for line in told]


FORGOTTEN = {
    "classification": ("network", "optimizer", "batches"),
    "transport": ("network", "f", "g", "optimizer_f", "optimizer_g", "generator", "steps"),
}


@pytest.mark.parametrize("name", FORGOTTEN)
def test_run_ends_elsewhere_when_any_part_of_its_state_is_forgotten(name):
    """The comparison of bits can fail: no part of a state could be left out unseen."""
    run = begun(name)
    start = run.state()
    for _ in range(6):
        run.step()
    saved = run.state()
    ends = {}
    for part in ("", *FORGOTTEN[name]):
        arrays = {key: (start if key.split("/")[0] == part else saved).arrays[key] for key in saved.arrays}
        numbers = {key: (start if key == part else saved).numbers[key] for key in saved.numbers}
        run.resume(State(arrays, numbers))
        for _ in range(6):
            run.step()
        ends[part] = b"".join(weight.tobytes() for weight in run.weights())
    assert len(FORGOTTEN[name]) + 1 == len(set(ends.values()))


def test_patience_goes_on_counting_where_a_run_was_killed(tmp_path):
    """Evaluations without a better loss before the death count after it, and the best weights are those from before."""
    losses = [5.0, 3.0, 4.0, 4.5, 4.6, 4.7]
    limits = settings(steps=9, evaluate_every=1, patience=3)
    for fails_after in (3, 9):
        run = Scripted(losses)
        checkpoint = Checkpoint(tmp_path, {}, str, every=1)
        try:
            history = trainer.fit(Mortal(run, fails_after), limits, checkpoint=checkpoint)
        except KilledError:
            assert 3 == fails_after
    assert ((5.0, 3.0, 4.0, 4.5, 4.6), 1, True) == (history.validation_loss, history.best_step, history.stopped_early)
    assert 1.0 == run.weight[0]


def test_fit_ends_at_once_when_the_run_was_killed_after_its_last_step(tmp_path):
    """A checkpoint of the last step leaves no step to take."""
    first, second = Scripted([3.0, 2.0, 1.0]), Scripted([3.0, 2.0, 1.0])
    limits = settings(steps=2, evaluate_every=1)
    history = trainer.fit(first, limits, checkpoint=Checkpoint(tmp_path, {}, str, every=1))
    assert history == trainer.fit(Mortal(second, 1), limits, checkpoint=Checkpoint(tmp_path, {}, str, every=1))
    assert 2.0 == second.weight[0]
