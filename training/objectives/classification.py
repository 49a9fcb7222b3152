"""Two classes by a convex score: the rows with a small score form a convex acceptance region.

Over `supervised`, which runs it; `objectives` picks it by the task's name.
"""

from typing import Any

import numpy as np
from keras import ops
from numpy.typing import NDArray
from sklearn.ensemble import GradientBoostingClassifier, HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from training.answers import Answers
from training.config import NetworkConfig
from training.datasets import DataError, Table
from training.objectives.supervised import Network, Supervised, new_network

_CALIBRATION_BINS = 10
_MANY_ROWS = 10_000


class Classification(Supervised):
    r"""Logistic loss on a convex score; label 1 = outside the convex acceptance region.

    .. math:: P(y = 1 \mid x) = \sigma(f(x)), \qquad \ell = \log(1 + e^{f(x)}) - y\,f(x)

    Where f <= `threshold` = 0 the probability of label 1 is at most one half; that set of rows is convex, so
    whatever lies between accepted rows is accepted.
    """

    task = "classification"
    threshold: float | None = 0.0

    def check(self, data: Table, side: str = "") -> None:
        """Refuse targets other than 0 and 1, and rows of one class only.

        Args:
            data: the rows.
            side: which of a file's rows they are, e.g. `held-out`; empty: all.

        Raises:
            DataError: names the first such target, or the class that is missing.
        """
        other = (data.y != 0.0) & (data.y != 1.0)
        if other.any():
            message = f"{data.file}: classification expects targets 0 and 1, received {data.y[other][0]:g}."
            raise DataError(message + " Encode label 1 = outside the acceptance region.")
        for label in (0.0, 1.0):
            if not (data.y == label).any():
                message = f"{data.file}: expected {side} rows of both classes, received no row with target {label:g}"
                raise DataError(f"{' '.join(message.split())} among {len(data)}. Give more rows of that class.")

    def create_network(self, network: NetworkConfig, train: Table, seed: int) -> Network:
        """Return a new network whose score is a logit."""
        return new_network(network, train, seed)

    def loss(self, model: Any, x: Any, y: Any) -> Any:
        """Return the mean logistic loss of a batch, stable for scores of any size."""
        scores = model(x)
        return ops.mean(ops.softplus(scores) - y * scores)

    def score_metrics(self, scores: NDArray[np.floating], y: NDArray[np.floating]) -> dict[str, float]:
        """Return how well scores [n] tell and predict the labels [n].

        `roc_auc`; `log_loss` in nats; `brier`, the mean squared error of the probability; `calibration_error`, the
        mean over ten bins of equal width (weighted by their rows) of |mean probability - share of label 1|;
        `accuracy` at the threshold.

        Raises:
            DataError: the labels are all equal, so that there is no ROC curve.
        """
        if len(np.unique(y)) < 2:
            message = "classification metrics expect rows of both classes, received one. Give rows of the other too."
            raise DataError(message)
        scores = scores.astype(np.float64)
        probability = _sigmoid(scores)
        gaps = [b["rows"] * abs(b["probability"] - b["share"]) for b in calibration(scores, y)]
        return {
            "roc_auc": float(roc_auc_score(y, scores)),
            "log_loss": float(np.mean(np.logaddexp(0.0, scores) - y * scores)),
            "brier": float(np.mean((probability - y) ** 2)),
            "calibration_error": sum(gaps) / len(y),
            "accuracy": float(np.mean((scores > 0.0) == (y == 1.0))),
        }

    def row_losses(self, answers: Answers, rows: Table) -> NDArray[np.float64]:
        """Return the logistic loss of each row [n]."""
        scores = answers.score.astype(np.float64)
        losses: NDArray[np.float64] = np.logaddexp(0.0, scores) - rows.y * scores
        return losses

    def baselines(self, train: Table, held_out: Table, seed: int) -> dict[str, dict[str, float]]:
        """Return the metrics on `held_out` of logistic regression and gradient boosting fitted on `train`."""
        boosting = HistGradientBoostingClassifier if len(train) > _MANY_ROWS else GradientBoostingClassifier
        models = {
            "logistic regression": make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)),
            "gradient boosting": boosting(random_state=seed),
        }
        return {
            name: self.score_metrics(model.fit(train.x, train.y).decision_function(held_out.x), held_out.y)
            for name, model in models.items()
        }


def calibration(scores: NDArray[np.floating], y: NDArray[np.floating]) -> list[dict[str, float]]:
    """Return, for each tenth of the probability sigmoid(score) that has rows: mean probability, share of ones, rows."""
    probability = _sigmoid(scores)
    bins = np.minimum((probability * _CALIBRATION_BINS).astype(int), _CALIBRATION_BINS - 1)
    return [
        {
            "probability": float(probability[bins == place].mean()),
            "share": float(y[bins == place].mean()),
            "rows": int((bins == place).sum()),
        }
        for place in np.unique(bins)
    ]


def _sigmoid(scores: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the logistic function, which no score overflows in this form."""
    probability: NDArray[np.float64] = 0.5 * (1.0 + np.tanh(0.5 * scores.astype(np.float64)))
    return probability
