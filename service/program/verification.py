"""Program against SavedModel, on rows: they must be the same function, and the gradient a subgradient.

The proof reads the file; what is served is what TensorFlow makes of it. This check ties the two, at every load.
Above: `service.loader` and training; below: `evaluation`. NumPy only: the SavedModel comes as a plain callable.
"""

import dataclasses
import io
import zipfile
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from service.errors import VersionRefusedError
from service.program.evaluation import evaluate_both, node_values
from service.program.program import AtomNode, MaximumNode, Program

Floats = NDArray[np.floating]
Run = Callable[[NDArray[np.float32]], tuple[Floats, Floats | None]]

ROWS = 256
SCALES = (0.01, 1.0, 100.0, 1e4)
AGREEMENT = 1e-6
PROBE_AGREEMENT = 1e-5
PAIRS = 10_000
KINK = 1e-5
PROBE_ROWS = 16
ROUNDINGS = 8
"""At one scale, two float32 evaluations may differ by this many times the rounding error seen in one of them."""


@dataclasses.dataclass(frozen=True, eq=False)
class Probe:
    """Rows of the training data with the answers that the published version must give again.

    Args:
        x: float32 [16, dim].
        score: float32 [16].
        gradient: float32 [16, dim].
    """

    x: NDArray[np.float32]
    score: NDArray[np.float32]
    gradient: NDArray[np.float32]

    def to_bytes(self) -> bytes:
        """Return the bytes of an `.npz` file: equal probes give equal bytes."""
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
            for name in ("x", "score", "gradient"):
                member = io.BytesIO()
                np.save(member, np.ascontiguousarray(getattr(self, name), np.float32), allow_pickle=False)
                archive.writestr(zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0)), member.getvalue())
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> "Probe":
        """Read `probe.npz`.

        Raises:
            VersionRefusedError: `probe`, if it is not three float32 arrays of matching shapes.
        """
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as archive:
                arrays = [np.asarray(archive[name]) for name in ("x", "score", "gradient")]
        except (OSError, ValueError, KeyError, zipfile.BadZipFile, EOFError) as err:
            raise VersionRefusedError("probe", "probe.npz cannot be read") from err
        x, score, gradient = arrays
        shapes_fit = x.ndim == 2 and score.shape == x.shape[:1] and gradient.shape == x.shape and x.shape[0] > 0
        if not shapes_fit or any(array.dtype != np.float32 or not np.isfinite(array).all() for array in arrays):
            raise VersionRefusedError(
                "probe", "probe.npz must hold finite float32 x [n, dim], score [n], gradient [n, dim]"
            )
        return cls(x, score, gradient)


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


def verification_rows(dim: int, probe: Probe | None, seed: str) -> NDArray[np.float32]:
    """Return float32 [256, dim]: the probe's rows, the origin, and normal rows of four scales around the probe's mean.

    Args:
        dim: number of features.
        probe: the probe, or None (then the mean is 0).
        seed: hexadecimal text that fixes the rows; the weights' hash.
    """
    generator = np.random.default_rng(int(seed, 16))
    known = np.zeros((0, dim), np.float32) if probe is None else probe.x[:PROBE_ROWS]
    center = np.zeros(dim) if probe is None else probe.x.mean(axis=0, dtype=np.float64)
    count = ROWS - 1 - known.shape[0]
    scales = np.resize(np.asarray(SCALES), count)[:, None]
    drawn = center + scales * generator.standard_normal((count, dim))
    return np.concatenate([known, np.zeros((1, dim), np.float32), drawn.astype(np.float32)])


def verify(program: Program, run: Run, probe: Probe | None) -> Verification:
    r"""Return how well a SavedModel's own answers agree with its program.

    .. math:: |f_1 - f_2| \le 10^{-6} S, \quad |g_1 - g_2|_\infty \le 10^{-6} G, \quad
              f(z) \ge f(x) + \langle g(x), z - x \rangle - \tau

    with S and G the largest absolute score and gradient entry over the rows; rows next to a kink are held to the last
    inequality only. Rows of scale 10^4 make S and G large, so the rows of each scale, and the probe's with the origin,
    must also agree within 10^-5 of their own largest, and `ROUNDINGS` times the rounding error seen there.

    Args:
        program: the proved program.
        run: the SavedModel's function, float32 [n, dim] -> (score [n], gradient [n, dim] or None).
        probe: the version's probe, or None for a model made elsewhere.

    Raises:
        VersionRefusedError: `probe` (not reproduced), `agreement` (another function), `gradient` (no subgradient).
    """
    if probe is not None:
        check_probe(run, probe, program.dim)
    rows = verification_rows(program.dim, probe, program.weights_sha256)
    score, gradient = _answers(run, rows)
    own_score, own_gradient = evaluate_both(program, rows)
    exact_score, exact_gradient = evaluate_both(program, rows.astype(np.float64))
    comparable = _comparable(score, gradient, own_score, own_gradient, exact_score, exact_gradient)
    groups = _groups(probe)[comparable]
    rows, own_score, own_gradient, exact_score, exact_gradient = (
        array[comparable] for array in (rows, own_score, own_gradient, exact_score, exact_gradient)
    )
    score = score[comparable]
    score_scale = float(np.abs(own_score).max())
    score_difference = float(np.abs(score - own_score).max())
    if score_difference > AGREEMENT * score_scale:
        reason = (
            f"scores of the SavedModel and of its program differ by {score_difference / score_scale:.2g} of the largest"
        )
        raise VersionRefusedError("agreement", f"{reason}, at most {AGREEMENT:g} is allowed")
    _check_each_scale("agreement", score, own_score, exact_score, groups)
    gradient_scale = float(np.abs(own_gradient).max())
    gradient_difference = 0.0
    if gradient is not None:
        gradient = gradient[comparable]
        smooth = ~_near_kink(program, rows)
        if smooth.any():
            gradient_difference = float(np.abs(gradient - own_gradient)[smooth].max())
        if gradient_difference > AGREEMENT * gradient_scale:
            reason = "the SavedModel's gradient and its program's differ by "
            reason += f"{gradient_difference / gradient_scale:.2g} of the largest entry"
            raise VersionRefusedError("gradient", f"{reason}, at most {AGREEMENT:g} is allowed")
        _check_each_scale("gradient", gradient[smooth], own_gradient[smooth], exact_gradient[smooth], groups[smooth])
        _check_subgradient(rows, score, gradient, program.weights_sha256)
    margin = np.abs(own_score.astype(np.float64) - exact_score) / np.maximum(1.0, np.abs(exact_score))
    return Verification(
        rows=int(rows.shape[0]),
        score_scale=score_scale,
        gradient_scale=gradient_scale,
        score_difference=score_difference / score_scale if score_scale else 0.0,
        gradient_difference=gradient_difference / gradient_scale if gradient_scale else 0.0,
        rounding_margin=float(margin.max()),
        gradient="derived" if gradient is None else "checked",
        untaken=_untaken(program, rows),
    )


