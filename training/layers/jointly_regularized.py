"""A model whose filters are penalised together, across its layers.

Over `regularizers`, `coherence` and `filter_bank`; a single bank takes a regulariser itself.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from training import regularizers
from training.coherence import Coherence, measure
from training.layers.filter_bank import FilterBank


@dataclasses.dataclass(frozen=True, eq=False)
class _Member:
    """One kernel: that of a bank, or a variable of any other layer."""

    layer: keras.layers.Layer
    variable: str

    def fan_in(self) -> int:
        """Return the number of weights of a filter."""
        owner = self.layer.parts[0] if isinstance(self.layer, FilterBank) else self.layer
        return math.prod(getattr(owner, self.variable).shape[:-1])

    def kernel(self) -> Any:
        """Return the kernel [..., n], in which frozen filters are constants to a gradient."""
        if isinstance(self.layer, FilterBank):
            return self.layer.regularized_kernel
        variable = getattr(self.layer, self.variable)
        kernel = ops.convert_to_tensor(variable)
        return kernel if variable.trainable else ops.stop_gradient(kernel)

    def frozen(self) -> list[bool]:
        """Return for each filter whether it is frozen."""
        if isinstance(self.layer, FilterBank):
            return [not part.trainable for part in self.layer.parts]
        variable = getattr(self.layer, self.variable)
        return [not variable.trainable] * variable.shape[-1]


@keras.saving.register_keras_serializable(package="convex_scoring")
class JointlyRegularized(keras.Model):
    """A model with a penalty on the filters of several of its layers together, and with the model's own outputs.

    Filters of equal fan-in form one group, whichever layers they stand in: vectors of different lengths have no inner
    product. The penalty is the sum of the regulariser's values over the groups, each of them given its kernels side by
    side along the last axis: as they are where all but that axis agrees, else flattened to [m, n]. It is in `losses`
    once, however often a layer or this model is used, and needs no call. Frozen filters are constants in it.

    Example:
        >>> x = keras.Input((4,))
        >>> first, second = FilterBank(2, name="first"), FilterBank(3, name="second")
        >>> inner = keras.Model(x, keras.ops.concatenate([first(x), second(x)], axis=-1))
        >>> model = JointlyRegularized(inner, "pairwise_cosine_orthogonality")
        >>> print(model.coherence()[0].filters, round(model.coherence()[0].floor, 4))
        5 0.25

    Args:
        model: any Keras model.
        regularizer: as `regularizers.resolve` takes it.
        members: names of the layers whose kernels count, or `layer.variable` for a variable of another name than
            `kernel`, such as `hidden_1.passthrough`; None: all filter banks.
        **kwargs: of `keras.Model`.

    Input shape:
        That of the model.

    Output shape:
        That of the model.

    Raises:
        ValueError: no regulariser; no such layer, or several of that name; no bank.
    """

    def __init__(
        self, model: keras.Model, regularizer: Any, *, members: Sequence[str] | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.model = model
        self.regularizer = regularizers.resolve(regularizer)
        if self.regularizer is None:
            message = f"{self.name}: regularizer: expected one, received None."
            raise ValueError(message)
        self.members = None if members is None else tuple(members)
        self._members = self._found()

    def build(self, input_shape: Any) -> None:
        """Build the model, where it is not yet."""
        if not self.model.built:
            self.model.build(input_shape)

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Return the model's outputs."""
        del training  # Keras hands it on to the layers that ask for it, and to this model where its call names it
        return self.model(inputs)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """Return the model's."""
        inputs = keras.tree.map_shape_structure(keras.KerasTensor, input_shape)
        return keras.tree.map_structure(lambda output: output.shape, self.model.compute_output_spec(inputs))

    def groups(self) -> list[Any]:
        """Return one kernel [..., n] for each fan-in, in the order of the members."""
        return [_side_by_side([member.kernel() for member in members]) for members in self._grouped()]

    def coherence(self) -> list[Coherence]:
        """Return for each group how far its filters are from being orthogonal, and how near they can come."""
        measured = []
        for kernel, members in zip(self.groups(), self._grouped(), strict=True):
            columns = ops.convert_to_numpy(kernel)
            frozen = np.array([flag for member in members for flag in member.frozen()])
            measured.append(measure(columns.reshape(-1, columns.shape[-1]), frozen))
        return measured

    def get_config(self) -> dict[str, Any]:
        """Return the arguments."""
        return {
            **super().get_config(),
            "model": keras.saving.serialize_keras_object(self.model),
            "regularizer": keras.regularizers.serialize(self.regularizer),
            "members": None if self.members is None else list(self.members),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> "JointlyRegularized":
        """Return the model of a configuration."""
        model = keras.saving.deserialize_keras_object(config["model"], custom_objects=custom_objects)
        return cls(**{**config, "model": model})

    def _get_own_losses(self) -> list[Any]:
        """Return the losses of the last call, and the joint penalty, as `FilterBank` does and for the same reason."""
        losses = list(super()._get_own_losses())
        if self.model.built:
            losses.append(regularizers.penalty(self.regularizer, self.groups, self))
        return losses

    def _found(self) -> tuple[_Member, ...]:
        """Return the members by name, or all banks."""
        layers = self.model._flatten_layers()
        if self.members is None:
            found = [_Member(layer, "kernel") for layer in layers if isinstance(layer, FilterBank)]
            if not found:
                message = (
                    f"{self.name}: members: expected a filter bank in {self.model.name}, received none. Name the "
                    f"layers whose kernels count."
                )
                raise ValueError(message)
            return tuple(found)
        found = []
        for member in self.members:
            name, _, variable = member.partition(".")
            named = [layer for layer in layers if layer.name == name]
            if len(named) != 1:
                known = ", ".join(layer.name for layer in layers)
                message = (
                    f"{self.name}: members: expected the name of one layer, received {name!r}, which {len(named)} "
                    f"layers have. There are {known}."
                )
                raise ValueError(message)
            found.append(_Member(named[0], variable or "kernel"))
        return tuple(found)

    def _grouped(self) -> list[list[_Member]]:
        """Return the members by fan-in."""
        groups: dict[int, list[_Member]] = {}
        for member in self._members:
            groups.setdefault(member.fan_in(), []).append(member)
        return list(groups.values())


def _side_by_side(kernels: list[Any]) -> Any:
    """Return kernels of equal fan-in as one, flattened where their shapes differ."""
    if len({tuple(kernel.shape[:-1]) for kernel in kernels}) > 1:
        kernels = [ops.reshape(kernel, (-1, kernel.shape[-1])) for kernel in kernels]
    return ops.concatenate(kernels, axis=-1)
