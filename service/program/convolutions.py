"""Convolutions and products that are the same for every cell: linear maps of which a kernel is all that is stored.

The sign test reads the kernel, never a matrix of the whole map. Beside `operators`; above: `lifting`; below: `windows`.
"""

import dataclasses
from collections.abc import Iterator
from fractions import Fraction
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from service.program.operators import Operator, sum_bounds
from service.program.windows import Windows

Array = Any

_CHUNK = 4_000_000
"""Numbers of the cells of windows that are gathered at a time: 16 MB in float32, whatever the number of rows."""


@dataclasses.dataclass(frozen=True, eq=False)
class Convolution(Operator):
    r"""Sums over sliding windows, weighted by one kernel.

    .. math:: y_{p,\,o} = \sum_{t} \sum_{i} K_{t,\,i,\,o}\ v_{c(p,t),\,g(o) I + i}

    with c(p, t) cell number t of window p, 0 in the padding, and the channels in groups: output channel o reads the I
    input channels of its group g(o) = floor(o G / O). The coefficients of the map are those of K, each used at every
    window: where K has no negative entry, neither has the map.

    Every row is one product [windows, cells I] x [cells I, O] of its own, so that its bits depend on no other row.

    Args:
        coefficients: K, [*window, I, O].
        windows: the geometry of the cells; of the convolution, also where the map is its transpose.
        groups: G.
        is_transposed: whether the map is the transpose of that convolution, from windows to cells.
    """

    windows: Windows = dataclasses.field(kw_only=True)
    groups: int = dataclasses.field(default=1, kw_only=True)
    is_transposed: bool = dataclasses.field(default=False, kw_only=True)
    rule: ClassVar[str] = "nonneg-matmul"

    @property
    def _channels(self) -> tuple[int, int]:
        """Input and output channels of the convolution."""
        return int(self.coefficients.shape[-2]) * self.groups, int(self.coefficients.shape[-1])

    def output_width(self, input_width: int) -> int:
        """Return windows times output channels, or cells times input channels of a transposed one."""
        del input_width
        inputs, outputs = self._channels
        return self.windows.num_inputs * inputs if self.is_transposed else self.windows.num_outputs * outputs

    def apply(self, values: Array, dtype: Any, namespace: ModuleType) -> Array:
        """Return the map of rows `values`."""
        kernel = namespace.asarray(self.coefficients, dtype=dtype)
        return (
            self._backward(values, kernel, namespace)
            if self.is_transposed
            else self._forward(values, kernel, namespace)
        )

    def pull_back(self, adjoint: Array, dtype: Any, namespace: ModuleType) -> Array:
        """Return the transposed map of rows `adjoint`."""
        kernel = namespace.asarray(self.coefficients, dtype=dtype)
        return (
            self._forward(adjoint, kernel, namespace)
            if self.is_transposed
            else self._backward(adjoint, kernel, namespace)
        )

    def _forward(self, values: Array, kernel: Array, namespace: ModuleType) -> Array:
        """Return the convolution, from cells to windows."""
        parts = kernel.reshape(self.windows.cells.shape[1], kernel.shape[-2], self.groups, -1)
        return _mapped(values, self.windows.cells, namespace.moveaxis(parts, 2, 0), namespace)

    def _backward(self, values: Array, kernel: Array, namespace: ModuleType) -> Array:
        """Return its transpose, from windows to cells."""
        parts = kernel.reshape(self.windows.cells.shape[1], kernel.shape[-2], self.groups, -1)
        return _mapped(values, self.windows.readers, namespace.moveaxis(parts, (2, 0, 3, 1), (0, 1, 2, 3)), namespace)

    def interval(
        self, lower: NDArray[np.float64], upper: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the bounds of the sums; the entries of K are exact in float64."""
        channels = self.coefficients.shape[-1 if self.is_transposed else -2]
        run = self._backward if self.is_transposed else self._forward
        below, above = sum_bounds(
            lambda values, kernel: run(values, kernel, np),
            self.coefficients,
            lower,
            upper,
            self.windows.cells.shape[1] * int(channels),
        )
        return below[None, :], above[None, :]

    @property
    def text(self) -> str:
        """`convolution`, its geometry, groups and the hash of K."""
        name = "transposed convolution" if self.is_transposed else "convolution"
        return f"{name} {self.windows.text} {self.groups} {self.fingerprint}"

    def num_entries(self, input_width: int) -> int:
        """Return how many products make up the map."""
        del input_width
        return self.windows.num_outputs * int(self.coefficients.size)

    def exact_entries(self, input_width: int) -> Iterator[tuple[int, int, Fraction]]:
        """Yield the entries of K at every window."""
        del input_width
        inputs, outputs = self._channels
        share = outputs // self.groups
        kernel = self.coefficients.reshape(self.windows.cells.shape[1], -1, outputs).astype(np.float64).tolist()
        exact = [[[Fraction(weight) for weight in row] for row in block] for block in kernel]
        for window, cells in enumerate(self.windows.cells.tolist()):
            for cell, block in zip(cells, exact, strict=True):
                for channel, row in enumerate(block) if cell >= 0 else ():
                    for output, weight in enumerate(row):
                        first = cell * inputs + output // share * len(block) + channel
                        last = window * outputs + output
                        yield (last, first, weight) if self.is_transposed else (first, last, weight)


def _mapped(values: Array, cells: NDArray[np.int64], kernel: Array, namespace: ModuleType) -> Array:
    """Return sum_t sum_i values[cells[p, t], g I + i] K[g, t, i, o] for each row, [n, P G O].

    Args:
        values: [n, Q G I].
        cells: [P, T], entries of Q, -1 for none.
        kernel: [G, T, I, O].
        namespace: the arrays' module.
    """
    groups, num_cells, inputs, outputs = kernel.shape
    matrices = kernel.reshape(groups, num_cells * inputs, outputs)
    rows = max(1, _CHUNK // (cells.size * groups * inputs))
    if values.shape[0] > rows:
        starts = range(0, values.shape[0], rows)
        parts = [_mapped(values[start : start + rows], cells, kernel, namespace) for start in starts]
        return namespace.concatenate(parts, axis=0)
    n, positions = values.shape[0], cells.shape[0]
    grid = values.reshape(n, -1, groups * inputs)
    if (cells < 0).any():
        grid = namespace.concatenate([grid, namespace.zeros_like(grid[:, :1])], axis=1)  # -1 is the last one
    taken = namespace.take(grid, namespace.asarray(cells.reshape(-1)), axis=1)
    if groups == 1:
        return (taken.reshape(n, positions, num_cells * inputs) @ matrices[0]).reshape(n, positions * outputs)
    grouped = taken.reshape(n, positions, num_cells, groups, inputs).transpose(0, 3, 1, 2, 4)
    sums = grouped.reshape(n, groups, positions, num_cells * inputs) @ matrices
    return sums.transpose(0, 2, 1, 3).reshape(n, positions * groups * outputs)


@dataclasses.dataclass(frozen=True, eq=False)
class Blocks(Operator):
    """y[g, p, :] = v[g, p, :] W[g]: a product with one matrix, or one for each block, for every position.

    Args:
        coefficients: W, [blocks, I, O].
        positions: how many vectors of I features meet each matrix.
    """

    positions: int = dataclasses.field(kw_only=True)
    rule: ClassVar[str] = "nonneg-matmul"

    def output_width(self, input_width: int) -> int:
        """Return blocks times positions times O."""
        del input_width
        blocks, _, outputs = self.coefficients.shape
        return int(blocks) * self.positions * int(outputs)

    def apply(self, values: Array, dtype: Any, namespace: ModuleType) -> Array:
        """Return the products, each row's alone."""
        return self._map(values, namespace.asarray(self.coefficients, dtype=dtype))

    def pull_back(self, adjoint: Array, dtype: Any, namespace: ModuleType) -> Array:
        """Return the products with the transposed matrices."""
        matrices = namespace.asarray(self.coefficients, dtype=dtype)
        return self._map(adjoint, namespace.swapaxes(matrices, 1, 2))

    def _map(self, values: Array, matrices: Array) -> Array:
        blocks, inputs, _ = matrices.shape
        n = values.shape[0]
        return (values.reshape(n, blocks, self.positions, inputs) @ matrices).reshape(n, -1)

    def interval(
        self, lower: NDArray[np.float64], upper: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the bounds of the sums; the entries of W are exact in float64."""
        below, above = sum_bounds(self._map, self.coefficients, lower, upper, int(self.coefficients.shape[1]))
        return below[None, :], above[None, :]

    @property
    def text(self) -> str:
        """`blocks`, the number of positions and the hash of W."""
        return f"blocks {self.positions} {self.fingerprint}"

    def num_entries(self, input_width: int) -> int:
        """Return how many products make up the map."""
        del input_width
        return self.positions * int(self.coefficients.size)

    def exact_entries(self, input_width: int) -> Iterator[tuple[int, int, Fraction]]:
        """Yield the entries of W at every position."""
        del input_width
        _, inputs, outputs = self.coefficients.shape
        for block, matrix in enumerate(self.coefficients.astype(np.float64).tolist()):
            for position in range(block * self.positions, (block + 1) * self.positions):
                for i, row in enumerate(matrix):
                    for j, weight in enumerate(row):
                        yield position * inputs + i, position * outputs + j, Fraction(weight)
