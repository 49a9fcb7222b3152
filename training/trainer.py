"""The fit loop: seeded, deterministic, early stopping on validation rows, the best weights kept, resumed after a kill.

Over `runs`, whose protocol it drives, and `checkpoints`, where the loop's state and the run's are kept; `pipeline` and
`retrain` run it.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from training.checkpoints import Checkpoint
from training.config import TrainerConfig
from training.progress import Report, silent
from training.runs import DivergenceError, Run, State


@dataclasses.dataclass(frozen=True)
class History:
    """What a run did.

    Args:
        steps: step of each evaluation; the first is 0, before any step.
        train_loss: mean loss of the batches since the evaluation before (at 0: of the training rows).
        validation_loss: the first number of the validation rows.
        best_step: the evaluation whose weights the network now has.
        stopped_early: whether `patience` ended the run before the budget did.
        curves: by name, the other numbers of the validation rows at the same steps.
        chosen: whether these weights were chosen by the validation loss; else they are the last ones.
        names: what the losses of training and validation are.
    """

    steps: tuple[int, ...]
    train_loss: tuple[float, ...]
    validation_loss: tuple[float, ...]
    best_step: int
    stopped_early: bool
    curves: Mapping[str, tuple[float, ...]] = dataclasses.field(default_factory=dict)
    chosen: bool = True
    names: tuple[str, str] = ("loss", "loss")


def fit(run: Run, settings: TrainerConfig, report: Report = silent, checkpoint: Checkpoint | None = None) -> History:
    """Take the steps of `run` and leave its network with the weights that did best on the validation rows.

    It starts from the weights that the network has: new ones, or those of an earlier version (a warm start). The start
    itself is a candidate, so that the result is never worse on the validation rows than what it started from. A run
    that does not keep the best (`Run.keeps_best`) takes all its steps and keeps the last weights.

    The same network, rows, settings and machine type give the same weights, bit for bit: TensorFlow's deterministic
    kernels are switched on for the process, and a run draws its batches from a generator of its own. Each evaluation
    verifies the signs of the weights.

    With a checkpoint, the state of run and loop is saved now and then, and a run whose predecessor was killed takes the
    steps that are left. Weights and history are those of a run that nobody killed, bit for bit: all that a step changes
    is in the state, and nothing else decides the next one.

    Args:
        run: one training run, as `objectives` start it.
        settings: the `[trainer]` section.
        report: told of every evaluation.
        checkpoint: of this very job (`checkpoints.kept`), or None.

    Raises:
        DivergenceError: a loss is NaN or infinite; the network has its best weights so far again, or, in a run that
            does not keep the best, its last finite ones.
    """
    keras.utils.set_random_seed(settings.seed)
    tf.config.experimental.enable_op_determinism()
    record = _Record(run, report)
    try:
        stopped_early = _take_steps(settings, record, checkpoint)
    finally:
        record.restore_best()
    return record.history(stopped_early)


def _take_steps(settings: TrainerConfig, record: "_Record", checkpoint: Checkpoint | None) -> bool:
    """Take all steps that are left, or fewer where patience ends; return whether it did."""
    run = record.run
    done, losses = _begin(settings, record, checkpoint)
    for taken in range(done + 1, settings.steps + 1):
        losses.append(_finite(taken, f"the training {run.names[0].replace('_', ' ')}", run.step()))
        if taken % settings.evaluate_every == 0 or taken == settings.steps:
            record.evaluate(taken, losses)
            losses = []
            if record.evaluations_since_best >= settings.patience and taken < settings.steps:
                return True
        if checkpoint is not None and checkpoint.is_due(taken):
            checkpoint.save(record.state(taken, losses))
    return False


def _begin(settings: TrainerConfig, record: "_Record", checkpoint: Checkpoint | None) -> tuple[int, list[float]]:
    """Go on from the checkpoint, or evaluate the start; return the steps taken and the losses not yet evaluated."""
    saved = None if checkpoint is None else checkpoint.load(_named("run", record.run.state()))
    if checkpoint is None or saved is None:
        record.evaluate(0, [record.run.start_loss()])
        return 0, []
    taken, losses = record.resume(saved)
    checkpoint.say_resumed(taken, settings.steps)
    return taken, losses


class _Record:
    """The curves of one run and the best weights so far."""

    def __init__(self, run: Run, report: Report) -> None:
        self.run = run
        self.report = report
        self.steps: list[int] = []
        self.train: list[float] = []
        self.validation: list[dict[str, float]] = []
        self.best_loss = math.inf
        self.best_step = 0
        self.best_weights: Sequence[NDArray[Any]] = ()
        self.evaluations_since_best = 0

    def evaluate(self, step: int, losses: Sequence[float]) -> None:
        """Extend the curves, and keep the weights if they are the best so far."""
        self.run.verify()
        numbers = dict(self.run.validation())
        for name, value in numbers.items():
            _finite(step, f"the validation {name.replace('_', ' ')}", value)
        validation = next(iter(numbers.values()))
        train = _finite(step, f"the training {self.run.names[0].replace('_', ' ')}", float(np.mean(losses)))
        self.steps.append(step)
        self.train.append(train)
        self.validation.append(numbers)
        self.evaluations_since_best += 1
        if validation < self.best_loss or not self.run.keeps_best:
            self.best_loss, self.best_step, self.evaluations_since_best = validation, step, 0
            self.best_weights = self.run.weights()
        self.report(step, train, validation)

    def restore_best(self) -> None:
        """Give the network the best weights so far; one whose last weights are kept has them, if they are finite."""
        if not self.run.keeps_best and all(np.isfinite(weight).all() for weight in self.run.weights()):
            return
        if self.best_weights:
            self.run.restore(self.best_weights)

    def state(self, taken: int, losses: Sequence[float]) -> State:
        """Return all that a run which is killed now needs to go on after `taken` steps."""
        run = self.run.state()
        numbers = {
            "run": run.numbers,
            "taken": taken,
            "losses": list(losses),
            "steps": self.steps,
            "train": self.train,
            "validation": [list(numbers.items()) for numbers in self.validation],
            "best": [self.best_loss, self.best_step, self.evaluations_since_best],
        }
        best = {f"best/{place}": weight for place, weight in enumerate(self.best_weights)}
        return State({**_named("run", run).arrays, **best}, numbers)

    def resume(self, saved: State) -> tuple[int, list[float]]:
        """Take up a state; return the steps taken and the losses since the last evaluation."""
        numbers, arrays = saved.numbers, saved.arrays
        own = {name.removeprefix("run/"): array for name, array in arrays.items() if name.startswith("run/")}
        self.run.resume(State(own, numbers["run"]))
        self.steps, self.train = list(numbers["steps"]), list(numbers["train"])
        self.validation = [dict(pairs) for pairs in numbers["validation"]]
        self.best_loss, self.best_step, self.evaluations_since_best = numbers["best"]
        self.best_weights = [arrays[f"best/{place}"] for place in range(len(arrays) - len(own))]
        return numbers["taken"], list(numbers["losses"])

    def history(self, stopped_early: bool) -> History:
        """Return what was recorded."""
        curves = {name: tuple(numbers[name] for numbers in self.validation) for name in self.validation[0]}
        losses = curves.pop(next(iter(curves)))
        steps, train, chosen = tuple(self.steps), tuple(self.train), self.run.keeps_best
        return History(steps, train, losses, self.best_step, stopped_early, curves, chosen, self.run.names)


def _named(prefix: str, state: State) -> State:
    """Return a state whose arrays have a prefix before their names."""
    return State({f"{prefix}/{name}": array for name, array in state.arrays.items()}, state.numbers)


def _finite(step: int, quantity: str, value: float) -> float:
    """Return a loss, or raise where it is not finite."""
    if not math.isfinite(value):
        raise DivergenceError(step, quantity, value)
    return value
