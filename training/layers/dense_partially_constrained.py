"""The layer that input-convex networks are made of: a dense layer whose kernel is held non-negative, or drawn to it.

Over `activations`, `constraints`, `positivity` and `initializers`; `icnn` stacks it.
"""

import math
import numbers
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from training import activations
from training.constraints import NonNegative, NonNegativeAnd, check_non_negative
from training.initializers import PASSTHROUGH_SHARE, NonNegativeLogNormal, PassthroughNormal, moments
from training.layers.verified import Verified
from training.positivity import FORMS, PENALTY, PROJECTION, FreeStart, OfKernel, check_word

_INPUTS = ("kernel", "passthrough")
"""What the two inputs are multiplied by: their names in messages."""


@keras.saving.register_keras_serializable(package="convex_scoring")
class DensePartiallyConstrained(Verified, keras.layers.Layer):
    r"""Dense layer of two inputs, convex in x wherever its first input is convex in x.

    .. math:: y = \varphi(z W + x A + b), \qquad W \ge 0

    The *kernel* W multiplies the layer below and is non-negative; the *passthrough* A multiplies the network's own
    input and is free, like the bias b, because affine functions may be added with any sign. With a convex
    non-decreasing activation the output is then convex in x (Amos, Xu, Kolter 2017, Proposition 1).

    With `positivity="projection"`, the default, the layer keeps that promise itself: an activation that would break it
    is refused when the layer is made, the kernel is projected inside `build` and by Keras after each optimiser step,
    and a negative kernel is refused by every save and load. A plain `kernel.assign` goes unseen until then; `verify`
    looks at any time. With `"softplus"`, `"exp"` or `"square"` the kernel is that function of free weights, which the
    optimiser moves, and cannot be negative; `kernel` is then a tensor, and the variable is `raw_kernel`
    (`training.positivity` compares the ways).

    With `positivity="penalty"` nothing holds the kernel; a call adds to `losses`

    .. math:: c \sum_{ij} \max(-W_{ij}, 0)^2

    with c = `regularizer_constant`: zero exactly where the kernel is non-negative, and never a certificate. It counts
    once, however often a network uses the layer in one call. The passthrough is not penalised. Networks that help in
    training and are not served use it; `finalize` makes a layer of the first kind of it, and
    `training.finalization.finalize` a network that is proved.

    A kernel constraint, of `keras.constraints`, comes in addition: weights are projected, constrained and projected
    again. It is refused where the kernel is a function of free weights. All constraints hold from `build` on, where
    Keras' own layers wait for the first optimiser step.

    Masks: `supports_masking` says no more than that a mask given with the inputs is handed on instead of being refused
    or dropped. Nothing is left out of the computation: each place is computed by itself, masked or not. The output's
    mask is true where the masks of both inputs are; an input without one counts as unmasked.

    Mixed precision: variables are float32, products and outputs follow the policy; penalty and regularisers are
    computed in float32.

    Example:
        >>> layer = DensePartiallyConstrained(8, activation="softplus")
        >>> y = layer([keras.ops.ones((5, 4)), keras.ops.ones((5, 3))])
        >>> y.shape, bool(keras.ops.all(layer.kernel >= 0))
        (TensorShape([5, 8]), True)

    Args:
        units: number of outputs, at least 1.
        activation: what `activations.resolve` takes for a hidden layer, as the name of a convex non-decreasing
            activation, or None for none.
        use_bias: whether there is a bias; if not, `bias` is None.
        positivity: `projection`, `softplus`, `exp`, `square` or `penalty`.
        regularizer_constant: factor c of the penalty, at least 0 and finite.
        kernel_initializer: Keras initialiser, projected to be non-negative; None: `NonNegativeLogNormal`, made for
            such kernels. `'glorot_uniform'`, Keras' default for dense layers, leaves half of the weights at zero.
        passthrough_initializer: Keras initialiser; None: `PassthroughNormal`.
        bias_initializer: Keras initialiser; None: the bias that centres the pre-activations under the default
            kernel, zeros under any other.
        kernel_constraint: Keras constraint of the kernel alone, in addition to its sign; None for none.
        passthrough_constraint: Keras constraint of the passthrough alone.
        bias_constraint: Keras constraint of the bias alone.
        kernel_regularizer: Keras regulariser of the kernel, also where that is a function of free weights.
        passthrough_regularizer: Keras regulariser of the passthrough.
        bias_regularizer: Keras regulariser of the bias.
        activity_regularizer: Keras regulariser of the outputs.
        **kwargs: of `keras.layers.Layer`: name, dtype, trainable. `input_dim` is refused, because it would describe one
            of two inputs, unless `input_shape` is given too, which then counts.

    Input shape:
        A pair [z, x]: z of shape [..., n] and x of shape [..., d], of one rank, 2 or more.

    Output shape:
        [..., units].

    Raises:
        ActivationRefusedError: the activation is not convex, not non-decreasing, or not known.
        ValueError: units is not a positive whole number; positivity is no such word; the constant is negative or not
            finite; a kernel constraint beside a function of free weights; `input_dim`; not exactly two inputs, or one
            of the wrong rank or width.
        TypeError: the dtype is not floating. Complex numbers have no sign that a kernel could be held to.
    """

    def __init__(  # noqa: PLR0913  # a layer's arguments, those of Keras' Dense among them
        self,
        units: int,
        activation: Any = None,
        use_bias: bool = True,
        *,
        positivity: str = PROJECTION,
        regularizer_constant: float = 1.0,
        kernel_initializer: Any = None,
        passthrough_initializer: Any = None,
        bias_initializer: Any = None,
        kernel_constraint: Any = None,
        passthrough_constraint: Any = None,
        bias_constraint: Any = None,
        kernel_regularizer: Any = None,
        passthrough_regularizer: Any = None,
        bias_regularizer: Any = None,
        activity_regularizer: Any = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(activity_regularizer=activity_regularizer, **self._one_shape(kwargs))
        self._check(units, positivity, regularizer_constant)
        self.units = int(units)
        self.positivity = positivity
        self.regularizer_constant = float(regularizer_constant)
        self.activation = activations.resolve("linear" if activation is None else activation)
        self.use_bias = bool(use_bias)
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.passthrough_initializer = keras.initializers.get(passthrough_initializer)
        self.bias_initializer = keras.initializers.get(bias_initializer)
        self.kernel_constraint = keras.constraints.get(kernel_constraint)
        self.passthrough_constraint = keras.constraints.get(passthrough_constraint)
        self.bias_constraint = keras.constraints.get(bias_constraint)
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)
        self.passthrough_regularizer = keras.regularizers.get(passthrough_regularizer)
        self.bias_regularizer = keras.regularizers.get(bias_regularizer)
        if self.positivity in FORMS and self.kernel_constraint is not None:
            message = (
                f"{self.name}: kernel_constraint: a constraint moves a variable, and with positivity="
                f"{positivity!r} the kernel is none. Use positivity='projection', or leave the constraint away."
            )
            raise ValueError(message)
        self.bias: Any = None
        self.supports_masking = True
        self.input_spec = [keras.layers.InputSpec(min_ndim=2), keras.layers.InputSpec(min_ndim=2)]

    def _one_shape(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Return the arguments of Keras' layer, `input_dim` refused or left out."""
        if "input_dim" in kwargs and "input_shape" not in kwargs:
            message = (
                f"{kwargs.get('name', type(self).__name__)}: input_dim: this layer has two inputs, whose widths are "
                "read when it is built. Leave input_dim away."
            )
            raise ValueError(message)
        return {name: value for name, value in kwargs.items() if name != "input_dim"}

    def _check(self, units: Any, positivity: Any, constant: Any) -> None:
        """Refuse arguments that are no numbers or words of the right kind, and dtypes without signs."""
        if not isinstance(units, numbers.Integral) or isinstance(units, bool) or units < 1:
            message = f"{self.name}: units: expected a whole number of at least 1, received {units!r}."
            raise ValueError(message)
        dtype = self.variable_dtype
        if not keras.backend.is_float_dtype(dtype):
            reason = ": complex numbers have no sign to hold a kernel to" if dtype.startswith("complex") else ""
            message = f"{self.name}: dtype: expected a floating dtype, received {dtype}{reason}. Use float32."
            raise TypeError(message)
        check_word(positivity, self.name)
        if type(constant) not in (int, float) or not 0.0 <= constant < math.inf:
            message = (
                f"{self.name}: regularizer_constant: expected a finite number of at least 0, received {constant!r}."
            )
            raise ValueError(message)

    def build(self, input_shape: Any) -> None:
        """Make the variables for the pair of shapes, constraints fulfilled from the start."""
        kernel_size, passthrough_size = self._sizes(input_shape)
        form, start = FORMS.get(self.positivity), self.kernel_initializer or NonNegativeLogNormal()
        regularizer = self.kernel_regularizer
        self._kernel = self.add_weight(
            name="kernel" if form is None else "raw_kernel",
            shape=(kernel_size, self.units),
            initializer=start if form is None else FreeStart(form, start),
            constraint=self.kernel_constraint if self.positivity == PENALTY else self._projection(),
            regularizer=regularizer if form is None or regularizer is None else OfKernel(form, regularizer),
            autocast=False,  # a penalty in half precision would be a rough one
        )
        self.passthrough = self.add_weight(
            name="passthrough",
            shape=(passthrough_size, self.units),
            initializer=self.passthrough_initializer or PassthroughNormal(),
            constraint=self.passthrough_constraint,
            regularizer=self.passthrough_regularizer,
        )
        if self.use_bias:
            centre = moments(kernel_size, share=PASSTHROUGH_SHARE).bias if self.kernel_initializer is None else 0.0
            self.bias = self.add_weight(
                name="bias",
                shape=(self.units,),
                initializer=self.bias_initializer or keras.initializers.Constant(centre),
                constraint=self.bias_constraint,
                regularizer=self.bias_regularizer,
            )
        if form is None:
            self._kernel.assign((self._projection() or NonNegative())(self._kernel))
        for variable in (self.passthrough, self.bias):
            if variable is not None and variable.constraint is not None:
                variable.assign(variable.constraint(variable))
        self.verify()
        self.input_spec = [
            keras.layers.InputSpec(min_ndim=2, axes={-1: kernel_size}),
            keras.layers.InputSpec(min_ndim=2, axes={-1: passthrough_size}),
        ]

    def _projection(self) -> Any:
        """Return the constraint of a projected kernel; None where the kernel is a function of free weights."""
        if self.positivity in FORMS:
            return None
        return NonNegative() if self.kernel_constraint is None else NonNegativeAnd(self.kernel_constraint)

    @property
    def kernel(self) -> Any:
        """The kernel W: a variable, or, with a function of free weights, the tensor that they make."""
        form = FORMS.get(self.positivity)
        return self._kernel if form is None else form.positive(self._kernel)

    @property
    def raw_kernel(self) -> Any:
        """The variable that the optimiser moves: the kernel itself, or its free weights."""
        return self._kernel

    def __call__(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """Look at the two inputs before Keras does, so that a refusal says which one is wrong."""
        self._check_inputs(inputs)
        return super().__call__(inputs, *args, **kwargs)

    def call(self, inputs: Sequence[Any]) -> Any:
        """Return activation(z @ kernel + x @ passthrough + bias), and add the penalty to `losses`."""
        z, x = inputs
        if self.positivity == PENALTY and not self._is_counted():
            self.add_loss(self._penalty())
        kernel = self.kernel
        if self.compute_dtype != self.variable_dtype:
            kernel = ops.cast(kernel, self.compute_dtype)
        outputs = ops.add(ops.matmul(z, kernel), ops.matmul(x, self.passthrough))
        if self.bias is not None:
            outputs = ops.add(outputs, self.bias)
        return self.activation.function(outputs)

    def compute_mask(self, inputs: Any, previous_mask: Any) -> Any:
        """Return where both inputs are unmasked, or None where neither has a mask."""
        del inputs
        masks = [mask for mask in (previous_mask or ()) if mask is not None]
        return ops.logical_and(*masks) if len(masks) == 2 else next(iter(masks), None)

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        """Return [..., units] for the pair of input shapes."""
        self._sizes(input_shape)
        return (*input_shape[0][:-1], self.units)

    def verify(self) -> None:
        """Refuse a kernel that is not finite and non-negative, unless that is left to the penalty.

        Raises:
            NegativeWeightError: names the layer and the first such weight.
        """
        if self.positivity != PENALTY:
            check_non_negative(ops.convert_to_numpy(self.kernel), f"{self.name}/kernel")

    def finalize(self) -> int:
        """Clip the kernel of a penalised layer and hold it from now on; return how many weights were negative.

        The layer is a projected one afterwards. What was compiled before does not know: compile again to train on.
        """
        negative = int(ops.convert_to_numpy(ops.sum(ops.cast(ops.less(self.kernel, 0.0), "int32"))))
        if self.positivity == PENALTY:
            self.positivity = PROJECTION
            self._kernel.constraint = self._projection()
            self._kernel.assign(self._kernel.constraint(self._kernel))
        self.verify()
        return negative

    def get_config(self) -> dict[str, Any]:
        """Return the arguments."""
        kinds = {
            "initializer": keras.initializers.serialize,
            "constraint": keras.constraints.serialize,
            "regularizer": keras.regularizers.serialize,
        }
        parts = [f"{weight}_{kind}" for kind in kinds for weight in ("kernel", "passthrough", "bias")]
        return {
            **super().get_config(),
            "units": self.units,
            "activation": self.activation.name,
            "use_bias": self.use_bias,
            "positivity": self.positivity,
            "regularizer_constant": self.regularizer_constant,
            **{part: kinds[part.rpartition("_")[2]](getattr(self, part)) for part in parts},
        }

    def _penalty(self) -> Any:
        """Return the constant times the sum of squares of the kernel's negative part."""
        return ops.multiply(self.regularizer_constant, ops.sum(ops.square(ops.relu(ops.negative(self.kernel)))))

    def _is_counted(self) -> bool:
        """Whether this call of the network has used the layer before: then `losses` has more than the regularisers."""
        regularised = sum(variable.regularizer is not None for variable in self.trainable_weights)
        return len(self.losses) > regularised

    def _check_inputs(self, inputs: Any) -> None:
        """Refuse anything but two inputs of the ranks and widths that the layer is for, as far as they are known."""
        if not isinstance(inputs, (list, tuple)) or len(inputs) != 2:
            received = f"{len(inputs)} inputs" if isinstance(inputs, (list, tuple)) else type(inputs).__name__
            message = f"{self.name}: expected a pair of inputs [z, x], received {received}."
            raise ValueError(message)
        shapes: list[Any] = [getattr(each, "shape", None) for each in inputs]
        for which, shape, spec in zip(_INPUTS, shapes, self.input_spec, strict=True):
            self._check_shape(which, shape, None if spec.axes is None else spec.axes.get(-1))
        if all(_is_known(shape) for shape in shapes) and len(shapes[0]) != len(shapes[1]):
            message = f"{self.name}: expected two inputs of one rank, received the shapes {shapes[0]} and {shapes[1]}."
            raise ValueError(message)

    def _check_shape(self, which: str, shape: Any, width: int | None) -> None:
        """Refuse the shape of one input."""
        if shape is None:
            message = f"{self.name}: {which} input: expected a tensor, received no shape."
            raise ValueError(message)
        if not _is_known(shape):
            return
        if len(shape) < 2:
            message = f"{self.name}: {which} input: expected rank 2 or more, received the shape {tuple(shape)}."
            raise ValueError(message)
        if width is not None and shape[-1] not in (None, width):
            message = f"{self.name}: {which} input: expected a last dimension of {width}, received {tuple(shape)}."
            raise ValueError(message)

    def _sizes(self, input_shape: Any) -> tuple[int, int]:
        """Return the last dimensions of the two input shapes."""
        pair = isinstance(input_shape, (list, tuple)) and len(input_shape) == 2
        if not pair or not all(isinstance(shape, (list, tuple)) for shape in input_shape):
            message = f"{self.name}: expected a pair of inputs [z, x], received the shape {input_shape}."
            raise ValueError(message)
        for which, shape in zip(_INPUTS, input_shape, strict=True):
            if len(shape) < 2 or shape[-1] is None:
                message = (
                    f"{self.name}: {which} input: expected rank 2 or more and a known width, received {tuple(shape)}"
                    f"{', whose last dimension is None' if shape and shape[-1] is None else ''}."
                )
                raise ValueError(message)
        return input_shape[0][-1], input_shape[1][-1]


def _is_known(shape: Any) -> bool:
    """Whether the rank of a shape is known: TensorFlow has shapes without."""
    return getattr(shape, "rank", 0) is not None