def _groups(probe: Probe | None) -> NDArray[np.intp]:
    """Return the group of each verification row: 0 for the probe's and the origin, then one for each scale."""
    known = 1 if probe is None else 1 + min(PROBE_ROWS, probe.x.shape[0])
    return np.concatenate([np.zeros(known, np.intp), 1 + np.arange(ROWS - known) % len(SCALES)])


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


def check_probe(run: Run, probe: Probe, dim: int) -> None:
    """Require that the probe's answers come out again, within 1e-5 of its largest score and gradient entry.

    Raises:
        VersionRefusedError: `probe`.
    """
    if probe.x.shape[1] != dim:
        raise VersionRefusedError("probe", f"the probe has {probe.x.shape[1]} features, the model {dim}")
    score, gradient = _answers(run, probe.x)
    pairs = [("score", score, probe.score)]
    if gradient is not None:
        pairs.append(("gradient", gradient, probe.gradient))
    for what, received, expected in pairs:
        scale = float(np.abs(expected).max())
        with np.errstate(invalid="ignore"):
            difference = float(np.abs(received - expected).max())
        if not difference <= PROBE_AGREEMENT * scale:
            reason = f"the probe's {what} is not reproduced: off by {difference:.2g}, the largest is {scale:.2g}"
            raise VersionRefusedError("probe", reason)


def _answers(run: Run, rows: NDArray[np.float32]) -> tuple[Floats, Floats | None]:
    """Return a SavedModel's answers in float64, refused where they are not one score and one gradient for each row."""
    score, gradient = run(rows)
    score = np.asarray(score, np.float64)
    gradient = None if gradient is None else np.asarray(gradient, np.float64)
    if score.shape != rows.shape[:1] or (gradient is not None and gradient.shape != rows.shape):
        received = f"{list(score.shape)}" + ("" if gradient is None else f" and {list(gradient.shape)}")
        reason = f"{rows.shape[0]} rows are answered by {received}, expected one score and one gradient for each"
        raise VersionRefusedError("agreement", reason)
    return score, gradient


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


def _near_kink(program: Program, rows: Floats) -> NDArray[np.bool_]:
    """Return which rows bring some piecewise node within `KINK` of its scale to where its slope jumps."""
    values = node_values(program, rows.astype(np.float64))
    near = np.zeros(rows.shape[0], bool)
    for _, distance in _kink_distances(program, values):
        scale = np.abs(distance).max(axis=1, keepdims=True)
        near |= (np.abs(distance) <= KINK * scale).any(axis=1)
    return near


def _kink_distances(program: Program, values: list[Floats]) -> Iterator[tuple[str, Floats]]:
    """Yield the name of each piecewise node and how far its features are from where their slope jumps."""
    for node in program.nodes:
        if isinstance(node, AtomNode):
            for features, place in node.atom.kinks():
                yield node.name, values[node.argument][:, features] - place
        elif isinstance(node, MaximumNode):
            yield node.name, values[node.arguments[0]] - values[node.arguments[1]]


def _untaken(program: Program, rows: Floats) -> tuple[str, ...]:
    """Return the piecewise nodes some unit of which took one branch only."""
    distances = _kink_distances(program, node_values(program, rows.astype(np.float64)))
    untaken = (
        name for name, distance in distances if not ((distance > 0).any(axis=0) & (distance <= 0).any(axis=0)).all()
    )
    return tuple(dict.fromkeys(untaken))


def _check_subgradient(rows: Floats, score: Floats, gradient: Floats, seed: str) -> None:
    """Require the supporting-hyperplane inequality on `PAIRS` pairs of rows, less the rounding of its own terms."""
    generator = np.random.default_rng(int(seed, 16) ^ 1)
    i, j = generator.integers(0, rows.shape[0], (2, PAIRS))
    step = rows[j].astype(np.float64) - rows[i]
    terms = gradient[i] * step
    ulp = 2.0**-23
    tau = 16 * ulp * (np.abs(score[i]) + np.abs(score[j]) + np.abs(terms).sum(axis=1) + 1.0)
    tau += AGREEMENT * np.abs(gradient[i]).max(axis=1) * np.abs(step).sum(axis=1)
    violated = score[j] < score[i] + terms.sum(axis=1) - tau
    if violated.any():
        reason = (
            f"the gradient is no subgradient: {int(violated.sum())} of {PAIRS} supporting hyperplanes cut the scores"
        )
        raise VersionRefusedError("gradient", reason)
