"""Linear operators with constant coefficients: how an affine node uses one of its arguments.

Below `program`; `curvature` asks for signs, `intervals` for images of boxes, `evaluation` for values and pullbacks.
"""

import abc
import dataclasses
import functools
import hashlib
from collections.abc import Callable, Iterator
from fractions import Fraction
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from service.program.origins import Origin

_EPSILON = float(np.finfo(np.float64).eps)
_TINY = float(np.finfo(np.float64).tiny)
_LEAST = float(np.finfo(np.float64).smallest_subnormal)

Array = Any
"""An array of the array-API family (NumPy, CuPy, JAX)."""


def is_negative(values: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Return where `values` is below zero, read from the sign bit: -0.0 counts as 0, denormals keep their sign.

    Comparison with `< 0` is not used, because hardware that flushes denormals would call them zero.

    Args:
        values: float32 or float64, any shape.
    """
    unsigned = np.uint32 if values.dtype.itemsize == 4 else np.uint64
    sign = unsigned(1 << (8 * values.dtype.itemsize - 1))
    return np.asarray(np.ascontiguousarray(values).view(unsigned) > sign)


def fingerprint(values: NDArray[np.floating]) -> str:
    """Return `dtype[shape]:sha256` of an array's little-endian bytes."""
    shape = ",".join(str(size) for size in values.shape)
    little = np.ascontiguousarray(values).astype(values.dtype.newbyteorder("<"), copy=False)
    return f"{values.dtype.name}[{shape}]:{hashlib.sha256(little.reshape(-1).view(np.uint8).data).hexdigest()}"


def product_bounds(
    lower: NDArray[np.float64], upper: NDArray[np.float64], below: NDArray[np.float64], above: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the smallest and largest product of a number in [lower, upper] and one in [below, above], 0 * inf = 0."""
    corners = []
    for end in (lower, upper):
        for factor in (below, above):
            with np.errstate(over="ignore", invalid="ignore", under="ignore"):
                product = np.where((factor == 0) | (end == 0), 0.0, end * factor)
            vanished = (product == 0) & (factor != 0) & (end != 0)
            corners.append(np.where(vanished, np.sign(end) * np.sign(factor) * _LEAST, product))
    return np.minimum.reduce(corners), np.maximum.reduce(corners)


Linear = Callable[[NDArray[np.float64], NDArray[np.float64]], NDArray[np.float64]]
"""A linear map of rows [m, input width] with the coefficients that it is given."""


def sum_bounds(
    linear: Linear,
    coefficients: NDArray[np.floating],
    lower: NDArray[np.float64],
    upper: NDArray[np.float64],
    num_terms: int,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    r"""Return bounds [output width] of a linear map of the vectors of a box, moved outward by more than their rounding.

    .. math:: \sum_i c_i^+ l_i + c_i^- u_i \le \sum_i c_i v_i \le \sum_i c_i^+ u_i + c_i^- l_i, \quad l \le v \le u

    The rounding of a sum of k rounded products, in whatever order it is taken, is at most k eps/2 of the sum of their
    sizes (Higham, Accuracy and Stability, section 3.1), and the smallest normal number for each product that
    underflows; twice that is used. A sum of products none of which is below 0 is not below 0; 0 times infinity is 0.

    Args:
        linear: the map.
        coefficients: of the map.
        lower: [input width], may be -inf.
        upper: [input width], may be inf.
        num_terms: the most products that make up one output.
    """
    exact = coefficients.astype(np.float64)
    negative = is_negative(coefficients)
    low, high = (np.where(np.isfinite(end), end, 0.0) for end in (lower, upper))
    size = np.maximum(np.abs(low), np.abs(high))
    marks = np.stack([np.isinf(lower), np.isinf(upper), lower < 0, upper > 0]).astype(np.float64)
    rising = np.where(negative, 0.0, exact) if negative.any() else exact
    seen = _seen if coefficients.dtype == np.float64 else np.asarray  # no float32 is denormal in float64
    with np.errstate(all="ignore"):
        sums = linear(np.concatenate([np.stack([low, high, size]), marks]), seen(rising))
        if negative.any():
            swapped = np.concatenate([np.stack([high, low, -size]), -marks[[1, 0, 3, 2]]])
            sums = sums + linear(swapped, seen(np.where(negative, exact, 0.0)))
        slack = 2 * (num_terms + 1) * (_EPSILON * sums[2] + _TINY)
        below, above = sums[0] - slack, sums[1] + slack
    # A sum of marks is 0 exactly where no product is unbounded below or above, or may lie below or above 0.
    finite = np.isfinite(sums[2])
    below = np.where(finite & (sums[3] == 0), below, -np.inf)
    above = np.where(finite & (sums[4] == 0), above, np.inf)
    below = np.where(sums[5] == 0, np.maximum(below, 0.0), below)
    return below, np.where(sums[6] == 0, np.minimum(above, 0.0), above)


def _seen(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the numbers, denormal ones made normal: hardware that takes them for 0 would lose a mark.

    What that changes of a product is covered by the rounding that is allowed for each.
    """
    positive, negative = is_negative(-values), is_negative(values)
    lost = (np.abs(values) < _TINY) & (positive | negative)
    return np.where(lost, np.where(negative, -_TINY, _TINY), values) if lost.any() else values


@dataclasses.dataclass(frozen=True, eq=False)
class Operator(abc.ABC):
    """A linear map of feature vectors, row by row: y = T(v).

    Args:
        coefficients: finite float32 or float64 numbers of the map.
        label: the variable or constant that they came from, for messages; no part of the program's text.
        origin: where in that variable they stand, for messages; None where they were computed from several.
    """

    coefficients: NDArray[np.floating]
    label: str = ""
    origin: Origin | None = None

    rule: ClassVar[str] = "nonneg-scale"
    """Name of the rule of the proof that reads the signs of such a map."""

    has_weights: ClassVar[bool] = True
    """Whether the coefficients are numbers of the model, to be hashed with its weights."""

    def __getstate__(self) -> dict[str, Any]:
        """Pickle what the map is made of: nothing computed from it, and no origin, which messages alone need."""
        return {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.init and field.name != "origin"
        }

    @abc.abstractmethod
    def output_width(self, input_width: int) -> int:
        """Return the number of features of T(v) for v of `input_width` features."""

    @abc.abstractmethod
    def apply(self, values: Array, dtype: Any, namespace: ModuleType) -> Array:
        """Return T(v) for rows `values` [n, input width]."""

    @abc.abstractmethod
    def pull_back(self, adjoint: Array, dtype: Any, namespace: ModuleType) -> Array:
        """Return the transposed map of `adjoint` [n, output width]: [n, input width]."""

    @abc.abstractmethod
    def interval(
        self, lower: NDArray[np.float64], upper: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return bounds [terms, output width] of numbers whose sum over the terms is T(v), for v in a box, in float64.

        Each has the sign of a bound and is next to it in float64, or encloses it.
        """

    @property
    @abc.abstractmethod
    def text(self) -> str:
        """The operator in the program's canonical text, weights by hash."""

    @functools.cached_property
    def fingerprint(self) -> str:
        """The fingerprint of the coefficients, computed once."""
        return fingerprint(self.coefficients)

    def negative_entries(self) -> NDArray[np.bool_]:
        """Return which coefficients have a negative sign in the map."""
        return is_negative(self.coefficients)

    @functools.cached_property
    def has_negative(self) -> bool:
        """Whether a coefficient has a negative sign in the map, looked up once."""
        return bool(self.negative_entries().any())

    def smallest(self) -> tuple[float, tuple[int, ...]]:
        """Return the smallest coefficient, and its place in the shape of the variable that it comes from."""
        index = int(np.argmin(np.where(self.negative_entries(), self.coefficients, np.abs(self.coefficients))))
        place = np.unravel_index(index, self.coefficients.shape) if self.origin is None else self.origin.place(index)
        return float(self.coefficients.reshape(-1)[index]), tuple(int(part) for part in place)

    @abc.abstractmethod
    def num_entries(self, input_width: int) -> int:
        """Return how many entries `exact_entries` yields for v of `input_width` features."""

    @abc.abstractmethod
    def exact_entries(self, input_width: int) -> Iterator[tuple[int, int, Fraction]]:
        """Yield (i, j, c) for the terms c v_i of the output number j, exactly; zeros may be left out."""

    def exact_diagonal(self, width: int) -> list[Fraction] | None:
        """Return the exact diagonal of the map where it is diagonal, else None."""
        del width
        return None


@dataclasses.dataclass(frozen=True, eq=False)
class Dense(Operator):
    """y = v W with W [input width, output width]."""

    rule: ClassVar[str] = "nonneg-matmul"

    @functools.cached_property
    def transposed(self) -> NDArray[np.floating]:
        """The contiguous transpose, made when it is first asked for: a view takes other BLAS paths, with other bits."""
        return np.ascontiguousarray(self.coefficients.T)

    def __reduce__(self) -> tuple[type["Dense"], tuple[NDArray[np.floating], str]]:
        """Pickle W alone: the transpose is made of it again, so that both are under the one hash that was proved."""
        return Dense, (self.coefficients, self.label)

    def output_width(self, input_width: int) -> int:
        """Return the number of columns of W."""
        del input_width
        return int(self.coefficients.shape[1])

    def apply(self, values: Array, dtype: Any, namespace: ModuleType) -> Array:
        """Return v W."""
        return values @ namespace.asarray(self.coefficients, dtype=dtype)

    def pull_back(self, adjoint: Array, dtype: Any, namespace: ModuleType) -> Array:
        """Return the adjoint times the transpose of W."""
        return adjoint @ namespace.asarray(self.transposed, dtype=dtype)

    def interval(
        self, lower: NDArray[np.float64], upper: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the bounds of v W; the entries of W are exact in float64."""
        below, above = sum_bounds(np.matmul, self.coefficients, lower, upper, self.coefficients.shape[0])
        return below[None, :], above[None, :]

    def num_entries(self, input_width: int) -> int:
        """Return the number of entries of W."""
        del input_width
        return int(self.coefficients.size)

    def exact_entries(self, input_width: int) -> Iterator[tuple[int, int, Fraction]]:
        """Yield the entries of W."""
        del input_width
        for i, row in enumerate(self.coefficients.astype(np.float64).tolist()):
            for j, weight in enumerate(row):
                yield i, j, Fraction(weight)

    @property
    def text(self) -> str:
        """`dense` and the hash of W."""
        return f"dense {self.fingerprint}"


class Diagonal(Operator):
    """A map of each feature by a factor of its own."""

    @abc.abstractmethod
    def exact_diagonal(self, width: int) -> list[Fraction]:
        """Return the exact factors."""

    def output_width(self, input_width: int) -> int:
        """Return the input's width."""
        return input_width

    def num_entries(self, input_width: int) -> int:
        """Return the width."""
        return input_width

    def exact_entries(self, input_width: int) -> Iterator[tuple[int, int, Fraction]]:
        """Yield the factors."""
        for i, factor in enumerate(self.exact_diagonal(input_width)):
            yield i, i, factor


@dataclasses.dataclass(frozen=True, eq=False)
class Scale(Diagonal):
    """y_i = s_i v_i with s [width]."""

    def apply(self, values: Array, dtype: Any, namespace: ModuleType) -> Array:
        """Return s v, feature by feature."""
        return values * namespace.asarray(self.coefficients, dtype=dtype)

    def pull_back(self, adjoint: Array, dtype: Any, namespace: ModuleType) -> Array:
        """Return s times the adjoint: the map is its own transpose."""
        return self.apply(adjoint, dtype, namespace)

    def interval(
        self, lower: NDArray[np.float64], upper: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the bounds of s_i v_i; the entries of s are exact in float64."""
        factors = self.coefficients.astype(np.float64)
        return product_bounds(lower[None, :], upper[None, :], factors, factors)

    @property
    def text(self) -> str:
        """`scale` and the hash of s."""
        return f"scale {self.fingerprint}"

    def exact_diagonal(self, width: int) -> list[Fraction]:
        """Return s exactly."""
        del width
        return [Fraction(float(value)) for value in self.coefficients]


@dataclasses.dataclass(frozen=True, eq=False)
class Divide(Diagonal):
    """y_i = v_i / c_i with c [width] free of zeros."""

    def apply(self, values: Array, dtype: Any, namespace: ModuleType) -> Array:
        """Return v / c, feature by feature."""
        return values / namespace.asarray(self.coefficients, dtype=dtype)

    def pull_back(self, adjoint: Array, dtype: Any, namespace: ModuleType) -> Array:
        """Return the adjoint / c: the map is its own transpose."""
        return self.apply(adjoint, dtype, namespace)

    def interval(
        self, lower: NDArray[np.float64], upper: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the bounds of v_i / c_i, from 1/c_i rounded down and up: a reciprocal is seldom a float."""
        with np.errstate(over="ignore"):
            reciprocal = 1.0 / self.coefficients.astype(np.float64)
        below, above = np.nextafter(reciprocal, -np.inf), np.nextafter(reciprocal, np.inf)
        return product_bounds(lower[None, :], upper[None, :], below, above)

    @property
    def text(self) -> str:
        """`divide` and the hash of c."""
        return f"divide {self.fingerprint}"

    def exact_diagonal(self, width: int) -> list[Fraction]:
        """Return 1/c exactly."""
        del width
        return [1 / Fraction(float(value)) for value in self.coefficients]


@dataclasses.dataclass(frozen=True, eq=False)
class Identity(Diagonal):
    """y = v."""

    coefficients: NDArray[np.floating] = dataclasses.field(default_factory=lambda: np.ones(1, np.float32))
    has_weights: ClassVar[bool] = False

    def apply(self, values: Array, dtype: Any, namespace: ModuleType) -> Array:
        """Return v."""
        del dtype, namespace
        return values

    def pull_back(self, adjoint: Array, dtype: Any, namespace: ModuleType) -> Array:
        """Return the adjoint."""
        del dtype, namespace
        return adjoint

    def interval(
        self, lower: NDArray[np.float64], upper: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the box."""
        return lower[None, :], upper[None, :]

    @property
    def text(self) -> str:
        """`identity`."""
        return "identity"

    def exact_diagonal(self, width: int) -> list[Fraction]:
        """Return ones."""
        return [Fraction(1)] * width
