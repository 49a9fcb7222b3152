"""The layer that computes a user's function, by its registered name.

Beside the other layers; over `training.functions`, whose registry knows the name and has checked what it promises.
"""

import contextlib
import contextvars
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf

from training.activations import Role
from training.functions.declarations import convexity_counterexample, in_float64, monotonicity_counterexample
from training.functions.registry import Forward, FunctionRefusedError, UserFunction, resolve

_NAMING = contextvars.ContextVar("naming", default=False)


class NoGradientError(ValueError):
    """A gradient that ends at a function that lets none through."""


@contextlib.contextmanager
def gradients_left_out() -> Iterator[None]:
    """Let functions without a gradient answer None within, as TensorFlow's own operations do, and not an error."""
    token = _NAMING.set(True)
    try:
        yield
    finally:
        _NAMING.reset(token)


@keras.saving.register_keras_serializable(package="convex_scoring")
class Function(keras.layers.Layer):
    r"""A user's function of the layer below, by the name that it is registered under.

    .. math:: y = \varphi(x)

    It has no weights. Automatic differentiation records the operations inside the function, so that the weights of the
    layers before it get their gradients without any more code, also of second order; an analytic gradient that is
    registered with the function takes their place.

    A model stores the name and never the code (Keras refuses to load a saved lambda, for good reason): a function that
    is not registered is refused when the layer is made, and so when a model that names it is loaded. A function of each
    number that is to be the activation of another layer need not be a layer: `training.activations.declare` takes it.

    On the convex path of a network the layer must say in which `role` it stands, and the function must be declared fit
    for it: `hidden` wants convex and non-decreasing, `first layer only` (on affine arguments) convex. What breaks this
    is refused with three points. The declaration was scanned when it was made; the proof reads the exported operations
    instead and depends on neither. Without a role the layer promises nothing, and a network with it is not exported.

    The function is called with symbolic tensors while a model is built, and again whenever a new graph is traced: for
    another dtype or rank, not for another batch, epoch or batch size (where all batches had one size, the first of
    another one is traced once, for all sizes from then on). Whatever it does besides returning a tensor
    (printing, counting, drawing from Python's random numbers, looking at a clock) happens then and only then. With
    `compile(run_eagerly=True)` every batch calls it with real values. Python's `if`, `while` and `for` cannot look at
    a symbolic tensor: `training.functions.control_flow` has what can.

    Rounding, argmax and comparisons let no gradient through, and the sign function one of zeros. A gradient that
    arrives at such a function is an error that names the variables before it, which would not train.

    Example:
        >>> @register("double")
        ... def double(x):
        ...     return 2.0 * x
        >>> float(Function("double")(keras.ops.ones((1, 1)))[0, 0])
        2.0

    Args:
        function: the registered name, or the function that was registered.
        role: `hidden`, `first layer only`, or None off the convex path.
        **kwargs: of `keras.layers.Layer`.

    Input shape:
        [n, ...], what the function takes.

    Output shape:
        [n, ...], what it returns.

    Raises:
        FunctionRefusedError: the function is not registered, declares no properties where it has a role, or others
            than the role needs (with a counterexample); or its Python looks at a symbolic tensor's value.
        NoGradientError: a gradient arrives at a function that lets none through.
    """

    def __init__(self, function: str | Forward, role: str | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.function = resolve(function)
        self.role = None if role is None else Role(role)
        if self.role is not None:
            _require_role(self.name, self.function, self.role)
        self.supports_masking = True

    def call(self, x: Any) -> Any:
        """Return the function of x."""
        try:
            if self.function.passes_gradient:
                return self.function(x)
            return self._ending_gradients(x)
        except tf.errors.OperatorNotAllowedInGraphError as err:
            message = (
                f"{self.name}: '{self.function.name}' lets Python decide on a symbolic tensor (if, while, for, and, "
                "not). Put @tf.function on it, which rewrites these, or use where for each component, cond and "
                "while_loop of training.functions.control_flow for the batch."
            )
            raise FunctionRefusedError(message) from err

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        """Return the shape of what the function makes of a tensor of such a shape; one symbolic call."""
        rows = keras.KerasTensor(input_shape, dtype=self.compute_dtype)
        return tuple(self.compute_output_spec(rows).shape)

    def compute_output_spec(self, *args: Any, **kwargs: Any) -> Any:
        """Return shape and dtype as the function itself has them, and not the layer's own dtype."""
        return keras.Operation.compute_output_spec(self, *args, **kwargs)

    def compute_mask(self, inputs: Any, previous_mask: Any = None) -> Any:
        """Return the mask where the function computes number by number; else rows may have changed their meaning."""
        del inputs
        return previous_mask if self.function.is_elementwise else None

    def get_config(self) -> dict[str, Any]:
        """Return the arguments: the function's name.

        Raises:
            FunctionRefusedError: the name means another function by now, or none; nobody could load such a model.
        """
        if resolve(self.function.name) is not self.function:
            message = (
                f"{self.name}: '{self.function.name}' is the name of another function by now. Make the layer again."
            )
            raise FunctionRefusedError(message)
        return {
            **super().get_config(),
            "function": self.function.name,
            "role": None if self.role is None else str(self.role),
        }

    def require_role(self) -> None:
        """Refuse to stand on the way to a score that is to be proved convex, without a role.

        Raises:
            FunctionRefusedError: there is none.
        """
        if self.role is None:
            message = (
                f"{self.name}: '{self.function.name}' stands on the way to the score without a role, so nothing says "
                "that it keeps convexity. Register it with its properties and give the layer role='hidden' or "
                "role='first layer only'."
            )
            raise FunctionRefusedError(message)

    def _ending_gradients(self, x: Any) -> Any:
        """Return the function of x, an error where a gradient arrives."""

        @tf.custom_gradient
        def ending(point: Any) -> tuple[Any, Any]:
            return self.function(point), self._no_gradient

        return ending(x)

    def _no_gradient(self, _upstream: Any) -> None:
        """Say which variables are cut off."""
        if _NAMING.get():
            return
        paths = _variables_before(self)
        named = f"the variables {', '.join(paths)}" if paths else "the variables of the layers before it"
        message = (
            f"{self.name}: '{self.function.name}' lets no gradient through (rounding, argmax, comparison, sign), so "
            f"{named} would not train. Take a function with a slope, or write keras.ops.stop_gradient in front of the "
            "layer to say that they shall not."
        )
        raise NoGradientError(message)


def _require_role(layer: str, function: UserFunction, role: Role) -> None:
    """Refuse a function that is not declared fit for a role.

    Raises:
        FunctionRefusedError: with three points where the scan finds some.
    """
    declared = function.properties
    if role is Role.NEVER:
        message = f"{layer}: role: expected 'hidden', 'first layer only' or None, received '{role}'."
        raise FunctionRefusedError(message)
    if declared is None:
        message = (
            f"{layer}: '{function.name}' declares no properties, and has the role '{role}' on the convex path. "
            "Register it with properties=Properties(convex=..., non_decreasing=...)."
        )
        raise FunctionRefusedError(message)
    if declared.role is role or declared.role is Role.HIDDEN:
        return
    missing, search = (
        ("convex", convexity_counterexample) if not declared.convex else ("non-decreasing", monotonicity_counterexample)
    )
    found = search(function.name, in_float64(function), function.row_shape)
    evidence = "" if found is None else f": {found}"
    message = (
        f"{layer}: '{function.name}' is not declared {missing}, which the role '{role}' needs{evidence}. Take a "
        f"function that is, {'' if not declared.convex else 'put it on affine arguments only (first layer only), '}"
        "or leave the convex path."
    )
    raise FunctionRefusedError(message, found)


def _variables_before(layer: Any) -> list[str]:
    """Return the paths of the trainable variables that the layer's inputs are made of, in a model built of tensors."""
    paths: dict[str, None] = {}
    seen: set[int] = set()
    waiting = [layer]
    while waiting:
        operation = waiting.pop()
        if id(operation) in seen:
            continue
        seen.add(id(operation))
        paths |= {variable.path: None for variable in getattr(operation, "trainable_variables", ())}
        for node in getattr(operation, "_inbound_nodes", ()):
            waiting.extend(parent.operation for parent in node.parent_nodes)
    return sorted(paths)
