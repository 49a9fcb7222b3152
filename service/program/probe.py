"""Rows on which a version is tried, and the answers that it must give again: the probe and the verification rows.

A version of ours brings its probe; one made elsewhere gets one here, of verification rows. Above: `verification`,
`ladder`, `service.loader`; below: `tiles`. NumPy only: the SavedModel comes as a plain callable.
"""

import dataclasses
import io
import struct
import zipfile
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from service.codecs import npy
from service.errors import InvalidArgumentError, VersionRefusedError
from service.program.program import Program
from service.program.tiles import evaluate_in_tiles

Floats = NDArray[np.floating]
Run = Callable[[NDArray[np.float32]], tuple[Floats, Floats | None]]
"""Rows float32 [n, width], x and then the context, -> score [n] and gradient by x [n, dim], or None without one."""

ROWS = 256
SCALES = (0.01, 1.0, 100.0, 1e4)
PROBE_AGREEMENT = 1e-5
PROBE_ROWS = 16
_MEMBERS = ("x", "score", "gradient")
_OTHERS = ("support", "context")
CONTEXT_ROWS = 15
"""Verification rows of one scale that share a context, so that supporting hyperplanes can be tried on pairs of them."""


@dataclasses.dataclass(frozen=True, eq=False)
class Probe:
    """Rows of the training data with the answers that the published version must give again.

    Args:
        x: float32 [16, dim].
        score: float32 [16].
        gradient: float32 [16, dim], by x.
        support: float32 [16], the domain weights; None for a model that answers none.
        context: float32 [16, c], or None for a model without a context.
    """

    x: NDArray[np.float32]
    score: NDArray[np.float32]
    gradient: NDArray[np.float32]
    support: NDArray[np.float32] | None = None
    context: NDArray[np.float32] | None = None

    @property
    def rows(self) -> NDArray[np.float32]:
        """The rows as an engine takes them, float32 [16, dim + c]: x, then the context."""
        return self.x if self.context is None else np.concatenate([self.x, self.context], axis=1)

    @classmethod
    def of_rows(cls, rows: NDArray[np.float32], score: NDArray[np.float32], gradient: NDArray[np.float32]) -> "Probe":
        """Return the probe of rows [n, dim + c] with their gradients [n, dim]."""
        dim = gradient.shape[1]
        return cls(rows[:, :dim], score, gradient, context=rows[:, dim:] if rows.shape[1] > dim else None)

    def to_bytes(self) -> bytes:
        """Return the bytes of an `.npz` file: equal probes give equal bytes."""
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
            for name in (*_MEMBERS, *(name for name in _OTHERS if getattr(self, name) is not None)):
                member = io.BytesIO()
                np.save(member, np.ascontiguousarray(getattr(self, name), np.float32), allow_pickle=False)
                archive.writestr(zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0)), member.getvalue())
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> "Probe":
        """Read `probe.npz`.

        Raises:
            VersionRefusedError: `probe`, if it is not three float32 arrays of matching shapes, with those of a support
                and a context beside.
        """
        found = _members(data)
        if not found.keys() >= set(_MEMBERS):
            raise VersionRefusedError("probe", f"probe.npz must hold {', '.join(_MEMBERS)}")
        arrays = [found[name] for name in _MEMBERS]
        support, context = (found.get(name) for name in _OTHERS)
        x, score, gradient = arrays
        shapes_fit = x.ndim == 2 and score.shape == x.shape[:1] and gradient.shape == x.shape and x.shape[0] > 0
        if context is not None:
            shapes_fit = shapes_fit and context.ndim == 2 and context.shape[0] == x.shape[0] and context.shape[1] > 0
            arrays.append(context)
        if not shapes_fit or any(array.dtype != np.float32 or not np.isfinite(array).all() for array in arrays):
            raise VersionRefusedError(
                "probe", "probe.npz must hold finite float32 x [n, dim], score [n], gradient [n, dim], context [n, c]"
            )
        if support is not None and not is_support(support, x.shape[0]):
            raise VersionRefusedError("probe", "the support in probe.npz must be float32 [n] in [0, 1]")
        return cls(x, score, gradient, support, context)


