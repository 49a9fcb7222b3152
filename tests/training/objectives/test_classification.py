"""Classification: the loss, each metric against its definition, and the refusals of bad targets."""

import numpy as np
import pytest
import tensorflow as tf

from training.datasets import DataError, Table
from training.objectives.classification import Classification, calibration

SCORES = np.array([-2.0, 0.0, 3.0, -0.5, 40.0, -800.0])
LABELS = np.array([0.0, 1.0, 1.0, 1.0, 1.0, 0.0])


def probability(scores: np.ndarray) -> np.ndarray:
    """Return the logistic function, 1 / (1 + exp(-s))."""
    return 0.5 * (1.0 + np.tanh(0.5 * scores))


def table_of(y: list[float]) -> Table:
    """Return a table with these targets."""
    return Table(("a",), np.arange(float(len(y)))[:, None], np.array(y), "rows.csv", "", len(y))


def test_loss_is_the_logistic_loss_of_the_score():
    """The mean of log(1 + e^f) - y f, finite also for scores far out."""
    loss = Classification().loss(lambda x: x, tf.constant(SCORES, tf.float32), tf.constant(LABELS, tf.float32))
    expected = np.mean([np.log1p(np.exp(-2.0)), np.log(2.0), np.log1p(np.exp(-3.0)), np.log1p(np.exp(0.5)), 0.0, 0.0])
    assert expected == pytest.approx(float(loss), rel=1e-6)


def test_metrics_equal_their_definitions():
    """Each number is that of its textbook formula, computed here from the probabilities and pairs."""
    metrics = Classification().score_metrics(SCORES.astype(np.float32), LABELS)
    p = probability(SCORES)
    pairs = [(a > b) + 0.5 * (a == b) for a in SCORES[LABELS == 1] for b in SCORES[LABELS == 0]]
    losses = [np.log1p(np.exp(-2.0)), np.log(2.0), np.log1p(np.exp(-3.0)), np.log1p(np.exp(0.5)), 0.0, 0.0]
    assert np.mean(pairs) == pytest.approx(metrics["roc_auc"])
    assert np.mean(losses) == pytest.approx(metrics["log_loss"])
    assert np.mean((p - LABELS) ** 2) == pytest.approx(metrics["brier"])
    assert np.mean([True, False, True, False, True, True]) == pytest.approx(metrics["accuracy"])
    assert {"roc_auc", "log_loss", "brier", "calibration_error", "accuracy"} == set(metrics)


def test_calibration_error_is_the_mean_gap_over_bins():
    """Four rows of probability 1/2 with one positive and six of 3/4 with six: (4 * 1/4 + 6 * 1/4) / 10."""
    scores = np.array([0.0] * 4 + [np.log(3.0)] * 6)
    labels = np.array([1.0, 0.0, 0.0, 0.0] + [1.0] * 6)
    assert 0.25 == pytest.approx(Classification().score_metrics(scores, labels)["calibration_error"])


def test_perfectly_calibrated_scores_have_no_calibration_error():
    """Half of the rows of probability 1/2 are positive."""
    assert 0.0 == pytest.approx(
        Classification().score_metrics(np.zeros(4), np.array([1.0, 0, 1, 0]))["calibration_error"]
    )


def test_threshold_is_probability_one_half():
    """A score of 0 is not positive; the next number above it is."""
    objective = Classification()
    assert 0.0 == objective.threshold
    metrics = objective.score_metrics(np.array([0.0, np.nextafter(0.0, 1.0)]), np.array([0.0, 1.0]))
    assert 1.0 == metrics["accuracy"]


def test_metrics_of_one_class_are_refused():
    """There is no ROC curve, and no number is made up for it."""
    with pytest.raises(DataError, match="rows of both classes"):
        Classification().score_metrics(SCORES, np.ones(6))


@pytest.mark.parametrize(
    ("y", "said"),
    [([0, 1, 2], "targets 0 and 1, received 2"), ([0.5, 1, 0], "received 0.5"), ([-1, 1], "received -1"),
     ([1, 1], "no row with target 0"), ([0, 0], "no row with target 1")],
)  # fmt: skip
def test_target_that_is_no_label_is_refused(y, said):
    """Targets are 0 and 1, and both must occur."""
    with pytest.raises(DataError, match=rf"rows\.csv: .*{said}"):
        Classification().check(table_of(y))


def test_missing_class_of_one_side_names_the_side():
    """With few rows it is a side of the split that lacks a class, not the file."""
    with pytest.raises(DataError, match=r"expected held-out rows of both classes, .* target 1 among 2\. Give"):
        Classification().check(table_of([0, 0]), "held-out")


def test_calibration_is_the_share_of_ones_by_tenth():
    """Scores of +-ln 9 have probabilities 0.9 and 0.1: shares are counted there."""
    scores = np.log(9.0) * np.array([1.0, 1.0, -1.0, -1.0]) + 1e-9
    expected = [
        {"probability": pytest.approx(0.1), "share": 0.0, "rows": 2},
        {"probability": pytest.approx(0.9), "share": 0.5, "rows": 2},
    ]
    assert expected == calibration(scores, np.array([1.0, 0.0, 0.0, 0.0]))


def test_good_target_passes():
    """Both labels, nothing else."""
    Classification().check(table_of([0, 1, 1]))


def test_baselines_learn_a_separable_problem_and_repeat_themselves():
    """Both usual models give the same metrics as ours, twice the same."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 2))
    table = Table(("a", "b"), x, (x[:, 0] > 0).astype(float), "rows.csv", "", 200)
    train, held_out = table.take(np.arange(200) < 150), table.take(np.arange(200) >= 150)
    found = Classification().baselines(train, held_out, seed=1)
    assert found == Classification().baselines(train, held_out, seed=1)
    assert {"logistic regression", "gradient boosting"} == set(found)
    assert all(metrics["roc_auc"] > 0.98 for metrics in found.values())
