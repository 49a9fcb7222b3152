"""The layer whose units are the largest of several affine pieces.

Over `pieces`; beside the other layers.
"""

from typing import Any

import keras
from keras import ops

from training.layers.pieces import Pieces


@keras.saving.register_keras_serializable(package="convex_scoring")
class Maxout(Pieces):
    r"""Units that are each the maximum of several pieces, convex in x wherever the first input is.

    .. math:: y_j = \max_{p} \left( z W + x A + b \right)_{jp}, \qquad W \ge 0

    The maximum is convex and non-decreasing in each piece, so y is convex in x where z is, for free A and b (Goodfellow
    et al., ICML 2013; Amos, Xu, Kolter 2017, Proposition 1, for pieces). One layer of x alone, summed with non-negative
    weights, is already every max-affine function. The kernel is projected inside `build` and after each optimiser
    step, and verified at every save and load. Piecewise linear: its second derivative is zero almost everywhere; where
    pieces are equal the gradient is their mean.

    Example:
        >>> layer = Maxout(4, pieces=3)
        >>> y = layer([keras.ops.ones((5, 2)), keras.ops.ones((5, 3))])
        >>> y.shape, layer.kernel.shape
        (TensorShape([5, 4]), (2, 12))

    Args:
        units: number of outputs, at least 1.
        pieces: number of pieces of each unit, at least 1; 1 is an affine unit.
        use_bias: whether there is a bias; if not, `bias` is None.
        **kwargs: `kernel_initializer`, `passthrough_initializer` and `bias_initializer`, Keras initialisers (None:
            those of `Pieces`), and the arguments of `keras.layers.Layer`: name, dtype, trainable.

    Input shape:
        A pair [z, x]: z of shape [..., n] and x of shape [..., d], of rank 2 or more. Or x alone: then there is no
        kernel and the layer stands first, on what is affine in the network's input.

    Output shape:
        [..., units].

    Raises:
        ValueError: units or pieces is not a positive whole number; not one or two inputs, or one of the wrong width.
        TypeError: the dtype is not floating.
        NegativeWeightError: at a save or load, where a kernel is negative or not finite.
    """

    def reduce(self, values: Any) -> Any:
        """Return the largest piece of each unit."""
        return ops.max(values, axis=-1)
