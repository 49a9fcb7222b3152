"""Linear operators with constant coefficients: how an affine node uses one of its arguments.

Below `program`; `curvature` asks for signs, `intervals` for images of boxes, `evaluation` for values and pullbacks.
"""

import abc
import dataclasses
import hashlib
from fractions import Fraction
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

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
    return f"{values.dtype.name}[{shape}]:{hashlib.sha256(little.tobytes()).hexdigest()}"


def _product_bounds(
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


@dataclasses.dataclass(frozen=True, eq=False)
class Operator(abc.ABC):
    """A linear map of feature vectors, row by row: y = T(v).

    Args:
        coefficients: finite float32 or float64 numbers of the map.
        label: the variable or constant that they came from, for messages; no part of the program's text.
    """

    coefficients: NDArray[np.floating]
    label: str = ""

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
        """Return bounds [terms, output width] of the products that make up T(v) for v in a box, in float64.

        Each has the sign of a bound and is next to it in float64, or encloses it.
        """

    @property
    @abc.abstractmethod
    def text(self) -> str:
        """The operator in the program's canonical text, weights by hash."""

    def negative_entries(self) -> NDArray[np.bool_]:
        """Return which coefficients have a negative sign in the map."""
        return is_negative(self.coefficients)

    def exact_diagonal(self, width: int) -> list[Fraction] | None:
        """Return the exact diagonal of the map where it is diagonal, else None."""
        del width
        return None


@dataclasses.dataclass(frozen=True, eq=False)
class Dense(Operator):
    """y = v W with W [input width, output width]."""

    transposed: NDArray[np.floating] = dataclasses.field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Keep a contiguous transpose: a transposed view takes other BLAS paths, with other bits."""
        object.__setattr__(self, "transposed", np.ascontiguousarray(self.coefficients.T))

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
        """Return the bounds of v_i W_ij; the entries of W are exact in float64."""
        matrix = self.coefficients.astype(np.float64)
        return _product_bounds(lower[:, None], upper[:, None], matrix, matrix)

    @property
    def text(self) -> str:
        """`dense` and the hash of W."""
        return f"dense {fingerprint(self.coefficients)}"


@dataclasses.dataclass(frozen=True, eq=False)
class Scale(Operator):
    """y_i = s_i v_i with s [width]."""

    def output_width(self, input_width: int) -> int:
        """Return the input's width: the map is diagonal."""
        return input_width

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
        return _product_bounds(lower[None, :], upper[None, :], factors, factors)

    @property
    def text(self) -> str:
        """`scale` and the hash of s."""
        return f"scale {fingerprint(self.coefficients)}"

    def exact_diagonal(self, width: int) -> list[Fraction] | None:
        """Return s exactly."""
        del width
        return [Fraction(float(value)) for value in self.coefficients]


@dataclasses.dataclass(frozen=True, eq=False)
class Divide(Operator):
    """y_i = v_i / c_i with c [width] free of zeros."""

    def output_width(self, input_width: int) -> int:
        """Return the input's width: the map is diagonal."""
        return input_width

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
        return _product_bounds(lower[None, :], upper[None, :], below, above)

    @property
    def text(self) -> str:
        """`divide` and the hash of c."""
        return f"divide {fingerprint(self.coefficients)}"

    def exact_diagonal(self, width: int) -> list[Fraction] | None:
        """Return 1/c exactly."""
        del width
        return [1 / Fraction(float(value)) for value in self.coefficients]


@dataclasses.dataclass(frozen=True, eq=False)
class Identity(Operator):
    """y = v."""

    coefficients: NDArray[np.floating] = dataclasses.field(default_factory=lambda: np.ones(1, np.float32))

    def output_width(self, input_width: int) -> int:
        """Return the input's width."""
        return input_width

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

    def exact_diagonal(self, width: int) -> list[Fraction] | None:
        """Return ones."""
        return [Fraction(1)] * width
