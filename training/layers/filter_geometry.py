"""What the filters of a bank look at: all of a row, or a window that slides over space.

Below `filter` and `filter_bank`.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops


@dataclasses.dataclass(frozen=True)
class FilterGeometry:
    """Size, strides and padding of a convolution, or none of them for dense columns.

    Args:
        kernel_size: a whole number for all axes of space, one for each of them, or None for dense columns.
        strides: the same.
        padding: `valid` or `same`.

    Raises:
        ValueError: a size or stride is not positive, the padding is neither word, or dense columns have strides or
            padding.
    """

    kernel_size: int | tuple[int, ...] | None
    strides: int | tuple[int, ...]
    padding: str

    def __post_init__(self) -> None:
        for name in ("kernel_size", "strides"):
            given = getattr(self, name)
            numbers = given if isinstance(given, tuple) else (1 if given is None else given,)
            if not numbers or not all(type(number) is int and number >= 1 for number in numbers):
                message = f"{name}: expected whole numbers of at least 1, received {given!r}."
                raise ValueError(message)
        if self.padding not in ("valid", "same"):
            message = f"padding: expected 'valid' or 'same', received {self.padding!r}."
            raise ValueError(message)
        if self.kernel_size is None and (self.strides, self.padding) != (1, "valid"):
            message = f"kernel_size: dense filters have no strides and no padding, received {self}."
            raise ValueError(message)

    @classmethod
    def create(cls, kernel_size: Any, strides: Any, padding: str) -> "FilterGeometry":
        """Return the geometry of a layer's arguments, in which a list is as good as a tuple."""
        kernel_size, strides = (
            tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else value
            for value in (kernel_size, strides)
        )
        return cls(kernel_size, strides, padding)

    def kernel_shape(self, input_shape: Sequence[int | None], filters: int) -> tuple[int, ...]:
        """Return the shape of the kernel of `filters` filters.

        Raises:
            ValueError: the last dimension is not known, or the rank is not that of the sizes.
        """
        channels = input_shape[-1] if len(input_shape) > 1 else None
        if channels is None:
            message = f"input: expected rank 2 or more and a known last dimension, received {tuple(input_shape)}."
            raise ValueError(message)
        return (*self._per_axis(self.kernel_size, input_shape), channels, filters)

    def output_shape(self, input_shape: Sequence[int | None], filters: int) -> tuple[int | None, ...]:
        """Return the shape of the outputs.

        Raises:
            ValueError: as `kernel_shape`; or the window is larger than the space.
        """
        kernel = keras.KerasTensor(self.kernel_shape(input_shape, filters))
        return tuple(self.apply(keras.KerasTensor(input_shape), kernel).shape)

    def apply(self, inputs: Any, kernel: Any) -> Any:
        """Return the outputs [..., n] of inputs under a kernel [..., n]."""
        if self.kernel_size is None:
            return ops.matmul(inputs, kernel)
        strides = list(self._per_axis(self.strides, inputs.shape))
        return ops.conv(inputs, kernel, strides=strides, padding=self.padding, data_format="channels_last")

    def _per_axis(self, given: int | tuple[int, ...] | None, shape: Sequence[int | None]) -> tuple[int, ...]:
        """Return a number for each axis of space, none for dense columns."""
        if self.kernel_size is None:
            return ()
        axes = len(shape) - 2
        numbers = (given,) * axes if isinstance(given, int) else given or ()
        if axes not in (1, 2, 3) or len(numbers) != axes:
            message = (
                f"input: expected [n, space..., channels] with {len(numbers) or '1 to 3'} axes of space for "
                f"kernel_size {self.kernel_size} and strides {self.strides}, received the shape {tuple(shape)}."
            )
            raise ValueError(message)
        return numbers
