"""What a tensor of a graph may be while it is lifted: a constant, rows of features, or sizes that count rows.

Above: `lifting`; below: `constants`, `inlining`.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.program.constants import Constant, refused
from service.program.inlining import GraphNode


@dataclasses.dataclass(frozen=True)
class Rows:
    """A tensor [n, *shape]: for each row, the features of program node number `node`, flattened in row-major order.

    Where axes were merged into the row axis it is [before * n * after, *shape], and the node's features are those of
    [before, after, *shape]: numbers of different rows never meet, whatever is done alike along the first axis.

    Args:
        node: number of the program node.
        shape: the axes after the first; () for [n].
        before: how many blocks of rows the first axis has.
        after: how many entries of the first axis follow each other for one row.
    """

    node: int
    shape: tuple[int, ...]
    before: int = 1
    after: int = 1

    @property
    def copies(self) -> int:
        """How many entries of the first axis belong to one row."""
        return self.before * self.after

    @property
    def width(self) -> int:
        """The number of features of a row."""
        return self.copies * math.prod(self.shape)

    @property
    def rank(self) -> int:
        """The number of the tensor's axes."""
        return 1 + len(self.shape)

    @property
    def plain(self) -> "Rows":
        """The same features as a tensor [n, width]."""
        return Rows(self.node, (self.width,))

    @property
    def places(self) -> NDArray[np.int64]:
        """The features' numbers [copies, *shape], as the tensor holds them."""
        return np.arange(self.width).reshape(self.copies, *self.shape)


@dataclasses.dataclass(frozen=True)
class RowCount:
    """`times` times the number of rows, which nobody knows before a request comes."""

    times: int = 1

    def __mul__(self, other: Any) -> "RowCount":
        """Return the product with an integer.

        Raises:
            TypeError: for anything else, such as another count of rows.
        """
        if not isinstance(other, int | np.integer):
            message = "a number of rows is multiplied by something that is no integer"
            raise TypeError(message)
        return RowCount(self.times * int(other))

    __rmul__ = __mul__


@dataclasses.dataclass(frozen=True, eq=False)
class Sizes:
    """Integers some of which count rows: good for the shape of a reshape, and for nothing else.

    Args:
        array: of integers and `RowCount`.
    """

    array: NDArray[np.object_]

    def moved(self, function: Callable[[NDArray[Any]], NDArray[Any]]) -> "Sizes | Constant":
        """Return the sizes rearranged; a constant where no count of rows is left."""
        return sizes(function(self.array))


Tensor = Constant | Rows | Sizes
"""What an input of an op may be."""


def sizes(array: NDArray[np.object_]) -> Sizes | Constant:
    """Return an array of integers and counts of rows as a constant where it can be one."""
    array = np.asarray(array, np.object_)
    if any(isinstance(entry, RowCount) for entry in array.reshape(-1)):
        return Sizes(array)
    return Constant(array.astype(np.int64), "a shape")


def integers(node: GraphNode, tensor: Tensor) -> list[int]:
    """Return the entries of a constant of integers, such as axes or paddings.

    Raises:
        VersionRefusedError: `row-axis`, if it is computed from rows or counts them; `not-lifted`, if it is of floats.
    """
    if not isinstance(tensor, Constant):
        raise refused("row-axis", node, "takes axes, sizes or places that are not constant")
    if tensor.array.dtype.kind not in "iu":
        raise refused("not-lifted", node, f"takes axes, sizes or places of type {tensor.array.dtype}")
    return [int(entry) for entry in tensor.array.reshape(-1)]


def entries(node: GraphNode, tensor: Tensor) -> list[int | RowCount]:
    """Return the entries of a shape, some of which may count rows.

    Raises:
        VersionRefusedError: as `integers`.
    """
    if isinstance(tensor, Sizes):
        return [entry if isinstance(entry, RowCount) else int(entry) for entry in tensor.array.reshape(-1)]
    return list(integers(node, tensor))


def joined(
    tensors: Sequence[Constant | Sizes], function: Callable[[Sequence[NDArray[Any]]], NDArray[Any]]
) -> Constant | Sizes:
    """Return constants joined by `function`; sizes where one of them counts rows."""
    array = function([tensor.array for tensor in tensors])
    if any(isinstance(tensor, Sizes) for tensor in tensors):
        return sizes(array)
    constants = [tensor for tensor in tensors if isinstance(tensor, Constant)]
    if all(constant.size is None for constant in constants):
        size = None
    else:
        size = function([np.abs(constant.array) if constant.size is None else constant.size for constant in constants])
    signed = all(constant.signed for constant in constants)
    return Constant(array, ", ".join(sorted({constant.label for constant in constants})), size, signed)


def rows_of(node: GraphNode, tensor: Tensor) -> Rows:
    """Return a tensor that must be rows of features.

    Raises:
        VersionRefusedError: `not-lifted` for a constant, `row-axis` for a count of rows.
    """
    if isinstance(tensor, Constant):
        raise refused("not-lifted", node, "is applied to a constant")
    if isinstance(tensor, Sizes):
        raise refused("row-axis", node, "counts the rows")
    return tensor


def joint_shape(node: GraphNode, tensors: Sequence[Tensor]) -> tuple[int, ...]:
    """Return the shape of the features of an elementwise op on rows and constants, as NumPy broadcasts it.

    Raises:
        VersionRefusedError: `row-axis`, where a row would meet another one's numbers, or a constant meets the row
            axis; `not-lifted`, where the shapes do not fit.
    """
    rows = [tensor for tensor in tensors if not isinstance(tensor, Constant)]
    first = rows_of(node, rows[0])
    for other in rows[1:]:
        if rows_of(node, other).rank != first.rank:
            what = "combines [n] with [n, k], which would broadcast one row against another"
            raise refused("row-axis", node, what)
        if (rows_of(node, other).before, rows_of(node, other).after) != (first.before, first.after):
            raise refused("row-axis", node, "combines rows whose first axes are merged in different ways")
    shapes = [tensor.shape for tensor in tensors if isinstance(tensor, Rows)]
    constants = [tensor.array.shape for tensor in tensors if isinstance(tensor, Constant)]
    shapes.extend(without_row_axis(node, shape, first.rank) for shape in constants)
    try:
        return np.broadcast_shapes(*shapes)
    except ValueError as err:
        received = ", ".join(str(list(shape)) for shape in shapes)
        raise refused("not-lifted", node, f"combines features of shapes {received}, which do not fit") from err


def without_row_axis(node: GraphNode, shape: tuple[int, ...], rank: int) -> tuple[int, ...]:
    """Return a constant's shape against the features of rows of `rank`, whose row axis it must not meet.

    Raises:
        VersionRefusedError: `row-axis`.
    """
    if len(shape) > rank or (len(shape) == rank and shape[0] != 1):
        raise refused(
            "row-axis", node, f"combines rows with a constant of shape {list(shape)}, which meets the row axis"
        )
    return shape[1:] if len(shape) == rank else shape
