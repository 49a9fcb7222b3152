"""The fit loop: seeded, deterministic, one compiled step, early stopping on validation rows.

Over `objectives` and `icnn`; `pipeline` and `retrain` run it.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from training.config import TrainerConfig
from training.datasets import Table
from training.icnn import InputConvexNetwork
from training.objectives import Objective
from training.progress import Report, silent

_EVALUATION_ROWS = 65_536


class DivergenceError(Exception):
    """Training left the finite numbers (exit code 1); nothing of it may be published.

    Args:
        step: the step at which it was seen.
        quantity: what is not finite.
        value: its value.
    """

    def __init__(self, step: int, quantity: str, value: float) -> None:
        """Keep where and what."""
        message = f"training diverged at step {step}: {quantity} is {value}. Lower trainer.learning_rate"
        super().__init__(message + ", or look for extreme values in the data.")
        self.step = step
        self.quantity = quantity
        self.value = value


@dataclasses.dataclass(frozen=True)
class History:
    """What a run did.

    Args:
        steps: step of each evaluation; the first is 0, before any step.
        train_loss: mean loss of the batches since the evaluation before (at 0: of the training rows).
        validation_loss: loss of the validation rows.
        best_step: the evaluation whose weights the network now has.
        stopped_early: whether `patience` ended the run before the budget did.
    """

    steps: tuple[int, ...]
    train_loss: tuple[float, ...]
    validation_loss: tuple[float, ...]
    best_step: int
    stopped_early: bool


def fit(
    model: InputConvexNetwork,
    objective: Objective,
    train: Table,
    validation: Table,
    settings: TrainerConfig,
    report: Report = silent,
) -> History:
    """Fit `model` in place and leave it with the weights that did best on the validation rows.

    It starts from the weights that the model has: new ones, or those of an earlier version (a warm start). The start
    itself is a candidate, so that the result is never worse on the validation rows than what it started from.

    The same model, rows, settings and machine type give the same weights, bit for bit: TensorFlow's deterministic
    kernels are switched on for the process, and rows are shuffled by a generator of their own. After every step the
    kernels are projected to be non-negative (their Keras constraint), and each evaluation verifies it.

    Args:
        model: the network, changed in place.
        objective: gives the loss.
        train: rows to fit; every batch has min(settings.batch, n) of them.
        validation: rows to stop early on, never held-out ones.
        settings: the `[trainer]` section.
        report: told of every evaluation.

    Raises:
        DivergenceError: a loss is NaN or infinite; the model has its best weights so far again.
    """
    keras.utils.set_random_seed(settings.seed)
    tf.config.experimental.enable_op_determinism()
    x, y = train.x.astype(np.float32), train.y.astype(np.float32)
    batch = min(settings.batch, len(train))
    step = compile_step(model, objective, settings.learning_rate, batch)
    batches = _batches(len(train), batch, np.random.default_rng(settings.seed))
    run = _Run(model, _evaluator(model, objective), validation, report)
    run.evaluate(0, [mean_loss(run.loss, x, y)])
    losses: list[float] = []
    stopped_early = False
    for taken in range(1, settings.steps + 1):
        rows = next(batches)
        losses.append(run.finite(taken, "the training loss", float(step(x[rows], y[rows]))))
        if taken % settings.evaluate_every == 0 or taken == settings.steps:
            run.evaluate(taken, losses)
            losses = []
            if run.evaluations_since_best >= settings.patience and taken < settings.steps:
                stopped_early = True
                break
    run.restore_best()
    return History(tuple(run.steps), tuple(run.train), tuple(run.validation), run.best_step, stopped_early)


def compile_step(model: InputConvexNetwork, objective: Objective, learning_rate: float, batch: int) -> Any:
    """Return one optimiser step as a compiled function of x [batch, d] and y [batch]; it returns the loss before it.

    Adam, then the projection of every constrained variable, which the optimiser applies itself.
    """
    optimizer = keras.optimizers.Adam(learning_rate)
    variables = model.trainable_variables
    optimizer.build(variables)
    signature = (tf.TensorSpec((batch, model.dim), tf.float32), tf.TensorSpec((batch,), tf.float32))

    @tf.function(input_signature=signature)
    def step(x: Any, y: Any) -> Any:
        with tf.GradientTape() as tape:
            loss = objective.loss(model, x, y)
        optimizer.apply(tape.gradient(loss, variables), variables)
        return loss

    return step


def mean_loss(
    loss: Callable[[Any, Any], Any], x: NDArray[np.float32], y: NDArray[np.float32], rows: int = _EVALUATION_ROWS
) -> float:
    """Return the mean loss over all rows, computed in pieces of at most `rows`."""
    total = 0.0
    for start in range(0, len(y), rows):
        piece = slice(start, start + rows)
        total += float(loss(x[piece], y[piece])) * len(y[piece])
    return total / len(y)


class _Run:
    """The curves of one run and the best weights so far."""

    def __init__(
        self, model: InputConvexNetwork, loss: Callable[[Any, Any], Any], validation: Table, report: Report
    ) -> None:
        self.model = model
        self.loss = loss
        self.report = report
        self.x, self.y = validation.x.astype(np.float32), validation.y.astype(np.float32)
        self.steps: list[int] = []
        self.train: list[float] = []
        self.validation: list[float] = []
        self.best_loss = math.inf
        self.best_step = 0
        self.best_weights: list[NDArray[np.float32]] = []
        self.evaluations_since_best = 0

    def finite(self, step: int, quantity: str, value: float) -> float:
        """Return a loss, or raise where it is not finite."""
        if not math.isfinite(value):
            self.restore_best()
            raise DivergenceError(step, quantity, value)
        return value

    def evaluate(self, step: int, losses: Sequence[float]) -> None:
        """Extend the curves, and keep the weights if they are the best so far."""
        self.model.verify()
        validation = self.finite(step, "the validation loss", mean_loss(self.loss, self.x, self.y))
        train = self.finite(step, "the training loss", float(np.mean(losses)))
        self.steps.append(step)
        self.train.append(train)
        self.validation.append(validation)
        self.evaluations_since_best += 1
        if validation < self.best_loss:
            self.best_loss, self.best_step, self.evaluations_since_best = validation, step, 0
            self.best_weights = self.model.get_weights()
        self.report(step, train, validation)

    def restore_best(self) -> None:
        """Give the model the best weights so far."""
        if self.best_weights:
            self.model.set_weights(self.best_weights)


def _evaluator(model: InputConvexNetwork, objective: Objective) -> Any:
    """Return the loss as a compiled function of any number of rows, traced once."""
    signature = (tf.TensorSpec((None, model.dim), tf.float32), tf.TensorSpec((None,), tf.float32))

    @tf.function(input_signature=signature)
    def loss(x: Any, y: Any) -> Any:
        return objective.loss(model, x, y)

    return loss


def _batches(rows: int, batch: int, generator: np.random.Generator) -> Iterator[NDArray[np.int64]]:
    """Yield row numbers of one batch after the other: a new order each pass, the pass's last odd rows left out."""
    while True:
        order = generator.permutation(rows)
        for start in range(0, rows - batch + 1, batch):
            yield order[start : start + batch]
