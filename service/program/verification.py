"""Program against SavedModel, on rows: they must be the same function, and the gradient a subgradient.

The proof reads the file; what is served is what TensorFlow makes of it. This check ties the two, at every load.
Above: `service.loader` and training; below: `evaluation`, `probe`. NumPy only: the SavedModel is a callable.
"""

import dataclasses
from collections.abc import Iterator
from concurrent import futures

import numpy as np
from numpy.typing import NDArray

from service.errors import VersionRefusedError
from service.program.evaluation import evaluate, node_values
from service.program.probe import PROBE_AGREEMENT, SCALES, Floats, answers, verification_groups
from service.program.probe import Probe as Probe  # exported: what a version is verified with
from service.program.probe import Run as Run
from service.program.probe import check_probe as check_probe
from service.program.probe import derived_probe as derived_probe
from service.program.probe import unproved_probe as unproved_probe
from service.program.probe import verification_rows as verification_rows
from service.program.program import AtomNode, MaximumNode, Node, Program
from service.program.tiles import TILE_ROWS

AGREEMENT = 1e-6
PAIRS = 10_000
KINK = 1e-5
_PAIRS_AT_ONCE = 1_000
_NUMBERS_AT_ONCE = 1 << 26
"""Values of nodes that are held at a time: half a gigabyte in float64."""
ROUNDINGS = 8
"""At one scale, two float32 evaluations may differ by this many times the rounding error seen in one of them."""


@dataclasses.dataclass(frozen=True)
class Verification:
    """What was compared, and how far apart it was.

    Args:
        rows: number of verification rows that were compared.
        score_scale: S, largest absolute score over them.
        gradient_scale: G, largest absolute gradient entry over them.
        score_difference: largest difference of scores, as a share of S.
        gradient_difference: largest difference of gradient entries, as a share of G.
        rounding_margin: largest difference of a float32 score of the program from its float64 one, as a share of
            max(1, |score|) of the row.
        gradient: `checked` where the SavedModel answers a gradient, else `derived`.
        untaken: piecewise nodes of which no row took one branch.
    """

    rows: int
    score_scale: float
    gradient_scale: float
    score_difference: float
    gradient_difference: float
    rounding_margin: float
    gradient: str
    untaken: tuple[str, ...] = ()


def verify(program: Program, run: Run, probe: Probe | None) -> Verification:
    r"""Return how well a SavedModel's own answers agree with its program.

    .. math:: |f_1 - f_2| \le 10^{-6} S, \quad |g_1 - g_2|_\infty \le 10^{-6} G, \quad
              f(z) \ge f(x) + \langle g(x), z - x \rangle - \tau

    with S and G the largest absolute score and gradient entry over the rows; rows next to a kink are held to the last
    inequality only. Rows of scale 10^4 make S and G large, so the rows of each scale, and the probe's with the origin,
    must also agree within 10^-5 of their own largest, and `ROUNDINGS` times the rounding error seen there.

    Args:
        program: the proved program.
        run: the SavedModel's function, float32 [n, width] -> (score [n], gradient [n, dim] or None).
        probe: the version's probe, or None for a model made elsewhere.

    Raises:
        VersionRefusedError: `probe` (not reproduced), `agreement` (another function), `gradient` (no subgradient).
    """
    if probe is not None:
        check_probe(run, probe, program.dim, program.context)
    rows = rows_for(program, probe)
    score, gradient = answers(run, rows)
    if gradient is not None and gradient.shape[1] != program.dim:
        reason = f"gradients have {gradient.shape[1]} entries, the program's {program.dim}"
        raise VersionRefusedError("agreement", reason)
    own_score, own_gradient = _evaluated(program, rows)
    exact_score, exact_gradient = _evaluated(program, rows.astype(np.float64))
    comparable = _comparable(score, gradient, own_score, own_gradient, exact_score, exact_gradient)
    groups = verification_groups(probe)[comparable]
    rows, own_score, own_gradient, exact_score, exact_gradient = (
        array[comparable] for array in (rows, own_score, own_gradient, exact_score, exact_gradient)
    )
    score = score[comparable]
    near, untaken = branches(program, rows)
    score_scale = float(np.abs(own_score).max())
    score_difference = float(np.abs(score - own_score).max())
    if score_difference > AGREEMENT * score_scale:
        reason = f"scores of the SavedModel and of its program differ by {score_difference:.2g}, the largest is "
        raise VersionRefusedError("agreement", f"{reason}{score_scale:.2g}; at most {AGREEMENT:g} of it is allowed")
    _check_each_scale("agreement", score, own_score, exact_score, groups)
    gradient_scale = float(np.abs(own_gradient).max())
    gradient_difference = 0.0
    if gradient is not None:
        gradient = gradient[comparable]
        smooth = ~near
        if smooth.any():
            gradient_difference = float(np.abs(gradient - own_gradient)[smooth].max())
        if gradient_difference > AGREEMENT * gradient_scale:
            reason = f"gradients of the SavedModel and of its program differ by {gradient_difference:.2g}, the largest "
            reason += f"entry is {gradient_scale:.2g}; at most {AGREEMENT:g} of it is allowed"
            raise VersionRefusedError("gradient", reason)
        _check_each_scale("gradient", gradient[smooth], own_gradient[smooth], exact_gradient[smooth], groups[smooth])
    rounding = np.abs(own_score.astype(np.float64) - exact_score)
    served = own_gradient if gradient is None else gradient
    _check_subgradient(rows, score, served, rounding, _pairs(rows[:, program.dim :], program.weights_sha256))
    return Verification(
        rows=int(rows.shape[0]),
        score_scale=score_scale,
        gradient_scale=gradient_scale,
        score_difference=score_difference / score_scale if score_scale else 0.0,
        gradient_difference=gradient_difference / gradient_scale if gradient_scale else 0.0,
        rounding_margin=_margin(rounding, exact_score),
        gradient="derived" if gradient is None else "checked",
        untaken=untaken,
    )


