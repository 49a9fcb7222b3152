"""Constants of a graph, and those that are computed from others: the arithmetic, and what may be read from its result.

Above: `lifting`. TensorFlow computes such constants as well, and need not get the same: some hardware takes denormals
for zero, and the graph optimiser reorders sums. A sign that hangs on either is not known.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.errors import VersionRefusedError
from service.program.inlining import GraphNode
from service.program.origins import Origin, Rearrangement

Operation = Callable[[NDArray[Any], NDArray[Any]], NDArray[Any]]

MAX_NUMBERS = 1_000_000
"""Most numbers that all nodes together compute of a row, and that a constant has which is computed from others."""

_ROUNDINGS = 128
"""A sum of computed constants has a certain sign if it is more than so many roundings of its terms."""

_PRODUCTS = (np.multiply, np.divide, np.maximum, np.minimum)
"""Operations whose result's sign follows from the signs of what they are given."""

_FLOATS = (np.dtype(np.float32), np.dtype(np.float64))


@dataclasses.dataclass(frozen=True, eq=False)
class Constant:
    """A tensor without a row axis.

    Args:
        array: its numbers.
        label: the variable or constant that it comes from.
        size: of a constant computed from others, the same with every term taken positive, in float64: its rounding is
            a small share of this, in whatever order it is computed. None for a constant that was read.
        signed: whether its signs are certain in whatever order it is computed.
        origin: where in the variable its numbers stand; None for a constant computed from several.
    """

    array: NDArray[Any]
    label: str
    size: NDArray[np.float64] | None = None
    signed: bool = True
    origin: Origin | None = None

    @classmethod
    def read(cls, array: NDArray[Any], label: str) -> "Constant":
        """Return a constant or variable of the file."""
        return cls(array, label, origin=Origin(array.shape))

    def moved(self, function: Rearrangement) -> "Constant":
        """Return the constant with its numbers moved, repeated or left out by `function`."""
        size = None if self.size is None else function(self.size)
        origin = None if self.origin is None else self.origin.then(function)
        return dataclasses.replace(self, array=function(self.array), size=size, origin=origin)

    def reshaped(self, shape: tuple[int, ...]) -> "Constant":
        """Return the constant in another shape."""
        return self.moved(functools.partial(np.reshape, shape=shape))


def refused(rule: str, node: GraphNode, what: str) -> VersionRefusedError:
    """Return the refusal of a node."""
    return VersionRefusedError(rule, f"op {node.op} (node {node.name}) {what}")


def floats(node: GraphNode, array: NDArray[Any]) -> NDArray[np.floating]:
    """Return the array, refused by `cast` if it is not of floats and by `finite-weights` if one is not finite."""
    if array.dtype not in _FLOATS:
        raise refused("cast", node, f"uses a constant of type {array.dtype}, expected float32 or float64")
    if not np.isfinite(array).all():
        raise refused("finite-weights", node, "uses a constant with NaN or infinity")
    return array


def coefficients(node: GraphNode, constant: Constant) -> NDArray[np.floating]:
    """Return the numbers of a constant that multiplies or divides: its signs must be certain.

    Raises:
        VersionRefusedError: as `floats`, and `not-lifted`.
    """
    if not constant.signed:
        what = "takes its weights from constants that cancel almost; TensorFlow may sum them in another order"
        raise refused("not-lifted", node, what)
    return floats(node, constant.array)


def folded(node: GraphNode, left: Constant, right: Constant, operation: Operation) -> Constant:
    """Return the constant of two: one correctly rounded IEEE operation, as TensorFlow folds it.

    A product keeps its sign, or becomes zero, in whatever order it is computed. The sum of two constants that were
    read has one order; any other sum must be larger than its rounding in every order.

    Raises:
        VersionRefusedError: `size-limit`; `not-lifted` where the result hangs on denormals; as `floats`.
    """
    if math.prod(np.broadcast_shapes(left.array.shape, right.array.shape)) > max(
        MAX_NUMBERS, left.array.size, right.array.size
    ):
        raise refused("size-limit", node, f"computes a constant of over {MAX_NUMBERS} numbers")
    first, second = floats(node, left.array), floats(node, right.array)
    with np.errstate(all="ignore"):
        value = floats(node, np.asarray(operation(first, second)))
        flushed = _flushed(operation(_flushed(first), _flushed(second)))
    if not np.array_equal(flushed, _flushed(value)):
        raise refused("not-lifted", node, "computes a constant from denormal numbers, which TensorFlow takes for zero")
    size = _size(left, right, operation)
    single = left.size is None and right.size is None
    limit = _ROUNDINGS * float(np.finfo(value.dtype).eps)
    certain = operation in _PRODUCTS or single or bool(((np.abs(value) > limit * size) | (size == 0)).all())
    label, origin = _source(left, right, value.shape)
    return Constant(value, label, size, left.signed and right.signed and certain, origin)


def _source(left: Constant, right: Constant, shape: tuple[int, ...]) -> tuple[str, Origin | None]:
    """Return where a reader should look for the signs of a constant of two: the one that has negative numbers."""
    negative = [bool((tensor.array < 0).any()) for tensor in (left, right)]
    chosen = right if negative == [False, True] or left.origin is None else left
    origin = None if chosen.origin is None else chosen.origin.then(functools.partial(np.broadcast_to, shape=shape))
    return computed_label(chosen.label or left.label or right.label), origin


def computed_label(label: str) -> str:
    """Return what to call a constant that is computed from the one called `label`."""
    return label if label.startswith("what is computed from ") else f"what is computed from {label}"


