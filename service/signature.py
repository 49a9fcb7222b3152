"""What a version takes and gives: names, dtypes, dimension, features, and the check of rows against them.

Below `manifest`; the codecs build rows for a signature and the scorer validates them with it.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from service.errors import InvalidArgumentError, PayloadTooLargeError

CONTEXT = "context"
"""What the input is called that stands beside x: for each of its values the score is convex in x."""

OUTPUTS = ("score", "gradient")
"""What every version answers, in the order of the wire."""

SUPPORT = "support"
"""The domain weight in [0, 1], which versions answer that have one."""

_FEW_VALUES = 1024

WIRE_ORDER = (*OUTPUTS, SUPPORT)
"""Everything that a version may answer, in the order of the wire."""


def are_finite(values: NDArray[np.float32]) -> bool:
    """Return whether no number is NaN or infinite.

    A finite sum has finite terms, and takes a tenth of the time of a look at each; where the sum is not finite, perhaps
    because it is too large, each is looked at. Of few numbers each is looked at anyway: to say that a sum may overflow
    takes longer.
    """
    if values.size <= _FEW_VALUES:
        return bool(np.isfinite(values).all())
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(np.add.reduce(values, axis=None))) or bool(np.isfinite(values).all())


@dataclasses.dataclass(frozen=True)
class FileSignature:
    """One callable signature of a SavedModel, with the names, types and shapes of the file.

    The TensorFlow Serving protocols speak in its names; everything else calls its tensors `x`, `score`, `gradient`.

    Args:
        name: e.g. `serving_default`.
        input_name: its one input.
        input_dtype: `float32` or `float64`; `string` for serialized examples.
        score_name: its output that is the score.
        score_dtype: `float32` or `float64`.
        is_column: whether the score is [n, 1] instead of [n].
        gradient_dtype: type of its output `gradient` [n, dim], own or added; empty where it answers none.
        support_dtype: type of its output `support` [n], the domain weight; empty where it answers none.
        context_dtype: type of its second input, `context` [n, context_dim]; empty where it takes none. Serialized
            examples hold their context themselves.
    """

    name: str
    input_name: str = "x"
    input_dtype: str = "float32"
    score_name: str = "score"
    score_dtype: str = "float32"
    is_column: bool = False
    gradient_dtype: str = "float32"
    support_dtype: str = ""
    context_dtype: str = ""

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of its inputs, x first."""
        return (self.input_name, CONTEXT) if self.context_dtype else (self.input_name,)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of its outputs, the score first."""
        beside = {"gradient": self.gradient_dtype, SUPPORT: self.support_dtype}
        return (self.score_name, *(name for name, dtype in beside.items() if dtype))

    def dtype_of(self, output: str) -> str:
        """Return the type of one of its outputs, `score` for the one that it calls otherwise."""
        return {"gradient": self.gradient_dtype, SUPPORT: self.support_dtype}.get(output, self.score_dtype)


DEFAULT_SIGNATURE = "serving_default"

OWN_SIGNATURES = (
    FileSignature(DEFAULT_SIGNATURE),
    FileSignature("score", gradient_dtype=""),
    FileSignature("regress", "inputs", "string", "outputs", gradient_dtype=""),
)
"""What training exports."""


def own_signatures(*, support: bool, context: bool = False) -> tuple[FileSignature, ...]:
    """Return what training exports, of a model with a domain weight, a context, or neither."""
    default, *others = OWN_SIGNATURES
    signatures = (dataclasses.replace(default, support_dtype="float32" if support else ""), *others)
    if not context:
        return signatures
    return tuple(
        each if each.input_dtype == "string" else dataclasses.replace(each, context_dtype="float32")
        for each in signatures
    )


@dataclasses.dataclass(frozen=True)
class Signature:
    """The shape of one version's requests and answers.

    Args:
        model: model name.
        version: version number.
        dim: number of features of a row.
        features: feature names in column order, or empty where the model has none.
        outputs: names of the outputs, a subset of `WIRE_ORDER` in its order.
        made_elsewhere: whether the SavedModel is none of training's. Its gradient is then the lifted program's.
        file_signatures: the file's callable signatures, `serving_default` first.
        context_dim: number of features of the context that stands beside each row; 0 for a model without one.
        context_features: their names in column order, or empty.
    """

    model: str
    version: int
    dim: int
    features: tuple[str, ...] = ()
    outputs: tuple[str, ...] = OUTPUTS
    made_elsewhere: bool = False
    file_signatures: tuple[FileSignature, ...] = OWN_SIGNATURES
    context_dim: int = 0
    context_features: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse a signature whose feature names do not match its dimensions."""
        for what, names, dim in (
            ("features", self.features, self.dim),
            ("context_features", self.context_features, self.context_dim),
        ):
            if names and len(names) != dim:
                message = f"{what}: expected {dim} names, received {len(names)}"
                raise ValueError(message)

    @property
    def context(self) -> tuple[int, tuple[str, ...]]:
        """Number and names of the features of the context."""
        return self.context_dim, self.context_features

    @property
    def width(self) -> int:
        """Number of features of a row inside: x, and behind it the context."""
        return self.dim + self.context_dim

    def select(self, requested: Sequence[str] | None) -> tuple[str, ...]:
        """Return the outputs to compute, in wire order; all of them where none is named.

        Raises:
            InvalidArgumentError: for a name that the version does not answer, or one named twice.
        """
        if not requested:
            return self.outputs
        for name in requested:
            if name not in self.outputs:
                message = (
                    f"outputs: unknown output '{name[:40]}' of model {self.model} version {self.version}. "
                    f"Ask for some of: {', '.join(self.outputs)}."
                )
                raise InvalidArgumentError(message)
        if len(set(requested)) != len(requested):
            message = "outputs: an output is named twice. Name each output once."
            raise InvalidArgumentError(message)
        return tuple(name for name in self.outputs if name in requested)

    def of_context(self) -> "Signature":
        """Return the signature of the context alone, as if it were x: what a codec decodes it with."""
        return Signature(self.model, self.version, self.context_dim, self.context_features)

    def joined(
        self, x: NDArray[np.floating], context: NDArray[np.floating] | None, *, name: str = "instances"
    ) -> NDArray[np.floating]:
        """Return rows [n, width] of x and, where the model takes one, the context of each.

        Args:
            x: [n, dim].
            context: [n, context_dim], or None where the caller sent none.
            name: what the caller calls x.

        Raises:
            InvalidArgumentError: a context is missing, not taken, or of another shape; or x is, beside a context.
        """
        who = f"model {self.model} version {self.version}"
        if not self.context_dim:
            if context is not None:
                message = f"{CONTEXT}: {who} takes none. Send {name} alone."
                raise InvalidArgumentError(message)
            return x
        if context is None:
            message = (
                f"{CONTEXT}: missing. {who[0].upper()}{who[1:]} answers for a context: send {CONTEXT} beside {name}, "
                f"{self.context_dim} numbers for each instance."
            )
            raise InvalidArgumentError(message)
        for what, values, dim in ((name, x, self.dim), (CONTEXT, context, self.context_dim)):
            if values.ndim != 2 or values.shape[1] != dim:
                shape = ", ".join(str(size) for size in values.shape)
                message = f"{what}: expected shape [n, {dim}] for {who}, received [{shape}]. Send {dim} numbers each."
                raise InvalidArgumentError(message)
        if len(x) != len(context):
            message = f"{CONTEXT}: received {len(context)} for {len(x)} {name}. Send one context for each instance."
            raise InvalidArgumentError(message)
        return np.concatenate([x, context], axis=1)

    def validate(
        self, rows: NDArray[np.floating], *, name: str = "instances", max_rows: int | None = None
    ) -> NDArray[np.float32]:
        """Return `rows` as finite C-contiguous float32 [n, width].

        Args:
            rows: float32 or float64 array, expected shape [n, width].
            name: what the caller calls the rows, for the error's location.
            max_rows: largest number of rows of one request, or None for no limit.

        Raises:
            InvalidArgumentError: wrong rank or width; NaN or infinity, also after the cast to float32
                (`instances[17][3] is not finite`).
            PayloadTooLargeError: more than `max_rows` rows.
        """
        if rows.ndim != 2 or rows.shape[1] != self.width:
            shape = ", ".join(str(size) for size in rows.shape)
            parts = f": {self.dim} of x, then {self.context_dim} of the context" if self.context_dim else ""
            message = (
                f"{name}: expected shape [n, {self.width}] for model {self.model} version {self.version}, "
                f"received [{shape}]. Send {self.width} numbers per instance{parts}."
            )
            raise InvalidArgumentError(message)
        if max_rows is not None and rows.shape[0] > max_rows:
            message = f"{name}: received {rows.shape[0]} instances, at most {max_rows} in one request. Split it."
            raise PayloadTooLargeError(message)
        if rows.dtype == np.float32:
            cast = np.ascontiguousarray(rows, dtype=np.float32)  # in this machine's order of bytes
        else:
            with np.errstate(over="ignore", invalid="ignore"):
                cast = np.ascontiguousarray(rows, dtype=np.float32)
        if not are_finite(cast):
            finite = np.isfinite(cast)
            row, column = (int(index) for index in np.argwhere(~finite)[0])
            what = "NaN" if np.isnan(rows[row, column]) else "infinite in float32"
            if column >= self.dim:
                name, column = CONTEXT, column - self.dim
            message = f"{name}[{row}][{column}] is {what}. Send finite numbers, at most 3.4e38 in size."
            raise InvalidArgumentError(message)
        return cast
