"""Regression: the loss, each metric against its definition, and the refusal of a constant target."""

import numpy as np
import pytest
import tensorflow as tf

from training.config import NetworkConfig
from training.datasets import DataError, Table
from training.objectives.regression import Regression

X = np.random.default_rng(0).normal(size=(200, 2))
TABLE = Table(("a", "b"), X, 1000.0 + 50.0 * (X**2).sum(axis=1), "rows.csv", "", 200)


def test_metrics_equal_their_definitions():
    """R2, RMSE and MAE of errors 1, -1, 2, 0 on targets 0, 2, 4, 6 (variance 5)."""
    y = np.array([0.0, 2.0, 4.0, 6.0])
    metrics = Regression().score_metrics(y + np.array([1.0, -1.0, 2.0, 0.0]), y)
    assert 1.0 - 1.5 / 5.0 == pytest.approx(metrics["r2"])
    assert np.sqrt(1.5) == pytest.approx(metrics["rmse"])
    assert 1.0 == pytest.approx(metrics["mae"])
    assert {"r2", "rmse", "mae"} == set(metrics)


def test_r2_of_targets_that_do_not_vary_is_zero():
    """There is no variance to explain, and no division by it."""
    assert 0.0 == Regression().score_metrics(np.ones(3), np.zeros(3))["r2"]


def test_loss_is_the_squared_error_over_the_variance_of_the_training_targets():
    """It does not depend on the target's units; predicting the mean costs 1."""
    model = Regression().create_network(NetworkConfig(hidden=(4,)), TABLE, seed=1)
    x, y = X.astype(np.float32), TABLE.y.astype(np.float32)
    loss = float(Regression().loss(model, tf.constant(x), tf.constant(y)))
    assert np.mean((model(x).numpy() - y) ** 2) / np.var(TABLE.y) == pytest.approx(loss, rel=1e-4)

    def mean(_):
        return tf.fill([200], np.float32(TABLE.y.mean()))

    mean.target_scaling = model.target_scaling
    assert 1.0 == pytest.approx(float(Regression().loss(mean, tf.constant(x), tf.constant(y))), rel=1e-4)


def test_new_network_scores_in_the_targets_units():
    """Before any step the scores already lie around the targets."""
    model = Regression().create_network(NetworkConfig(hidden=(4,)), TABLE, seed=1)
    assert abs(float(np.mean(model(X.astype(np.float32)))) - TABLE.y.mean()) < 3.0 * TABLE.y.std()


def test_constant_target_is_refused():
    """There is nothing to learn."""
    with pytest.raises(
        DataError, match=r"rows\.csv: .* expects targets that vary, received 7 in each of 2 rows\. Look"
    ):
        Regression().check(Table(("a",), np.ones((2, 1)), np.full(2, 7.0), "rows.csv"))
    with pytest.raises(DataError, match=r"expects held-out targets that vary, .* Give more rows"):
        Regression().check(Table(("a",), np.ones((1, 1)), np.full(1, 7.0), "rows.csv"), "held-out")
    Regression().check(TABLE)


def test_regression_has_no_threshold():
    """No class is decided by a regression's score."""
    assert Regression().threshold is None


def test_baselines_are_measured_by_the_same_metrics():
    """Ridge cannot bend, gradient boosting can; both repeat themselves."""
    train, held_out = TABLE.take(np.arange(200) < 150), TABLE.take(np.arange(200) >= 150)
    found = Regression().baselines(train, held_out, seed=1)
    assert found == Regression().baselines(train, held_out, seed=1)
    assert found["ridge"]["r2"] < 0.3 < 0.5 < found["gradient boosting"]["r2"]
