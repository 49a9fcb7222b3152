"""Penalties on all filters of a kernel together: that any two are orthogonal, or a function of one's own.

Over `call_time`; `layers.filter_bank` and `layers.jointly_regularized` give them the kernels, and `coherence` measures
what they reach. All are Keras regularisers: a single convolution takes them as its `kernel_regularizer`.
"""

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import ops

from training.call_time import before_each_call, is_tracing

Function = Callable[[Any], Any]
"""A kernel [..., n] to a scalar."""

LEAST_SQUARED_LENGTH = 1e-24
"""Square of the length below which a filter counts as this long, so that a filter of zeros has cosines of zero."""

_EVERY = 1024


class NegativeRegularizationWarning(UserWarning):
    """A regulariser returned a negative number: such a loss can be without a lower bound, and outweigh all others."""


@keras.saving.register_keras_serializable(package="convex_scoring")
class PairwiseOrthogonality(keras.regularizers.Regularizer):
    r"""Sum over all pairs of filters of a power of their inner product, or of their cosine.

    .. math:: R = c \sum_{i<j} |\langle k_i, k_j \rangle|^p, \qquad
        \nabla_K R = 2 c\, K\, \mathrm{offdiag}(K^T K) \text{ for } p = 2

    With K the kernel as columns [m, n] and p = 2 this is half the squared Frobenius norm of the off-diagonal part of
    K^T K. It is zero exactly where all filters are orthogonal, which n > m filters of length one cannot be. Filters
    can also escape it by becoming shorter: `cosine` divides each by its length, and then n > m filters end as evenly
    spread as a squared mean says. What limits them is the largest cosine (`coherence.welch_floor`), and a higher power
    is nearer to that one.

    Non-negative filters are orthogonal only where their supports are disjoint: use it for the first layer and the
    passthroughs of a convex network, not for the kernels that must be non-negative.

    Args:
        strength: c, at least 0 and finite.
        cosine: whether each filter counts by its direction alone.
        power: p, an even whole number of at least 2.

    Raises:
        ValueError: strength or power is none of these.
        TypeError: cosine is no boolean.
    """

    def __init__(self, strength: float = 1.0, *, cosine: bool = False, power: int = 2) -> None:
        self.strength = _strength(strength, "PairwiseOrthogonality")
        if type(cosine) is not bool:
            message = f"PairwiseOrthogonality: cosine: expected True or False, received {cosine!r}."
            raise TypeError(message)
        if type(power) is not int or power < 2 or power % 2:
            message = f"PairwiseOrthogonality: power: expected an even whole number of at least 2, received {power!r}."
            raise ValueError(message)
        self.cosine = cosine
        self.power = power

    def __call__(self, kernel: Any) -> Any:
        """Return the penalty of a kernel [..., n]: a scalar of its dtype, of float32 for a narrower one."""
        columns = ops.reshape(kernel, (-1, kernel.shape[-1]))
        if keras.backend.standardize_dtype(columns.dtype) in ("float16", "bfloat16"):
            columns = ops.cast(columns, "float32")
        if self.cosine:
            squared = ops.sum(ops.square(columns), axis=0, keepdims=True)
            columns = ops.multiply(columns, ops.rsqrt(ops.maximum(squared, LEAST_SQUARED_LENGTH)))
        pairs = ops.square(ops.triu(ops.matmul(ops.transpose(columns), columns), k=1))
        return ops.multiply(self.strength, ops.sum(pairs if self.power == 2 else ops.power(pairs, self.power // 2)))

    def get_config(self) -> dict[str, Any]:
        """Return the arguments."""
        return {"strength": self.strength, "cosine": self.cosine, "power": self.power}


@keras.saving.register_keras_serializable(package="convex_scoring")
class KernelFunction(keras.regularizers.Regularizer):
    r"""A function of one's own of the whole kernel, times a constant.

    A negative value is warned of by the function's name: outside compiled functions whenever it is computed, inside
    them before their calls number 1, 2, 4, ..., 1024 and every 1024th after that.

    Example of a *bad* penalty, whatever it may be good for in a look at gradients:

        >>> @keras.saving.register_keras_serializable(package="example")
        ... def mirrored(kernel):
        ...     return keras.ops.sum(kernel * keras.ops.flip(kernel, axis=-1))
        >>> float(KernelFunction(mirrored)(keras.ops.ones((1, 1, 3, 2))))
        6.0

    It equals :math:`\sum_i \langle k_i, k_{n+1-i} \rangle`: each filter meets one other only, so that most pairs may
    be parallel; it is signed, least where mirrored filters are *opposite*, and has no lower bound: twice the filters,
    four times the reward. `PairwiseOrthogonality` is what is meant.

    Args:
        function: kernel [..., n] to a scalar, in `keras.ops`, registered with
            `keras.saving.register_keras_serializable`; or the name that it is registered by. Filters lie along the
            last axis.
        strength: the constant, at least 0 and finite.

    Raises:
        ValueError: the function is not registered, so that a saved model could not name it; or the strength is
            negative or not finite.
    """

    def __init__(self, function: Function | str, strength: float = 1.0) -> None:
        name = function if isinstance(function, str) else keras.saving.get_registered_name(function)
        registered = keras.saving.get_registered_object(name)
        if not callable(registered) or (callable(function) and registered is not function):
            message = (
                f"KernelFunction: function: expected a registered function or its name, received {name!r}. Decorate "
                f'it with @keras.saving.register_keras_serializable(package="...") where it is defined.'
            )
            raise ValueError(message)
        self.name = name
        self.function = registered
        self.strength = _strength(strength, "KernelFunction")

    def __call__(self, kernel: Any) -> Any:
        """Return the penalty of a kernel [..., n]: a scalar."""
        value = ops.multiply(self.strength, self.function(kernel))
        if not is_tracing() and not keras.backend.is_keras_tensor(kernel):
            self.warn_if_negative(value)
        return value

    def warn_if_negative(self, value: Any) -> None:
        """Warn of a negative value, with the name of the function."""
        if float(value) < 0.0:
            message = (
                f"the regulariser {self.name!r} returned {float(value):.6g}: a penalty is expected to be 0 or more. "
                f"A negative one rewards, and training may follow it without end. Return a sum of squares."
            )
            warnings.warn(message, NegativeRegularizationWarning, stacklevel=3)

    def get_config(self) -> dict[str, Any]:
        """Return the name and the strength."""
        return {"function": self.name, "strength": self.strength}


NAMES: dict[str, dict[str, Any]] = {
    "pairwise_orthogonality": {"cosine": False},
    "pairwise_cosine_orthogonality": {"cosine": True},
}


def resolve(regularizer: Any) -> keras.regularizers.Regularizer | None:
    """Return a regulariser of a whole kernel.

    Args:
        regularizer: one of `NAMES`; a Keras regulariser, or its configuration; a registered function of the kernel, or
            its name; or None.

    Raises:
        ValueError: none of these.
    """
    if regularizer is None or isinstance(regularizer, keras.regularizers.Regularizer):
        return regularizer
    if isinstance(regularizer, dict):
        return resolve(keras.saving.deserialize_keras_object(regularizer))
    if isinstance(regularizer, str) and regularizer in NAMES:
        return PairwiseOrthogonality(**NAMES[regularizer])
    if callable(regularizer) or (isinstance(regularizer, str) and ">" in regularizer):
        return KernelFunction(regularizer)
    message = (
        f"regularizer: expected {' or '.join(map(repr, NAMES))}, a Keras regulariser, or a registered function of the "
        f"kernel, received {regularizer!r}."
    )
    raise ValueError(message)


def penalty(regularizer: keras.regularizers.Regularizer, kernels: Callable[[], Sequence[Any]], owner: object) -> Any:
    """Return the sum of the penalties of kernels, which are watched for negative values in compiled functions too.

    Args:
        regularizer: as `resolve` gives it.
        kernels: returns the kernels as they are when it is called, at least one.
        owner: what the kernels belong to; each is watched on its own.
    """
    if isinstance(regularizer, KernelFunction) and is_tracing():
        before_each_call(("penalty", id(owner)), _Watch(regularizer, kernels, owner))
    first, *others = (regularizer(kernel) for kernel in kernels())
    return sum(others, start=first)


class _Watch:
    """Computes penalties before the calls of a compiled function that are a power of two, and every 1024th."""

    def __init__(self, regularizer: KernelFunction, kernels: Callable[[], Sequence[Any]], owner: object) -> None:
        self._regularizer = regularizer
        self._kernels = kernels
        self._owner = owner  # lives as long as its number is a key
        self._calls = 0

    def __call__(self) -> None:
        self._calls += 1
        if self._calls & (self._calls - 1) == 0 or self._calls % _EVERY == 0:
            for kernel in self._kernels():
                self._regularizer(kernel)


def _strength(value: float, where: str) -> float:
    if type(value) not in (int, float) or not 0.0 <= value < math.inf:
        message = f"{where}: strength: expected a finite number of at least 0, received {value!r}."
        raise ValueError(message)
    return float(value)
