"""The fit loop: it learns, repeats itself bit for bit, stays convex at every step, stops early, and sees divergence."""

import keras
import numpy as np
import pytest

from training import trainer
from training.config import NetworkConfig, TrainerConfig
from training.datasets import Table
from training.objectives.regression import Regression
from training.objectives.supervised import SupervisedRun
from training.runs import DivergenceError

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
