"""The fit loop: it learns, repeats itself bit for bit, stays convex at every step, stops early, and sees divergence."""

import keras
import numpy as np
import pytest

from training import trainer
from training.config import NetworkConfig, TrainerConfig
from training.datasets import Table
from training.objectives import create_objective
from training.trainer import DivergenceError

RNG = np.random.default_rng(0)
X = RNG.normal(size=(400, 3))
BOWL = Table(("a", "b", "c"), X, 100.0 + 5.0 * (X**2).sum(axis=1) + X[:, 0], "rows.csv", "", 400)
TRAIN, VALIDATION = BOWL.take(np.arange(400) < 300), BOWL.take(np.arange(400) >= 300)
NETWORK = NetworkConfig(hidden=(16, 16), quadratic=0.0)
REGRESSION = create_objective("regression")


def settings(**changes) -> TrainerConfig:
    """Return short settings."""
    return TrainerConfig(**{"steps": 60, "batch": 32, "evaluate_every": 10, "learning_rate": 0.01, **changes})


def fitted(seed: int = 7, **changes):
    """Return a network fitted to the bowl, and the history."""
    model = REGRESSION.create_network(NETWORK, TRAIN, seed)
    return model, trainer.fit(model, REGRESSION, TRAIN, VALIDATION, settings(seed=seed, **changes))


def weights_of(model: keras.Model) -> list[bytes]:
    """Return the bytes of every weight."""
    return [weight.tobytes() for weight in model.get_weights()]


def test_fit_learns_a_convex_function():
    """A bowl that no affine function explains is learnt to R2 > 0.95 on rows that it never saw."""
    model, history = fitted(steps=600)
    scores = model(VALIDATION.x.astype(np.float32)).numpy()
    assert REGRESSION.metrics(scores, VALIDATION.y)["r2"] > 0.95
    assert history.validation_loss[-1] < 0.1 * history.validation_loss[0]


def test_two_trainings_with_one_seed_give_the_same_bytes_and_another_seed_others():
    """Determinism is bit for bit, weights and curves."""
    first, curves = fitted()
    keras.utils.set_random_seed(12345)
    np.random.default_rng().normal()
    second, again = fitted()
    other, _ = fitted(seed=8)
    assert weights_of(first) == weights_of(second)
    assert curves == again
    assert weights_of(first) != weights_of(other)


def test_kernels_are_non_negative_after_every_single_step():
    """One compiled step at a time: the projection is part of it, and moves some weight to exactly 0."""
    model = REGRESSION.create_network(NETWORK, TRAIN, 7)
    step = trainer.compile_step(model, REGRESSION, 0.05, 32)
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
    trainer.compile_step(model, REGRESSION, 0.01, 32)(
        TRAIN.x[:32].astype(np.float32), TRAIN.y[:32].astype(np.float32)
    )  # fmt: skip
    for weight in model.weights:
        assert weight.trainable == (not np.array_equal(before[weight.path], weight.numpy())), weight.path
    assert 8 == len(model.trainable_weights)


def test_step_is_traced_once():
    """The batch shape is fixed, so that no pass ends in a smaller batch and a new trace."""
    model = REGRESSION.create_network(NETWORK, TRAIN, 7)
    step = trainer.compile_step(model, REGRESSION, 0.01, 32)
    for rows in (slice(0, 32), slice(32, 64)):
        step(TRAIN.x[rows].astype(np.float32), TRAIN.y[rows].astype(np.float32))
    assert 1 == step.experimental_get_tracing_count()


def test_fit_stops_early_and_leaves_the_best_weights():
    """Patience counts evaluations; the weights are those of the smallest validation loss, not the last ones."""
    noise = Table(TRAIN.features, TRAIN.x[:40], RNG.normal(size=40), "noise.csv", "", 40)
    unseen = Table(TRAIN.features, VALIDATION.x, RNG.normal(size=100), "noise.csv", "", 100)
    model = REGRESSION.create_network(NETWORK, noise, 7)
    history = trainer.fit(model, REGRESSION, noise, unseen, settings(steps=2000, patience=3, learning_rate=0.02))
    best = int(np.argmin(history.validation_loss))
    assert history.stopped_early
    assert history.steps[-1] < 2000
    assert len(history.steps) - 1 - best == 3
    assert history.steps[best] == history.best_step
    scores = model(unseen.x.astype(np.float32)).numpy()
    loss = np.mean((scores - unseen.y) ** 2) / np.var(noise.y)
    assert history.validation_loss[best] == pytest.approx(loss, rel=1e-4)


