"""A user's own activation: declared by who wrote it, and refused where numbers contradict the declaration.

Over `registry`. A scan may refute a declaration and never confirms it; what is served is proved from its files.
"""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from training.activations.properties import (
    Activation,
    ActivationRefusedError,
    Counterexample,
    Curvature,
    Role,
)
from training.activations.registry import enter

SCANNED = (-30.0, 30.0, 60_001)
"""The interval that is scanned, and its number of points."""

_STRIDES = (1, 7, 100, 1000, 10_000)
"""Distances, in points of the grid, at which midpoints and monotonicity are looked at."""

_ROUNDINGS = 64
"""A difference below so many roundings of the numbers that it is taken of says nothing."""

_KINKS = 0.01
"""Largest share of the grid that kinks may lie in."""

Floats = NDArray[np.float64]


def declare(  # noqa: PLR0913  # what is said of an activation
    name: str,
    function: Callable[[Any], Any],
    *,
    role: Role | str,
    slope: tuple[float, float],
    curvature: Curvature | str,
    derivative: Callable[[Any], Any] | None = None,
    reason: str = "declared by its author",
) -> Activation:
    """Take in an elementwise function as an activation, on the word of its author.

    A network may then name it, or be given the function itself. In a new process it must be declared again before a
    model that uses it is read: files hold its name, never its code.

    Example:
        >>> huber = lambda x: keras.ops.where(x > 1, x - 0.5, 0.5 * keras.ops.square(keras.ops.relu(x)))
        >>> declare("one_sided_huber", huber, role="hidden", slope=(0, 1), curvature=Curvature.PARTLY_CURVED).name
        'one_sided_huber'

    Args:
        name: small letters, digits and underscores; no name of the registry's own.
        function: of a tensor of any shape, number by number, in `keras.ops`.
        role: `hidden` for a convex and non-decreasing function, `first layer only` for a convex one.
        slope: infimum and supremum of its derivative.
        curvature: how much of its graph bends.
        derivative: its derivative, if there is one to give.
        reason: why it has its role.

    Raises:
        ActivationRefusedError: the scan contradicts what is declared (with three points where convexity or monotonicity
            fails); the role is `never`; or the name is taken.
        ValueError: role or curvature is not one of the words.
    """
    role, curvature = Role(role), Curvature(curvature)
    if role is Role.NEVER:
        message = f"activation: '{name}' is declared as not convex: there is no place for it in a convex network."
        raise ActivationRefusedError(message)
    bounds = (float(slope[0]), float(slope[1]))
    rises = role is Role.HIDDEN
    activation = Activation(name, function, role, True, rises, bounds, curvature, derivative, reason)
    fall = scan(activation)
    if fall is not None and not rises:
        activation = Activation(
            name, function, role, True, False, bounds, curvature, derivative, reason, counterexample=fall
        )
    enter(activation)
    return activation


def scan(activation: Activation) -> Counterexample | None:
    """Look for a contradiction between what is said of an activation and its values on the grid `SCANNED`.

    Returns:
        Three points that show where a function falls which is not said to be non-decreasing; None if none was seen.

    Raises:
        ActivationRefusedError: there is a contradiction. None found proves nothing.
    """
    grid = np.linspace(*SCANNED)
    values = _values(activation.function, grid)
    if values.shape != grid.shape or not np.isfinite(values).all():
        message = f"activation: '{activation.name}' does not give a finite number for each number of [-30, 30]."
        raise ActivationRefusedError(message)
    _refuse_bend(activation, grid, values)
    fall = _fall(activation, grid, values)
    if fall is not None and activation.non_decreasing:
        message = f"activation: '{activation.name}' is declared as non-decreasing, and is not: {fall}."
        raise ActivationRefusedError(message, fall)
    _refuse_slopes(activation, grid, values)
    return fall


def _values(function: Callable[[Any], Any], points: Floats) -> Floats:
    """Return a function's values in float64."""
    return np.asarray(function(keras.ops.convert_to_tensor(points, dtype="float64")), dtype=np.float64)


def _noise(*values: Floats) -> Floats:
    """Return what rounding may make of a difference of such values."""
    largest: Floats = np.max(np.abs(np.stack(values)), axis=0)
    return _ROUNDINGS * np.finfo(np.float64).eps * np.maximum(largest, 1.0)


def _refuse_bend(activation: Activation, grid: Floats, values: Floats) -> None:
    """Refuse a midpoint above its chord."""
    for stride in _STRIDES:
        left, middle, right = values[: -2 * stride], values[stride:-stride], values[2 * stride :]
        gap = middle - (left + right) / 2.0 - _noise(left, middle, right)
        worst = int(np.argmax(gap))
        if gap[worst] > 0.0:
            places = worst + stride * np.arange(3)
            shown = _shown(f"{activation.name}(x)", grid[places], values[places])
            message = f"activation: '{activation.name}' is declared as convex, and is not: {shown}."
            raise ActivationRefusedError(message, shown)


def _fall(activation: Activation, grid: Floats, values: Floats) -> Counterexample | None:
    """Return where the function falls the most: its value of |x| + u is then larger at 0 than at both ends."""
    for stride in _STRIDES[::-1]:
        drop = values[:-stride] - values[stride:] - _noise(values[:-stride], values[stride:])
        worst = int(np.argmax(drop))
        if drop[worst] > 0.0:
            start, width = float(grid[worst]), float(grid[worst + stride] - grid[worst])
            ends, middle = float(values[worst + stride]), float(values[worst])
            function = f"{activation.name} of |x| {'-' if start < 0 else '+'} {abs(start):g}"
            return Counterexample(function, (-width, 0.0, width), (ends, middle, ends))
    return None


def _refuse_slopes(activation: Activation, grid: Floats, values: Floats) -> None:
    """Refuse slopes outside of the stated range, a wrong derivative, and a wrong word for the curvature."""
    step = grid[1] - grid[0]
    slopes = np.diff(values) / step
    noise = _noise(values[1:], values[:-1]) / step
    low, high = activation.slope
    if not low <= high or (slopes < low - noise).any() or (slopes > high + noise).any():
        received = f"slopes from {slopes.min():.4g} to {slopes.max():.4g}"
        message = (
            f"activation: '{activation.name}' is declared with slopes from {low:g} to {high:g}, and has {received}."
        )
        raise ActivationRefusedError(message)
    bends = float(np.mean(np.abs(np.diff(slopes)) > 2.0 * noise[1:]))
    if activation.second_derivative_zero_ae and bends > _KINKS:  # a bend may also be too small to see
        message = f"activation: '{activation.name}' is declared as {activation.curvature}, and is curved."
        raise ActivationRefusedError(message)
    if activation.derivative is not None:
        between = (slopes[1:] + slopes[:-1]) / 2.0
        room = 1e-4 * np.maximum(np.abs(between), 1.0) + noise[1:]
        wrong = np.abs(_values(activation.derivative, grid[1:-1]) - between) > room
        if wrong.mean() > _KINKS:
            at = grid[1:-1][int(np.argmax(wrong))]
            message = f"activation: the derivative of '{activation.name}' is not that of its function, as at {at:g}."
            raise ActivationRefusedError(message)


def _shown(function: str, points: Floats, values: Floats) -> Counterexample:
    """Return three points, the middle one exactly between the others."""
    left, middle, right = (float(point) for point in points)
    return Counterexample(function, (left, middle, right), (float(values[0]), float(values[1]), float(values[2])))
