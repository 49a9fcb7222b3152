"""What the tasks with a target share: their rows, their run (a compiled Adam step), and scores against targets.

Over `icnn` and `runs`; `classification` and `regression` add the loss, the metrics and the baselines.
"""

import abc
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from training.answers import Answers
from training.config import DataConfig, NetworkConfig, TrainerConfig
from training.datasets import DataError, Table, read_table
from training.gradients import required
from training.icnn import InputConvexNetwork, create_network
from training.objectives.batches import Batches
from training.objectives.comparison import Comparison, compare_scores
from training.picnn import PartiallyInputConvexNetwork, create_partial_network
from training.runs import Entry, Part, State, Subject, give_values, values_of

_EVALUATION_ROWS = 65_536

Network = InputConvexNetwork | PartiallyInputConvexNetwork
"""A network that a target may be learned by."""

Loss = Callable[[Any, Any, Any], Any]
"""Network, x float32 [n, d] and y float32 [n] to the mean loss of these rows, a scalar tensor."""


class Supervised(abc.ABC):
    """A task that learns a target, one number a row, from the score."""

    task: str
    threshold: float | None

    def read(self, data: DataConfig) -> Table:
        """Return the rows of `data.file` with the target `data.target`.

        Raises:
            DataError: the file or its columns cannot be used.
        """
        return read_table(
            data.file,
            target=data.target,
            features=data.features,
            context=data.context,
            max_bad_rows_percent=data.max_bad_rows_percent,
        )

    @abc.abstractmethod
    def check(self, data: Table, side: str = "") -> None:
        """Refuse a target that the task cannot learn or measure (DataError); `side` says which rows of a file."""

    @abc.abstractmethod
    def create_network(self, network: NetworkConfig, train: Table, seed: int) -> Network:
        """Return a new network, standardised by the training rows."""

    @abc.abstractmethod
    def loss(self, model: Any, x: Any, y: Any) -> Any:
        """Return the mean loss of a batch as a scalar tensor: x float32 [n, d], y float32 [n]."""

    @abc.abstractmethod
    def score_metrics(self, scores: NDArray[np.floating], y: NDArray[np.floating]) -> dict[str, float]:
        """Return the task's metrics (`config.METRICS`) of scores [n] against targets [n]."""

    @abc.abstractmethod
    def row_losses(self, answers: Answers, rows: Table) -> NDArray[np.float64]:
        """Return the loss of each row [n], whose mean training makes small."""

    @abc.abstractmethod
    def baselines(self, train: Table, held_out: Table, seed: int) -> Mapping[str, dict[str, float]]:
        """Return the same metrics on the held-out rows of the usual models, fitted on the training rows."""

    def start(self, network: Network, train: Table, validation: Table, settings: TrainerConfig) -> "SupervisedRun":
        """Return a run that fits `network` in place; every batch has min(settings.batch, n) training rows."""
        return SupervisedRun(network, self.loss, train, validation, settings)

    def metrics(self, answers: Answers, held_out: Table) -> dict[str, float]:
        """Return the metrics of the scores against the targets of the held-out rows."""
        return self.score_metrics(answers.score, held_out.y)

    def compare(self, champion: Answers | None, challenger: Answers, held_out: Table, metric: str) -> Comparison:
        """Return one metric of both versions on the same rows, with its standard errors."""

        def value(scores: NDArray[np.floating], targets: NDArray[np.floating]) -> float:
            try:
                return self.score_metrics(scores, targets)[metric]
            except DataError:
                return float("nan")

        return compare_scores(champion, challenger, held_out.y, value, is_area=metric == "roc_auc")


