"""What a user's function is declared to be, and the numerical scan that may refute it (never confirm it).

Below `training.functions.registry`; over `training.activations`, whose scan looks at functions of one number.
"""

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from training.activations import Activation, ActivationRefusedError, Counterexample, Curvature, Role, scan

Array = NDArray[np.float64]
Forward = Callable[[Array], Array]
"""The function in float64: rows [n, *shape] to rows [n, *other]."""

REACH = 30.0
"""The scan's numbers lie in [-30, 30]."""

_SPACING = 2.0**-11  # with few bits, so that midpoints are exact
_SLACK = 64.0 * float(np.finfo(np.float64).eps)
_PAIRS = 8192


@dataclasses.dataclass(frozen=True)
class Properties:
    """What is promised of a function of one number, or of a row of numbers entry by entry of its result.

    A promise: the scan refuses one that it finds broken, and whoever serves a network is told the truth by the proof of
    the exported file, which reads the operations and not the promise.

    Args:
        convex: whether it is convex.
        non_decreasing: whether it never falls when an entry of its argument grows.
        slope: bounds of its derivative, for functions of one number.
        curvature: how much of its graph bends, for functions of one number.
    """

    convex: bool
    non_decreasing: bool
    slope: tuple[float, float] = (-math.inf, math.inf)
    curvature: Curvature = Curvature.CURVED

    @property
    def role(self) -> Role:
        """Where the function may stand in a convex network."""
        if not self.convex:
            return Role.NEVER
        return Role.HIDDEN if self.non_decreasing else Role.FIRST


@dataclasses.dataclass(frozen=True)
class Refutation:
    """A declaration that is not true.

    Args:
        reason: what was declared and what was found instead, with the numbers; a sentence.
        counterexample: three points that violate midpoint convexity, of the function itself or, where it falls, of the
            function after a convex one; None where slopes or curvature were declared wrongly, or a value is not finite.
    """

    reason: str
    counterexample: Counterexample | None


def refute(name: str, forward: Forward, row_shape: tuple[int, ...], properties: Properties) -> Refutation | None:
    """Return what a scan finds wrong with a declaration, or None.

    Convex functions of one number (`row_shape` is ()) are scanned as activations are, all others on 8,192 random
    segments of lengths from 0.1 to 30, one half of them along single entries. Violations below the rounding of such
    values are let pass.
    """
    try:
        if properties.convex and not row_shape:
            scan(_activation(name, forward, properties))
            return None
        if properties.convex:
            bend = convexity_counterexample(name, forward, row_shape)
            if bend is not None:
                return Refutation(f"'{name}' is declared as convex, and is not: {bend}.", bend)
        if properties.non_decreasing:
            fall = _falling_segment(name, forward, row_shape)
            if fall is not None:
                return Refutation(f"'{name}' is declared as non-decreasing, and is not: {fall}.", fall)
    except ActivationRefusedError as err:
        return Refutation(str(err).removeprefix("activation: "), err.counterexample)
    return None


def convexity_counterexample(name: str, forward: Forward, row_shape: tuple[int, ...]) -> Counterexample | None:
    """Return three points at which a function is not convex, or None where the scan finds none.

    Raises:
        ActivationRefusedError: a value is not finite.
    """
    if row_shape:
        return _bent_segment(name, forward, *_segments(row_shape, ordered=False))
    try:
        scan(_activation(name, forward, Properties(convex=True, non_decreasing=False)))
    except ActivationRefusedError as err:
        if err.counterexample is None:
            raise
        return err.counterexample
    return None


def monotonicity_counterexample(name: str, forward: Forward, row_shape: tuple[int, ...]) -> Counterexample | None:
    r"""Return three points at which a convex function after a convex one is not convex, or None where it never falls.

    Where :math:`\varphi(a) > \varphi(b)` with :math:`a \le b`, the function
    :math:`h(x) = \varphi(a + |x| (b - a))` of a convex argument has h(0) above the mean of h(-1) = h(1).

    Raises:
        ActivationRefusedError: it is not convex, or a value is not finite.
    """
    if row_shape:
        return _falling_segment(name, forward, row_shape)
    return scan(_activation(name, forward, Properties(convex=True, non_decreasing=False)))


def in_float64(function: Callable[[tf.Tensor], tf.Tensor]) -> Forward:
    """Return a function of tensors as one of arrays."""
    return lambda x: np.asarray(tf.convert_to_tensor(function(tf.constant(x, tf.float64))), np.float64)


