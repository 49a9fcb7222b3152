"""The layer that reduces groups of neighbouring features to one each.

Beside the other layers; it may stand between layers that are convex.
"""

from collections.abc import Mapping
from typing import Any

import keras
from keras import ops

from training.activations import Counterexample
from training.refusals import ArgumentRefusedError, check_temperature

MODES = ("average", "max", "log_sum_exp")

_REFUSED: Mapping[str, Counterexample] = {
    "min": Counterexample("min(x, -x)", (-1.0, 0.0, 1.0), (-1.0, 0.0, -1.0)),
    "median": Counterexample("median(x, 0, 1)", (0.0, 1.0, 2.0), (0.0, 1.0, 1.0)),
    "product": Counterexample("x (2 - x)", (0.0, 1.0, 2.0), (0.0, 1.0, 0.0)),
    "range": Counterexample("max(|x|, 1) - min(|x|, 1)", (-1.0, 0.0, 1.0), (0.0, 1.0, 0.0)),
    "l2": Counterexample("sqrt((|x| - 1)^2 + 0^2)", (-1.0, 0.0, 1.0), (0.0, 1.0, 0.0)),
}
"""Reductions that are asked for elsewhere and are not convex, or not non-decreasing, of convex features."""


@keras.saving.register_keras_serializable(package="convex_scoring")
class FeaturePooling(keras.layers.Layer):
    r"""The mean, the maximum or the log-sum-exp of each group of neighbouring features.

    .. math:: y_j = R(x_{jp}, \dots, x_{jp + p - 1}), \qquad
              R \in \{\text{mean}, \ \max, \ t \log \textstyle\sum \exp(\cdot / t)\}

    All three are convex and non-decreasing in each feature, so the output is convex in the network's input wherever
    the features are. There are no weights. Minimum, median, product, range and Euclidean length are refused: of convex
    features they need not be convex. Over places of a picture or of a sequence, Keras' own average and maximum pooling
    do; they are convex for the same reason.

    Example:
        >>> FeaturePooling(2, "max")(keras.ops.convert_to_tensor([[1.0, 4.0, 3.0, 2.0]])).numpy().tolist()
        [[4.0, 3.0]]

    Args:
        size: number p of features in a group, at least 1; the input's width is a multiple of it.
        mode: `average`, `max` or `log_sum_exp`.
        temperature: t of log-sum-exp, above 0 and finite; the other modes do not look at it.
        **kwargs: of `keras.layers.Layer`.

    Input shape:
        [..., k p].

    Output shape:
        [..., k].

    Raises:
        ArgumentRefusedError: a mode that does not keep convexity, or a negative temperature.
        ValueError: another mode; size is not a positive whole number; the width is no multiple of it; the temperature
            is 0 or not finite.
    """

    def __init__(self, size: int, mode: str = "max", *, temperature: float = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if type(size) is not int or size < 1:
            message = f"{self.name}: size: expected a whole number of at least 1, received {size!r}."
            raise ValueError(message)
        if mode in _REFUSED:
            counterexample = _REFUSED[mode]
            message = (
                f"{self.name}: mode: '{mode}' of convex features need not be convex: {counterexample}. "
                f"Use one of: {', '.join(MODES)}."
            )
            raise ArgumentRefusedError(message, counterexample)
        if mode not in MODES:
            message = f"{self.name}: mode: expected one of {', '.join(MODES)}, received {mode!r}."
            raise ValueError(message)
        self.size = size
        self.mode = mode
        self.temperature = check_temperature(temperature, f"{self.name}: temperature")
        self.supports_masking = True

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Check that the width is known and a multiple of the size."""
        self.compute_output_shape(input_shape)

    def call(self, x: Any) -> Any:
        """Return one number for each group of neighbouring features."""
        if self.size == 1:
            return x
        lead = (-1,) if len(x.shape) == 2 else ops.shape(x)[:-1]
        groups = ops.reshape(x, (*lead, x.shape[-1] // self.size, self.size))
        if self.mode == "average":
            return ops.mean(groups, axis=-1)
        if self.mode == "max":
            return ops.max(groups, axis=-1)
        if self.temperature == 1.0:
            return ops.logsumexp(groups, axis=-1)
        return ops.multiply(ops.logsumexp(ops.divide(groups, self.temperature), axis=-1), self.temperature)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Return [..., width / size]."""
        width = input_shape[-1]
        if width is None or width % self.size:
            message = f"{self.name}: expected an input whose width is a multiple of {self.size}, received {width}."
            raise ValueError(message)
        return (*input_shape[:-1], width // self.size)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments."""
        return {**super().get_config(), "size": self.size, "mode": self.mode, "temperature": self.temperature}
