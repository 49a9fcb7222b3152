"""SavedModel folder to certificate: safety, lifting and proof, from the folder's files alone.

Nothing of the model is executed. Above: `service.loader` and training; below: `graph` (TensorFlow), `lifting`,
`curvature`.
"""

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path

from service.errors import VersionRefusedError
from service.program import graph
from service.program.curvature import Certificate, prove
from service.program.inlining import InlinedGraph
from service.program.lifting import lift, lift_support
from service.program.program import Program
from service.signature import CONTEXT, DEFAULT_SIGNATURE, FileSignature

GRADIENT, SUPPORT = "gradient", "support"

UNPROVED_RULES = frozenset(
    {
        "not-lifted", "cast", "nonneg-matmul", "nonneg-scale", "selection", "atom-convex", "atom-nondecreasing",
        "maximum", "context-sign",
    }
)  # fmt: skip
"""Rules that say "not proved", and nothing worse: a server may be told to serve such a model all the same."""

_FLOATS = frozenset({"float32", "float64"})
_EXAMPLES = "string"

_MALFORMED = (LookupError, ValueError, TypeError, AttributeError, ArithmeticError, RecursionError, MemoryError)
"""Exceptions that hostile files might still provoke: a net below the rules, so that none ends a server's watcher."""


@dataclasses.dataclass(frozen=True)
class Interface:
    """What the signatures of a SavedModel take and answer.

    Args:
        dim: number of features of x.
        context_dim: number of features of the context, 0 without one.
        has_gradient: whether `serving_default` also answers a gradient [n, dim].
        file_signatures: all callable signatures, `serving_default` first.
    """

    dim: int
    context_dim: int
    has_gradient: bool
    file_signatures: tuple[FileSignature, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Certified:
    """A SavedModel that is proved convex.

    Args:
        program: its lifted program, the same for every callable signature.
        certificate: the proof.
        interface: what the files take and answer.
        support: the program of the domain weight that `serving_default` answers beside the score, or None.
    """

    program: Program
    certificate: Certificate
    interface: Interface
    support: Program | None = None

    @property
    def dim(self) -> int:
        """Number of features of x."""
        return self.interface.dim

    @property
    def has_gradient(self) -> bool:
        """Whether `serving_default` also answers a gradient [n, dim]."""
        return self.interface.has_gradient

    @property
    def file_signatures(self) -> tuple[FileSignature, ...]:
        """All callable signatures, `serving_default` first."""
        return self.interface.file_signatures

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
    """Prove the SavedModel in `folder` convex in its row, or in x for each `context` where it takes one beside.

    Every callable signature must have one float input [n, dim] (or serialized examples of it), with an input `context`
    [n, c] beside it in all signatures or in none, and one float output [n] or [n, 1] besides an optional `gradient`
    [n, dim] and an optional `support` [n], a domain weight; all of them must give the same programs, so that no
    signature is served that was not proved.

    Raises:
        VersionRefusedError: naming the rule and the node that refused it. Besides the rules of the steps below:
            `signature-missing` (no `serving_default`), `signature-inputs`, `signature-outputs`, `signatures-differ`,
            `support` (no domain weight), `malformed` (damaged in a way for which there is no other rule).
    """
    with _refusing_damage():
        interface, bound = _read(folder)
        default, *others = bound
        program, support = _program(default, interface), _support(default, interface)
        for other in others:
            weight = _support(other, interface)
            same_weight = weight is None or (support is not None and weight.program_sha256 == support.program_sha256)
            if _program(other, interface).program_sha256 != program.program_sha256 or not same_weight:
                reason = (
                    f"signature {other.name} is another function than {default.name}; only one can be proved and "
                    "served. Export the other one as a model of its own."
                )
                raise VersionRefusedError("signatures-differ", reason)
        return Certified(program, prove(program), interface, support)


def describe(folder: Path) -> Interface:
    """Return what a SavedModel takes and answers, proved or not.

    Raises:
        VersionRefusedError: as `certify`, but for the rules of lifting and of the proof.
    """
    with _refusing_damage():
        return _read(folder)[0]


@contextlib.contextmanager
def _refusing_damage() -> Iterator[None]:
    try:
        yield
    except _MALFORMED as err:
        what = f"the files are damaged in a way that no rule foresees ({type(err).__name__})"
        raise VersionRefusedError("malformed", what) from err


def _read(folder: Path) -> tuple[Interface, list[graph.BoundSignature]]:
    """Return what the model takes and answers, each signature checked, and the signatures, `serving_default` first."""
    bound = sorted(
        graph.read(folder, outputs=frozenset({GRADIENT})),
        key=lambda signature: (signature.name != DEFAULT_SIGNATURE, signature.name),
    )
    if bound[0].name != DEFAULT_SIGNATURE:
        reason = f"the model has no signature {DEFAULT_SIGNATURE}. Export the function to serve under that name."
        raise VersionRefusedError("signature-missing", reason)
    default = bound[0]
    dim = _dim(default, default.input_dtype, default.input_shape)
    context_dim = _dim(default, default.context_dtype, default.context_shape) if default.context_dtype else 0
    for other in bound:
        _check_context(other, context_dim)
    described = tuple(_description(signature, dim) for signature in bound)
    return Interface(dim, context_dim, GRADIENT in default.outputs, described), bound


def _description(signature: graph.BoundSignature, dim: int) -> FileSignature:
    name, shape, dtype, _ = _score(signature, dim)
    _, own_gradient, _ = signature.outputs.get(GRADIENT, ((), "", None))
    support_dtype = signature.outputs[SUPPORT][1] if _has_support(signature) else ""
    return FileSignature(
        signature.name,
        signature.input_name,
        signature.input_dtype,
        name,
        dtype,
        is_column=len(shape) == 2,
        gradient_dtype=own_gradient,
        support_dtype=support_dtype,
        context_dtype=signature.context_dtype,
    )


def _dim(signature: graph.BoundSignature, dtype: str, shape: tuple[int, ...]) -> int:
    """Return the width of an input of `serving_default`."""
    if dtype not in _FLOATS or len(shape) != 2 or shape[0] != -1 or shape[1] < 1:
        reason = (
            f"signature {signature.name} takes {dtype} {list(shape)}, expected float32 or float64 "
            "[n, dim] with a free number of rows and a fixed dim. Export it with such an input signature."
        )
        raise VersionRefusedError("signature-inputs", reason)
    return shape[1]


def _check_context(signature: graph.BoundSignature, context_dim: int) -> None:
    """Require the context of `serving_default` of every signature; examples hold theirs among their features."""
    dtype, shape = signature.context_dtype, signature.context_shape
    wanted = _FLOATS if context_dim and signature.input_dtype in _FLOATS else frozenset({""})
    if dtype not in wanted or (dtype and shape != (-1, context_dim)):
        expected = f"float [n, {context_dim}]" if wanted == _FLOATS else "none"
        reason = f"signature {signature.name} takes an input {CONTEXT} of {dtype or 'no type'} {list(shape)}"
        raise VersionRefusedError("signature-inputs", f"{reason}, expected {expected}, as {DEFAULT_SIGNATURE} does")


def _score(signature: graph.BoundSignature, dim: int) -> tuple[str, tuple[int, ...], str, InlinedGraph]:
    """Return name, shape, type and graph of the one output that is the score; check all that the signature says."""
    beside = {GRADIENT, SUPPORT} if _has_support(signature) else {GRADIENT}
    names = [name for name in signature.outputs if name not in beside]
    if len(names) != 1:
        reason = (
            f"signature {signature.name} answers {', '.join(sorted(signature.outputs))[:80]}; expected one score "
            "[n] or [n, 1], and nothing else but gradient [n, dim] and support [n]. Export the score alone."
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
    for beside_it, expected in ((GRADIENT, (-1, dim)), (SUPPORT, (-1,))):
        if beside_it in beside & signature.outputs.keys():
            _check_beside(signature, beside_it, expected)
    if signature.input_dtype in _FLOATS and signature.input_shape != (-1, dim):
        reason = f"signature {signature.name} takes rows of shape {list(signature.input_shape)}, expected [n, {dim}]"
        raise VersionRefusedError("signature-inputs", reason)
    if signature.input_dtype not in {*_FLOATS, _EXAMPLES}:
        reason = f"signature {signature.name} takes {signature.input_dtype}, expected float32, float64 or examples"
        raise VersionRefusedError("signature-inputs", reason)
    return name, shape, dtype, inlined


def _check_beside(signature: graph.BoundSignature, output: str, expected: tuple[int, ...]) -> None:
    shape, dtype, _ = signature.outputs[output]
    if dtype not in _FLOATS or shape != expected:
        wanted = ", ".join("n" if size == -1 else str(size) for size in expected)
        reason = f"output {output} of signature {signature.name} is {dtype} {list(shape)}, expected float [{wanted}]"
        raise VersionRefusedError("signature-outputs", reason)


def _has_support(signature: graph.BoundSignature) -> bool:
    """Whether `support` stands beside a score; alone it is the score's name."""
    return SUPPORT in signature.outputs and len(set(signature.outputs) - {GRADIENT}) > 1


def _support(signature: graph.BoundSignature, interface: Interface) -> Program | None:
    if not _has_support(signature):
        return None
    return lift_support(signature.outputs[SUPPORT][2], interface.dim, interface.context_dim)


def _program(signature: graph.BoundSignature, interface: Interface) -> Program:
    return lift(_score(signature, interface.dim)[3], interface.dim, interface.context_dim)
