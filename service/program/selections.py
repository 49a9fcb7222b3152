"""Features selected, repeated, left out, padded with zeros or added up: the linear map of most ops on shapes.

Beside `operators`; above: `lifting`.
"""

import dataclasses
import hashlib
from collections.abc import Iterator
from fractions import Fraction
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from service.program.operators import Operator, sum_bounds

Array = Any

MAX_PLACES = 8_000_000
"""Most entries of a table of places: 64 MiB."""


@dataclasses.dataclass(frozen=True, eq=False)
class Selection(Operator):
    r"""Sums of chosen features.

    .. math:: y_j = \sum_{k:\ p_{jk} \ge 0} v_{p_{jk}}

    A slice, a transposition or a repetition has one place for each output, and -1 there reads 0; the sum over an axis,
    or over the windows of a pool, has several. No coefficient but 1: the map keeps every sign.

    Args:
        places: p, int64 [output width, terms], the features' numbers; -1 for none.
        input_width: number of features of v.

    Raises:
        ValueError: if a place is out of range, or the tables are over `MAX_PLACES` entries.
    """

    coefficients: NDArray[np.floating] = dataclasses.field(default_factory=lambda: np.ones(1, np.float32))
    places: NDArray[np.int64] = dataclasses.field(kw_only=True)
    input_width: int = dataclasses.field(kw_only=True)
    readers: NDArray[np.int64] = dataclasses.field(init=False, repr=False)
    has_weights: ClassVar[bool] = False
    rule: ClassVar[str] = "selection"

    def __post_init__(self) -> None:
        """Make the table of the transposed map: which outputs read a feature."""
        if self.places.size and not -1 <= int(self.places.min()) <= int(self.places.max()) < self.input_width:
            message = f"a place is not one of {self.input_width} features"
            raise ValueError(message)
        object.__setattr__(self, "readers", transposed(self.places, self.input_width))

    def output_width(self, input_width: int) -> int:
        """Return the number of outputs."""
        del input_width
        return int(self.places.shape[0])

    def apply(self, values: Array, dtype: Any, namespace: ModuleType) -> Array:
        """Return the sums of chosen features."""
        del dtype
        return _gathered(values, self.places, namespace)

    def pull_back(self, adjoint: Array, dtype: Any, namespace: ModuleType) -> Array:
        """Return for each feature the sum of the adjoints of the outputs that read it."""
        del dtype
        return _gathered(adjoint, self.readers, namespace)

    def interval(
        self, lower: NDArray[np.float64], upper: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the bounds of the sums; of a feature that is selected, its own."""
        if self.places.shape[1] == 1:
            return _gathered(lower[None, :], self.places, np), _gathered(upper[None, :], self.places, np)
        below, above = sum_bounds(
            lambda values, factor: factor * _gathered(values, self.places, np),
            np.ones(1),
            lower,
            upper,
            self.places.shape[1],
        )
        return below[None, :], above[None, :]

    @property
    def text(self) -> str:
        """`select`, the input's width, the shape and the hash of the places."""
        little = np.ascontiguousarray(self.places).astype("<i8", copy=False)
        shape = ",".join(str(size) for size in self.places.shape)
        return f"select {self.input_width} int64[{shape}]:{hashlib.sha256(little.tobytes()).hexdigest()}"

    def num_entries(self, input_width: int) -> int:
        """Return the number of places."""
        del input_width
        return int(self.places.size)

    def exact_entries(self, input_width: int) -> Iterator[tuple[int, int, Fraction]]:
        """Yield a one for each place."""
        del input_width
        one = Fraction(1)
        for j, places in enumerate(self.places.tolist()):
            yield from ((i, j, one) for i in places if i >= 0)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the places alone: the table of the transposed map is made of them again."""
        return selection, (self.places, self.input_width)


def selection(places: NDArray[np.int64], input_width: int) -> Selection:
    """Return the sums over the last axis of `places` [output width, terms], or the selection of `places` [width]."""
    table = places.reshape(places.shape[0], -1)
    return Selection(places=np.ascontiguousarray(table, np.int64), input_width=input_width)


def transposed(places: NDArray[np.int64], input_width: int) -> NDArray[np.int64]:
    """Return for each of `input_width` features the rows of `places` that name it, [input width, most], -1 for none.

    Raises:
        ValueError: if that is over `MAX_PLACES` entries.
    """
    flat = places.reshape(-1)
    counts = np.bincount(flat[flat >= 0], minlength=input_width)
    most = max(1, int(counts.max(initial=0)))
    if input_width * most > MAX_PLACES:
        message = f"a table of {input_width} x {most} places, at most {MAX_PLACES}"
        raise ValueError(message)
    order = np.argsort(flat, kind="stable")[flat.size - int(counts.sum()) :]
    readers = np.full((input_width, most), -1, np.int64)
    starts = np.cumsum(counts) - counts
    features = flat[order]
    readers[features, np.arange(order.size) - starts[features]] = order // max(1, places.shape[1])
    return readers


def _gathered(values: Array, places: NDArray[np.int64], namespace: ModuleType) -> Array:
    """Return for each row of `places` the sum of the values there, 0 for -1."""
    width, terms = places.shape
    index = namespace.asarray(places.reshape(-1))
    if (places < 0).any():
        values = namespace.concatenate([values, namespace.zeros_like(values[:, :1])], axis=1)  # -1 is the last one
    taken = namespace.take(values, index, axis=1)
    return taken if terms == 1 else taken.reshape(values.shape[0], width, terms).sum(axis=-1)
