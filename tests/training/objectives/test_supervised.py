"""The run of the tasks with a target: one compiled step at a time, its projection, its batches, its losses."""

import keras
import numpy as np
import pytest

from training.config import NetworkConfig, TrainerConfig
from training.datasets import Table
from training.objectives import supervised
from training.objectives.regression import Regression

X = np.random.default_rng(0).normal(size=(400, 3))
BOWL = Table(("a", "b", "c"), X, 100.0 + 5.0 * (X**2).sum(axis=1) + X[:, 0], "rows.csv", "", 400)
TRAIN, VALIDATION = BOWL.take(np.arange(400) < 300), BOWL.take(np.arange(400) >= 300)
NETWORK = NetworkConfig(hidden=(16, 16), quadratic=0.0)
REGRESSION = Regression()


def test_kernels_are_non_negative_after_every_single_step():
    """One compiled step at a time: the projection is part of it, and moves some weight to exactly 0."""
    model = REGRESSION.create_network(NETWORK, TRAIN, 7)
    step = supervised.compile_step(model, REGRESSION.loss, keras.optimizers.Adam(0.05), 32)
    x, y = TRAIN.x.astype(np.float32), TRAIN.y.astype(np.float32)
    zeros = 0
    for start in range(0, 256, 32):
        step(x[start : start + 32], y[start : start + 32])
        kernels = [layer.kernel.numpy() for layer in model.constrained]
        assert min(kernel.min() for kernel in kernels) >= 0.0
        zeros += sum(int((kernel == 0.0).sum()) for kernel in kernels)
    assert zeros > 0


def test_every_trainable_weight_moves_and_the_statistics_do_not():
    """No parameter is without a gradient, and standardisation is not trained."""
    model = REGRESSION.create_network(NETWORK, TRAIN, 7)
    before = {weight.path: weight.numpy() for weight in model.weights}
    supervised.compile_step(model, REGRESSION.loss, keras.optimizers.Adam(0.01), 32)(
        TRAIN.x[:32].astype(np.float32), TRAIN.y[:32].astype(np.float32)
    )  # fmt: skip
    for weight in model.weights:
        assert weight.trainable == (not np.array_equal(before[weight.path], weight.numpy())), weight.path
    assert 8 == len(model.trainable_weights)


def test_step_is_traced_once():
    """The batch shape is fixed, so that no pass ends in a smaller batch and a new trace."""
    model = REGRESSION.create_network(NETWORK, TRAIN, 7)
    step = supervised.compile_step(model, REGRESSION.loss, keras.optimizers.Adam(0.01), 32)
    for rows in (slice(0, 32), slice(32, 64)):
        step(TRAIN.x[rows].astype(np.float32), TRAIN.y[rows].astype(np.float32))
    assert 1 == step.experimental_get_tracing_count()


def test_fewer_rows_than_a_batch_make_one_batch_of_them():
    """A small file trains with the rows that it has."""
    small = TRAIN.take(np.arange(300) < 7)
    model = REGRESSION.create_network(NETWORK, small, 7)
    run = REGRESSION.start(model, small, VALIDATION, TrainerConfig(batch=32))
    assert all(np.isfinite([run.step() for _ in range(3)]))


def test_mean_loss_over_pieces_is_the_mean_over_rows():
    """An odd last piece has the weight of its rows."""
    x, y = np.zeros((7, 1), dtype=np.float32), np.arange(7, dtype=np.float32)
    assert 3.0 == pytest.approx(supervised.mean_loss(lambda _, part: part.mean(), x, y, rows=3))