def _members(data: bytes) -> dict[str, Floats]:
    """Return the arrays of an `.npz` file by name, none larger than the file: its claims are checked, not believed.

    Raises:
        VersionRefusedError: `probe`.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            if len(members) != len(archive.infolist()) or not members.keys() <= {*_MEMBERS, *_OTHERS}:
                raise VersionRefusedError("probe", f"probe.npz may hold {', '.join((*_MEMBERS, *_OTHERS))}, each once")
            if any(info.compress_type != zipfile.ZIP_STORED for info in members.values()):
                raise VersionRefusedError("probe", "probe.npz is compressed; write it with numpy.savez")
            return {name: npy.decode_rows(archive.read(info)).copy() for name, info in members.items()}
    except (InvalidArgumentError, OSError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile, struct.error) as err:
        raise VersionRefusedError("probe", "probe.npz cannot be read") from err


def is_support(values: NDArray[np.floating], num_rows: int) -> bool:
    """Whether values may be domain weights: float32 [n] in [0, 1]."""
    fits = values.shape == (num_rows,) and values.dtype == np.float32
    return bool(fits and ((values >= 0.0) & (values <= 1.0)).all())


def verification_rows(width: int, probe: Probe | None, seed: str, context: int = 0) -> NDArray[np.float32]:
    """Return float32 [256, width]: the probe's, the origin, and normal rows of four scales around the probe's mean.

    Args:
        width: number of features of a row, the context's included.
        probe: the probe, or None (then the mean is 0).
        seed: hexadecimal text that fixes the rows; the weights' hash.
        context: how many of the features, the last ones, are the context. `CONTEXT_ROWS` drawn rows of one scale share
            theirs.
    """
    generator = np.random.default_rng(int(seed, 16))
    known = np.zeros((0, width), np.float32) if probe is None else probe.rows[:PROBE_ROWS]
    center = np.zeros(width) if probe is None else probe.rows.mean(axis=0, dtype=np.float64)
    count = ROWS - 1 - known.shape[0]
    scales = np.resize(np.asarray(SCALES), count)[:, None]
    drawn = generator.standard_normal((count, width))
    if context:
        number = np.arange(count)
        sharing = number // (len(SCALES) * CONTEXT_ROWS) * len(SCALES) + number % len(SCALES)
        drawn[:, width - context :] = drawn[:, width - context :][sharing]
    rows = center + scales * drawn
    return np.concatenate([known, np.zeros((1, width), np.float32), rows.astype(np.float32)])


def verification_groups(probe: Probe | None) -> NDArray[np.intp]:
    """Return the group of each of `verification_rows`: 0 for the probe's and the origin, then one for each scale."""
    known = 1 if probe is None else 1 + min(PROBE_ROWS, probe.rows.shape[0])
    return np.concatenate([np.zeros(known, np.intp), 1 + np.arange(ROWS - known) % len(SCALES)])


def derived_probe(program: Program, run: Run) -> Probe:
    """Return a probe of a SavedModel made elsewhere: its own scores, and its program's gradients.

    Args:
        program: the proved program, which was verified against it.
        run: the SavedModel's function.

    Raises:
        VersionRefusedError: `probe`, if no verification row has a finite answer.
    """

    def answer(rows: NDArray[np.float32]) -> tuple[Floats, Floats | None]:
        return run(rows)[0], evaluate_in_tiles(program, rows, ("gradient",))["gradient"]

    return unproved_probe(answer, program.width, program.weights_sha256)


def unproved_probe(run: Run, width: int, seed: str) -> Probe:
    """Return a probe of a SavedModel with its own answers: at most 16 verification rows that it answers in float32.

    Rows of ordinary size come first: beside those of scale 10^4 their differences would not be seen.

    Args:
        run: the SavedModel's function, with a gradient.
        width: number of features of a row, the context's included.
        seed: as for `verification_rows`.

    Raises:
        VersionRefusedError: `probe`, if no verification row has a finite answer; `agreement`, if it does not answer one
            score and one gradient for each row.
    """
    rows = verification_rows(width, None, seed)
    groups = verification_groups(None)
    rows = rows[np.argsort(np.array([1, 2, 0, 3, 4])[groups], kind="stable")]  # scale 1, the origin, 0.01, 100, 10^4
    score, gradient = answers(run, rows)
    if gradient is None:
        raise VersionRefusedError("probe", "the model answers no gradient")
    with np.errstate(over="ignore"):
        score, gradient = score.astype(np.float32), gradient.astype(np.float32)
    finite = np.flatnonzero(np.isfinite(score) & np.isfinite(gradient).all(axis=1))[:PROBE_ROWS]
    if not finite.size:
        raise VersionRefusedError("probe", f"none of {ROWS} rows is answered by finite numbers")
    return Probe.of_rows(rows[finite], score[finite], gradient[finite])


def check_probe(run: Run, probe: Probe, dim: int, context: int = 0) -> None:
    """Require that the probe's answers come out again, within 1e-5 of its largest score and gradient entry.

    Args:
        run: what answers.
        probe: the probe.
        dim: number of features of x.
        context: number of features of the context.

    Raises:
        VersionRefusedError: `probe`.
    """
    found, wanted = ((x, width - x) for x, width in ((probe.x.shape[1], probe.rows.shape[1]), (dim, dim + context)))
    if found != wanted:
        shown = [f"{x} features" + (f" and a context of {beside}" if beside else "") for x, beside in (found, wanted)]
        raise VersionRefusedError("probe", f"the probe has {shown[0]}, the model {shown[1]}")
    score, gradient = answers(run, probe.rows)
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


def answers(run: Run, rows: NDArray[np.float32]) -> tuple[Floats, Floats | None]:
    """Return a SavedModel's answers in float64, refused where they are not one score and one gradient for each row.

    A gradient may be narrower than its row, by the context's features.
    """
    score, gradient = run(rows)
    score = np.asarray(score, np.float64)
    gradient = None if gradient is None else np.asarray(gradient, np.float64)
    fits = gradient is None or (
        gradient.ndim == 2 and gradient.shape[0] == rows.shape[0] and 0 < gradient.shape[1] <= rows.shape[1]
    )
    if score.shape != rows.shape[:1] or not fits:
        received = f"{list(score.shape)}" + ("" if gradient is None else f" and {list(gradient.shape)}")
        reason = f"{rows.shape[0]} rows are answered by {received}, expected one score and one gradient for each"
        raise VersionRefusedError("agreement", reason)
    return score, gradient
