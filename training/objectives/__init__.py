"""What a training run minimises and how its result is measured: one file a task, one class each.

Over `icnn`; `trainer` takes the loss, `gate` and `report` the metrics and baselines.
"""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from training.config import NetworkConfig
from training.datasets import Table
from training.icnn import InputConvexNetwork
from training.objectives.classification import Classification
from training.objectives.regression import Regression


class Objective(Protocol):
    """What `trainer`, `pipeline` and `gate` ask of a task."""

    task: str
    threshold: float | None
    """Scores above it are positive; None where the task has no classes."""

    def check_target(self, table: Table, side: str = "") -> None:
        """Refuse a target that the task cannot learn or measure (DataError); `side` says which rows of a file."""

    def create_network(self, network: NetworkConfig, train: Table, seed: int) -> InputConvexNetwork:
        """Return a new network, standardised by the training rows."""

    def loss(self, model: Any, x: Any, y: Any) -> Any:
        """Return the mean loss of a batch as a scalar tensor: x float32 [n, d], y float32 [n]."""

    def metrics(self, scores: NDArray[np.floating], y: NDArray[np.floating]) -> dict[str, float]:
        """Return the task's metrics (`config.METRICS`) of scores [n] against targets [n]."""

    def baselines(self, train: Table, held_out: Table, seed: int) -> Mapping[str, dict[str, float]]:
        """Return the same metrics on the held-out rows of the usual models, fitted on the training rows."""


_OBJECTIVES: Mapping[str, type[Classification] | type[Regression]] = {
    "classification": Classification,
    "regression": Regression,
}


def create_objective(task: str) -> Objective:
    """Return the objective of a configured task, one of `config.METRICS`."""
    return _OBJECTIVES[task]()
