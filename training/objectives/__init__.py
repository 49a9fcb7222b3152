"""What a training run minimises and how its result is measured: one file a task, one class each.

Over `icnn` and `runs`; `trainer` drives the runs that are started here, `gate` and `report` take metrics, comparisons
and baselines.
"""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from training.answers import Answers
from training.config import DataConfig, NetworkConfig, TrainerConfig, TrainingConfig
from training.datasets import DataT
from training.objectives.classification import Classification
from training.objectives.comparison import Comparison
from training.objectives.regression import Regression
from training.objectives.transport import Transport
from training.runs import Run


class Objective(Protocol[DataT]):
    """What `pipeline`, `retrain` and `evaluation` ask of a task, whose rows are a `Table` or `Samples`."""

    task: str
    threshold: float | None
    """Scores above it are positive; None where the task has no classes."""

    def read(self, data: DataConfig) -> DataT:
        """Return the configured rows; DataError where they cannot be used."""

    def check(self, data: DataT, side: str = "") -> None:
        """Refuse rows that the task cannot learn from or measure (DataError); `side` says which rows of a file."""

    def create_network(self, network: NetworkConfig, train: DataT, seed: int) -> Any:
        """Return a new `InputConvexNetwork`, or a partially convex one for a task with a context, standardised."""

    def start(self, network: Any, train: DataT, validation: DataT, settings: TrainerConfig) -> Run:
        """Return a run that fits `network` in place."""

    def metrics(self, answers: Answers, held_out: DataT) -> dict[str, float]:
        """Return the metrics of answers to the held-out rows, `config.METRICS` at least (DataError: not defined)."""

    def row_losses(self, answers: Answers, rows: DataT) -> NDArray[np.float64] | None:
        """Return the loss of each row, or None in a task whose rows have none of their own."""

    def baselines(self, train: DataT, held_out: DataT, seed: int) -> Mapping[str, dict[str, float]]:
        """Return the same metrics on the held-out rows of the usual models, fitted on the training rows."""

    def compare(self, champion: Answers | None, challenger: Answers, held_out: DataT, metric: str) -> Comparison:
        """Return one metric of both versions' answers to the same rows, with its standard errors."""


def create_objective(config: TrainingConfig) -> Objective[Any]:
    """Return the objective of a job's task, one of `config.METRICS`."""
    if config.model.task == "transport":
        return Transport(config.objective, config.trainer.batch)
    supervised: Mapping[str, type[Classification | Regression]] = {
        "classification": Classification,
        "regression": Regression,
    }
    return supervised[config.model.task]()
