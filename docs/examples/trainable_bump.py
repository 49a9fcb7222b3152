"""A bump whose width is learned, and one whose width cannot be. Run: PYTHONPATH=. python THIS_FILE.

docs/trainable-bump.md explains it.
"""

import keras
import numpy as np
import tensorflow as tf

from training.audit import audit, value_subject
from training.layers.bump import Bump


class FixedBump(keras.layers.Layer):
    """The bump as it was asked about: sigma decides where it is cut, and occurs in no value."""

    def build(self, _shape):
        """Make sigma."""
        self.sigma = self.add_weight(name="sigma", shape=(1,), initializer="ones")

    def call(self, x):
        """Return exp(-1 / (1 - x^2)) inside of (-sigma, sigma), else 0."""
        inside = keras.ops.logical_and(x > -self.sigma, x < self.sigma)
        safe = keras.ops.where(keras.ops.abs(x) < 0.99, x, 0.0)
        return keras.ops.where(inside, keras.ops.exp(-1.0 / (1.0 - safe * safe)), 0.0)


def mean_square(target, output):
    """Return squared errors."""
    return keras.ops.square(output - target)


def recovered(radius, steps=1500):
    """Return the width that is learned from data of a known one, in inputs that cover its support."""
    x = np.random.default_rng(0).uniform(-1.5 * radius, 1.5 * radius, 1000).astype("float32")
    truth = Bump()
    truth.build((None,))
    truth.set_width(radius)
    target = tf.constant(truth(x))
    layer = Bump()
    layer.build((None,))
    layer.adapt(x)
    rate = keras.optimizers.schedules.CosineDecay(0.03, steps)
    optimizer = keras.optimizers.Adam(rate)
    optimizer.build(layer.trainable_variables)

    @tf.function
    def train():
        for _ in tf.range(steps):
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean(tf.square(layer(x) - target)) / tf.math.reduce_variance(target)
            optimizer.apply(tape.gradient(loss, layer.trainable_variables), layer.trainable_variables)

    train()
    return float(layer.width[0])


def main():
    """Show why one width has no gradient, and learn the other."""
    x = np.random.default_rng(0).uniform(-2.0, 2.0, (256, 1)).astype("float32")
    model = keras.Sequential([keras.Input((1,)), FixedBump(name="fixed"), keras.layers.Dense(1, name="out")])
    for found in audit(value_subject(model, mean_square, x, x)).listed:
        print(f"{found.variable.split('/')[-1]}: {found.answer}. {found.reason}")
    learned = keras.Sequential([keras.Input((1,)), Bump(name="bump"), keras.layers.Dense(1, name="out")])
    print("listed of the library's bump:", len(audit(value_subject(learned, mean_square, x, x)).listed))
    for radius in (0.05, 1.0, 50.0):
        print(f"radius {radius:g}: within one percent: {abs(recovered(radius) / radius - 1.0) < 0.01}")
    far = Bump()(np.array([0.0, 3e38, -np.inf, np.nan], "float32")).numpy()
    print("at 0, 3e38, -inf and NaN:", ", ".join(f"{value:.4f}" for value in far))


if __name__ == "__main__":
    main()
