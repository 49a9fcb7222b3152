"""A function on a part of its arguments and a constant elsewhere, with gradients that stay finite.

Below the layers that are defined on an interval; `tests/training/layers/test_safe_where.py` looks for masked
expressions of the project that do without it.
"""

from collections.abc import Callable
from typing import Any

from keras import ops


def safe_where(
    inside: Any, x: Any, function: Callable[[Any], Any], otherwise: float = 0.0, *, stand_in: float = 0.0
) -> Any:
    r"""Return f(x) where `inside`, a constant elsewhere, and never compute f outside.

    .. math:: y_i = \begin{cases} f(x_i) & i \text{ inside} \\ c & \text{else} \end{cases}

    The gradient of `where(inside, f(x), c)` alone is NaN wherever f or its derivative is infinite outside: automatic
    differentiation multiplies that derivative by 0, and 0 times infinity is NaN. So the argument is chosen first: f
    sees a stand-in where it is not asked for, and the derivative that is multiplied by 0 is finite.

    Args:
        inside: truths, of a shape that broadcasts with `x`.
        x: tensor, of any shape and floating dtype.
        function: f, entry by entry; finite, with its derivatives, where `inside` and at the stand-in.
        otherwise: c.
        stand_in: an argument at which f and its derivatives are finite.

    Returns:
        Tensor of the shape and dtype of f(x).

    Example:
        >>> x = keras.ops.array([0.0, 4.0])
        >>> safe_where(x > 0, x, keras.ops.sqrt, stand_in=1.0)  # and the gradient at 0 is 0, not NaN
        <tf.Tensor: shape=(2,), dtype=float32, numpy=array([0., 2.], dtype=float32)>
    """
    values = function(ops.where(inside, x, ops.cast(stand_in, x.dtype)))
    return ops.where(inside, values, ops.cast(otherwise, values.dtype))
