"""One filter of a bank: a kernel with one output channel and its bias, frozen or trained together.

Over `freezing` and `filter_geometry`; `filter_bank` is a list of them.
"""

from typing import Any

import keras

from training.freezing import FreezableVariable, Parts
from training.layers.filter_geometry import FilterGeometry


class Filter(keras.layers.Layer):
    """The variables of one filter; the bank computes all filters at once.

    Setting `trainable` freezes or thaws kernel and bias together. It is not registered and has no configuration of its
    own: its bank makes it.

    Args:
        parts: the bank's flags.
        index: the filter's place in the bank, and among the output channels.
        geometry: the bank's.
        kernel: initializer and constraint of the kernel.
        bias: those of the bias, or None for no bias.
        **kwargs: of `keras.layers.Layer`.
    """

    def __init__(
        self,
        parts: Parts,
        index: int,
        geometry: FilterGeometry,
        *,
        kernel: dict[str, Any],
        bias: dict[str, Any] | None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.index = index
        self.geometry = geometry
        self.kernel: Any = None
        self.bias: Any = None
        self._parts = parts
        self._recipes = (kernel, bias)

    @property
    def trainable(self) -> bool:
        """Whether the filter is trained: neither it nor the whole bank is frozen."""
        return self._parts.read(self.index)

    @trainable.setter
    def trainable(self, value: bool) -> None:
        self._parts.flags[self.index] = bool(value)

    def build(self, input_shape: Any) -> None:
        """Make the variables, for an input of the bank."""
        kernel, bias = self._recipes
        self.kernel = self._variable("kernel", self.geometry.kernel_shape(input_shape, 1), **kernel)
        if bias is not None:
            self.bias = self._variable("bias", (1,), **bias)

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        """Return the shape of the filter's own output."""
        return self.geometry.output_shape(input_shape, 1)

    def _variable(self, name: str, shape: tuple[int, ...], initializer: Any, constraint: Any) -> FreezableVariable:
        """Return what `add_weight` would, but freezable."""
        variable = FreezableVariable(
            self._parts, self.index, initializer=initializer, shape=shape, dtype=self.variable_dtype, name=name
        )
        variable.constraint = constraint
        return variable
