"""Two networks of a minimax: which biases of the second get no gradient, and why. Run: PYTHONPATH=. python THIS_FILE.

docs/bias-gradients.md explains it line by line.
"""

import keras
import numpy as np
import tensorflow as tf

from training import activations
from training.activations import Curvature
from training.audit import audit, minimax_subject
from training.layers.dense_partially_constrained import DensePartiallyConstrained


def max_leaky(x):
    """Return a leaky ReLU as one writes it down."""
    return tf.maximum(x, 0.2 * x)


def squared_leaky(x):
    """Return its square, for the first layer: convex, though it falls for x < 0."""
    return tf.square(max_leaky(x))


# The layers know an activation by what is declared of it; a scan looks for points where that does not hold.
for name, function in (("max_leaky", max_leaky), ("compiled_max_leaky", tf.function(max_leaky))):
    activations.declare(name, function, role="hidden", slope=(0.2, 1.0), curvature=Curvature.KINKED)


def network(name, hidden, positivity, seed):
    """Return a scalar network of three layers; `hidden` is the activation of the second."""
    keras.utils.set_random_seed(seed)
    x = keras.Input((3,))
    z = keras.layers.Dense(8, activation=squared_leaky, name=f"{name}_0")(x)
    z = DensePartiallyConstrained(8, hidden, positivity=positivity, name=f"{name}_1")([z, x])
    z = DensePartiallyConstrained(1, None, positivity=positivity, name=f"{name}_2")([z, x])
    return keras.Model(x, z, name=name)


def look(title, hidden):
    """Print what the audit finds of each bias."""
    f = network("f", hidden, "projection", seed=1)  # kernels held non-negative: convex
    g = network("g", hidden, "penalty", seed=2)  # kernels drawn to it by a penalty
    rng = np.random.default_rng(0)
    source, target = (rng.normal(mean, 1.0, (256, 3)).astype("float32") for mean in (0.0, 2.0))
    print(title)
    for found in audit(minimax_subject(f, g, source, target)).findings:
        if found.variable.endswith("bias"):
            print(f"  {found.variable:9} {found.answer:9} {found.rule}")


def main():
    """Ask the question, and answer it."""
    look("leaky ReLU by tf.maximum:", "max_leaky")
    look("the same under @tf.function:", "compiled_max_leaky")
    look("smooth_leaky, which bends:", "smooth_leaky")


if __name__ == "__main__":
    main()
