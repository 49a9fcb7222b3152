"""Reads an activation's name, and says where the activation may stand.

Over the tables `hidden`, `first` and `never`; `declaration` and `function` use it.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

import keras

from training.activations.first import FIRST
from training.activations.hidden import HIDDEN, Make
from training.activations.never import NEVER, refusal
from training.activations.properties import Activation, ActivationRefusedError, Counterexample, Role

CURVED = "smooth_leaky"
"""The activation to take where a loss sees the slopes of a network: its second derivative is positive everywhere."""

_CALL = re.compile(r"([a-z0-9_]+)(?:\(([^()]*)\))?")

_OFFERED: Mapping[str, tuple[Make, Mapping[str, float]]] = {**HIDDEN, **FIRST}

_DECLARED: dict[str, Activation] = {}
"""Users' own activations by name; `enter` fills it."""


def resolve(identifier: Any, role: Role = Role.HIDDEN) -> Activation:
    """Return the activation of this name for this role.

    Example:
        >>> resolve("leaky_relu(0.1)").slope
        (0.1, 1.0)

    Args:
        identifier: name, or name with its parameters: `softplus`, `leaky_relu(0.1)`, `smooth_leaky(0.2, 4)`; a
            function of `keras.activations` or `keras.ops` whose name is one; a function that was declared
            (`activations.declare`); or an `Activation`, which is looked up by its name: nothing is believed that it
            says of itself.
        role: `Role.HIDDEN` for hidden and output layers, `Role.FIRST` for the layer that sees only the input.

    Raises:
        ActivationRefusedError: it is not convex, or not non-decreasing where it must be (with a counterexample); its
            parameters are out of range; or it is not known.
    """
    shown = getattr(identifier, "counterexample", None)
    if isinstance(shown, Counterexample) and not isinstance(identifier, Activation):  # a layer that is never convex
        message = f"activation: the layer '{identifier.name}' is not convex: {shown}. Use one of: {_offered(role)}."
        raise ActivationRefusedError(message, shown)
    name = _name(identifier)
    match = _CALL.fullmatch(name)
    if match is None:
        message = f"activation: expected a name such as 'softplus' or 'leaky_relu(0.2)', received {name[:60]!r}."
        raise ActivationRefusedError(message)
    base, arguments = match.groups()
    if base in NEVER:
        counterexample = refusal(base)
        message = f"activation: '{base}' is not convex: {counterexample}. Use one of: {_offered(role)}."
        raise ActivationRefusedError(message, counterexample)
    activation = _known(base, arguments, role)
    if role is Role.HIDDEN and activation.role is not Role.HIDDEN:
        message = (
            f"activation: '{activation.name}' is convex but not non-decreasing, so it may stand in the first layer "
            f"only: {activation.counterexample}. Use one of: {_offered(role)}."
        )
        raise ActivationRefusedError(message, activation.counterexample)
    return activation


def names(role: Role) -> tuple[str, ...]:
    """Return the names whose role is exactly this one, parameters left at their defaults; no declared ones."""
    if role is Role.NEVER:
        return tuple(NEVER)
    return tuple(HIDDEN if role is Role.HIDDEN else FIRST)


def enter(activation: Activation) -> None:
    """Take in a user's activation under its name.

    Raises:
        ActivationRefusedError: the name is no plain word, or that of another function.
    """
    name = activation.name
    taken = name in _OFFERED or name in NEVER
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or taken:
        message = f"activation: expected a plain name of your own in small letters, received {name[:60]!r}."
        raise ActivationRefusedError(message)
    known = _DECLARED.get(name)
    if known is not None and known.function is not activation.function:
        message = f"activation: '{name}' is declared already, of another function. Use another name."
        raise ActivationRefusedError(message)
    _DECLARED[name] = activation


def _known(base: str, arguments: str | None, role: Role) -> Activation:
    """Return the activation of a name that is offered or declared."""
    if base in _DECLARED:
        _parameters(base, arguments, {})
        return _DECLARED[base]
    if base not in _OFFERED:
        message = f"activation: '{base}' is not known. Use one of: {_offered(role)}."
        raise ActivationRefusedError(message)
    make, defaults = _OFFERED[base]
    return make(*_parameters(base, arguments, defaults))


def _name(identifier: Any) -> str:
    """Return the name of what stands for an activation."""
    if isinstance(identifier, str):
        return identifier
    if isinstance(identifier, Activation):
        return identifier.name
    activation = getattr(identifier, "activation", None)
    if isinstance(activation, Activation):  # what `function.ConvexActivation` holds
        return activation.name
    for name, declared in _DECLARED.items():
        if declared.function is identifier:
            return name
    if callable(identifier):
        name = getattr(identifier, "__name__", "")
        if any(getattr(module, name, None) is identifier for module in (keras.activations, keras.ops) if name):
            return {"absolute": "abs", "exp": "exponential"}.get(name, name)
        message = (
            f"activation: a function's properties cannot be read off it, received {str(identifier)[:60]!r}. Declare "
            "it with training.activations.declare, or use a name such as 'softplus'."
        )
        raise ActivationRefusedError(message)
    message = f"activation: expected a name such as 'softplus' or 'leaky_relu(0.2)', received {str(identifier)[:60]!r}."
    raise ActivationRefusedError(message)


def _offered(role: Role) -> str:
    """Return the names that may stand where `role` says: what is fit for hidden layers is fit for the first one too."""
    return ", ".join(names(Role.HIDDEN) + (() if role is Role.HIDDEN else names(Role.FIRST)))


def _parameters(name: str, arguments: str | None, defaults: Mapping[str, float]) -> tuple[float, ...]:
    """Return the numbers in the parentheses, completed by the defaults."""
    if arguments is None:
        return tuple(defaults.values())
    try:
        values = tuple(float(argument) for argument in arguments.split(","))
    except ValueError:
        values = (math.nan,)
    if len(values) > len(defaults) or not all(math.isfinite(value) for value in values):
        takes = f"at most {len(defaults)} finite numbers" if defaults else "no parameter"
        message = f"activation: '{name}' takes {takes}, received '({arguments[:40]})'."
        raise ActivationRefusedError(message)
    return values + tuple(defaults.values())[len(values) :]
