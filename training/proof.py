"""What `certify` tells of a SavedModel folder: the proof as a table or as JSON, or what to change where there is none.

Below `__main__`; above `private_copy`, which opens the folder, and `service.program`, which proves. Nothing of the
model is executed: the rounding is measured on the lifted program.
"""

import contextlib
import dataclasses
import importlib
import math
from collections.abc import Iterator, Mapping, Sequence
from concurrent import futures
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import threadpoolctl
from numpy.typing import NDArray

from service.manifest import Manifest, VersionRefusedError
from service.program.gradient_ranges import gradient_ranges
from service.program.verification import Probe, branches, rounding_margin, rows_for
from service.signature import CONTEXT
from training import private_copy

if TYPE_CHECKING:
    from service.program.certification import Certified

MAX_FEATURES = 40
"""Most lines of gradient ranges that are printed; `--json` has all."""

_TABLE = ("step", "node", "rule", "shows", "least weight")
_UNBOUNDED = "unbounded"

CHANGES: Mapping[str, str] = {
    "nonneg-matmul": "keep that kernel non-negative, in Keras with kernel_constraint=keras.constraints.NonNeg(). Only "
    "kernels that read the row itself, or an affine function of it, may have any sign.",
    "nonneg-scale": "keep that factor non-negative, or apply it to the row before the first activation.",
    "atom-convex": "use a convex activation: softplus, relu, leaky relu, elu, exp, or a square of an affine function.",
    "atom-nondecreasing": "use an activation that never falls, such as softplus or relu, or apply this one to an "
    "affine function of the row.",
    "context-sign": "keep that function of the context from being negative: relu, softplus, sigmoid or exp. What "
    "multiplies x itself, before the first activation, may have any sign.",
    "not-lifted": "leave the op out of the way to the score, or write it with ops that are understood.",
    "row-axis": "compute each row by itself: keep [n] as the first axis, and reduce over the features only.",
    "cast": "stay in float32 or float64 from the row to the score.",
    "finite-weights": "train again: a weight has left the floats.",
    "op-not-allowed": "export a pure function of the row and of variables, without files, printing, state or Python.",
    "signature-missing": "export the score as the signature serving_default, as Keras's model.export does.",
    "signature-inputs": "take one float tensor [n, dim] with a free number of rows and a fixed dim.",
    "signature-outputs": "answer one number per row, [n] or [n, 1].",
    "support": "leave the output support out, or export the domain weight that training makes.",
    "signatures-differ": "export each function as a model of its own.",
    "saved-model": "name the folder that holds saved_model.pb and variables/.",
    "tensorflow-1": "export again with TensorFlow 2.",
}
"""What to change where a rule refuses a model of somebody who may change it."""


