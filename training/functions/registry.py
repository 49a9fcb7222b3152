"""The registry of user functions: what a name means, and the checks a function passes before it gets one.

Below `training.layers.function`; over `declarations` and `derivatives`.
"""

import dataclasses
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from training.activations import Counterexample
from training.functions.declarations import Properties, in_float64, refute
from training.functions.derivatives import TOLERANCE, first_order_error, second_order_error

Forward = Callable[[Any], Any]
Gradient = Callable[[Any, Any], Any]
Array = NDArray[np.floating]

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}")
_FAILURES = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, tf.errors.OpError)
_REGISTERED: dict[str, "UserFunction"] = {}


class FunctionRefusedError(ValueError):
    """A user's function that is not registered, or does not keep what is said of it.

    Args:
        message: what was received, why it is refused, what to do.
        counterexample: three points that violate midpoint convexity, where a declaration is refuted by some.
        error: the measured relative error, where a derivative is wrong.
    """

    def __init__(self, message: str, counterexample: Counterexample | None = None, error: float | None = None) -> None:
        """Keep the evidence beside the sentence."""
        super().__init__(message)
        self.counterexample = counterexample
        self.error = error


@dataclasses.dataclass(frozen=True)
class UserFunction:
    """A registered function.

    Args:
        name: what it is saved as.
        forward: a tensor [n, ...] to a tensor [n, ...].
        properties: what it is declared to be, or None: it may then not stand on the convex path.
        gradient: analytic gradient, of the argument and of the gradient of the result; None: TensorFlow's own.
        row_shape: () for a function of one number, applied to each; else the shape of the rows that it was checked on.
        passes_gradient: whether a gradient comes back through it; rounding, argmax and comparisons let none through.
    """

    name: str
    forward: Forward
    properties: Properties | None = None
    gradient: Gradient | None = None
    row_shape: tuple[int, ...] = ()
    passes_gradient: bool = True

    @property
    def is_elementwise(self) -> bool:
        """Whether it was checked to compute number by number."""
        return self.row_shape == () and (self.properties is not None or self.gradient is not None)

    def __call__(self, x: Any) -> Any:
        """Return the function of a tensor, differentiated by its analytic gradient where it has one."""
        if self.gradient is None:
            return self.forward(x)
        gradient = self.gradient

        @tf.custom_gradient
        def analytic(point: Any) -> tuple[Any, Callable[[Any], Any]]:
            return self.forward(point), lambda upstream: gradient(point, upstream)

        return analytic(x)


def register(
    name: str,
    *,
    properties: Properties | None = None,
    gradient: Gradient | None = None,
    row_shape: tuple[int, ...] = (),
    sample: Array | None = None,
) -> Callable[[Forward], Forward]:
    """Return a decorator that gives a function its name, once it has passed its checks.

    The function is called with tensors [n, *row_shape] of the sample, real values, and must answer n rows; whether a
    gradient comes back is noted for the layer that runs it. Then, in float64:

    - with `properties` or `gradient`: each row must be computed by itself, and with the row shape () each number;
    - with `properties`: a scan looks for points at which the declaration does not hold (`declarations.refute`);
    - with `gradient`: at the sample it must agree with finite differences of the function, and its own derivatives, by
      nested tapes, with finite differences of it, to a relative error of 1e-6 each; and everything must be finite.

    Example:
        >>> @register("softplus_squared", properties=Properties(convex=True, non_decreasing=True))
        ... def softplus_squared(x):
        ...     return keras.ops.square(keras.ops.softplus(x))

    Args:
        name: a letter, then up to 63 letters, digits, dots, dashes and underscores. A model stores it, and whoever
            loads the model must have registered the function before.
        properties: what is declared; needed on the convex path; an analytic gradient changes nothing of it.
        gradient: takes the argument x and the gradient of a scalar in the result, and returns that in x; written with
            differentiable operations. The sum, over the result, of upstream times derivative.
        row_shape: shape of a row for functions that are not computed number by number; any other size may be served
            later, the checks use this one.
        sample: [n, *row_shape] for the checks, away from kinks; None: numbers from -3 to 3.

    Raises:
        FunctionRefusedError: with the measured error or the counterexample; or the name is taken or is none.
    """

    def decorate(forward: Forward) -> Forward:
        if not _NAME.fullmatch(name):
            message = f"name: expected letters, digits, '_', '.' and '-' after a letter, received {name[:80]!r}."
            raise FunctionRefusedError(message)
        if name in _REGISTERED:
            message = f"name: '{name}' is the name of a registered function. Take another, or unregister that one."
            raise FunctionRefusedError(message)
        function = UserFunction(name, forward, properties, gradient, tuple(row_shape))
        points = _sample(function, sample)
        passes = _checked(function, points)
        _REGISTERED[name] = dataclasses.replace(function, passes_gradient=passes)
        return forward

    return decorate


def unregister(name: str) -> None:
    """Forget a name, if it is known: for notebooks, where a function is written again and again."""
    _REGISTERED.pop(name, None)


