"""What a user's function is declared to be, and the numerical scan that may refute it (never confirm it).

Below `training.functions.registry`; over `training.activations`, whose roles and counterexamples it speaks in.
"""

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from training.activations import Counterexample, Role

Array = NDArray[np.float64]
Forward = Callable[[Array], Array]
"""The function in float64: rows [n, *shape] to rows [n, *other]."""

REACH = 30.0
"""The scan's numbers lie in [-30, 30]."""

_SPACING = 2.0**-11  # with few bits, so that midpoints are exact
_STRIDES = tuple(4**power for power in range(8))
_SLACK = 64.0 * float(np.finfo(np.float64).eps)
_PAIRS = 8192
_CURVED_SHARE = 0.1
_CELL = 2.0**-4


@dataclasses.dataclass(frozen=True)
class Properties:
    """What is promised of a function of one number, or of a row of numbers entry by entry of its result.

    A promise: the scan refuses one that it finds broken, and whoever serves a network is told the truth by the proof of
    the exported file, which reads the operations and not the promise.

    Args:
        convex: whether it is convex.
        non_decreasing: whether it never falls when an entry of its argument grows.
        slope: bounds of its derivative, for functions of one number.
        second_derivative_zero_ae: whether its second derivative is zero almost everywhere (the gradient audit asks).
    """

    convex: bool
    non_decreasing: bool
    slope: tuple[float, float] = (-math.inf, math.inf)
    second_derivative_zero_ae: bool = False

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
        claim: what was declared.
        reason: what was found instead, with the numbers.
        counterexample: three points that violate midpoint convexity, of the function itself or, where it falls, of the
            function after a convex one; None where a slope or curvature was declared wrongly.
    """

    claim: str
    reason: str
    counterexample: Counterexample | None


def refute(name: str, forward: Forward, row_shape: tuple[int, ...], properties: Properties) -> Refutation | None:
    """Return what a scan finds wrong with a declaration, or None.

    Functions of one number (`row_shape` is ()) are evaluated on 122,881 points of [-30, 30] and their second
    differences taken at strides from 1 to 16,384; functions of rows on 8,192 random segments of lengths from 0.1 to 30,
    one half of them along single entries. Violations below the rounding of such values are let pass.

    Raises:
        FloatingPointError: a value is not finite; the message has the place.
    """
    if properties.convex:
        bend = convexity_counterexample(name, forward, row_shape)
        if bend is not None:
            return Refutation("convex", str(bend), bend)
    if properties.non_decreasing:
        fall = monotonicity_counterexample(name, forward, row_shape)
        if fall is not None:
            return Refutation("non-decreasing", f"it falls, so that after a convex function {fall}", fall)
    return None if row_shape else _shape_refutation(forward, properties)


def convexity_counterexample(name: str, forward: Forward, row_shape: tuple[int, ...]) -> Counterexample | None:
    """Return the three points at which a function is least convex, or None where the scan finds none."""
    if row_shape:
        ends = _segments(row_shape, ordered=False)
        return _bent_segment(name, forward, *ends)
    grid = _grid()
    values = _finite(forward(grid), grid)
    worst = max((_bend(grid, values, stride) for stride in _STRIDES), key=lambda found: found[0])
    if worst[0] <= 1.0:
        return None
    _, middle, stride = worst
    places = (middle - stride, middle, middle + stride)
    return Counterexample(f"{name}(x)", _three(grid, places), _three(values, places))


def monotonicity_counterexample(name: str, forward: Forward, row_shape: tuple[int, ...]) -> Counterexample | None:
    r"""Return three points at which the function after a convex one is not convex, or None where it never falls.

    Where :math:`\varphi(a) > \varphi(b)` with :math:`a \le b`, the function
    :math:`h(x) = \varphi(a + |x| (b - a))` of a convex argument has h(0) above the mean of h(-1) = h(1).
    """
    if row_shape:
        low, high = _segments(row_shape, ordered=True)
        before, after = _finite(forward(low), low), _finite(forward(high), high)
        fallen, place, entry = _fall(low, before, after)
    else:
        grid = _grid()
        values = _finite(forward(grid), grid)
        falls = [(_fall(grid[:-stride], values[:-stride], values[stride:]), stride) for stride in _STRIDES]
        (fallen, place, entry), stride = max(falls, key=lambda found: found[0][0])
        low, high, before, after = grid[:-stride], grid[stride:], values[:-stride], values[stride:]
    if fallen <= 1.0:
        return None
    size = len(low)
    top, foot = float(before.reshape(size, -1)[place, entry]), float(after.reshape(size, -1)[place, entry])
    start, end = low.reshape(size, -1)[place], high.reshape(size, -1)[place]
    inner = f"{_shown(start)} + |x| {_shown(end - start)}"
    which = _entry(entry, before.size // size)
    return Counterexample(f"{name}({inner}){which}", (-1.0, 0.0, 1.0), (foot, top, foot))


def _shape_refutation(forward: Forward, properties: Properties) -> Refutation | None:
    """Return what is wrong with the slopes or the flatness of a function of one number."""
    grid = _grid()[:: int(_CELL / _SPACING)]
    values = _finite(forward(grid), grid)
    slopes = np.diff(values) / _CELL
    slack = _slack(grid[1:], values[1:], values[:-1]) / _CELL
    low, high = properties.slope
    for outside, bound in ((slopes < low - slack, low), (slopes > high + slack, high)):
        if outside.any():
            at = int(np.argmax(outside))
            reason = f"between {grid[at]:g} and {grid[at + 1]:g} its slope is {slopes[at]:.6g}, beyond {bound:g}"
            return Refutation(f"to have slopes from {low:g} to {high:g}", reason, None)
    curved = float((np.abs(np.diff(slopes)) > 2.0 * slack[1:]).mean())
    if properties.second_derivative_zero_ae and curved > _CURVED_SHARE:
        reason = f"its slope changes in {curved:.0%} of the cells of width {_CELL:g} of [-{REACH:g}, {REACH:g}]"
        return Refutation("to have a second derivative that is zero almost everywhere", reason, None)
    return None


def _grid() -> Array:
    """Return the points of [-REACH, REACH], a whole multiple of the spacing each."""
    count = int(REACH / _SPACING)
    return np.arange(-count, count + 1, dtype=np.float64) * _SPACING


def _segments(shape: tuple[int, ...], *, ordered: bool) -> tuple[Array, Array]:
    """Return the ends of segments [n, *shape], a whole multiple of the spacing each; `ordered`: the second above."""
    generator = np.random.default_rng(0)
    width = math.prod(shape)
    scale = np.repeat([0.1, 1.0, 3.0, 10.0], _PAIRS // 4)[:, None]
    start, step = (np.clip(generator.normal(size=(_PAIRS, width)) * scale, -REACH, REACH) for _ in range(2))
    one = np.zeros((_PAIRS, width), bool)
    one[np.arange(_PAIRS), generator.integers(width, size=_PAIRS)] = True
    one[1::2] = True
    step = np.where(one, np.abs(step) if ordered else step, 0.0)
    start, step = (np.round(part / (2.0 * _SPACING)) * 2.0 * _SPACING for part in (start, step))
    low, high = (np.asarray(part, np.float64).reshape(_PAIRS, *shape) for part in (start, start + step))
    return low, high


def _bent_segment(name: str, forward: Forward, left: Array, right: Array) -> Counterexample | None:
    """Return the segment whose middle lies furthest above its chord, or None."""
    at_left, at_middle, at_right = (_finite(forward(x), x) for x in (left, (left + right) / 2, right))
    size = len(left)
    above = (at_middle - (at_left + at_right) / 2) / _slack(left, at_left, at_right)
    above = above.reshape(size, -1)
    place, entry = divmod(int(np.argmax(above)), above.shape[1])
    if above[place, entry] <= 1.0:
        return None
    start, step = left.reshape(size, -1)[place], (right - left).reshape(size, -1)[place]
    values = tuple(float(part.reshape(size, -1)[place, entry]) for part in (at_left, at_middle, at_right))
    function = f"{name}({_shown(start)} + x {_shown(step)}){_entry(entry, above.shape[1])}"
    return Counterexample(function, (0.0, 0.5, 1.0), (values[0], values[1], values[2]))


def _fall(low: Array, before: Array, after: Array) -> tuple[float, int, int]:
    """Return the largest fall from one value to another above, in units of its slack, with its row and entry."""
    fallen = ((before - after) / _slack(low, before, after)).reshape(len(low), -1)
    place, entry = divmod(int(np.argmax(fallen)), fallen.shape[1])
    return float(fallen[place, entry]), place, entry


def _bend(grid: Array, values: Array, stride: int) -> tuple[float, int, int]:
    """Return the largest violation of midpoint convexity at a stride, in units of its slack, with its middle."""
    left, middle, right = values[: -2 * stride], values[stride:-stride], values[2 * stride :]
    above = (middle - (left + right) / 2) / _slack(grid[stride:-stride], left, right)
    place = int(np.argmax(above))
    return float(above[place]), place + stride, stride


def _slack(x: Array, first: Array, second: Array) -> Array:
    """Return what rounding may do to values of about this size at places of about this size."""
    place = np.abs(x).reshape(len(x), -1).max(axis=1).reshape(len(x), *([1] * (first.ndim - 1)))
    return np.asarray(_SLACK * (1.0 + place + np.maximum(np.abs(first), np.abs(second))))


def _finite(values: Array, x: Array) -> Array:
    """Return the values, refused where one is not finite."""
    bad = ~np.isfinite(values).reshape(len(values), -1).all(axis=1)
    if bad.any():
        message = f"at {_shown(x.reshape(len(x), -1)[int(np.argmax(bad))])} its value is not finite"
        raise FloatingPointError(message)
    return np.asarray(values, np.float64)


def _three(array: Array, places: tuple[int, int, int]) -> tuple[float, float, float]:
    return float(array[places[0]]), float(array[places[1]]), float(array[places[2]])


def _shown(row: Array) -> str:
    """Return a number, or a row of numbers, all digits that count."""
    numbers = [f"{value:.10g}" for value in row]
    return numbers[0] if len(numbers) == 1 else f"[{', '.join(numbers)}]"


def _entry(entry: int, width: int) -> str:
    """Return which entry of the result is meant, where it has several."""
    return f"[{entry}]" if width > 1 else ""


def in_float64(function: Callable[[tf.Tensor], tf.Tensor]) -> Forward:
    """Return a function of tensors as one of arrays."""
    return lambda x: np.asarray(tf.convert_to_tensor(function(tf.constant(x, tf.float64))), np.float64)
