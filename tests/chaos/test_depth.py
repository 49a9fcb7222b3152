"""Deep input-convex networks that train: sixteen layers against two, on a quadratic and on a maximum of many planes."""

import dataclasses
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

from training.icnn import InputConvexNetwork

LONG = (pytest.mark.chaos, pytest.mark.timeout(1800))
DIM = 10
ACTIVATION = "smooth_leaky(0.2, 1.0)"


def task(name: str, seed: int) -> tuple[np.ndarray, ...]:
    """Return 5000 training rows of [-1, 1]^10 with standardised targets, and 1000 others to test on, without noise."""
    random = np.random.default_rng(seed)
    x = random.uniform(-1.0, 1.0, (6000, DIM))
    if name == "squared norm":
        y = np.sum(x**2, axis=1)
    else:
        y = np.max(x @ random.normal(size=(DIM, 20)) + random.normal(size=20), axis=1)
    y = (y - y[:5000].mean()) / y[:5000].std()
    x, y = x.astype(np.float32), y.astype(np.float32)
    return x[:5000], y[:5000], x[5000:], y[5000:]


@dataclasses.dataclass(frozen=True)
class Effort:
    """How large the networks are and how they are trained."""

    steps: int
    width: int
    batch: int
    rate: float


LITTLE, ENOUGH = Effort(300, 32, 128, 2e-2), Effort(2000, 64, 256, 1e-2)


def errors(name: str, layers: int, seed: int, effort: Effort) -> tuple[float, float]:
    """Return the mean squared errors on training and test rows after steps of Adam; the best constant has 1."""
    x, y, unseen, truth = task(name, seed)
    network = InputConvexNetwork(DIM, (effort.width,) * layers, ACTIVATION, seed=seed)
    network.standardization.adapt(x)
    variables = network.trainable_variables
    optimizer = keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(effort.rate, effort.steps, alpha=0.01))
    optimizer.build(variables)
    rows, targets = tf.constant(x), tf.constant(y)
    batches = tf.constant(np.random.default_rng(seed).integers(0, len(x), (effort.steps, effort.batch)))

    @tf.function(autograph=False)
    def train() -> None:
        def step(_, batch):
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean(tf.square(network(tf.gather(rows, batch)) - tf.gather(targets, batch)))
            optimizer.apply(tape.gradient(loss, variables), variables)
            return loss

        tf.foldl(step, batches, tf.constant(0.0))

    train()
    network.verify()
    return tuple(float(np.mean((network(part).numpy() - goal) ** 2)) for part, goal in ((x, y), (unseen, truth)))


@pytest.mark.parametrize(
    ("effort", "depths"), [(LITTLE, (16,)), pytest.param(ENOUGH, (2, 4, 8, 16), marks=LONG)], ids=["short", "full"]
)
def test_d9_t5_default_start_trains_at_every_depth(effort, depths, record_property, capsys):
    """The training loss over that of the best constant stays below one half at 16 layers, as at any other depth."""
    shares = {depth: errors("squared norm", depth, 1, effort)[0] for depth in depths}
    record_property("training loss over the constant's by depth", shares)
    if effort is ENOUGH:
        with capsys.disabled():
            sys.stdout.write(f"\ntraining loss over the constant's by depth: {shares}\n")
    assert max(shares.values()) < 0.5


@pytest.mark.chaos
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("name", ["squared norm", "max-affine"])
def test_d9_sixteen_layers_err_at_most_half_as_much_again_as_two(name, seed, record_property, capsys):
    """The test error of 16 layers is within 1.5 times that of 2, trained alike, for three seeds and both targets."""
    shallow, deep = (errors(name, layers, seed, ENOUGH)[1] for layers in (2, 16))
    record_property("test errors of 2 and 16 layers", (shallow, deep))
    with capsys.disabled():
        sys.stdout.write(f"\n{name}, seed {seed}: test error {shallow:.5f} of 2 layers, {deep:.5f} of 16\n")
    assert deep <= 1.5 * shallow