def resolve(function: str | Forward) -> UserFunction:
    """Return the registered function of a name, or the one that a callable is registered as.

    Raises:
        FunctionRefusedError: there is none.
    """
    if isinstance(function, str):
        if function in _REGISTERED:
            return _REGISTERED[function]
        message = (
            f"function: '{function[:80]}' is not registered. A model stores the name of a function and never its code: "
            "import the module that registers it before the model is made or loaded."
        )
        raise FunctionRefusedError(message)
    found = next((known for known in _REGISTERED.values() if known.forward is function), None)
    if found is None:
        message = (
            f"function: {getattr(function, '__name__', repr(function))[:80]} is not registered, and a model stores "
            "names, never code, which would be run by whoever loads it. Register it: "
            "training.functions.registry.register('a_name')(function)."
        )
        raise FunctionRefusedError(message)
    return found


def _sample(function: UserFunction, sample: Array | None) -> NDArray[np.float64]:
    """Return the points of the checks [n, *row_shape]."""
    if sample is None:
        if not function.row_shape:
            return np.linspace(-3.0, 3.0, 25) + 0.11  # away from whole numbers, where kinks are
        return np.random.default_rng(0).normal(scale=1.5, size=(16, *function.row_shape))
    points = np.asarray(sample, np.float64)
    if points.ndim < 1 or len(points) < 1 or points.shape[1:] != function.row_shape:
        expected = ", ".join(["n", *map(str, function.row_shape)])
        message = f"sample: expected the shape [{expected}] of row_shape, received {list(points.shape)}."
        raise FunctionRefusedError(message)
    return points


def _checked(function: UserFunction, points: NDArray[np.float64]) -> bool:
    """Return whether gradients pass, once the function has passed all checks that it needs.

    Raises:
        FunctionRefusedError: it has not.
    """
    promises = function.properties is not None or function.gradient is not None
    try:
        passes = _passes_gradient(function, tf.constant(points, tf.float64 if promises else tf.float32))
        if promises:
            _check_rows(function, points)
        if function.properties is not None:
            _check_properties(function, function.properties)
        if function.gradient is not None:
            _check_derivatives(function, points)
    except FunctionRefusedError:
        raise
    except _FAILURES as err:
        message = (
            f"'{function.name}' cannot be evaluated on tensors {list(points.shape)} of "
            f"{'float64' if promises else 'float32'}: {' '.join(str(err).split())[:200]}. Say what rows it takes "
            "(row_shape=, sample=), and write its constants as Python numbers, so that it works in any floating dtype."
        )
        raise FunctionRefusedError(message) from err
    return passes


def _passes_gradient(function: UserFunction, x: Any) -> bool:
    """Return whether a gradient comes back from the sample: some entry, unless the result is the same everywhere."""
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = tf.convert_to_tensor(function(x))
    if y.shape.rank < 1 or y.shape[0] != x.shape[0]:
        message = (
            f"'{function.name}' answers {list(y.shape)} to {x.shape[0]} rows {list(x.shape)}, expected as many rows. "
            "Reduce over the features, axis=-1, and not over the rows."
        )
        raise FunctionRefusedError(message)
    gradient = tape.gradient(y, x) if y.dtype.is_floating else None
    if gradient is None:
        return False
    values = y.numpy()
    return bool((np.asarray(tf.convert_to_tensor(gradient)) != 0).any() or (values == values[:1]).all())


def _check_rows(function: UserFunction, points: NDArray[np.float64]) -> None:
    """Refuse a function whose rows, or numbers, depend on each other."""
    run = in_float64(function)
    whole = run(points)
    if not np.isfinite(whole).all():
        message = f"'{function.name}' is not finite at the sample. Give a sample where it is (sample=)."
        raise FunctionRefusedError(message)
    for row in {0, len(points) // 2, len(points) - 1}:
        if not _close(run(points[row : row + 1])[0], whole[row]):
            message = f"'{function.name}' answers row {row} otherwise alone than among others. Compute each by itself."
            raise FunctionRefusedError(message)
    if function.row_shape == ():
        found = run(np.resize(points, (2, 3)))
        if found.shape != (2, 3) or not _close(found, np.resize(whole, (2, 3))):
            message = (
                f"'{function.name}' does not compute number by number: [2, 3] numbers give other results than each "
                "alone. Say what rows it takes (row_shape=)."
            )
            raise FunctionRefusedError(message)


def _close(first: NDArray[np.float64], second: NDArray[np.float64]) -> bool:
    size = np.maximum(np.abs(second).max(initial=0.0), 1e-300)
    return bool(first.shape == second.shape and (np.abs(first - second) <= 1e-9 * size).all())


def _check_properties(function: UserFunction, properties: Properties) -> None:
    """Refuse a declaration that the scan refutes."""
    refutation = refute(function.name, in_float64(function), function.row_shape, properties)
    if refutation is not None:
        message = f"function: {refutation.reason} Declare what it is, or take another function."
        raise FunctionRefusedError(message, refutation.counterexample)


def _check_derivatives(function: UserFunction, points: NDArray[np.float64]) -> None:
    """Refuse an analytic gradient that is not the function's, is no function of its own, or is not finite."""
    for order, measure in (("gradient", first_order_error), ("gradient's own derivative", second_order_error)):
        error = measure(function, points)
        if not error <= TOLERANCE:
            message = (
                f"'{function.name}': the {order} is off by {error:.3g} from finite differences in float64, at most "
                f"{TOLERANCE:g} is let pass (a missing one counts as 0). Write it with differentiable operations of x "
                "and upstream, without stop_gradient, and keep the sample away from kinks."
            )
            raise FunctionRefusedError(message, error=error)
