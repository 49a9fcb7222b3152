r"""The ways in which a kernel is kept non-negative: by a projection, as a function of free weights, or by a penalty.

At the bottom of training, beside `constraints`; `layers.dense_partially_constrained` offers them under these words.

==============  ==================  ====================================================================================
word            kernel              what to know
==============  ==================  ====================================================================================
`projection`    W                   clipped after each optimiser step: exact zeros, sparse; a weight at zero comes back
                                    as soon as its gradient turns. The nearest point for SGD, a heuristic for Adam
`softplus`      log(1 + exp(V))     never zero; steps far below zero have no effect
`exp`           exp(V)              steps are relative; a large one may blow the weight up
`square`        V^2                 stays where it is at V = 0, which is a saddle point
`penalty`       W                   drawn towards zero from below, and held by nothing: no certificate (`finalize`)
==============  ==================  ====================================================================================

relu(V) is not offered: once V < 0 its gradient is zero for ever, and the weight is dead.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import keras
from keras import ops

PROJECTION, PENALTY = "projection", "penalty"

FLOOR = 1e-4
"""Least kernel weight that free weights start from: at 0 the inverses are minus infinity, or a saddle."""


@dataclasses.dataclass(frozen=True)
class Form:
    """A non-negative function of free weights.

    Args:
        positive: the function, of a tensor.
        inverse: its inverse, of positive numbers.
    """

    positive: Callable[[Any], Any]
    inverse: Callable[[Any], Any]


FORMS: Mapping[str, Form] = {
    "softplus": Form(ops.softplus, lambda w: w + ops.log(-ops.expm1(-w))),
    "exp": Form(ops.exp, ops.log),
    "square": Form(ops.square, ops.sqrt),
}
"""The functions by their words."""

WORDS = (PROJECTION, *FORMS, PENALTY)


def check_word(word: Any, where: str) -> None:
    """Refuse anything but one of `WORDS`.

    Raises:
        ValueError: names what was received; of relu, the reason.
    """
    if isinstance(word, str) and word in WORDS:
        return
    expected = " or ".join((", ".join(repr(each) for each in WORDS[:-1]), repr(WORDS[-1])))
    because = ": a weight whose free weight is once below zero would get no gradient any more" if word == "relu" else ""
    message = f"{where}: positivity: expected {expected}, received {word!r}{because}."
    raise ValueError(message)


class FreeStart:
    """An initialiser of free weights from one of the kernel: its positive part, at least `FLOOR`, inverted.

    Args:
        form: the function.
        initializer: of the kernel.
    """

    def __init__(self, form: Form, initializer: Callable[..., Any]) -> None:
        self._form, self._initializer = form, initializer

    def __call__(self, shape: tuple[int, ...], dtype: str | None = None) -> Any:
        """Return free weights of `shape`."""
        return self._form.inverse(ops.maximum(self._initializer(shape, dtype=dtype), FLOOR))


class OfKernel(keras.regularizers.Regularizer):
    """A regulariser of the kernel, as one of the free weights that the kernel is made of.

    Args:
        form: the function.
        regularizer: of the kernel.
    """

    def __init__(self, form: Form, regularizer: Callable[[Any], Any]) -> None:
        self._form, self._regularizer = form, regularizer

    def __call__(self, x: Any) -> Any:
        """Return the regularisation of the kernel that the free weights `x` make."""
        return self._regularizer(self._form.positive(x))