class SupervisedRun:
    """Adam on batches of rows with a target: a `training.runs.Run`.

    After every step the kernels are projected to be non-negative (their Keras constraint). The loss of many rows is
    computed in pieces, by one function that is traced once.

    Args:
        network: fitted in place.
        loss: what is minimised.
        train: rows to fit, in a new order each pass, the pass's last odd rows left out.
        validation: rows to stop early on.
        settings: batch, learning rate and seed.
        compiled: whether the step is compiled; else it runs as Python, operation by operation, for a look inside.
    """

    names = ("loss", "loss")
    keeps_best = True

    def __init__(
        self,
        network: Network,
        loss: Loss,
        train: Table,
        validation: Table,
        settings: TrainerConfig,
        *,
        compiled: bool = True,
    ) -> None:
        self.network = network
        self._loss_of = loss
        self._compiled = compiled
        self._settings = settings
        self._batch = min(settings.batch, len(train))
        self._left_out: frozenset[str] = frozenset()
        self._train = _in_float32(train)
        self._validation = _in_float32(validation)
        self._step = self._make_step()
        self._batches = Batches(len(train), self._batch, settings.seed)
        self._loss = _evaluator(network, loss)

    def subject(self) -> Subject:
        """Return the loss and its network, on batches of the training rows."""
        x, y = self._train

        def draw(generator: np.random.Generator, rows: int) -> tuple[Any, ...]:
            drawn = generator.integers(0, len(y), rows)
            return tf.constant(x[drawn]), tf.constant(y[drawn])

        parts = (Part(self.network, self.network, Entry.VALUE),)
        left_out = tuple(sorted(self._left_out))
        return Subject(parts, lambda u, v: self._loss_of(self.network, u, v), draw, left_out, _in_float32)

    def leave_out(self, paths: Collection[str]) -> None:
        """Take variables of the network out of training, by their paths."""
        if not self._left_out.issuperset(paths):
            self._left_out |= frozenset(paths)
            self._step = self._make_step()

    def _make_step(self) -> Any:
        """Return the step for the variables that are trained, with an optimiser of its own."""
        variables = [one for one in self.network.trainable_variables if one.path not in self._left_out]
        self._optimizer = keras.optimizers.Adam(self._settings.learning_rate)
        batch, compiled = self._batch, self._compiled
        return compile_step(self.network, self._loss_of, self._optimizer, batch, variables, compiled=compiled)

    def start_loss(self) -> float:
        """Return the loss of the training rows."""
        return mean_loss(self._loss, *self._train)

    def step(self) -> float:
        """Take one step on the next batch and return the loss before it."""
        x, y = self._train
        rows = self._batches.next()
        return float(self._step(x[rows], y[rows]))

    def validation(self) -> dict[str, float]:
        """Return the loss of the validation rows."""
        return {"loss": mean_loss(self._loss, *self._validation)}

    def weights(self) -> list[NDArray[np.floating]]:
        """Return the network's weights."""
        weights: list[NDArray[np.floating]] = self.network.get_weights()
        return weights

    def restore(self, weights: Sequence[NDArray[Any]]) -> None:
        """Give the network these weights."""
        self.network.set_weights(list(weights))

    def state(self) -> State:
        """Return the variables of network and optimiser, and where the next batch is."""
        return State(
            {**values_of("network", self.network.variables), **values_of("optimizer", self._optimizer.variables)},
            {"batches": self._batches.place()},
        )

    def resume(self, state: State) -> None:
        """Go on from there."""
        give_values("network", self.network.variables, state.arrays)
        give_values("optimizer", self._optimizer.variables, state.arrays)
        self._batches.go_to(state.numbers["batches"])

    def verify(self) -> None:
        """Refuse weights with which the network need not be convex."""
        self.network.verify()


def new_network(network: NetworkConfig, train: Table, seed: int, target: NDArray[np.floating] | None = None) -> Network:
    """Return a new network, standardised by the training rows: partially convex where they have a context.

    Args:
        network: the `[network]` section.
        train: the training rows.
        seed: of the initial weights.
        target: [n], the training targets where the score is to be in their units, else None.
    """
    if train.context:
        return create_partial_network(network, train.x, len(train.context), seed=seed, target=target)
    return create_network(network, train.x, seed=seed, target=target)


def compile_step(
    model: Network,
    loss_of: Loss,
    optimizer: Any,
    batch: int,
    variables: Sequence[Any] | None = None,
    *,
    compiled: bool = True,
) -> Any:
    """Return one optimiser step as a function of x [batch, width] and y [batch]; it returns the loss before it.

    The optimiser's update, then the projection of every constrained variable, which the optimiser applies itself.

    Args:
        model: the network, changed in place.
        loss_of: what is minimised.
        optimizer: a Keras optimiser that has not been built; it is, for the variables.
        batch: rows of a batch.
        variables: what is trained; None: every trainable variable.
        compiled: whether the step is traced once and compiled.

    Raises:
        MissingGradientError: by the first call, where the loss does not reach a variable.
    """
    trained = list(model.trainable_variables if variables is None else variables)
    optimizer.build(trained)
    signature = (tf.TensorSpec((batch, _width(model)), tf.float32), tf.TensorSpec((batch,), tf.float32))

    def step(x: Any, y: Any) -> Any:
        with tf.GradientTape() as tape:
            loss = loss_of(model, x, y)
        optimizer.apply(required(tape.gradient(loss, trained), trained), trained)
        return loss

    return tf.function(step, input_signature=signature, autograph=False) if compiled else step


def mean_loss(
    loss: Callable[[Any, Any], Any], x: NDArray[np.float32], y: NDArray[np.float32], rows: int = _EVALUATION_ROWS
) -> float:
    """Return the mean loss over all rows, computed in pieces of at most `rows`."""
    total = 0.0
    for start in range(0, len(y), rows):
        piece = slice(start, start + rows)
        total += float(loss(x[piece], y[piece])) * len(y[piece])
    return total / len(y)


def _in_float32(table: Table) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    return table.x.astype(np.float32), table.y.astype(np.float32)


def _width(model: Network) -> int:
    """Return the width of a network's rows: its features, and a context behind them."""
    return model.dim + (model.context_dim if isinstance(model, PartiallyInputConvexNetwork) else 0)


def _evaluator(model: Network, loss_of: Loss) -> Any:
    """Return the loss as a compiled function of any number of rows, traced once."""
    signature = (tf.TensorSpec((None, _width(model)), tf.float32), tf.TensorSpec((None,), tf.float32))

    @tf.function(input_signature=signature)
    def loss(x: Any, y: Any) -> Any:
        return loss_of(model, x, y)

    return loss