def test_history_evaluates_at_the_start_at_the_interval_and_at_the_end():
    """The curves begin before the first step, and a budget that is no multiple still ends in an evaluation."""
    told = []
    model = REGRESSION.create_network(NETWORK, TRAIN, 7)
    history = trainer.fit(
        model, REGRESSION, TRAIN, VALIDATION, settings(steps=25), report=lambda *values: told.append(values)
    )
    assert (0, 10, 20, 25) == history.steps
    assert not history.stopped_early
    assert list(zip(history.steps, history.train_loss, history.validation_loss, strict=True)) == told
    assert all(type(loss) is float for loss in history.train_loss + history.validation_loss)


def test_warm_start_is_never_worse_on_the_validation_rows_than_its_start():
    """The start is a candidate: with a step size that ruins everything, the old weights stay."""
    model, _ = fitted(steps=300)
    before = weights_of(model)
    history = trainer.fit(model, REGRESSION, TRAIN, VALIDATION, settings(learning_rate=1.0, steps=20))
    assert 0 == history.best_step
    assert before == weights_of(model)


def test_divergence_is_an_error_that_names_step_and_quantity_and_keeps_the_last_good_weights():
    """Rows whose loss overflows float32 end the run; the network has finite weights again."""
    x = np.where(np.arange(64)[:, None] == 5, 3e38, TRAIN.x[:64])
    wild = Table(TRAIN.features, x, TRAIN.y[:64], "wild.csv", "", 64)
    model = REGRESSION.create_network(NetworkConfig(hidden=(4,)), TRAIN, 7)
    before = weights_of(model)
    with pytest.raises(DivergenceError, match=r"diverged at step \d+: the .* loss is (inf|nan)\. Lower") as seen:
        trainer.fit(model, REGRESSION, wild, VALIDATION, settings())
    assert (0, "the training loss") == (seen.value.step, seen.value.quantity)
    assert before == weights_of(model)


def test_divergence_in_the_middle_restores_the_best_weights():
    """A loss that turns NaN after some steps is caught at that step."""

    class Turning:
        """Regression whose loss becomes NaN once the weights have moved far."""

        def loss(self, model, x, y):
            """Return the loss, divided by zero over zero when the output bias has moved by 0.5."""
            far = keras.ops.cast(keras.ops.max(keras.ops.abs(model.first.bias)) > 0.5, "float32")
            return REGRESSION.loss(model, x, y) * (1.0 - far) / (1.0 - far)

    model = REGRESSION.create_network(NETWORK, TRAIN, 7)
    with pytest.raises(DivergenceError, match="nan") as seen:
        trainer.fit(model, Turning(), TRAIN, VALIDATION, settings(learning_rate=0.05))
    assert seen.value.step > 0
    assert all(np.isfinite(weight).all() for weight in model.get_weights())
    assert np.abs(model.first.bias.numpy()).max() <= 0.5


def test_fewer_rows_than_a_batch_make_one_batch_of_them():
    """A small file trains with the rows that it has."""
    small = TRAIN.take(np.arange(300) < 7)
    model = REGRESSION.create_network(NETWORK, small, 7)
    history = trainer.fit(model, REGRESSION, small, VALIDATION, settings(steps=5))
    assert 5 == history.steps[-1]


def test_mean_loss_over_pieces_is_the_mean_over_rows():
    """An odd last piece has the weight of its rows."""
    x, y = np.zeros((7, 1), dtype=np.float32), np.arange(7, dtype=np.float32)
    assert 3.0 == pytest.approx(trainer.mean_loss(lambda _, part: part.mean(), x, y, rows=3))
