"""Filters that slide over features: convolutions of one to three dimensions, their transposes, and pools.

Channels last, as TensorFlow runs them on a CPU. Beside the other families of `lifting`; below: `convolutions`,
`windows`.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from service.program.constants import Constant, coefficients, refused
from service.program.convolutions import Convolution
from service.program.inlining import GraphNode
from service.program.lifting.builder import Builder, Lift
from service.program.lifting.reductions import largest
from service.program.operators import Divide
from service.program.tensors import RowCount, Rows, Tensor, entries, rows_of
from service.program.windows import Windows, padding_of


def _windows(
    builder: Builder, node: GraphNode, copies: int, sizes: tuple[int, ...], window: tuple[int, ...]
) -> Windows:
    """Return the windows that an op's attributes mean on grids of `sizes`.

    Raises:
        VersionRefusedError: `row-axis` for strides along the rows; `not-lifted` for other formats; `size-limit`.
    """
    data_format = str(node.attributes.get("data_format") or "NHWC")
    if data_format.startswith("NC"):
        raise refused("not-lifted", node, f"has the format {data_format}; export it with channels last")
    strides = _along_grid(node, "strides", len(sizes))
    dilations = _along_grid(node, "dilations", len(sizes))
    explicit = tuple(node.attributes.get("explicit_paddings") or ())
    if any(explicit[:2]) or any(explicit[-2:]):
        raise refused("row-axis", node, "adds rows or channels")
    kind = str(node.attributes.get("padding"))
    padding = padding_of(kind, explicit[2:-2], sizes, window, strides, dilations)
    windows = Windows(copies, sizes, window, strides, dilations, padding)
    builder.require_places(node.name, windows.num_cells)
    return windows


def _along_grid(node: GraphNode, key: str, axes: int) -> tuple[int, ...]:
    """Return an attribute's numbers along the axes of the grid; those of rows and channels must be 1."""
    numbers = tuple(int(number) for number in node.attributes.get(key) or (1,) * (axes + 2))
    if len(numbers) != axes + 2 or numbers[-1] != 1:
        raise refused("not-lifted", node, f"has {key} {list(numbers)}")
    if numbers[0] != 1:
        raise refused("row-axis", node, f"has {key} {list(numbers)}, which leave out rows")
    return numbers[1:-1]


def _grid(node: GraphNode, tensor: Tensor, axes: int) -> tuple[Rows, tuple[int, ...], int]:
    """Return rows [n, *grid, channels], the grid and the channels."""
    rows = rows_of(node, tensor)
    if rows.rank != axes + 2:
        raise refused("row-axis", node, f"must filter rows of {axes} axes and channels, received rank {rows.rank}")
    return rows, rows.shape[:-1], rows.shape[-1]


def _kernel(node: GraphNode, tensor: Tensor, axes: int) -> Constant:
    if not isinstance(tensor, Constant) or tensor.array.ndim != axes + 2:
        raise refused("not-lifted", node, "must filter by a constant kernel")
    return tensor


def convolution(axes: int) -> Lift:
    """Return what lifts a convolution over `axes` axes, with groups of channels where the kernel has fewer."""

    def lift(builder: Builder, node: GraphNode, inputs: Sequence[Tensor]) -> Tensor:
        rows, _, channels = _grid(node, inputs[0], axes)
        kernel = _kernel(node, inputs[1], axes)
        return _convolved(builder, node, rows, kernel, _groups(node, kernel, channels))

    return lift


