"""Gradients with respect to a network's input, which are themselves differentiable; and none that is missing unseen.

Over `icnn`; `objectives` whose losses see a network through its input gradient use it.
"""

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf


class MissingGradientError(RuntimeError):
    """A variable is to be trained and the loss does not reach it: it would stay where it started, in silence.

    Args:
        paths: of the variables.
    """

    def __init__(self, paths: Sequence[str]) -> None:
        """Keep the paths; the text names them."""
        super().__init__(
            f"no gradient reaches {', '.join(paths)}. Use activations whose second derivative is not zero, or "
            "leave the variable out of training: `python -m training audit` says why it gets none."
        )
        self.paths = tuple(paths)


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


def required(gradients: Sequence[Any], variables: Sequence[Any]) -> list[Any]:
    """Return the gradients, none of which may be None.

    Args:
        gradients: what a tape found for each variable.
        variables: what is to be trained.

    Raises:
        MissingGradientError: names every variable whose gradient is None.
    """
    missing = [variable.path for variable, gradient in zip(variables, gradients, strict=True) if gradient is None]
    if missing:
        raise MissingGradientError(missing)
    return list(gradients)
