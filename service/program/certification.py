"""SavedModel folder to certificate: safety, lifting and proof, from the folder's files alone.

Nothing of the model is executed. Above: `service.loader` and training; below: `graph` (TensorFlow), `lifting`,
`curvature`.
"""

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

from service.errors import VersionRefusedError
from service.program import graph
from service.program.curvature import Certificate, prove
from service.program.inlining import InlinedGraph
from service.program.lifting import lift
from service.program.program import Program
from service.signature import DEFAULT_SIGNATURE, FileSignature

GRADIENT = "gradient"

UNPROVED_RULES = frozenset(
    {"not-lifted", "cast", "nonneg-matmul", "nonneg-scale", "selection", "atom-convex", "atom-nondecreasing", "maximum"}
)
"""Rules that say "not proved", and nothing worse: a server may be told to serve such a model all the same."""

_FLOATS = frozenset({"float32", "float64"})
_EXAMPLES = "string"

_MALFORMED = (LookupError, ValueError, TypeError, AttributeError, ArithmeticError, RecursionError, MemoryError)
"""Exceptions that hostile files might still provoke: a net below the rules, so that none ends a server's watcher."""


@dataclasses.dataclass(frozen=True, eq=False)
class Certified:
    """A SavedModel that is proved convex.

    Args:
        program: its lifted program, the same for every callable signature.
        certificate: the proof.
        dim: number of features of a row.
        has_gradient: whether `serving_default` also answers a gradient [n, dim].
        file_signatures: all callable signatures, `serving_default` first.
    """

    program: Program
    certificate: Certificate
    dim: int
    has_gradient: bool
    file_signatures: tuple[FileSignature, ...]

    @property
    def interface(self) -> tuple[int, bool, tuple[FileSignature, ...]]:
        """What `describe` returns."""
        return self.dim, self.has_gradient, self.file_signatures

    @property
    def input_name(self) -> str:
        """The input of `serving_default`."""
        return self.file_signatures[0].input_name

    @property
    def score_name(self) -> str:
        """The output of `serving_default` that is the score."""
        return self.file_signatures[0].score_name

    @property
    def signatures(self) -> tuple[str, ...]:
        """Names of all callable signatures, sorted."""
        return tuple(sorted(signature.name for signature in self.file_signatures))


def certify(folder: Path) -> Certified:
    """Prove the SavedModel in `folder` convex in its row.

    Every callable signature must have one float input [n, dim] (or serialized examples of it) and one float output
    [n] or [n, 1] besides an optional `gradient` [n, dim]; all of them must give the same program, so that no signature
    is served that was not proved.

    Raises:
        VersionRefusedError: naming the rule and the node that refused it. Besides the rules of the steps below:
            `signature-missing` (no `serving_default`), `signature-inputs`, `signature-outputs`, `signatures-differ`,
            `malformed` (damaged in a way for which there is no other rule).
    """
    with _refusing_damage():
        dim, bound = _read(folder)
        default, *others = bound
        program = _program(default, dim)
        for other in others:
            if _program(other, dim).program_sha256 != program.program_sha256:
                reason = (
                    f"signature {other.name} is another function than {default.name}; only one can be proved and "
                    "served. Export the other one as a model of its own."
                )
                raise VersionRefusedError("signatures-differ", reason)
        return Certified(program, prove(program), dim, GRADIENT in default.outputs, _described(bound, dim))


def describe(folder: Path) -> tuple[int, bool, tuple[FileSignature, ...]]:
    """Return dim, whether `serving_default` answers a gradient, and the signatures of a SavedModel, proved or not.

    Raises:
        VersionRefusedError: as `certify`, but for the rules of lifting and of the proof.
    """
    with _refusing_damage():
        dim, bound = _read(folder)
        return dim, GRADIENT in bound[0].outputs, _described(bound, dim)


