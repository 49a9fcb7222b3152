"""What maxout and log-sum-exp units have in common: several affine pieces per unit, reduced to one number.

Below `maxout` and `log_sum_exp`, which say how; over `constraints` and the initialisers.
"""

import abc
from typing import Any

import keras
from keras import ops

from training.constraints import NonNegative, check_non_negative
from training.initializers import PassthroughNormal
from training.layers.verified import Verified
from training.piece_initializers import SHARE, PieceLogNormal, piece_moments


class Pieces(Verified, keras.layers.Layer):
    r"""Units of several pieces each, convex in x wherever the first input is convex in x.

    .. math:: u_{jp} = (z W + x A + b)_{jp}, \qquad y_j = R(u_{j1}, \dots, u_{jP}), \qquad W \ge 0

    with a reduction R that is jointly convex and non-decreasing in each piece, which is what a subclass has to be: then
    y is convex (Boyd and Vandenberghe, section 3.2.4). The kernel W is projected inside `build` and by Keras after each
    optimiser step, and a negative one is refused by every save and load. Where the layer gets x alone there is no
    kernel, and every weight is free: so it stands first, on what is affine in the network's input, as a Dense layer
    would. Fed with anything else in that form it may compute a function that is not convex, which no proof passes.

    Args:
        units: number of outputs, at least 1.
        pieces: number of pieces of each unit, at least 1.
        use_bias: whether there is a bias; if not, `bias` is None.
        kernel_initializer: Keras initialiser, projected to be non-negative; None: `PieceLogNormal`, for units of the
            same kind below.
        passthrough_initializer: Keras initialiser; None: `PassthroughNormal`.
        bias_initializer: Keras initialiser; None: the bias that centres the pieces under the default kernel, zeros
            under any other.
        **kwargs: of `keras.layers.Layer`.
    """

    temperature = 0.0

    def __init__(  # a layer's arguments, those of Keras' Dense among them
        self,
        units: int,
        pieces: int = 2,
        use_bias: bool = True,
        *,
        kernel_initializer: Any = None,
        passthrough_initializer: Any = None,
        bias_initializer: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        for name, count in (("units", units), ("pieces", pieces)):
            if type(count) is not int or count < 1:
                message = f"{self.name}: {name}: expected a whole number of at least 1, received {count!r}."
                raise ValueError(message)
        if not keras.backend.is_float_dtype(self.variable_dtype):
            message = f"{self.name}: dtype: expected a floating dtype, received {self.variable_dtype}."
            raise TypeError(message)
        self.units = units
        self.pieces = pieces
        self.use_bias = bool(use_bias)
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.passthrough_initializer = keras.initializers.get(passthrough_initializer)
        self.bias_initializer = keras.initializers.get(bias_initializer)
        self.kernel: Any = None
        self.bias: Any = None
        self.supports_masking = True

    @abc.abstractmethod
    def reduce(self, values: Any) -> Any:
        """Return [..., units] of the pieces' values [..., units, pieces]."""

    def build(self, input_shape: Any) -> None:
        """Make the variables for the pair of shapes, or for x alone."""
        kernel_size, passthrough_size = self._sizes(input_shape)
        columns = self.units * self.pieces
        centre = 0.0
        if kernel_size is not None:
            default = PieceLogNormal(self.pieces, self.temperature)
            self.kernel = self.add_weight(
                name="kernel",
                shape=(kernel_size, columns),
                initializer=self.kernel_initializer or default,
                constraint=NonNegative(),
            )
            self.kernel.assign(NonNegative()(self.kernel))
            if self.kernel_initializer is None:
                centre = piece_moments(kernel_size, self.pieces, self.temperature).bias
        self.passthrough = self.add_weight(
            name="passthrough",
            shape=(passthrough_size, columns),
            initializer=self.passthrough_initializer or PassthroughNormal(1.0 if kernel_size is None else SHARE),
        )
        if self.use_bias:
            initializer = self.bias_initializer or keras.initializers.Constant(centre)
            self.bias = self.add_weight(name="bias", shape=(columns,), initializer=initializer)
        self.verify()
        specs = [
            keras.layers.InputSpec(min_ndim=2, axes={-1: size}) for size in (kernel_size, passthrough_size) if size
        ]
        self.input_spec = specs if kernel_size is not None else specs[0]

    def call(self, inputs: Any) -> Any:
        """Return the reduced pieces of [z, x], or of x alone."""
        *below, x = inputs if isinstance(inputs, (list, tuple)) else (inputs,)
        values = ops.matmul(x, self.passthrough)
        if below:
            values = ops.add(ops.matmul(below[0], self.kernel), values)
        if self.bias is not None:
            values = ops.add(values, self.bias)
        if self.pieces == 1:
            return values
        lead = (-1,) if len(values.shape) == 2 else ops.shape(values)[:-1]
        return self.reduce(ops.reshape(values, (*lead, self.units, self.pieces)))

    def compute_mask(self, _inputs: Any, previous_mask: Any = None) -> Any:
        """Return the mask that came with z, or with x where z has none."""
        masks = previous_mask if isinstance(previous_mask, (list, tuple)) else [previous_mask]
        return next((mask for mask in masks if mask is not None), None)

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        """Return [..., units] for the pair of input shapes, or for that of x alone."""
        self._sizes(input_shape)
        first = input_shape[0] if isinstance(input_shape[0], (list, tuple)) else input_shape
        return (*first[:-1], self.units)

    def verify(self) -> None:
        """Refuse a kernel that is not finite and non-negative.

        Raises:
            NegativeWeightError: names the layer and the first such weight.
        """
        if self.kernel is not None:
            check_non_negative(self.kernel.numpy(), f"{self.name}/kernel")

    def get_config(self) -> dict[str, Any]:
        """Return the arguments."""
        return {
            **super().get_config(),
            "units": self.units,
            "pieces": self.pieces,
            "use_bias": self.use_bias,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "passthrough_initializer": keras.initializers.serialize(self.passthrough_initializer),
            "bias_initializer": keras.initializers.serialize(self.bias_initializer),
        }

    def _sizes(self, input_shape: Any) -> tuple[int | None, int]:
        """Return the widths of z, or None where x comes alone, and of x."""
        shapes = input_shape if isinstance(input_shape[0], (list, tuple)) else [input_shape]
        if len(shapes) > 2:
            message = f"{self.name}: expected a pair of inputs [z, x], or x alone, received the shape {input_shape}."
            raise ValueError(message)
        for which, shape in zip(("passthrough", "kernel"), reversed(shapes), strict=False):
            if len(shape) < 2 or shape[-1] is None:
                message = f"{self.name}: {which} input: expected rank 2 or more and a known width, received {shape}."
                raise ValueError(message)
        return (shapes[0][-1] if len(shapes) == 2 else None), shapes[-1][-1]