def rows_for(program: Program, probe: Probe | None) -> NDArray[np.float32]:
    """Return the verification rows of a program, float32 [256, width]."""
    return verification_rows(program.width, probe, program.weights_sha256, program.context)


def _check_each_scale(rule: str, received: Floats, own: Floats, exact: Floats, groups: NDArray[np.intp]) -> None:
    """Require that the rows of each group agree within a share of the group's own largest number.

    Raises:
        VersionRefusedError: `rule`.
    """
    for group in np.unique(groups):
        chosen = groups == group
        scale = float(np.abs(exact[chosen]).max())
        rounding = float(np.abs(own[chosen] - exact[chosen]).max())
        difference = float(np.abs(received[chosen] - own[chosen]).max())
        if difference > PROBE_AGREEMENT * scale + ROUNDINGS * rounding:
            what = "ordinary rows" if group == 0 else f"rows of scale {SCALES[group - 1]:g}"
            reason = (
                f"the SavedModel and its program differ by {difference:.2g} on {what}, where the largest is {scale:.2g}"
            )
            raise VersionRefusedError(rule, reason)


def _comparable(
    score: Floats,
    gradient: Floats | None,
    own_score: Floats,
    own_gradient: Floats,
    exact_score: Floats,
    exact_gradient: Floats,
) -> NDArray[np.bool_]:
    """Return the rows that are finite on both sides; refuse if one side alone is finite well inside float32."""
    theirs = np.isfinite(score) & (True if gradient is None else np.isfinite(gradient).all(axis=1))
    ours = np.isfinite(own_score) & np.isfinite(own_gradient).all(axis=1)
    limit = float(np.finfo(np.float32).max) / 1e8
    inside = (np.abs(exact_score) < limit) & (np.abs(exact_gradient).max(axis=1) < limit)
    both: NDArray[np.bool_] = theirs & ours
    if (inside & ~both).any() or not both.any():
        raise VersionRefusedError(
            "agreement", "a score or gradient is NaN or infinite where it should be an ordinary number"
        )
    return both


def branches(program: Program, rows: Floats) -> tuple[NDArray[np.bool_], tuple[str, ...]]:
    """Return which rows are next to a kink, and the piecewise nodes some unit of which took one branch only.

    Next to a kink is a row that brings some piecewise node within `KINK` of its scale to where its slope jumps.

    Args:
        program: the program.
        rows: [n, width].
    """
    near = np.zeros(rows.shape[0], bool)
    names: list[str] = []
    taken: list[NDArray[np.bool_]] = []
    if not any(isinstance(node, MaximumNode) or _has_kink(node) for node in program.nodes):
        return near, ()
    for piece in _pieces(program, rows.shape[0]):
        values = node_values(program, rows[piece].astype(np.float64))
        for number, (name, distance) in enumerate(_kink_distances(program, values)):
            scale = np.abs(distance).max(axis=1, keepdims=True)
            near[piece] |= (np.abs(distance) <= KINK * scale).any(axis=1)
            sides = np.stack([(distance > 0).any(axis=0), (distance <= 0).any(axis=0)])
            if number == len(names):
                names.append(name)
                taken.append(sides)
            taken[number] = taken[number] | sides
    untaken = (name for name, sides in zip(names, taken, strict=True) if not sides.all())
    return near, tuple(dict.fromkeys(untaken))


