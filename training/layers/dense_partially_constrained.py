"""The layer that input-convex networks are made of: a dense layer whose kernel is held non-negative, or drawn to it.

Over `activations`, `constraints` and `initializers`; `icnn` stacks it.
"""

import math
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from training import activations
from training.constraints import NonNegative, check_non_negative
from training.initializers import PASSTHROUGH_SHARE, NonNegativeLogNormal, PassthroughNormal, moments

PROJECTION, PENALTY = "projection", "penalty"


@keras.saving.register_keras_serializable(package="convex_scoring")
class DensePartiallyConstrained(keras.layers.Layer):
    r"""Dense layer of two inputs, convex in x wherever its first input is convex in x.

    .. math:: y = \varphi(z W + x A + b), \qquad W \ge 0

    The *kernel* W multiplies the layer below and is non-negative; the *passthrough* A multiplies the network's own
    input and is free, like the bias b, because affine functions may be added with any sign. With a convex
    non-decreasing activation the output is then convex in x (Amos, Xu, Kolter 2017, Proposition 1).

    With `positivity="projection"`, the default, the layer keeps that promise itself: an activation that would break it
    is refused when the layer is made, the kernel is projected inside `build` and by Keras after each optimiser step,
    and a negative kernel is refused by every save and load. A plain `kernel.assign` goes unseen until then; `verify`
    looks at any time.

    With `positivity="penalty"` nothing holds the kernel; a call adds to `losses`

    .. math:: c \sum_{ij} \max(-W_{ij}, 0)^2

    with c = `regularizer_constant`: zero exactly where the kernel is non-negative, and never a certificate. It counts
    once, however often a network uses the layer in one call. The passthrough is not penalised. Networks that help in
    training and are not served use it.

    Example:
        >>> layer = DensePartiallyConstrained(8, activation="softplus")
        >>> y = layer([keras.ops.ones((5, 4)), keras.ops.ones((5, 3))])
        >>> y.shape, bool(keras.ops.all(layer.kernel >= 0))
        (TensorShape([5, 8]), True)

    Args:
        units: number of outputs, at least 1.
        activation: name of an activation that is convex and non-decreasing (`activations.resolve`), or None for none.
        use_bias: whether there is a bias; if not, `bias` is None.
        positivity: `projection` or `penalty`.
        regularizer_constant: factor c of the penalty, at least 0 and finite.
        kernel_initializer: Keras initialiser, projected to be non-negative; None: `NonNegativeLogNormal`.
        passthrough_initializer: Keras initialiser; None: `PassthroughNormal`.
        bias_initializer: Keras initialiser; None: the bias that centres the pre-activations under the default
            kernel, zeros under any other.
        **kwargs: of `keras.layers.Layer`: name, dtype, trainable.

    Input shape:
        A pair [z, x]: z of shape [..., n] and x of shape [..., d], of rank 2 or more.

    Output shape:
        [..., units].

    Raises:
        ActivationRefusedError: the activation is not convex, not non-decreasing, or not known.
        ValueError: units is not a positive whole number; positivity is neither word; the constant is negative or not
            finite; not exactly two inputs, or one of the wrong width.
        TypeError: the dtype is not floating.
    """

    def __init__(  # noqa: PLR0913  # a layer's arguments, those of Keras' Dense among them
        self,
        units: int,
        activation: str | None = None,
        use_bias: bool = True,
        *,
        positivity: str = PROJECTION,
        regularizer_constant: float = 1.0,
        kernel_initializer: Any = None,
        passthrough_initializer: Any = None,
        bias_initializer: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if type(units) is not int or units < 1:
            message = f"{self.name}: units: expected a whole number of at least 1, received {units!r}."
            raise ValueError(message)
        if not keras.backend.is_float_dtype(self.variable_dtype):
            message = f"{self.name}: dtype: expected a floating dtype, received {self.variable_dtype}."
            raise TypeError(message)
        if positivity not in (PROJECTION, PENALTY):
            message = f"{self.name}: positivity: expected 'projection' or 'penalty', received {positivity!r}."
            raise ValueError(message)
        if type(regularizer_constant) not in (int, float) or not 0.0 <= regularizer_constant < math.inf:
            message = (
                f"{self.name}: regularizer_constant: expected a finite number of at least 0, "
                f"received {regularizer_constant!r}."
            )
            raise ValueError(message)
        self.units = units
        self.positivity = positivity
        self.regularizer_constant = float(regularizer_constant)
        self.activation = activations.resolve("linear" if activation is None else activation)
        self.use_bias = bool(use_bias)
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.passthrough_initializer = keras.initializers.get(passthrough_initializer)
        self.bias_initializer = keras.initializers.get(bias_initializer)
        self.bias: Any = None
        self.supports_masking = True

    def build(self, input_shape: Any) -> None:
        """Make the variables for the pair of shapes, the kernel non-negative from the start."""
        kernel_size, passthrough_size = self._sizes(input_shape)
        self.kernel = self.add_weight(
            name="kernel",
            shape=(kernel_size, self.units),
            initializer=self.kernel_initializer or NonNegativeLogNormal(),
            constraint=NonNegative() if self.positivity == PROJECTION else None,
        )
        self.passthrough = self.add_weight(
            name="passthrough",
            shape=(passthrough_size, self.units),
            initializer=self.passthrough_initializer or PassthroughNormal(),
        )
        if self.use_bias:
            centre = moments(kernel_size, share=PASSTHROUGH_SHARE).bias if self.kernel_initializer is None else 0.0
            initializer = self.bias_initializer or keras.initializers.Constant(centre)
            self.bias = self.add_weight(name="bias", shape=(self.units,), initializer=initializer)
        self.kernel.assign(NonNegative()(self.kernel))
        self.verify()
        self.input_spec = [
            keras.layers.InputSpec(min_ndim=2, axes={-1: kernel_size}),
            keras.layers.InputSpec(min_ndim=2, axes={-1: passthrough_size}),
        ]

    def call(self, inputs: Sequence[Any]) -> Any:
        """Return activation(z @ kernel + x @ passthrough + bias), and add the penalty to `losses`."""
        z, x = inputs
        if self.positivity == PENALTY and not self.losses:  # not empty: this call of the network has used it before
            self.add_loss(self._penalty())
        outputs = ops.add(ops.matmul(z, self.kernel), ops.matmul(x, self.passthrough))
        if self.bias is not None:
            outputs = ops.add(outputs, self.bias)
        return self.activation.function(outputs)

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        """Return [..., units] for the pair of input shapes."""
        self._sizes(input_shape)
        return (*input_shape[0][:-1], self.units)

    def verify(self) -> None:
        """Refuse a kernel that is not finite and non-negative, unless that is left to the penalty.

        Raises:
            NegativeWeightError: names the layer and the first such weight.
        """
        if self.positivity == PROJECTION:
            check_non_negative(self.kernel.numpy(), f"{self.name}/kernel")

    def save_own_variables(self, store: Any) -> None:
        """Save the variables, once they are verified."""
        self.verify()
        super().save_own_variables(store)

    def load_own_variables(self, store: Any) -> None:
        """Load the variables and verify them."""
        super().load_own_variables(store)
        self.verify()

    def get_config(self) -> dict[str, Any]:
        """Return the arguments."""
        return {
            **super().get_config(),
            "units": self.units,
            "activation": self.activation.name,
            "use_bias": self.use_bias,
            "positivity": self.positivity,
            "regularizer_constant": self.regularizer_constant,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "passthrough_initializer": keras.initializers.serialize(self.passthrough_initializer),
            "bias_initializer": keras.initializers.serialize(self.bias_initializer),
        }

    def _penalty(self) -> Any:
        """Return the constant times the sum of squares of the kernel's negative part."""
        return ops.multiply(self.regularizer_constant, ops.sum(ops.square(ops.relu(ops.negative(self.kernel)))))

    def _sizes(self, input_shape: Any) -> tuple[int, int]:
        """Return the last dimensions of the two input shapes."""
        pair = isinstance(input_shape, (list, tuple)) and len(input_shape) == 2
        if not pair or not all(isinstance(shape, (list, tuple)) for shape in input_shape):
            message = f"{self.name}: expected a pair of inputs [z, x], received the shape {input_shape}."
            raise ValueError(message)
        for which, shape in zip(("kernel", "passthrough"), input_shape, strict=True):
            if len(shape) < 2 or shape[-1] is None:
                message = f"{self.name}: {which} input: expected rank 2 or more and a known width, received {shape}."
                raise ValueError(message)
        return input_shape[0][-1], input_shape[1][-1]
