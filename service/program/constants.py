"""Constants of a graph, and those that are computed from others: the arithmetic, and what may be read from its result.

Above: `lifting`. TensorFlow computes such constants as well, and need not get the same: some hardware takes denormals
for zero, and the graph optimiser reorders sums. A sign that hangs on either is not known.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
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

_PRODUCTS = (np.multiply, np.divide)
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
    return Constant(value, left.label or right.label, size, left.signed and right.signed and certain)


def _size(left: Constant, right: Constant, operation: Operation) -> NDArray[np.float64]:
    """Return what `operation` gives when no terms cancel; a quotient is as uncertain as its divisor is small."""
    first, second = (
        np.abs(tensor.array).astype(np.float64) if tensor.size is None else tensor.size for tensor in (left, right)
    )
    with np.errstate(all="ignore"):
        if operation is np.divide:
            return np.asarray(first * second / np.square(right.array.astype(np.float64)))
        return np.asarray(first * second if operation is np.multiply else first + second)


def _flushed(values: NDArray[Any]) -> NDArray[Any]:
    """Return the numbers with denormals, and the smallest normal ones to which some hardware rounds, as 0."""
    return np.where(np.abs(values) <= np.finfo(values.dtype).tiny, 0, values)