def _kink_distances(program: Program, values: list[Floats]) -> Iterator[tuple[str, Floats]]:
    """Yield the name of each piecewise node and how far its features are from where their slope jumps."""
    for node in program.nodes:
        if isinstance(node, AtomNode):
            for features, place in node.atom.kinks():
                yield node.name, values[node.argument][:, features] - place
        elif isinstance(node, MaximumNode):
            yield node.name, values[node.arguments[0]] - values[node.arguments[1]]


def _has_kink(node: Node) -> bool:
    return isinstance(node, AtomNode) and bool(node.atom.kinks())


def _pieces(program: Program, num_rows: int) -> Iterator[slice]:
    """Yield slices of rows whose values in all nodes together are not too many."""
    size = max(TILE_ROWS, _NUMBERS_AT_ONCE // sum(node.width for node in program.nodes))
    yield from (slice(start, start + size) for start in range(0, num_rows, size))


def _evaluated(program: Program, rows: Floats, *, gradient: bool = True) -> tuple[Floats, Floats]:
    """Return scores and gradients in the dtype of the rows."""
    parts = [evaluate(program, rows[piece], gradient=gradient) for piece in _pieces(program, rows.shape[0])]
    scores = np.concatenate([score for score, _ in parts])
    return scores, np.concatenate([slopes for _, slopes in parts]) if gradient else np.zeros((0, program.dim))


def _pairs(context: Floats, seed: str) -> NDArray[np.int64]:
    """Return numbers of rows [2, PAIRS], the two of a pair with the same context, of which alone something is claimed.

    Args:
        context: [n, c], c = 0 without one.
        seed: hexadecimal text that fixes the pairs.
    """
    generator = np.random.default_rng(int(seed, 16) ^ 1)
    pairs = generator.integers(0, context.shape[0], (2, PAIRS))
    if context.shape[1]:
        _, groups = np.unique(context, axis=0, return_inverse=True)
        order = np.argsort(groups.reshape(-1), kind="stable")
        sizes = np.bincount(groups.reshape(-1))
        group = groups.reshape(-1)[pairs[0]]
        pairs[1] = order[(np.cumsum(sizes) - sizes)[group] + pairs[1] % sizes[group]]
    return pairs


def _check_subgradient(
    rows: Floats, score: Floats, gradient: Floats, rounding: Floats, pairs: NDArray[np.int64]
) -> None:
    """Require the supporting-hyperplane inequality on `PAIRS` pairs of rows, less the rounding of its own terms.

    Args:
        rows: [n, dim], or with the context behind.
        score: the SavedModel's [n].
        gradient: what is served beside it [n, dim]: the SavedModel's own, else the program's.
        rounding: how far the program's float32 scores lie from its float64 ones [n].
        pairs: numbers of rows [2, PAIRS].
    """
    exact_rows, exact_gradient = rows[:, : gradient.shape[1]].astype(np.float64), gradient.astype(np.float64)
    ulp = 2.0**-23
    violated = 0
    for start in range(0, PAIRS, _PAIRS_AT_ONCE):
        i, j = pairs[:, start : start + _PAIRS_AT_ONCE]
        step = exact_rows[j] - exact_rows[i]
        terms = exact_gradient[i] * step
        tau = 16 * ulp * (np.abs(score[i]) + np.abs(score[j]) + np.abs(terms).sum(axis=1) + 1.0)
        tau += AGREEMENT * np.abs(exact_gradient[i]).max(axis=1) * np.abs(step).sum(axis=1)
        tau += ROUNDINGS * (rounding[i] + rounding[j])
        violated += int((score[j] < score[i] + terms.sum(axis=1) - tau).sum())
    if violated:
        reason = f"the gradient is no subgradient: {violated} of {PAIRS} supporting hyperplanes cut the scores"
        raise VersionRefusedError("gradient", reason)


def rounding_margin(program: Program, rows: Floats) -> float:
    """Return what `verify` records as the rounding margin, of a program alone.

    Args:
        program: the program.
        rows: float32 [n, width], the verification rows.
    """
    with futures.ThreadPoolExecutor(1) as pool:  # side by side: BLAS leaves Python's lock
        rounded = pool.submit(_evaluated, program, rows, gradient=False)
        exact = _evaluated(program, rows.astype(np.float64), gradient=False)[0]
        score = rounded.result()[0]
    finite = np.isfinite(score) & np.isfinite(exact)
    return _margin(np.abs(score[finite].astype(np.float64) - exact[finite]), exact[finite])


def _margin(rounding: Floats, exact: Floats) -> float:
    """Return the largest rounding error as a share of the score, or of 1 where that is larger; 0 for no rows."""
    return float((rounding / np.maximum(1.0, np.abs(exact))).max(initial=0.0))