def _size(left: Constant, right: Constant, operation: Operation) -> NDArray[np.float64]:
    """Return what `operation` gives when no terms cancel; a quotient is as uncertain as its divisor is small."""
    first, second = (
        np.abs(tensor.array).astype(np.float64) if tensor.size is None else tensor.size for tensor in (left, right)
    )
    with np.errstate(all="ignore"):
        if operation is np.divide:
            return np.asarray(first * second / np.square(right.array.astype(np.float64)))
        return np.asarray(first * second if operation is np.multiply else first + second)


@dataclasses.dataclass(frozen=True)
class Function:
    """A function of one constant.

    Args:
        value: in float64.
        slope: a bound of the derivative's size, in float64.
        keeps_zero: whether the result's sign is that of the argument; else the result is never below 0.
        is_exact: whether it rounds nothing.
        is_steep: whether its slope is unbounded at 0.
    """

    value: Callable[[NDArray[np.float64]], NDArray[np.float64]]
    slope: Callable[[NDArray[np.float64]], NDArray[np.float64]]
    keeps_zero: bool = False
    is_exact: bool = False
    is_steep: bool = False


FUNCTIONS: Mapping[str, Function] = {
    "Abs": Function(np.abs, np.ones_like, is_exact=True),
    "Exp": Function(np.exp, np.exp),
    "Expm1": Function(np.expm1, np.exp, keeps_zero=True),
    "Reciprocal": Function(lambda v: 1 / v, lambda v: 1 / v**2, keeps_zero=True, is_steep=True),
    "Relu": Function(lambda v: np.maximum(v, 0.0), np.ones_like, is_exact=True),
    "Rsqrt": Function(lambda v: 1 / np.sqrt(v), lambda v: 0.5 / v**1.5, is_steep=True),
    "Sigmoid": Function(lambda v: np.exp(-np.logaddexp(0.0, -v)), np.ones_like),
    "Softplus": Function(lambda v: np.logaddexp(0.0, v), np.ones_like),
    "Sqrt": Function(np.sqrt, lambda v: 0.5 / np.sqrt(v), is_steep=True),
    "Tanh": Function(np.tanh, np.ones_like, keeps_zero=True),
}
"""Functions of constants that are folded, by the name of their op."""


def folded_function(node: GraphNode, constant: Constant, name: str) -> Constant:
    """Return a function of a constant, correct to its last bits, with the sign that it has in exact arithmetic.

    Raises:
        VersionRefusedError: `not-lifted`, where the argument is a denormal number, which TensorFlow may take for zero,
            or so uncertain that the result may be anything; `finite-weights`, as of the root of a negative number.
    """
    function = FUNCTIONS[name]
    array = floats(node, constant.array)
    exact = array.astype(np.float64)
    with np.errstate(all="ignore"):
        value = floats(node, function.value(exact).astype(array.dtype))
        flushed = function.value(_flushed(array).astype(np.float64)).astype(array.dtype)
        if not np.array_equal(_flushed(flushed), _flushed(value)):
            raise refused("not-lifted", node, "is of a denormal constant, which TensorFlow takes for zero")
        limit = _ROUNDINGS * float(np.finfo(array.dtype).eps)
        if constant.size is None:
            size = None if function.is_exact else np.abs(value).astype(np.float64)
        else:
            room = 0.05 * np.abs(exact) if function.is_steep else np.full_like(exact, 0.05)
            if (limit * constant.size > room).any():
                raise refused("not-lifted", node, "is of a constant that rounding leaves uncertain")
            size = np.abs(value) + 2 * function.slope(exact) * constant.size
    signed = not function.keeps_zero or constant.signed
    origin = None if constant.origin is None else constant.origin
    return Constant(value, computed_label(constant.label), size, signed, origin)


def folded_reduction(node: GraphNode, constant: Constant, axes: tuple[int, ...], *, keep_axes: bool) -> Constant:
    """Return the sum, mean, maximum or minimum of a constant over axes.

    Raises:
        VersionRefusedError: as `floats`; `not-lifted` for another op.
    """
    array = floats(node, constant.array)
    functions: Mapping[str, Callable[..., Any]] = {"Sum": np.sum, "Mean": np.mean, "Max": np.max, "Min": np.min}
    if node.op not in functions:
        raise refused("not-lifted", node, "is not understood of constants")
    value = np.asarray(functions[node.op](array.astype(np.float64), axis=axes, keepdims=keep_axes))
    with np.errstate(over="ignore"):  # infinity is refused
        result = floats(node, value.astype(array.dtype))
    if not np.array_equal(result, _flushed(result)):
        raise refused("not-lifted", node, "computes a denormal constant, which TensorFlow takes for zero")
    sizes = np.abs(array).astype(np.float64) if constant.size is None else constant.size
    if node.op in {"Max", "Min"}:
        size = None if constant.size is None else np.asarray(np.max(sizes, axis=axes, keepdims=keep_axes))
        return Constant(result, computed_label(constant.label), size, constant.signed)
    count = array.size // max(1, result.size)
    size = np.asarray(np.sum(sizes, axis=axes, keepdims=keep_axes)) * max(1.0, count / 64)
    size = size / count if node.op == "Mean" else size
    limit = _ROUNDINGS * float(np.finfo(array.dtype).eps)
    certain = bool(((np.abs(result) > limit * size) | (size == 0)).all())
    return Constant(result, computed_label(constant.label), size, constant.signed and certain)


def _flushed(values: NDArray[Any]) -> NDArray[Any]:
    """Return the numbers with denormals, and the smallest normal ones to which some hardware rounds, as 0."""
    return np.where(np.abs(values) <= np.finfo(values.dtype).tiny, 0, values)
