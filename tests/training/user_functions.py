"""Functions of a user, registered by name, as tests of the whole layer set need some."""

from typing import Any

import keras
from keras import ops

from training.functions.declarations import Properties
from training.functions.registry import register

HINGE, BOWL, DOME = "tests.smooth_hinge", "tests.bowl", "tests.dome"


@register(HINGE, properties=Properties(convex=True, non_decreasing=True, slope=(0.25, 1.0)))
def smooth_hinge(x: Any) -> Any:
    """Return a softplus with a slope below zero: convex and non-decreasing."""
    return 0.75 * ops.softplus(x) + 0.25 * x


@register(BOWL, properties=Properties(convex=True, non_decreasing=False))
def bowl(x: Any) -> Any:
    """Return a square: convex, but it falls below zero."""
    return ops.square(x)


@register(DOME, properties=Properties(convex=False, non_decreasing=False))
def dome(x: Any) -> Any:
    """Return a square turned over: not convex."""
    return -ops.square(x)


@keras.saving.register_keras_serializable(package="tests")
def mirrored(kernel: Any) -> Any:
    """Return the sum of squares of a kernel's columns plus those next to them, a joint penalty."""
    return ops.sum(ops.square(kernel + ops.flip(kernel, axis=-1)))
