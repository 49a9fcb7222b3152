"""Many bumps trained at once, in one compiled loop: each feature of one layer is a problem of its own.

Adam works number by number, so that a layer with one width for each feature learns what as many layers with one width
would learn alone; the loss is the sum of theirs, each divided by the variance of its targets.
"""

import dataclasses

import keras
import numpy as np
import tensorflow as tf

from tests.oracle import bumps


@dataclasses.dataclass(frozen=True)
class Problems:
    """Inputs and targets [n, k] of k problems, where each starts and what it should find.

    Args:
        x: inputs, a column for each problem.
        y: targets.
        start: widths to start from [k].
        true: the widths that made the targets [k].
    """

    x: np.ndarray
    y: np.ndarray
    start: np.ndarray
    true: np.ndarray


def problems(widths, span, num_points=400, starts=(None,), noise=0.0, seeds=(0, 1, 2)):
    """Return problems for each seed, width and start.

    Args:
        widths: the true ones.
        span: inputs are drawn evenly from +- this, or from +- 1.5 widths where it is None.
        num_points: of each problem.
        starts: factors of the true width; None: 1.5 times the 99 % quantile of |x|.
        noise: standard deviation of the noise of targets, as a share of the peak.
        seeds: of the draws.
    """
    columns = []
    for seed in seeds:
        for number, s in enumerate(widths):
            rng = np.random.default_rng([seed, number])
            x = rng.uniform(-1.0, 1.0, num_points) * (1.5 * s if span is None else span)
            y = bumps.bump(x, s)[0] + noise * np.exp(-1.0) * rng.standard_normal(num_points)
            quantile = 1.5 * np.quantile(np.abs(x), 0.99)
            columns += [(x, y, quantile if factor is None else factor * s, s) for factor in starts]
    x, y, start, true = zip(*columns, strict=True)
    return Problems(np.stack(x, axis=1), np.stack(y, axis=1), np.array(start), np.array(true, float))


def recover(layer, trained, steps, learning_rate=0.03):
    """Train a layer with one width for each feature; return how often a loss, gradient or weight was not finite.

    Args:
        layer: is built, given the starting widths where it has none of its own, and trained in place.
        trained: the problems.
        steps: of Adam on all points, with a learning rate that falls to 0 as a cosine.
        learning_rate: the first one.
    """
    if not layer.built:
        layer.build(trained.x.shape)
        layer.set_width(trained.start)
    variables = layer.trainable_variables
    optimizer = keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(learning_rate, steps))
    optimizer.build(variables)
    x, y = tf.constant(trained.x, tf.float32), tf.constant(trained.y, tf.float32)
    variance = np.var(trained.y, axis=0)
    share = tf.constant(1.0 / np.where(variance > 1e-8, variance, 1.0) / len(trained.x), tf.float32)

    def num_bad(numbers):
        return tf.reduce_sum(tf.cast(~tf.math.is_finite(numbers), tf.int32))

    @tf.function(jit_compile=True)
    def run():
        bad = tf.constant(0)
        for _ in tf.range(steps):
            with tf.GradientTape() as tape:
                losses = tf.reduce_sum(tf.square(layer(x) - y), axis=0) * share
                loss = tf.reduce_sum(losses)
            gradients = tape.gradient(loss, variables)
            optimizer.apply(gradients, variables)
            bad += num_bad(losses) + sum(num_bad(part) for part in (*gradients, *(v.value for v in variables)))
        return bad

    return int(run())


def errors(layer, trained):
    """Return how far each width is from the true one, as a share of that."""
    return np.abs(np.asarray(layer.width) / trained.true - 1.0)