@contextlib.contextmanager
def _refusing_damage() -> Iterator[None]:
    try:
        yield
    except _MALFORMED as err:
        what = f"the files are damaged in a way that no rule foresees ({type(err).__name__})"
        raise VersionRefusedError("malformed", what) from err


def _read(folder: Path) -> tuple[int, list[graph.BoundSignature]]:
    """Return dim and the callable signatures, `serving_default` first."""
    bound = sorted(
        graph.read(folder, outputs=frozenset({GRADIENT})),
        key=lambda signature: (signature.name != DEFAULT_SIGNATURE, signature.name),
    )
    if bound[0].name != DEFAULT_SIGNATURE:
        reason = f"the model has no signature {DEFAULT_SIGNATURE}. Export the function to serve under that name."
        raise VersionRefusedError("signature-missing", reason)
    return _dim(bound[0]), bound


def _described(bound: Sequence[graph.BoundSignature], dim: int) -> tuple[FileSignature, ...]:
    """Return the signatures with their names, each checked."""
    return tuple(_description(signature, dim) for signature in bound)


def _description(signature: graph.BoundSignature, dim: int) -> FileSignature:
    name, shape, dtype, _ = _score(signature, dim)
    _, own_gradient, _ = signature.outputs.get(GRADIENT, ((), "", None))
    column = len(shape) == 2
    return FileSignature(signature.name, signature.input_name, signature.input_dtype, name, dtype, column, own_gradient)


def _dim(signature: graph.BoundSignature) -> int:
    shape = signature.input_shape
    if signature.input_dtype not in _FLOATS or len(shape) != 2 or shape[0] != -1 or shape[1] < 1:
        reason = (
            f"signature {signature.name} takes {signature.input_dtype} {list(shape)}, expected float32 or float64 "
            "[n, dim] with a free number of rows and a fixed dim. Export it with such an input signature."
        )
        raise VersionRefusedError("signature-inputs", reason)
    return shape[1]


def _score(signature: graph.BoundSignature, dim: int) -> tuple[str, tuple[int, ...], str, InlinedGraph]:
    """Return name, shape, type and graph of the one output that is the score; check all that the signature says."""
    names = [name for name in signature.outputs if name != GRADIENT]
    if len(names) != 1:
        reason = (
            f"signature {signature.name} answers {', '.join(sorted(signature.outputs))[:80]}; expected one score "
            "[n] or [n, 1], and nothing else but gradient [n, dim]. Export the score alone."
        )
        raise VersionRefusedError("signature-outputs", reason)
    (name,) = names
    shape, dtype, inlined = signature.outputs[name]
    if dtype not in _FLOATS or shape not in {(-1,), (-1, 1)}:
        reason = (
            f"output {name} of signature {signature.name} is {dtype} {list(shape)}, expected float32 or float64 "
            "[n] or [n, 1]. Export a function with one number per row."
        )
        raise VersionRefusedError("signature-outputs", reason)
    if GRADIENT in signature.outputs:
        gradient_shape, gradient_dtype, _ = signature.outputs[GRADIENT]
        if gradient_dtype not in _FLOATS or gradient_shape != (-1, dim):
            reason = f"output gradient of signature {signature.name} is {gradient_dtype} {list(gradient_shape)}"
            raise VersionRefusedError("signature-outputs", f"{reason}, expected float [n, {dim}]")
    if signature.input_dtype in _FLOATS and signature.input_shape != (-1, dim):
        reason = f"signature {signature.name} takes rows of shape {list(signature.input_shape)}, expected [n, {dim}]"
        raise VersionRefusedError("signature-inputs", reason)
    if signature.input_dtype not in {*_FLOATS, _EXAMPLES}:
        reason = f"signature {signature.name} takes {signature.input_dtype}, expected float32, float64 or examples"
        raise VersionRefusedError("signature-inputs", reason)
    return name, shape, dtype, inlined


def _program(signature: graph.BoundSignature, dim: int) -> Program:
    return lift(_score(signature, dim)[3], dim)