@dataclasses.dataclass(frozen=True, eq=False)
class Proof:
    """A proved SavedModel folder, with what its program alone tells.

    Args:
        certified: the proof.
        manifest: the manifest, or None for a SavedModel made elsewhere.
        rounding_margin: largest float32 rounding error of a score on the verification rows, as a share of it.
        untaken: piecewise nodes some unit of which took one branch only on those rows.
        lower: lower bounds of the gradient's entries over all rows [dim], -inf where there is none.
        upper: upper bounds.
    """

    certified: "Certified"
    manifest: Manifest | None
    rounding_margin: float
    untaken: tuple[str, ...]
    lower: NDArray[np.float64]
    upper: NDArray[np.float64]

    @property
    def gradient(self) -> str:
        """`derived`, or `unchecked` where the file answers one: who serves it compares it first."""
        return "unchecked" if self.certified.has_gradient else "derived"

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the features, or their numbers."""
        named = () if self.manifest is None else self.manifest.features
        return named or tuple(f"x[{index}]" for index in range(self.certified.dim))


def prove(path: Path) -> Proof:
    """Return the proof of the bytes that were read (and hashed, where there is a manifest) in a folder.

    Raises:
        VersionRefusedError: the folder is not whole, or the model is not proved.
    """
    with futures.ThreadPoolExecutor(1) as pool, contextlib.ExitStack() as stack:
        certification = pool.submit(importlib.import_module, "service.program.certification")
        folder, manifest = stack.enter_context(private_copy.opened(path))
        certified: Certified = certification.result().certify(folder)
        probe = Probe.from_bytes((folder / "probe.npz").read_bytes()) if (folder / "probe.npz").exists() else None
    program = certified.program
    if probe is not None and (probe.x.shape[1], probe.rows.shape[1]) != (program.dim, program.width):
        raise VersionRefusedError("probe", f"the probe has {probe.x.shape[1]} features, the model {program.dim}")
    rows = rows_for(program, probe)
    # One thread for BLAS: its own wait for each other where others compute. The two questions are asked side by side.
    with threadpoolctl.threadpool_limits(1, user_api="blas"), futures.ThreadPoolExecutor(1) as pool:
        ranges = pool.submit(gradient_ranges, program)
        margin = rounding_margin(program, rows)
        return Proof(certified, manifest, margin, branches(program, rows)[1], *ranges.result())


def to_document(proof: Proof) -> dict[str, Any]:
    """Return the proof as JSON; a bound that is infinite is null."""
    certified, default = proof.certified, proof.certified.file_signatures[0]
    return {
        "proved": True,
        "made_elsewhere": proof.manifest is None,
        "manifest_format": None if proof.manifest is None else proof.manifest.format_version,
        "input": {
            "name": default.input_name,
            "dtype": default.input_dtype,
            "dim": certified.dim,
            "features": [] if proof.manifest is None else list(proof.manifest.features),
        },
        **({"context": _context(proof)} if certified.interface.context_dim else {}),
        "score": default.score_name,
        "signatures": list(certified.signatures),
        "certificate": dict(certified.certificate.to_document(proof.gradient, proof.rounding_margin)),
        "untaken": list(proof.untaken),
        "gradient_ranges": [
            [float(end) if math.isfinite(end) else None for end in ends]
            for ends in zip(proof.lower, proof.upper, strict=True)
        ],
    }


def _context(proof: Proof) -> dict[str, Any]:
    """Return the context as JSON: what is held fixed."""
    interface = proof.certified.interface
    features = () if proof.manifest is None else proof.manifest.context_features
    dtype = interface.file_signatures[0].context_dtype
    return {"name": CONTEXT, "dtype": dtype, "dim": interface.context_dim, "features": list(features)}


def refusal_document(error: VersionRefusedError) -> dict[str, Any]:
    """Return a refusal as JSON."""
    return {"proved": False, "rule": error.rule, "reason": error.reason, "change": CHANGES.get(error.rule, "")}


def lines(proof: Proof) -> Iterator[str]:
    """Yield the proof as a person reads it: what was proved, step by step, and what follows."""
    certified, certificate = proof.certified, proof.certified.certificate
    default = certified.file_signatures[0]
    made = "elsewhere (no manifest.json)" if proof.manifest is None else f"here, {_named(proof.manifest)}"
    yield f"model: made {made}"
    names = ", ".join(proof.features[:6]) + (", ..." if certified.dim > 6 else "")
    yield f"takes: {default.input_name}, {default.input_dtype} [n, {certified.dim}] ({names})"
    if certified.interface.context_dim:
        context = _context(proof)
        beside = ", ".join(context["features"][:6]) + (", ..." if len(context["features"]) > 6 else "")
        yield f"beside: {CONTEXT}, {context['dtype']} [n, {context['dim']}]" + (f" ({beside})" if beside else "")
    yield f"answers: {', '.join(default.outputs)}; signatures: {', '.join(certified.signatures)}"
    yield f"proof: {len(certificate.steps)} steps"
    rows = [
        (str(number), step.node, step.rule, step.curvature, "" if step.min_weight is None else f"{step.min_weight:.6g}")
        for number, step in enumerate(certificate.steps, start=1)
    ]
    yield from _table([_TABLE, *rows])
    for rule, reason in dict.fromkeys((step.rule, step.reason) for step in certificate.steps):
        yield f"{rule}: {reason}"
    yield from _ranges(proof)
    yield f"strong convexity: {certificate.strong_convexity:.6g}"
    yield f"rounding margin: {proof.rounding_margin:.3g} of the score (of 1 where that is larger)"
    yield f"gradient: {_GRADIENTS[proof.gradient]}"
    if proof.untaken:
        yield f"branches that no verification row took: {', '.join(proof.untaken)[:400]}"
    yield f"weights sha256: {certificate.weights_sha256}"
    yield f"program sha256: {certificate.program_sha256}"
    held = f" for each {CONTEXT}; nothing is claimed across contexts" if certified.interface.context_dim else ""
    yield f"proved: the score is convex in x{held}"


_GRADIENTS = {
    "derived": "derived from the program; the file answers none",
    "unchecked": "the file answers one, which a server compares with the program's before it serves",
}


def refusal_lines(error: VersionRefusedError) -> Iterator[str]:
    """Yield a refusal as a person reads it: rule, place, and what to change."""
    yield f"refused: {error.rule}: {error.reason}"
    if error.rule in CHANGES:
        yield f"what to change: {CHANGES[error.rule]}"


def _named(manifest: Manifest) -> str:
    return f"{manifest.model} version {manifest.version} (manifest of format {manifest.format_version})"


def _ranges(proof: Proof) -> Iterator[str]:
    """Yield the ranges of the gradient's entries, those that are bounded on a side first where there are many."""
    bounded = np.isfinite(proof.lower) | np.isfinite(proof.upper)
    if not bounded.any():
        yield "gradient over all rows: unbounded in every entry"
        return
    yield f"gradient over all rows: {int(bounded.sum())} of {bounded.size} entries are bounded"
    order = np.argsort(~bounded, kind="stable")[:MAX_FEATURES]
    shown = [(proof.features[index], _end(proof.lower[index]), _end(proof.upper[index])) for index in order]
    yield from _table([("feature", "at least", "at most"), *shown])
    if bounded.size > MAX_FEATURES:
        yield f"... and {bounded.size - MAX_FEATURES} more; --json has all"


def _end(value: float) -> str:
    return f"{value:.6g}" if math.isfinite(value) else _UNBOUNDED


def _table(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield lines with the columns aligned, each cell of 60 characters at most."""
    cut = [[cell if len(cell) <= 60 else cell[:28] + "..." + cell[-29:] for cell in row] for row in rows]
    widths = [max(len(cell) for cell in column) for column in zip(*cut, strict=True)]
    for row in cut:
        yield ("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))).rstrip()
