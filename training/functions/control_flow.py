"""Decisions and loops on tensors, in forms that say what is wrong instead of going on.

For functions that `registry` registers. In training a function is called with symbolic tensors only: they have no value
that Python's `if` and `while` could look at. What decides is part of the graph: `tf.where` for each component, `cond`
for the whole batch, `while_loop` for repetition. `tf.function` on the user's function turns Python's own words into
these (AutoGraph).
"""

from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from training.functions.registry import FunctionRefusedError


def cond(predicate: Any, if_true: Callable[[], Any], if_false: Callable[[], Any]) -> Any:
    """Return what one of two functions returns, decided once for the batch.

    The derivative is that of the branch that was taken; at a switching point, that of the side the predicate takes.

    Args:
        predicate: Boolean tensor of one number, shape ().
        if_true: called where the predicate holds.
        if_false: called where it does not.

    Raises:
        FunctionRefusedError: the predicate has components.
    """
    predicate = tf.convert_to_tensor(predicate)
    if predicate.shape.rank != 0 or predicate.dtype != tf.bool:
        message = (
            f"cond: expected one Boolean for the whole batch, received {predicate.dtype.name} {predicate.shape}. "
            "Decisions per component use where(condition, a, b), decisions per batch use cond: reduce the condition "
            "with all or any, or take where."
        )
        raise FunctionRefusedError(message)
    return tf.cond(predicate, if_true, if_false)


def while_loop(
    condition: Callable[..., Any], body: Callable[..., Any], variables: Sequence[Any], *, maximum_iterations: int
) -> list[Any]:
    """Return the loop variables once the condition no longer holds, and fail where that takes too long.

    The count may depend on the data; it is one for the batch. Derivatives go through all turns that were taken.

    Args:
        condition: of the loop variables, a Boolean of one number.
        body: of the loop variables, their next values, in a list or, of one, alone.
        variables: tensors before the first turn.
        maximum_iterations: most turns, at least 1.

    Raises:
        FunctionRefusedError: the maximum is no positive whole number.
        tf.errors.InvalidArgumentError: at run time, the condition still holds after so many turns.
    """
    if type(maximum_iterations) is not int or maximum_iterations < 1:
        message = f"while_loop: maximum_iterations: expected a whole number from 1, received {maximum_iterations!r}."
        raise FunctionRefusedError(message)

    def turn(*before: Any) -> list[Any]:
        after = body(*before)
        return list(after) if isinstance(after, (list, tuple)) else [after]

    results = tf.while_loop(condition, turn, list(variables), maximum_iterations=maximum_iterations)
    reason = f"while_loop: the condition still holds after {maximum_iterations} turns. Raise maximum_iterations."
    ended = tf.debugging.Assert(tf.logical_not(condition(*results)), [reason])
    with tf.control_dependencies([] if ended is None else [ended]):
        return [tf.identity(result) for result in results]
