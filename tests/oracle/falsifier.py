"""A falsifier of convexity in float64: searches rows on which a score, or its gradient, cannot be convex.

Knows nothing of the program or its proof: it asks a function for scores and gradients and tests the definition of
convexity, with the float32 slack of the score's own rounding. What it refutes is not convex; what it does not refute
may still be. `test_falsifier` is its own control.
"""

import dataclasses
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Score = Callable[[Array], Array]
Gradient = Callable[[Array], Array]

ULPS = 16
FLOAT32_ULP = 2.0**-23
FLOAT64_ULP = 2.0**-44
"""The unit of a score computed in float64, less eight bits: terms a few hundred times as large as it may cancel."""

DISTANCES = (1e-4, 1e3)
STEPS = 33
CLIMBS = 12


@dataclasses.dataclass(frozen=True)
class Refutation:
    """A place where the function is not convex.

    Args:
        kind: `midpoint`, `hyperplane`, `monotonicity` or `line`.
        rows: the rows of the counterexample.
        gap: by how much the inequality fails, beyond the slack.
    """

    kind: str
    rows: Array
    gap: float


def falsify(
    score: Score, gradient: Gradient | None, anchors: Array, *, pairs: int = 100_000, seed: int = 0, exact: bool = False
) -> Refutation | None:
    r"""Return a counterexample to convexity, or None if none was found.

    .. math::
        f((a+b)/2) \le (f(a)+f(b))/2 + \tau, \quad f(b) \ge f(a) + \langle g(a), b-a \rangle - \tau, \quad
        \langle g(b) - g(a), b-a \rangle \ge -\tau, \quad f(x_{k-1}) - 2 f(x_k) + f(x_{k+1}) \ge -\tau

    with tau = 16 * 2^-23 * max(|f|, 1), for random midpoints, supporting hyperplanes, pairs of gradients, and second
    differences along lines, the worst of which are searched again more finely. Lines run through anchors along single
    features, at random, and along the difference of two gradients, where the slope changes most.

    Args:
        score: rows [n, d] float64 to scores [n].
        gradient: rows [n, d] to gradients [n, d], or None.
        anchors: rows [m, d] around which rows are drawn; their spread sets the scale.
        pairs: number of midpoints, and of hyperplanes.
        seed: of the drawn rows.
        exact: whether the scores are float64 all the way; then tau has float64's unit.
    """
    generator = np.random.default_rng(seed)
    ulp = FLOAT64_ULP if exact else FLOAT32_ULP
    with np.errstate(over="ignore", invalid="ignore"):  # rows on which a score is not finite say nothing
        for a, b in _pairs(anchors, pairs, generator):
            found = _midpoint(score, a, b, ulp)
            if found is None and gradient is not None:
                found = _hyperplane(score, gradient, a, b, ulp) or _monotonicity(gradient, a, b, ulp)
            if found is not None:
                return found
        return _lines(score, gradient, anchors, generator, ulp)


def _pairs(anchors: Array, count: int, generator: np.random.Generator) -> Iterator[tuple[Array, Array]]:
    """Yield pairs of rows: one near an anchor, the other at a distance log-uniform in `DISTANCES`, or an anchor too."""
    scale = anchors.std(axis=0) + 1e-12
    for start in range(0, count, 10_000):
        size = min(10_000, count - start)
        a = anchors[generator.integers(len(anchors), size=size)]
        a = a + scale * generator.standard_normal(a.shape) * generator.choice([0.0, 0.1, 1.0, 10.0], (size, 1))
        direction = generator.standard_normal(a.shape)
        axis = generator.integers(3, size=size) == 0
        direction[axis] = np.eye(a.shape[1])[generator.integers(a.shape[1], size=axis.sum())]
        direction /= np.linalg.norm(direction, axis=1, keepdims=True)
        low, high = np.log(DISTANCES)
        b = a + scale * direction * np.exp(generator.uniform(low, high, (size, 1)))
        joined = generator.integers(4, size=size) == 0
        b[joined] = anchors[generator.integers(len(anchors), size=joined.sum())]
        yield _float32(a), _float32(b)


def _float32(rows: Array) -> Array:
    """Return the rows as float32 would hold them, so that every way of asking sees the same numbers."""
    return rows.astype(np.float32).astype(np.float64)


def _slack(ulp: float, *scores: Array) -> Array:
    return ULPS * ulp * np.maximum(np.max(np.abs(np.stack(scores)), axis=0), 1.0)


def _worst(kind: str, violation: Array, *rows: Array) -> Refutation | None:
    violation = np.where(np.isfinite(violation), violation, -np.inf)
    worst = int(np.argmax(violation))
    if not violation[worst] > 0:
        return None
    return Refutation(kind, np.stack([row[worst] for row in rows]), float(violation[worst]))


