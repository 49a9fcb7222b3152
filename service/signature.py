"""What a version takes and gives: names, dtypes, dimension, features, and the check of rows against them.

Below `manifest`; the codecs build rows for a signature and the scorer validates them with it.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from service.errors import InvalidArgumentError, PayloadTooLargeError

OUTPUTS = ("score", "gradient")
"""What every version answers, in the order of the wire."""

SUPPORT = "support"
"""The domain weight in [0, 1], which versions answer that have one."""

WIRE_ORDER = (*OUTPUTS, SUPPORT)
"""Everything that a version may answer, in the order of the wire."""


def are_finite(values: NDArray[np.float32]) -> bool:
    """Return whether no number is NaN or infinite.

    A finite sum has finite terms, and takes a tenth of the time of a look at each; where the sum is not finite, perhaps
    because it is too large, each is looked at.
    """
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
    """

    name: str
    input_name: str = "x"
    input_dtype: str = "float32"
    score_name: str = "score"
    score_dtype: str = "float32"
    is_column: bool = False
    gradient_dtype: str = "float32"
    support_dtype: str = ""

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


def own_signatures(*, support: bool) -> tuple[FileSignature, ...]:
    """Return what training exports, of a model with a domain weight or of one without."""
    default, *others = OWN_SIGNATURES
    return (dataclasses.replace(default, support_dtype="float32"), *others) if support else OWN_SIGNATURES


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
    """

    model: str
    version: int
    dim: int
    features: tuple[str, ...] = ()
    outputs: tuple[str, ...] = OUTPUTS
    made_elsewhere: bool = False
    file_signatures: tuple[FileSignature, ...] = OWN_SIGNATURES

    def __post_init__(self) -> None:
        """Refuse a signature whose feature names do not match its dimension."""
        if self.features and len(self.features) != self.dim:
            message = f"features: expected {self.dim} names, received {len(self.features)}"
            raise ValueError(message)

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

    def validate(
        self, rows: NDArray[np.floating], *, name: str = "instances", max_rows: int | None = None
    ) -> NDArray[np.float32]:
        """Return `rows` as finite C-contiguous float32 [n, dim].

        Args:
            rows: float32 or float64 array, expected shape [n, dim].
            name: what the caller calls the rows, for the error's location.
            max_rows: largest number of rows of one request, or None for no limit.

        Raises:
            InvalidArgumentError: wrong rank or width; NaN or infinity, also after the cast to float32
                (`instances[17][3] is not finite`).
            PayloadTooLargeError: more than `max_rows` rows.
        """
        if rows.ndim != 2 or rows.shape[1] != self.dim:
            shape = ", ".join(str(size) for size in rows.shape)
            message = (
                f"{name}: expected shape [n, {self.dim}] for model {self.model} version {self.version}, "
                f"received [{shape}]. Send {self.dim} numbers per instance."
            )
            raise InvalidArgumentError(message)
        if max_rows is not None and rows.shape[0] > max_rows:
            message = f"{name}: received {rows.shape[0]} instances, at most {max_rows} in one request. Split it."
            raise PayloadTooLargeError(message)
        with np.errstate(over="ignore", invalid="ignore"):
            cast = np.ascontiguousarray(rows, dtype=np.float32)
        if not are_finite(cast):
            finite = np.isfinite(cast)
            row, column = (int(index) for index in np.argwhere(~finite)[0])
            what = "NaN" if np.isnan(rows[row, column]) else "infinite in float32"
            message = f"{name}[{row}][{column}] is {what}. Send finite numbers, at most 3.4e38 in size."
            raise InvalidArgumentError(message)
        return cast
