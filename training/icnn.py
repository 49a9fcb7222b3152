"""The input-convex network: one recursion over the layers, raw features in, one convex score out.

Over `layers` and `activations`; `objectives` and `trainer` fit it, `export` writes it.
"""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from training import activations
from training.activations import ActivationRefusedError, Role
from training.config import ConfigError, NetworkConfig
from training.initializers import PASSTHROUGH_SHARE, NonNegativeLogNormal, PassthroughNormal, moments
from training.layers.dense_partially_constrained import DensePartiallyConstrained
from training.layers.quadratic import Quadratic
from training.layers.standardization import Standardization
from training.layers.target_scaling import TargetScaling


@keras.saving.register_keras_serializable(package="convex_scoring")
class InputConvexNetwork(keras.Model):
    r"""A scalar function of a row that is convex in it for all weights that it can hold.

    .. math::
        x' = (x - \mu) / s, \quad z_0 = \varphi(x' A_0 + b_0), \quad
        z_k = \varphi(z_{k-1} W_k + x' A_k + b_k), \quad
        f(x) = z_L w + x' a + b + \tfrac{m}{2} \|x'\|^2

    with all W_k and w non-negative and the activation convex and non-decreasing: Amos, Xu, Kolter (ICML 2017),
    Proposition 1. `DensePartiallyConstrained` enforces the signs, `activations` the activation; what is served is
    proved again from the exported files. Where the target is standardised, f is a positive scale and a shift of
    the above.

    Args:
        dim: number d of features.
        hidden: width of each hidden layer, at least one.
        activation: name of an activation for hidden layers.
        quadratic: m, at least 0, in units of the standardised features.
        target_scaling: whether the score is scaled back into the units of a standardised target.
        seed: of the weights' initial values: the same seed, the same weights.
        **kwargs: of `keras.Model`.

    Input shape:
        float32 [n, d], raw features.

    Output shape:
        float32 [n], the scores.

    Raises:
        ActivationRefusedError: the activation may not stand in a hidden layer.
        ValueError: no hidden layer, or a negative m.
    """

    def __init__(
        self,
        dim: int,
        hidden: Sequence[int] = (64, 64),
        activation: str = "softplus",
        *,
        quadratic: float = 0.0,
        target_scaling: bool = False,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not hidden:
            message = f"{self.name}: hidden: expected at least one width, received none."
            raise ValueError(message)
        self.dim = dim
        self.hidden = tuple(hidden)
        self.activation = activations.resolve(activation, Role.HIDDEN)
        self.seed = seed
        seeds = [int(part) for part in np.random.SeedSequence(seed).generate_state(2 * len(hidden) + 1)]
        self.standardization = Standardization(name="standardization")
        self.first = keras.layers.Dense(
            self.hidden[0],
            activation=self.activation.function,
            kernel_initializer=PassthroughNormal(share=1.0, seed=seeds.pop()),
            name="first",
        )
        widths = zip(self.hidden, (*self.hidden[1:], 1), strict=True)
        self.constrained = [
            self._constrained(index, fan_in, units, (seeds.pop(), seeds.pop()))
            for index, (fan_in, units) in enumerate(widths, start=1)
        ]
        self.quadratic = Quadratic(quadratic, name="quadratic") if quadratic else None
        self.target_scaling = TargetScaling(name="target_scaling") if target_scaling else None
        self.build((None, dim))

    def _constrained(self, index: int, fan_in: int, units: int, seeds: tuple[int, int]) -> DensePartiallyConstrained:
        """Return the layer above `fan_in` units; the last one is the affine output."""
        slope = self.activation.slope[0]
        last = index == len(self.hidden)
        return DensePartiallyConstrained(
            units,
            activation=None if last else self.activation.name,
            kernel_initializer=NonNegativeLogNormal(slope, PASSTHROUGH_SHARE, seeds[0]),
            passthrough_initializer=PassthroughNormal(PASSTHROUGH_SHARE, seeds[1]),
            bias_initializer=keras.initializers.Constant(moments(fan_in, slope=slope, share=PASSTHROUGH_SHARE).bias),
            name="output" if last else f"hidden_{index}",
        )

    def build(self, _input_shape: Any) -> None:
        """Make every layer's weights."""
        rows = (None, self.dim)
        self.standardization.build(rows)
        self.first.build(rows)
        for layer, fan_in in zip(self.constrained, self.hidden, strict=True):
            layer.build([(None, fan_in), rows])
        if self.quadratic is not None:
            self.quadratic.build(rows)
        if self.target_scaling is not None:
            self.target_scaling.build((None,))

    def call(self, x: Any) -> Any:
        """Return the scores [n] of raw rows `x` [n, d]."""
        x = self.standardization(x)
        z = self.first(x)
        for layer in self.constrained:
            z = layer([z, x])
        if self.quadratic is not None:
            z = ops.add(z, self.quadratic(x))
        score = ops.squeeze(z, axis=-1)
        return score if self.target_scaling is None else self.target_scaling(score)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Return [n]."""
        return (input_shape[0],)

    def verify(self) -> None:
        """Refuse weights with which the network need not be convex: a quick look, not the proof of what is served.

        Raises:
            NegativeWeightError: a kernel is negative or not finite.
            ValueError: a scale is not positive.
        """
        self.standardization.verify()
        for layer in self.constrained:
            layer.verify()
        if self.target_scaling is not None:
            self.target_scaling.verify()

    def get_config(self) -> dict[str, Any]:
        """Return the arguments; the weights, statistics included, are saved beside them."""
        return {
            "name": self.name,
            "dim": self.dim,
            "hidden": list(self.hidden),
            "activation": self.activation.name,
            "quadratic": 0.0 if self.quadratic is None else self.quadratic.coefficient,
            "target_scaling": self.target_scaling is not None,
            "seed": self.seed,
        }


def create_network(
    network: NetworkConfig, x: NDArray[np.floating], *, seed: int, target: NDArray[np.floating] | None = None
) -> InputConvexNetwork:
    """Return a new network as configured, standardised by training rows.

    Args:
        network: the `[network]` section.
        x: [n, d], the training rows.
        seed: of the initial weights.
        target: [n], the training targets where the score is to be in their units, else None.

    Raises:
        ConfigError: `network.activation` may not stand in a hidden layer; the reason is a counterexample.
    """
    try:
        activations.resolve(network.activation, Role.HIDDEN)
    except ActivationRefusedError as err:
        reason = str(err).removeprefix("activation: ").removesuffix(".")
        raise ConfigError("network.activation", "a convex, non-decreasing activation", f"another: {reason}") from err
    model = InputConvexNetwork(
        x.shape[1],
        network.hidden,
        network.activation,
        quadratic=network.quadratic,
        target_scaling=target is not None,
        seed=seed,
    )
    model.standardization.adapt(x)
    if model.target_scaling is not None and target is not None:
        model.target_scaling.adapt(target)
    return model
