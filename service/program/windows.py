"""Windows that slide over a grid: the geometry of convolutions and pools, and which cells each window holds.

Above: `convolutions`, `lifting`. Nothing is computed from numbers here, only from sizes.
"""

import dataclasses
import functools
import math

import numpy as np
from numpy.typing import NDArray

MAX_CELLS = 8_000_000
"""Most cells of all windows together: 64 MiB of their numbers."""


@dataclasses.dataclass(frozen=True)
class Windows:
    """Windows over grids of `sizes`, of which a row has `copies`.

    Args:
        copies: number of grids, one after the other; each has windows of its own.
        sizes: cells of a grid along each axis.
        window: cells of a window along each axis.
        strides: cells from one window to the next.
        dilations: cells from one cell of a window to the next.
        padding: cells of zeros before and after, for each axis.

    Raises:
        ValueError: if a size is below 1, a padding below 0, or no window fits.
    """

    copies: int
    sizes: tuple[int, ...]
    window: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]

    def __post_init__(self) -> None:
        """Refuse sizes that do not fit."""
        axes = {len(part) for part in (self.sizes, self.window, self.strides, self.dilations, self.padding)}
        positive = (self.copies, *self.sizes, *self.window, *self.strides, *self.dilations)
        if len(axes) != 1 or min(positive) < 1 or any(end < 0 for ends in self.padding for end in ends):
            message = f"no windows: {self}"
            raise ValueError(message)
        if min(self.outputs) < 1:
            message = f"a window of {self.window} does not fit into {self.sizes}"
            raise ValueError(message)

    @property
    def outputs(self) -> tuple[int, ...]:
        """Number of windows along each axis."""
        return tuple(
            (size + before + after - (window - 1) * dilation - 1) // stride + 1
            for size, window, stride, dilation, (before, after) in zip(
                self.sizes, self.window, self.strides, self.dilations, self.padding, strict=True
            )
        )

    @property
    def num_inputs(self) -> int:
        """Number of cells of a row."""
        return self.copies * math.prod(self.sizes)

    @property
    def num_outputs(self) -> int:
        """Number of windows of a row."""
        return self.copies * math.prod(self.outputs)

    @property
    def num_cells(self) -> int:
        """Number of cells of all windows together."""
        return self.num_outputs * math.prod(self.window)

    @property
    def text(self) -> str:
        """The geometry in the program's canonical text."""
        padding = tuple(end for ends in self.padding for end in ends)
        parts = ((self.copies,), self.sizes, self.window, self.strides, self.dilations, padding)
        return " ".join(",".join(str(number) for number in part) for part in parts)

    @functools.cached_property
    def cells(self) -> NDArray[np.int64]:
        """The numbers [windows, cells of a window] of each window's cells, -1 in the padding.

        Raises:
            ValueError: if that is over `MAX_CELLS` numbers.
        """
        if self.num_cells > MAX_CELLS:
            message = f"windows of {self.num_cells} cells together, at most {MAX_CELLS}"
            raise ValueError(message)
        total = np.zeros(1, np.int64)
        inside = np.ones(1, np.bool_)
        dims = len(self.sizes)
        for axis, (size, count, window, stride, dilation, (before, _)) in enumerate(
            zip(self.sizes, self.outputs, self.window, self.strides, self.dilations, self.padding, strict=True)
        ):
            along = np.arange(count)[:, None] * stride + np.arange(window)[None, :] * dilation - before
            shape = [1] * (2 * dims)
            shape[axis], shape[dims + axis] = count, window
            along = along.reshape(shape)
            inside = inside & (along >= 0) & (along < size)
            total = total * size + along
        one = np.where(inside, total, -1).reshape(math.prod(self.outputs), math.prod(self.window))
        grids = np.arange(self.copies)[:, None, None] * math.prod(self.sizes)
        return np.where(one < 0, -1, one + grids).reshape(self.num_outputs, -1)

    @functools.cached_property
    def readers(self) -> NDArray[np.int64]:
        """For each cell of the grids, the windows [cells, cells of a window] that have it as that cell, -1 for none.

        One window at most has a cell as its first one, one as its second, and so on.
        """
        cells = self.cells
        readers = np.full((self.num_inputs, cells.shape[1]), -1, np.int64)
        window, place = np.nonzero(cells >= 0)
        readers[cells[window, place], place] = window
        return readers

    def __reduce__(self) -> tuple[type["Windows"], tuple[object, ...]]:
        """Pickle the sizes alone, without the tables."""
        return Windows, tuple(getattr(self, field.name) for field in dataclasses.fields(self))


def padding_of(
    kind: str,
    explicit: tuple[int, ...],
    sizes: tuple[int, ...],
    window: tuple[int, ...],
    strides: tuple[int, ...],
    dilations: tuple[int, ...],
) -> tuple[tuple[int, int], ...]:
    """Return TensorFlow's padding before and after each axis.

    SAME: ceil(size / stride) windows, the odd cell of padding after.

    Args:
        kind: `VALID`, `SAME` or `EXPLICIT`.
        explicit: with `EXPLICIT`, before and after for every axis of the grid.
        sizes: cells of the grid.
        window: cells of a window.
        strides: cells between windows.
        dilations: cells between cells of a window.

    Raises:
        ValueError: for another kind.
    """
    if kind == "VALID":
        return tuple((0, 0) for _ in sizes)
    if kind == "EXPLICIT" and len(explicit) == 2 * len(sizes):
        return tuple((explicit[2 * axis], explicit[2 * axis + 1]) for axis in range(len(sizes)))
    if kind != "SAME":
        message = f"padding {kind} with {len(explicit)} numbers"
        raise ValueError(message)
    needed = (
        max(0, (-(-size // stride) - 1) * stride + (cells - 1) * dilation + 1 - size)
        for size, cells, stride, dilation in zip(sizes, window, strides, dilations, strict=True)
    )
    return tuple((total // 2, total - total // 2) for total in needed)
