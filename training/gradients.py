"""Gradients with respect to a network's input, which are themselves differentiable.

Over `icnn`; `objectives` whose losses see a network through its input gradient use it.
"""

from collections.abc import Callable
from typing import Any

import tensorflow as tf


def input_gradient(function: Callable[[Any], Any], x: Any) -> Any:
    """Return the gradient [n, d] of row-wise scores `function(x)` [n] at the rows `x` [n, d].

    Each score depends on its own row alone, so the gradient of their sum is row by row theirs. The result is an
    ordinary tensor: an outer tape differentiates it again, into second derivatives.
    """
    x = tf.convert_to_tensor(x)
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(x)
        scores = function(x)
    return tape.gradient(scores, x)