def _activation(name: str, forward: Forward, properties: Properties) -> Activation:
    """Return a function of one number as the activation that it is declared to be."""
    return Activation(
        name,
        lambda x: forward(np.asarray(x)),
        properties.role,
        properties.convex,
        properties.non_decreasing,
        properties.slope,
        properties.curvature,
    )


def _segments(shape: tuple[int, ...], *, ordered: bool) -> tuple[Array, Array]:
    """Return the ends of segments [n, *shape], a whole multiple of the spacing each; `ordered`: the second above."""
    generator = np.random.default_rng(0)
    width = math.prod(shape)
    scale = np.repeat([0.1, 1.0, 3.0, 10.0], _PAIRS // 4)[:, None]
    start, step = (np.clip(generator.normal(size=(_PAIRS, width)) * scale, -REACH, REACH) for _ in range(2))
    moved = np.zeros((_PAIRS, width), bool)
    moved[np.arange(_PAIRS), generator.integers(width, size=_PAIRS)] = True
    moved[1::2] = True
    step = np.where(moved, np.abs(step) if ordered else step, 0.0)
    start, step = (np.round(part / (2.0 * _SPACING)) * 2.0 * _SPACING for part in (start, step))
    low, high = (np.asarray(part, np.float64).reshape(_PAIRS, *shape) for part in (start, start + step))
    return low, high


def _bent_segment(name: str, forward: Forward, left: Array, right: Array) -> Counterexample | None:
    """Return the segment whose middle lies furthest above its chord, or None."""
    at_left, at_middle, at_right = (_finite(name, forward(x), x) for x in (left, (left + right) / 2, right))
    place, entry = _worst(at_middle - (at_left + at_right) / 2, left, at_left, at_right)
    if place < 0:
        return None
    start, step = left[place].reshape(-1), (right - left)[place].reshape(-1)
    values = [float(part.reshape(len(left), -1)[place, entry]) for part in (at_left, at_middle, at_right)]
    function = f"{name}({_shown(start)} + x {_shown(step)}){_entry(entry, at_left)}"
    return Counterexample(function, (0.0, 0.5, 1.0), (values[0], values[1], values[2]))


def _falling_segment(name: str, forward: Forward, row_shape: tuple[int, ...]) -> Counterexample | None:
    """Return the segment on which an entry falls the most though all others rise, behind |x|, or None."""
    low, high = _segments(row_shape, ordered=True)
    before, after = _finite(name, forward(low), low), _finite(name, forward(high), high)
    place, entry = _worst(before - after, low, before, after)
    if place < 0:
        return None
    start, step = low[place].reshape(-1), (high - low)[place].reshape(-1)
    top, foot = (float(part.reshape(len(low), -1)[place, entry]) for part in (before, after))
    function = f"{name}({_shown(start)} + |x| {_shown(step)}){_entry(entry, before)}"
    return Counterexample(function, (-1.0, 0.0, 1.0), (foot, top, foot))


def _worst(violations: Array, x: Array, first: Array, second: Array) -> tuple[int, int]:
    """Return row and entry of the largest violation in units of what rounding may do, (-1, -1) where none is larger.

    Args:
        violations: [n, ...], above 0 where there is one.
        x: [n, ...], the places.
        first: [n, ...], values of about the size of those that were subtracted.
        second: [n, ...], others.
    """
    places = np.abs(x).reshape(len(x), -1).max(axis=1)[:, None]
    sizes = np.maximum(np.abs(first), np.abs(second)).reshape(len(x), -1)
    shares = violations.reshape(len(x), -1) / (_SLACK * (1.0 + places + sizes))
    place, entry = divmod(int(np.argmax(shares)), shares.shape[1])
    return (place, entry) if shares[place, entry] > 1.0 else (-1, -1)


def _finite(name: str, values: Array, x: Array) -> Array:
    """Return the values, refused where one is not finite."""
    bad = ~np.isfinite(values).reshape(len(values), -1).all(axis=1)
    if bad.any():
        place = _shown(x[int(np.argmax(bad))].reshape(-1))
        message = f"activation: '{name}' is not finite at {place}, and may be given any numbers."
        raise ActivationRefusedError(message)
    return np.asarray(values, np.float64)


def _shown(row: Array) -> str:
    """Return a number, or a row of numbers, all digits that count."""
    numbers = [f"{value:.10g}" for value in row]
    return numbers[0] if len(numbers) == 1 else f"[{', '.join(numbers)}]"


def _entry(entry: int, of: Array) -> str:
    """Return which entry of the results [n, ...] is meant, where there are several."""
    return f"[{entry}]" if math.prod(of.shape[1:]) > 1 else ""