def _midpoint(score: Score, a: Array, b: Array, ulp: float) -> Refutation | None:
    middle = _float32((a + b) / 2)
    b = 2 * middle - a  # the middle is rounded, and b moves along with it
    b32 = _float32(b)
    exact = (b32 == b).all(axis=1)
    at_a, at_b, at_middle = score(a), score(b32), score(middle)
    violation = at_middle - (at_a + at_b) / 2 - _slack(ulp, at_a, at_b, at_middle)
    return _worst("midpoint", np.where(exact, violation, -np.inf), a, b32, middle)


def _hyperplane(score: Score, gradient: Gradient, a: Array, b: Array, ulp: float) -> Refutation | None:
    at_a, at_b, slope = score(a), score(b), gradient(a)
    terms = slope * (b - a)
    slack = _slack(ulp, at_a, at_b) + ULPS * ulp * np.abs(slope).max(axis=1) * np.abs(b - a).sum(axis=1)
    return _worst("hyperplane", at_a + terms.sum(axis=1) - at_b - slack, a, b)


def _monotonicity(gradient: Gradient, a: Array, b: Array, ulp: float) -> Refutation | None:
    at_a, at_b = gradient(a), gradient(b)
    size = np.abs(at_a).max(axis=1) + np.abs(at_b).max(axis=1)
    slack = ULPS * ulp * size * np.abs(b - a).sum(axis=1)
    return _worst("monotonicity", -((at_b - at_a) * (b - a)).sum(axis=1) - slack, a, b)


def _differences(score: Score, x: Array, scale: Array) -> Array:
    """Return central differences of a score that comes without a gradient: good enough for a direction."""
    steps = 1e-3 * np.diag(scale)
    ends = [score((x[:, None, :] + sign * steps).reshape(-1, x.shape[1])).reshape(x.shape) for sign in (1, -1)]
    return (ends[0] - ends[1]) / (2e-3 * scale)


def _directions(
    score: Score, gradient: Gradient | None, anchors: Array, center: Array, generator: np.random.Generator
) -> Array:
    """Return a direction for each line: a half along single features, a quarter at random, a quarter by gradients."""
    scale = anchors.std(axis=0) + 1e-12
    count, dim = center.shape
    direction = generator.standard_normal(center.shape) * scale
    direction[: count // 2] = (np.eye(dim) * scale)[generator.integers(dim, size=count // 2)]
    steep = slice(count // 2, 3 * count // 4)
    other = anchors[generator.integers(len(anchors), size=count)][steep]
    slopes = [gradient(x) if gradient is not None else _differences(score, x, scale) for x in (center[steep], other)]
    change = (slopes[1] - slopes[0]) * scale
    length = np.linalg.norm(change, axis=1, keepdims=True)
    usable = (np.isfinite(length) & (length > 0))[:, 0]
    direction[steep][usable] = (change / np.where(length > 0, length, 1) * scale)[usable]
    return direction


def _lines(
    score: Score, gradient: Gradient | None, anchors: Array, generator: np.random.Generator, ulp: float
) -> Refutation | None:
    """Search lines through anchors for a negative second difference, and zoom in on each line's worst place."""
    count = 64
    center = anchors[generator.integers(len(anchors), size=count)]
    direction = _directions(score, gradient, anchors, center, generator)
    middle, radius = np.zeros(count), np.full(count, 30.0)
    count_from_middle = np.arange(STEPS) - STEPS // 2
    for _ in range(CLIMBS):
        spacing = _float32(radius[:, None] / (STEPS // 2) * direction)  # with few bits, so that no row is rounded:
        start = _float32(center + middle[:, None] * direction)  # a steep line would bend by its rows' rounding
        rows = start[:, None, :] + count_from_middle[:, None] * spacing[:, None, :]
        values = score(rows.reshape(-1, center.shape[1])).reshape(count, STEPS)
        second = values[:, :-2] - 2 * values[:, 1:-1] + values[:, 2:]
        size = np.maximum(np.max(np.abs(values), axis=1), 1.0)
        violation = -second - 2 * ULPS * ulp * size[:, None]
        place = np.argmax(np.where(np.isfinite(violation), violation, -np.inf), axis=1)
        line = np.arange(count)
        found = _worst("line", violation[line, place], *(rows[line, place + k] for k in range(3)))
        if found is not None:
            return found
        middle, radius = middle + radius * (place + 1 - STEPS // 2) / (STEPS // 2), radius * 0.4
    return None
