"""SavedModel folder to certificate: safety, lifting and proof, from the folder's files alone.

Nothing of the model is executed. Above: `service.loader` and training; below: `graph` (TensorFlow), `lifting`,
`curvature`.
"""

import dataclasses
from pathlib import Path

from service.errors import VersionRefusedError
from service.program import graph
from service.program.curvature import Certificate, prove
from service.program.lifting import lift
from service.program.program import Program

GRADIENT = "gradient"

UNPROVED_RULES = frozenset({"not-lifted", "cast", "nonneg-matmul", "nonneg-scale", "atom-convex", "atom-nondecreasing"})
"""Rules that say "not proved", and nothing worse: a server may be told to serve such a model all the same."""

_MALFORMED = (LookupError, ValueError, TypeError, AttributeError, ArithmeticError, RecursionError, MemoryError)
"""Exceptions that hostile files might still provoke: a net below the rules, so that none ends a server's watcher."""


@dataclasses.dataclass(frozen=True, eq=False)
class Certified:
    """A SavedModel that is proved convex.

    Args:
        program: its lifted program, the same for every callable signature.
        certificate: the proof.
        dim: number of features of a row.
        input_name: the input of `serving_default`.
        score_name: the output of `serving_default` that is the score.
        has_gradient: whether `serving_default` also answers a gradient [n, dim].
        signatures: names of all callable signatures.
    """

    program: Program
    certificate: Certificate
    dim: int
    input_name: str
    score_name: str
    has_gradient: bool
    signatures: tuple[str, ...]


def certify(folder: Path) -> Certified:
    """Prove the SavedModel in `folder` convex in its row.

    Every callable signature must have one float input [n, dim] (or serialized examples of it) and one float output
    [n] or [n, 1] besides an optional `gradient` [n, dim]; all of them must give the same program.

    Raises:
        VersionRefusedError: naming the rule and the node that refused it. Besides the rules of the steps below:
            `signature-missing` (no `serving_default`), `signature-inputs`, `signature-outputs`, `signatures-differ`,
            `malformed` (damaged in a way for which there is no other rule).
    """
    try:
        return _certified(folder)
    except _MALFORMED as err:
        what = f"the files are damaged in a way that no rule foresees ({type(err).__name__})"
        raise VersionRefusedError("malformed", what) from err


def _certified(folder: Path) -> Certified:
    signatures = {signature.name: signature for signature in graph.read(folder, outputs=frozenset({GRADIENT}))}
    if "serving_default" not in signatures:
        raise VersionRefusedError("signature-missing", "the model has no signature serving_default")
    default = signatures["serving_default"]
    dim = _dim(default)
    programs = {name: _program(signature, dim) for name, signature in signatures.items()}
    program = programs["serving_default"]
    for name, other in programs.items():
        if other.program_sha256 != program.program_sha256:
            reason = f"signature {name} is another function than serving_default; only one can be proved and served"
            raise VersionRefusedError("signatures-differ", reason)
    return Certified(
        program=program,
        certificate=prove(program),
        dim=dim,
        input_name=default.input_name,
        score_name=_score(default),
        has_gradient=GRADIENT in default.outputs,
        signatures=tuple(sorted(signatures)),
    )


def _dim(signature: graph.BoundSignature) -> int:
    shape = signature.input_shape
    if signature.input_dtype != "float32" or len(shape) != 2 or shape[0] != -1 or shape[1] < 1:
        reason = (
            f"signature {signature.name} takes {signature.input_dtype} {list(shape)}, expected float32 [n, dim] with a "
            "free number of rows and a fixed dim"
        )
        raise VersionRefusedError("signature-inputs", reason)
    return shape[1]


def _score(signature: graph.BoundSignature) -> str:
    names = [name for name in signature.outputs if name != GRADIENT]
    if len(names) != 1:
        reason = f"signature {signature.name} answers {', '.join(sorted(signature.outputs))[:80]}; expected one score"
        raise VersionRefusedError("signature-outputs", reason)
    return names[0]


def _program(signature: graph.BoundSignature, dim: int) -> Program:
    name = _score(signature)
    shape, dtype, inlined = signature.outputs[name]
    if dtype not in {"float32", "float64"} or shape not in {(-1,), (-1, 1)}:
        reason = f"output {name} of signature {signature.name} is {dtype} {list(shape)}, expected float [n] or [n, 1]"
        raise VersionRefusedError("signature-outputs", reason)
    if GRADIENT in signature.outputs:
        gradient_shape, gradient_dtype, _ = signature.outputs[GRADIENT]
        if gradient_dtype not in {"float32", "float64"} or gradient_shape != (-1, dim):
            reason = f"output gradient of signature {signature.name} is {gradient_dtype} {list(gradient_shape)}"
            raise VersionRefusedError("signature-outputs", f"{reason}, expected float [n, {dim}]")
    if signature.input_dtype == "float32" and signature.input_shape != (-1, dim):
        reason = f"signature {signature.name} takes rows of shape {list(signature.input_shape)}, expected [n, {dim}]"
        raise VersionRefusedError("signature-inputs", reason)
    if signature.input_dtype not in {"float32", "string"}:
        raise VersionRefusedError("signature-inputs", f"signature {signature.name} takes {signature.input_dtype}")
    return lift(inlined, dim)
