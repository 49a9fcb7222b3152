"""The kinds of units that a network of the configuration may have: dense with an activation, maxout, log-sum-exp.

Over the layers of each kind; `icnn` asks this for its layers.
"""

import dataclasses
from typing import Any

import keras

from training.activations import Activation, ConvexActivation, Role
from training.initializers import NonNegativeLogNormal, PassthroughNormal, moments
from training.layers.dense_partially_constrained import DensePartiallyConstrained
from training.layers.log_sum_exp import LogSumExp
from training.layers.maxout import Maxout
from training.layers.pieces import Pieces
from training.piece_initializers import SHARE, PieceLogNormal, piece_moments
from training.positivity import PROJECTION

DENSE = "dense"
_PIECES: dict[str, type[Pieces]] = {"maxout": Maxout, "log_sum_exp": LogSumExp}
KINDS = (DENSE, *_PIECES)


@dataclasses.dataclass(frozen=True)
class UnitKind:
    """What the units of a network are.

    Dense units have an activation; those of maxout and log-sum-exp have none, but several affine pieces each.

    Args:
        name: one of `KINDS`.
        pieces: number of pieces of each unit, at least 1; dense units do not look at it.
        positivity: how the kernels are kept non-negative.

    Raises:
        ValueError: the name is none of them; or units of pieces with a kernel that is not projected.
    """

    name: str = DENSE
    pieces: int = 2
    positivity: str = PROJECTION

    def __post_init__(self) -> None:
        """Refuse what there is no layer for."""
        if self.name not in KINDS:
            message = f"unit: expected one of {', '.join(KINDS)}, received {self.name!r}."
            raise ValueError(message)
        if self.name != DENSE and self.positivity != PROJECTION:
            message = (
                f"unit: expected 'dense' where kernels are kept non-negative by {self.positivity}, received "
                f"'{self.name}', whose kernels are projected. Use dense units."
            )
            raise ValueError(message)

    def first(self, units: int, activation: Activation, seed: int) -> keras.layers.Layer:
        """Return the layer on the row alone."""
        start = PassthroughNormal(share=1.0, seed=seed)
        if self.name == DENSE:
            function = ConvexActivation(activation, Role.FIRST)
            return keras.layers.Dense(units, activation=function, kernel_initializer=start, name="first")
        return _PIECES[self.name](units, self.pieces, passthrough_initializer=start, name="first")

    def above(
        self, fan_in: int, units: int, activation: Activation, seeds: tuple[int, int], **dense: Any
    ) -> keras.layers.Layer:
        """Return the layer of [z, x] above `fan_in` units of this kind.

        Args:
            fan_in: number of units below.
            units: number of units.
            activation: of dense units.
            seeds: of kernel and passthrough.
            **dense: `share` of the passthrough, `regularizer_constant` and `name`; units of pieces take the name only.
        """
        if self.name == DENSE:
            return self._dense(fan_in, units, activation, seeds, **dense)
        kernel, bias = self._starts(fan_in, activation, seeds[0], SHARE)
        return _PIECES[self.name](
            units,
            self.pieces,
            kernel_initializer=kernel,
            passthrough_initializer=PassthroughNormal(SHARE, seeds[1]),
            bias_initializer=bias,
            name=dense["name"],
        )

    def output(self, fan_in: int, activation: Activation, seeds: tuple[int, int], **dense: Any) -> keras.layers.Layer:
        """Return the affine output above `fan_in` units of this kind, arguments as of `above`."""
        return self._dense(fan_in, 1, activation, seeds, is_output=True, **dense)

    def _starts(self, fan_in: int, activation: Activation, seed: int, share: float) -> tuple[Any, Any]:
        """Return the initialisers of a kernel and of a bias above `fan_in` units of this kind."""
        if self.name == DENSE:
            slope = activation.slope[0]
            bias = moments(fan_in, slope=slope, share=share).bias
            return NonNegativeLogNormal(slope, share, seed), keras.initializers.Constant(bias)
        temperature = 1.0 if self.name == "log_sum_exp" else 0.0
        bias = piece_moments(fan_in, self.pieces, temperature).bias
        return PieceLogNormal(self.pieces, temperature, seed), keras.initializers.Constant(bias)

    def _dense(  # noqa: PLR0913  # what a network says of a layer
        self,
        fan_in: int,
        units: int,
        activation: Activation,
        seeds: tuple[int, int],
        *,
        share: float,
        regularizer_constant: float,
        name: str,
        is_output: bool = False,
    ) -> DensePartiallyConstrained:
        """Return a dense layer; `activation` is that of the units below, and its own unless it is the output."""
        kernel, bias = self._starts(fan_in, activation, seeds[0], share)
        return DensePartiallyConstrained(
            units,
            activation=None if is_output else activation.name,
            positivity=self.positivity,
            regularizer_constant=regularizer_constant,
            kernel_initializer=kernel,
            passthrough_initializer=PassthroughNormal(share, seeds[1]),
            bias_initializer=bias,
            name=name,
        )
