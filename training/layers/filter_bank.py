"""A bank of single filters, convolutions or dense columns, each of which is frozen or trained on its own.

Over `filter`, `freezing`, `regularizers` and `coherence`; `filter_bank_model` is the same as a model, and
`jointly_regularized` spans several banks.
"""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from training import regularizers
from training.coherence import Coherence, measure
from training.freezing import Parts
from training.layers.filter import Filter
from training.layers.filter_geometry import FilterGeometry


@keras.saving.register_keras_serializable(package="convex_scoring")
class FilterBank(keras.layers.Layer):
    r"""Filters side by side, as one convolution or dense layer computes them, with variables of their own.

    .. math:: y_i = k_i * x + b_i, \qquad i = 1, ..., n

    Affine in x whatever the weights: it may stand first in a convex network, or beside the kernels that must be
    non-negative, as the passthrough.

    **Freezing.** `set_trainable_parts` freezes filters with their biases, so does `parts[i].trainable`. A frozen filter
    keeps each of its bits under any optimiser, with any momentum, decay and constraint, because no optimiser is handed
    its variables; its place in the optimiser's state waits for it. Setting `trainable` of the bank, or of a model
    around it, freezes all filters, and then thaws those that the list says. In an eager loop a change holds at the next
    step. A function that was compiled before the change (`fit`, `train_on_batch`, `evaluate`, a `tf.function` that
    asked for trainable variables) raises `FrozenSetChangedError` when it is called: `training.freezing.retrace(model)`
    is the remedy, and keeps the optimiser's state. A prediction depends on no flag. The flags are saved with the
    weights and with the model.

    **The regulariser** sees all filters at once, frozen ones as constants, in `losses`: once, however often the bank is
    used, and without a call. Its value is that of the whole kernel, the frozen share included (`coherence` tells it
    apart).

    Example:
        >>> bank = FilterBank(10, kernel_size=1, regularizer="pairwise_orthogonality")
        >>> bank(keras.ops.ones((2, 7, 7, 32))).shape
        TensorShape([2, 7, 7, 10])
        >>> bank.set_trainable_parts([False] * 3 + [True] * 7)
        >>> sum(variable.shape.num_elements() for variable in bank.trainable_variables)
        231

    Args:
        filters: number n of filters, at least 1.
        kernel_size: of each, a whole number for all axes of space or one for each; None for dense columns.
        strides: the same.
        padding: `valid` or `same`.
        use_bias: whether each filter has a bias.
        trainable_parts: for each filter whether it is trained; None: all are.
        regularizer: of the whole kernel, as `regularizers.resolve` takes it.
        kernel_initializer: Keras initialiser of the whole kernel, of which each filter gets its column.
        bias_initializer: the same of all biases.
        kernel_constraint: Keras constraint of each filter's kernel [..., 1].
        bias_constraint: Keras constraint of each filter's bias [1].
        **kwargs: of `keras.layers.Layer`: name, dtype, trainable.

    Input shape:
        [n, space..., channels] with 1 to 3 axes of space, or [..., channels] for dense columns.

    Output shape:
        [n, space..., filters], or [..., filters]: filter i is channel i.

    Raises:
        ValueError: filters, a size or a stride is not a positive whole number; the padding is neither word; dense
            columns with strides or padding; a list of flags of the wrong length.
        TypeError: a flag that is no boolean.
    """

    def __init__(  # noqa: PLR0913  # a layer's arguments, those of Keras' convolutions
        self,
        filters: int,
        kernel_size: int | Sequence[int] | None = None,
        strides: int | Sequence[int] = 1,
        padding: str = "valid",
        use_bias: bool = True,
        *,
        trainable_parts: Sequence[bool] | None = None,
        regularizer: Any = None,
        kernel_initializer: Any = "glorot_uniform",
        bias_initializer: Any = "zeros",
        kernel_constraint: Any = None,
        bias_constraint: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if type(filters) is not int or filters < 1:
            message = f"{self.name}: filters: expected a whole number of at least 1, received {filters!r}."
            raise ValueError(message)
        self.geometry = FilterGeometry.create(kernel_size, strides, padding)
        self.use_bias = bool(use_bias)
        self.regularizer = regularizers.resolve(regularizer)
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.bias_initializer = keras.initializers.get(bias_initializer)
        self.kernel_constraint = keras.constraints.get(kernel_constraint)
        self.bias_constraint = keras.constraints.get(bias_constraint)
        self._flags = Parts(self.name, [True] * filters, whole=self._trainable)
        self.parts = [self._filter(index, filters) for index in range(filters)]
        self.supports_masking = self.geometry.kernel_size is None
        if trainable_parts is not None:
            self.set_trainable_parts(trainable_parts)

    @property
    def layers(self) -> list[Filter]:
        """The filters, which `summary(expand_nested=True)` lists."""
        return list(self.parts)

    @property
    def trainable(self) -> bool:
        """Whether the bank is trained at all; which of its filters, `trainable_parts` says."""
        return self._trainable

    @trainable.setter
    def trainable(self, value: bool) -> None:
        self._trainable = bool(value)
        self._flags.whole = self._trainable

    @property
    def trainable_parts(self) -> tuple[bool, ...]:
        """For each filter whether it is trained while the bank is."""
        return tuple(self._flags.flags)

    def set_trainable_parts(self, trainables: Sequence[bool]) -> None:
        """Freeze and thaw filters.

        Args:
            trainables: for each filter, in the order of the output channels, True to train it and False to freeze it.

        Raises:
            ValueError: not one for each filter.
            TypeError: no list, or one of them is no boolean.
        """
        self._flags.set_flags(trainables)

    @property
    def kernel(self) -> Any:
        """The filters side by side along the last axis, as one kernel."""
        return ops.concatenate([ops.convert_to_tensor(part.kernel) for part in self.parts], axis=-1)

    @property
    def bias(self) -> Any:
        """The biases [n], or None."""
        if not self.use_bias:
            return None
        return ops.concatenate([ops.convert_to_tensor(part.bias) for part in self.parts], axis=-1)

    @property
    def regularized_kernel(self) -> Any:
        """The kernel, in which frozen filters are constants to a gradient."""
        kernels = [ops.convert_to_tensor(part.kernel) for part in self.parts]
        return ops.concatenate(
            [
                kernel if part.trainable else ops.stop_gradient(kernel)
                for part, kernel in zip(self.parts, kernels, strict=True)
            ],
            axis=-1,
        )

    def coherence(self) -> Coherence:
        """Return how far the filters are from being orthogonal, and how near they can come."""
        kernel = ops.convert_to_numpy(self.kernel)
        return measure(kernel.reshape(-1, len(self.parts)), ~np.array([part.trainable for part in self.parts]))

    def build(self, input_shape: Any) -> None:
        """Make the variables of each filter: columns of one draw of the whole kernel."""
        self.compute_output_shape(input_shape)
        shape = self.geometry.kernel_shape(input_shape, len(self.parts))
        for part in self.parts:
            part.build(input_shape)
        dense = self.geometry.kernel_size is None
        ranks = {"min_ndim": 2} if dense else {"ndim": len(shape)}
        self.input_spec = keras.layers.InputSpec(**ranks, axes={-1: shape[-2]})

    def call(self, inputs: Any) -> Any:
        """Return the outputs of all filters, side by side along the last axis."""
        outputs = self.geometry.apply(inputs, self.kernel)
        return ops.add(outputs, self.bias) if self.use_bias else outputs

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        """Return [n, space..., filters], or [..., filters]."""
        return self.geometry.output_shape(input_shape, len(self.parts))

    def _filter(self, index: int, filters: int) -> Filter:
        """Return one filter, with its columns of what the bank's initialisers draw."""
        kernel, bias = (
            {"initializer": _column(initializer, filters, index), "constraint": constraint}
            for initializer, constraint in (
                (self.kernel_initializer, self.kernel_constraint),
                (self.bias_initializer, self.bias_constraint),
            )
        )
        return Filter(
            self._flags,
            index,
            self.geometry,
            kernel=kernel,
            bias=bias if self.use_bias else None,
            name=f"filter_{index}",
            dtype=self.dtype_policy,
        )

    def _get_own_losses(self) -> list[Any]:
        """Return the losses of the last call, and the joint penalty.

        Keras collects here what `losses` is made of, once for each layer; `add_loss` in `call` would add the penalty
        with each use of the bank, and to predictions.
        """
        losses = list(super()._get_own_losses())
        if self.regularizer is not None and self.built:
            losses.append(regularizers.penalty(self.regularizer, lambda: [self.regularized_kernel], self))
        return losses

    def save_own_variables(self, store: Any) -> None:
        """Save the flags; each filter saves its variables."""
        super().save_own_variables(store)
        store["trainable_parts"] = np.array(self.trainable_parts, dtype=np.uint8)

    def load_own_variables(self, store: Any) -> None:
        """Load the flags.

        Raises:
            ValueError: another number of filters was saved.
        """
        self.set_trainable_parts(np.asarray(store["trainable_parts"]).astype(bool).tolist())

    def get_config(self) -> dict[str, Any]:
        """Return the arguments, and the flags as they are."""
        return {
            **super().get_config(),
            "filters": len(self.parts),
            "kernel_size": self.geometry.kernel_size,
            "strides": self.geometry.strides,
            "padding": self.geometry.padding,
            "use_bias": self.use_bias,
            "trainable_parts": list(self.trainable_parts),
            "regularizer": keras.regularizers.serialize(self.regularizer),
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "bias_initializer": keras.initializers.serialize(self.bias_initializer),
            "kernel_constraint": keras.constraints.serialize(self.kernel_constraint),
            "bias_constraint": keras.constraints.serialize(self.bias_constraint),
        }


def _column(initializer: Any, filters: int, index: int) -> Callable[..., Any]:
    """Return an initialiser that draws for all filters and gives one: a draw may depend on the size of the whole."""

    def initialize(shape: tuple[int, ...], dtype: Any = None) -> Any:
        return initializer((*shape[:-1], filters), dtype=dtype)[..., index : index + 1]

    return initialize
