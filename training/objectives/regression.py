"""Convex least-squares regression: the convex function nearest to the targets.

Over `supervised`, which runs it; `objectives` picks it by the task's name.
"""

from typing import Any

import numpy as np
from keras import ops
from numpy.typing import NDArray
from sklearn.ensemble import GradientBoostingRegressor, HistGradientBoostingRegressor
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from training.answers import Answers
from training.config import NetworkConfig
from training.datasets import DataError, Table
from training.objectives.supervised import Network, Supervised, new_network

_MANY_ROWS = 10_000


class Regression(Supervised):
    r"""Squared loss of a convex score in the target's own units.

    .. math:: \ell = \left((f(x) - y) / s\right)^2

    with s the standard deviation of the training targets, which the network keeps: the loss of predicting their mean
    is 1.
    """

    task = "regression"
    threshold: float | None = None

    def check(self, data: Table, side: str = "") -> None:
        """Refuse targets that are all equal.

        Args:
            data: the rows.
            side: which of a file's rows they are, e.g. `held-out`; empty: all.

        Raises:
            DataError: there is nothing to learn, or to measure.
        """
        if (data.y == data.y[0]).all():
            message = f"{data.file}: regression expects {side} targets that vary, received {data.y[0]:g} in each of"
            advice = "Give more rows." if side else "Look at the target column."
            raise DataError(f"{' '.join(message.split())} {len(data)} rows. {advice}")

    def create_network(self, network: NetworkConfig, train: Table, seed: int) -> Network:
        """Return a new network whose score is in the target's units."""
        return new_network(network, train, seed, train.y)

    def loss(self, model: Any, x: Any, y: Any) -> Any:
        """Return the mean squared error of a batch over the variance of the training targets."""
        return ops.mean(ops.square((model(x) - y) / model.target_scaling.scale))

    def score_metrics(self, scores: NDArray[np.floating], y: NDArray[np.floating]) -> dict[str, float]:
        """Return `r2` (0 where the targets do not vary), and `rmse` and `mae` in the target's units.

        Args:
            scores: [n].
            y: [n], the targets.
        """
        error = scores.astype(np.float64) - y
        variance = float(np.var(y))
        mean_square = float(np.mean(error**2))
        return {
            "r2": 1.0 - mean_square / variance if variance > 0.0 else 0.0,
            "rmse": float(np.sqrt(mean_square)),
            "mae": float(np.mean(np.abs(error))),
        }

    def row_losses(self, answers: Answers, rows: Table) -> NDArray[np.float64]:
        """Return the squared error of each row [n], in the square of the target's unit."""
        errors: NDArray[np.float64] = answers.score.astype(np.float64) - rows.y
        return errors**2

    def baselines(self, train: Table, held_out: Table, seed: int) -> dict[str, dict[str, float]]:
        """Return the metrics on `held_out` of ridge regression and gradient boosting fitted on `train`."""
        boosting = HistGradientBoostingRegressor if len(train) > _MANY_ROWS else GradientBoostingRegressor
        models = {
            "ridge": make_pipeline(StandardScaler(), Ridge()),
            "gradient boosting": boosting(random_state=seed),
        }
        return {
            name: self.score_metrics(model.fit(train.x, train.y).predict(held_out.x), held_out.y)
            for name, model in models.items()
        }