def _groups(node: GraphNode, kernel: Constant, channels: int) -> int:
    share, outputs = (int(size) for size in kernel.array.shape[-2:])
    if share < 1 or channels % share or outputs % (channels // share):
        raise refused("not-lifted", node, f"filters {channels} channels by a kernel {list(kernel.array.shape)}")
    return channels // share


def depthwise(builder: Builder, node: GraphNode, inputs: Sequence[Tensor]) -> Tensor:
    """Return a convolution of each channel by kernels of its own."""
    rows, _, channels = _grid(node, inputs[0], 2)
    kernel = _kernel(node, inputs[1], 2)
    *window, own, times = kernel.array.shape
    if own != channels:
        raise refused("not-lifted", node, f"filters {channels} channels by a kernel {list(kernel.array.shape)}")
    return _convolved(builder, node, rows, kernel.reshaped((*window, 1, own * times)), channels)


def _convolved(builder: Builder, node: GraphNode, rows: Rows, kernel: Constant, groups: int) -> Rows:
    windows = _windows(builder, node, rows.copies, rows.shape[:-1], kernel.array.shape[:-2])
    outputs = kernel.array.shape[-1]
    builder.require(node.name, windows.num_outputs * outputs)
    weights = np.ascontiguousarray(coefficients(node, kernel))
    operator = Convolution(weights, kernel.label, kernel.origin, windows=windows, groups=groups)
    return builder.affine(node.name, rows, operator, (*windows.outputs, outputs))


def transposed_convolution(axes: int) -> Lift:
    """Return what lifts the transpose of a convolution over `axes` axes."""

    def lift(builder: Builder, node: GraphNode, inputs: Sequence[Tensor]) -> Tensor:
        shape, kernel = entries(node, inputs[0]), _kernel(node, inputs[1], axes)
        rows, outputs, channels = _grid(node, inputs[2], axes)
        sizes = tuple(size for size in shape if isinstance(size, int))
        if len(sizes) != axes + 1 or shape[0] != RowCount(rows.copies):
            raise refused("row-axis", node, "must give as many grids as there are rows")
        windows = _windows(builder, node, rows.copies, sizes[:-1], kernel.array.shape[:-2])
        if windows.outputs != outputs or kernel.array.shape[-2:] != (sizes[-1], channels):
            raise refused("not-lifted", node, f"has a kernel {list(kernel.array.shape)} that does not fit")
        builder.require(node.name, rows.copies * math.prod(sizes))
        weights = np.ascontiguousarray(coefficients(node, kernel))
        operator = Convolution(weights, kernel.label, kernel.origin, windows=windows, is_transposed=True)
        return builder.affine(node.name, rows, operator, sizes)

    return lift


def pool(axes: int) -> Lift:
    """Return what lifts the average or the maximum over windows of each channel.

    Padding takes no part in either: the average is over the cells that there are, as in TensorFlow.
    """

    def lift(builder: Builder, node: GraphNode, inputs: Sequence[Tensor]) -> Tensor:
        rows, sizes, channels = _grid(node, inputs[0], axes)
        windows = _windows(builder, node, rows.copies, sizes, _along_grid(node, "ksize", axes))
        builder.require(node.name, windows.num_outputs * channels)
        builder.require_places(node.name, windows.num_cells * channels)
        cells = windows.cells[:, None, :]
        places = np.where(cells < 0, -1, cells * channels + np.arange(channels)[:, None])
        places = places.reshape(-1, places.shape[-1])
        counts = (places >= 0).sum(axis=1)
        if not counts.all():
            raise refused("not-lifted", node, "has a window of padding alone")
        plain = rows.plain
        if node.op.startswith("Max"):
            first = np.take_along_axis(places, (places >= 0).argmax(axis=1)[:, None], axis=1)
            result = largest(builder, node, plain, np.where(places < 0, first, places))
        else:
            total = builder.sums(node.name, plain, places, (places.shape[0],), "an average pool")
            result = builder.affine(node.name, total, Divide(counts.astype(np.float32), "an average pool"), total.shape)
        return Rows(result.node, (*windows.outputs, channels), rows.before, rows.after)

    return lift


OPS: Mapping[str, Lift] = {
    "AvgPool": pool(2),
    "AvgPool3D": pool(3),
    "Conv2D": convolution(2),
    "Conv2DBackpropInput": transposed_convolution(2),
    "Conv3D": convolution(3),
    "Conv3DBackpropInputV2": transposed_convolution(3),
    "DepthwiseConv2dNative": depthwise,
    "MaxPool": pool(2),
    "MaxPool3D": pool(3),
}
