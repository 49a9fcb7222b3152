"""The layer whose units are smooth maxima of several affine pieces.

Over `pieces`; beside the other layers.
"""

from typing import Any

import keras
from keras import ops

from training.layers.pieces import Pieces
from training.refusals import check_temperature


@keras.saving.register_keras_serializable(package="convex_scoring")
class LogSumExp(Pieces):
    r"""Units that are each the smooth maximum of several pieces, convex in x wherever the first input is.

    .. math:: y_j = t \log \sum_p \exp\left( u_{jp} / t \right), \qquad u = z W + x A + b, \qquad W \ge 0, \ t > 0

    Convex and non-decreasing in each piece (Boyd and Vandenberghe, section 3.1.5), between the maximum and the maximum
    plus t log p, and curved wherever two pieces differ in slope: losses that see a network through its gradient train
    these biases too (Calafiore, Gaubert, Possieri, IEEE TNNLS 2020, for one layer of them). The largest piece is taken
    off before and added after, so that no exponential overflows. The kernel is projected inside `build` and after each
    optimiser step, and verified at every save and load.

    Example:
        >>> layer = LogSumExp(4, pieces=3, temperature=0.5)
        >>> layer(keras.ops.zeros((5, 2))).shape
        TensorShape([5, 4])

    Args:
        units: number of outputs, at least 1.
        pieces: number of pieces of each unit, at least 1; 1 is an affine unit.
        use_bias: whether there is a bias; if not, `bias` is None.
        temperature: t, above 0 and finite, a constant: the smaller, the closer to the maximum.
        **kwargs: `kernel_initializer`, `passthrough_initializer` and `bias_initializer`, Keras initialisers (None:
            those of `Pieces`), and the arguments of `keras.layers.Layer`: name, dtype, trainable.

    Input shape:
        A pair [z, x]: z of shape [..., n] and x of shape [..., d], of rank 2 or more. Or x alone: then there is no
        kernel and the layer stands first, on what is affine in the network's input.

    Output shape:
        [..., units].

    Raises:
        ArgumentRefusedError: the temperature is negative, which makes the units concave.
        ValueError: the temperature is 0 or not finite; units or pieces is not a positive whole number; not one or two
            inputs, or one of the wrong width.
        TypeError: the dtype is not floating.
        NegativeWeightError: at a save or load, where a kernel is negative or not finite.
    """

    def __init__(
        self, units: int, pieces: int = 2, use_bias: bool = True, *, temperature: float = 1.0, **kwargs: Any
    ) -> None:
        super().__init__(units, pieces, use_bias, **kwargs)
        self.temperature = check_temperature(temperature, f"{self.name}: temperature")

    def reduce(self, values: Any) -> Any:
        """Return t log sum exp of the pieces over t."""
        if self.temperature == 1.0:
            return ops.logsumexp(values, axis=-1)
        scaled = ops.divide(values, self.temperature)
        return ops.multiply(ops.logsumexp(scaled, axis=-1), self.temperature)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments."""
        return {**super().get_config(), "temperature": self.temperature}
