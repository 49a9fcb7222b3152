"""Gradients with respect to a network's input, which are themselves differentiable; and none that is missing unseen.

Over `icnn` and `layers`; `objectives` whose losses see a network through its input gradient use it.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import tensorflow as tf

from training.layers.function import gradients_left_out


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


class VariableGradients(Mapping[Any, Any]):
    """The gradient of a loss for each variable, in the order in which an optimiser receives them.

    Keras' variables have no hash: they are told apart by identity.

    Example:
        >>> optimizer.apply(list(gradients.values()), list(gradients))

    Args:
        variables: the keys, each once.
        gradients: the values, tensors or `tf.IndexedSlices`, as the tape gave them.
    """

    def __init__(self, variables: Sequence[Any], gradients: Sequence[Any]) -> None:
        """Keep the pairs in their order."""
        self._items = {id(key): (key, value) for key, value in zip(variables, gradients, strict=True)}

    def __getitem__(self, variable: Any) -> Any:
        """Return the gradient of a variable."""
        return self._items[id(variable)][1]

    def __iter__(self) -> Iterator[Any]:
        """Yield the variables in their order."""
        return (key for key, _ in self._items.values())

    def __len__(self) -> int:
        """Return the number of variables."""
        return len(self._items)


def loss_gradients(
    model: Any, loss: Callable[[Any, Any], Any], x: Any, y: Any, *, unconnected: Collection[str] = ()
) -> VariableGradients:
    """Return what one training step on a batch hands to the optimiser: trainable variable -> gradient of the loss.

    The loss of the batch is the mean of `loss(y, model(x))` and the sum of the model's own losses (regularisers and
    penalties), as `model.compile(loss=loss)` has it. The keys are `model.trainable_variables` in their order, each
    once, so frozen ones are absent; one step of plain SGD is w - eta * gradient. Works inside `tf.function` too.

    Args:
        model: a Keras model.
        loss: of targets and predictions, tensors, to a tensor whose mean counts; no gradient of it need be written.
        x: the batch.
        y: its targets, handed to `loss` as they are.
        unconnected: paths of variables of which the gradient audit says that they get none: these get zeros.

    Raises:
        MissingGradientError: another variable gets none; the message names each.
    """
    with gradients_left_out(), tf.GradientTape() as tape:
        total = tf.reduce_mean(loss(y, model(x, training=True)))
        total += tf.add_n([tf.cast(each, total.dtype) for each in model.losses]) if model.losses else 0.0
        variables = list({id(variable): variable for variable in model.trainable_variables}.values())
        found = tape.gradient(total, [variable.value for variable in variables])
    gradients = [
        tf.zeros_like(variable.value) if gradient is None and variable.path in unconnected else gradient
        for variable, gradient in zip(variables, found, strict=True)
    ]
    return VariableGradients(variables, required(gradients, variables))
