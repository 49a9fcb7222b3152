"""The partially input-convex network: convex in x for each context, and free in the context.

Beside `icnn`, over `layers`, `gates` and `activations`; `objectives` and `trainer` fit it, `export` writes it.
"""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from training import activations, gates
from training.activations import ActivationRefusedError, ConvexActivation, Role
from training.config import CONTEXT_ACTIVATIONS, ConfigError, NetworkConfig
from training.initializers import PASSTHROUGH_SHARE, NonNegativeLogNormal, PassthroughNormal, moments
from training.layers.dense_partially_constrained import DensePartiallyConstrained
from training.layers.quadratic import Quadratic
from training.layers.standardization import Standardization
from training.layers.target_scaling import TargetScaling

GATE_DEVIATION = 0.1
"""Standard deviation, at the start, of what the context adds to a gate: with gates near 1 it is nearly an ICNN."""


@keras.saving.register_keras_serializable(package="convex_scoring")
class PartiallyInputConvexNetwork(keras.Model):
    r"""A scalar function of a row and its context that is convex in the row for each context, not jointly.

    .. math::
        \begin{aligned}
        u_{i+1} &= \tilde g(\tilde W_i u_i + \tilde b_i) \\
        z_{i+1} &= g_i\big(W^z_i (z_i \circ [W^{zu}_i u_i + b^z_i]_+)
                   + W^y_i (y \circ (W^{yu}_i u_i + b^y_i)) + W^u_i u_i + b_i\big) \\
        f(y; u_0) &= z_L + \tfrac{m}{2} \|y\|^2, \qquad z_0 = 0
        \end{aligned}

    Amos, Xu, Kolter (ICML 2017), equation 3, in its letters: y are the standardised features in which f is convex (`x`
    here and on the wire), u_0 the standardised context. W^z is non-negative (`DensePartiallyConstrained`, by
    projection), the gate [.]_+ never negative (`gates`), g convex and non-decreasing (`activations`; the first one
    convex), and all else is free: for a fixed context every gate is a number, and what is left is an input-convex
    network in y. What is served is proved again from the exported files; the certificate names x as the convex input
    and the context as what is held fixed. Between rows of different contexts nothing is claimed.

    Without a context (`context_dim=0`) there are no gates, and the network is the `InputConvexNetwork` of the same
    arguments and seed, weight by weight.

    Args:
        dim: number d of features in which the score is convex.
        context_dim: number c of features of the context.
        hidden: width of each hidden layer z_1 ... z_(L-1), at least one.
        activation: name of an activation for hidden layers.
        first_activation: name of the first layer's, which sees an affine argument; None: as `activation`.
        context_units: width of each layer u_1 ... u_(L-1) of the context.
        context_activation: one of `config.CONTEXT_ACTIVATIONS`.
        gate: one of `gates.GATES`: softplus, relu, sigmoid or exp.
        quadratic: m, at least 0, in units of the standardised features.
        target_scaling: whether the score is scaled back into the units of a standardised target.
        seed: of the weights' initial values: the same seed, the same weights.
        **kwargs: of `keras.Model`.

    Input shape:
        A pair [x, context] of float32 [n, d] and [n, c], raw features; or one tensor [n, d + c], the context's columns
        last, as files and a server's rows hold them.

    Output shape:
        float32 [n], the scores.

    Raises:
        ActivationRefusedError: an activation may not stand where it was put, or the gate may be negative.
        ValueError: no hidden layer, a width below 1, a negative m, or an unknown context activation.
    """

    def __init__(  # noqa: PLR0913  # a network's arguments, all but four by keyword
        self,
        dim: int,
        context_dim: int,
        hidden: Sequence[int] = (64, 64),
        activation: str = "softplus",
        *,
        first_activation: str | None = None,
        context_units: int = 32,
        context_activation: str = "softplus",
        gate: str = "softplus",
        quadratic: float = 0.0,
        target_scaling: bool = False,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self._check(dim, context_dim, hidden, context_units, context_activation)
        self.dim = dim
        self.context_dim = context_dim
        self.hidden = tuple(hidden)
        self.activation = activations.resolve(activation, Role.HIDDEN)
        self.first_activation = activations.resolve(first_activation or activation, Role.FIRST)
        self.context_units = context_units
        self.context_activation = context_activation
        self.gate = gates.resolve(gate)
        self.seed = seed
        self.standardization = Standardization(name="standardization")
        self.context_standardization = Standardization(name="context_standardization") if context_dim else None
        seeds = _seeds(seed, 2 * len(hidden) + 1)
        self.first = keras.layers.Dense(
            self.hidden[0],
            activation=ConvexActivation(self.first_activation, Role.FIRST),
            kernel_initializer=PassthroughNormal(share=1.0, seed=seeds.pop()),
            name="first",
        )
        widths = zip(self.hidden, (*self.hidden[1:], 1), strict=True)
        self.constrained = [
            self._constrained(index, fan_in, units, (seeds.pop(), seeds.pop()))
            for index, (fan_in, units) in enumerate(widths, start=1)
        ]
        others = _seeds([seed, 1], 3 * len(hidden) + 1)
        layers = range(len(self.hidden) + 1) if context_dim else range(0)
        self.context_layers = [
            keras.layers.Dense(
                context_units,
                activation=context_activation,
                kernel_initializer=PassthroughNormal(share=1.0, seed=others.pop()),
                name=f"context_{index}",
            )
            for index in layers[1:]
        ]
        self.row_gates = [self._gate_layer(f"row_gate_{index}", dim, None, 1.0, others.pop()) for index in layers]
        self.unit_gates = [
            self._gate_layer(f"unit_gate_{index}", fan_in, self.gate.function, self.gate.start, others.pop())
            for index, fan_in in zip(layers[1:], self.hidden, strict=False)
        ]
        self.quadratic = Quadratic(quadratic, name="quadratic") if quadratic else None
        self.target_scaling = TargetScaling(name="target_scaling") if target_scaling else None
        self.build([(None, dim), (None, context_dim)])

    def _check(
        self, dim: int, context_dim: int, hidden: Sequence[int], context_units: int, context_activation: str
    ) -> None:
        if not hidden:
            message = f"{self.name}: hidden: expected at least one width, received none."
            raise ValueError(message)
        for name, value, least in (
            ("dim", dim, 1),
            ("context_dim", context_dim, 0),
            ("context_units", context_units, 1),
        ):
            if type(value) is not int or value < least:
                message = f"{self.name}: {name}: expected a whole number of at least {least}, received {value!r}."
                raise ValueError(message)
        if context_activation not in CONTEXT_ACTIVATIONS:
            message = (
                f"{self.name}: context_activation: expected one of {', '.join(CONTEXT_ACTIVATIONS)}, "
                f"received {context_activation!r}."
            )
            raise ValueError(message)

    def _constrained(self, index: int, fan_in: int, units: int, seeds: tuple[int, int]) -> DensePartiallyConstrained:
        """Return the layer above `fan_in` units; the last one is the affine output."""
        slope, last = self.activation.slope[0], index == len(self.hidden)
        return DensePartiallyConstrained(
            units,
            activation=None if last else self.activation.name,
            kernel_initializer=NonNegativeLogNormal(slope, PASSTHROUGH_SHARE, seeds[0]),
            passthrough_initializer=PassthroughNormal(PASSTHROUGH_SHARE, seeds[1]),
            bias_initializer=keras.initializers.Constant(moments(fan_in, slope=slope, share=PASSTHROUGH_SHARE).bias),
            name="output" if last else f"hidden_{index}",
        )

    @staticmethod
    def _gate_layer(name: str, units: int, function: Any, start: float, seed: int) -> keras.layers.Dense:
        """Return the layer of factors for `units` features, near 1 at the start."""
        spread = keras.initializers.VarianceScaling(GATE_DEVIATION**2, "fan_in", "untruncated_normal", seed)
        bias = keras.initializers.Constant(start)
        return keras.layers.Dense(
            units, activation=function, kernel_initializer=spread, bias_initializer=bias, name=name
        )

    def build(self, _input_shape: Any) -> None:
        """Make every layer's weights."""
        rows, context = (None, self.dim), (None, self.context_dim)
        beside = [context, *[(None, self.context_units)] * len(self.hidden)]
        widths = [self.dim + shape[1] if self.context_dim else self.dim for shape in beside]
        self.standardization.build(rows)
        if self.context_standardization is not None:
            self.context_standardization.build(context)
        self.first.build((None, widths[0]))
        for layer, fan_in, width in zip(self.constrained, self.hidden, widths[1:], strict=True):
            layer.build([(None, fan_in), (None, width)])
        for layers, shapes in (
            (self.context_layers, beside),
            (self.row_gates, beside),
            (self.unit_gates, beside[1:]),
        ):
            for layer, shape in zip(layers, shapes, strict=False):
                layer.build(shape)
        if self.quadratic is not None:
            self.quadratic.build(rows)
        if self.target_scaling is not None:
            self.target_scaling.build((None,))

    def call(self, inputs: Any) -> Any:
        """Return the scores [n] of raw rows and their contexts."""
        x, context = self._parted(inputs)
        y = self.standardization(x)
        u = None if self.context_standardization is None else self.context_standardization(context)
        z = self.first(self._beside(y, u, 0))
        for i, layer in enumerate(self.constrained, start=1):
            if u is not None:
                u = self.context_layers[i - 1](u)
                z = ops.multiply(z, self.unit_gates[i - 1](u))
            z = layer([z, self._beside(y, u, i)])
        if self.quadratic is not None:
            z = ops.add(z, self.quadratic(y))
        score = ops.squeeze(z, axis=-1)
        return score if self.target_scaling is None else self.target_scaling(score)

    def _beside(self, y: Any, u: Any, i: int) -> Any:
        """Return what layer i reads beside z: y, gated by the context, and the context's layer; free in sign."""
        return y if u is None else ops.concatenate([ops.multiply(y, self.row_gates[i](u)), u], axis=-1)

    def _parted(self, inputs: Any) -> tuple[Any, Any]:
        """Return x and the context of a pair, or of one tensor."""
        if isinstance(inputs, list | tuple):
            x, context = inputs
            return x, context
        return inputs[..., : self.dim], inputs[..., self.dim :]

    def compute_output_shape(self, input_shape: Any) -> tuple[int | None, ...]:
        """Return [n]."""
        first = input_shape[0]
        return (first[0],) if isinstance(first, list | tuple) else (first,)

    def adapt(self, rows: NDArray[np.floating], target: NDArray[np.floating] | None = None) -> None:
        """Standardise by training rows [n, d + c] and, where the score is in their units, targets [n]."""
        self.standardization.adapt(rows[:, : self.dim])
        if self.context_standardization is not None:
            self.context_standardization.adapt(rows[:, self.dim :])
        if self.target_scaling is not None and target is not None:
            self.target_scaling.adapt(target)

    def verify(self) -> None:
        """Refuse weights with which the network need not be convex in x: a quick look, not the proof of what is served.

        Raises:
            NegativeWeightError: a kernel is negative or not finite.
            ValueError: a scale is not positive.
        """
        for layer in (self.standardization, self.context_standardization, *self.constrained, self.target_scaling):
            if layer is not None:
                layer.verify()

    def get_config(self) -> dict[str, Any]:
        """Return the arguments; the weights, statistics included, are saved beside them."""
        return {
            "name": self.name,
            "dim": self.dim,
            "context_dim": self.context_dim,
            "hidden": list(self.hidden),
            "activation": self.activation.name,
            "first_activation": self.first_activation.name,
            "context_units": self.context_units,
            "context_activation": self.context_activation,
            "gate": self.gate.name,
            "quadratic": 0.0 if self.quadratic is None else self.quadratic.coefficient,
            "target_scaling": self.target_scaling is not None,
            "seed": self.seed,
        }


def create_partial_network(
    network: NetworkConfig,
    rows: NDArray[np.floating],
    context_dim: int,
    *,
    seed: int,
    target: NDArray[np.floating] | None = None,
) -> PartiallyInputConvexNetwork:
    """Return a new network as configured, standardised by training rows.

    Args:
        network: the `[network]` section.
        rows: [n, d + c], the training rows, the context's columns last.
        context_dim: c.
        seed: of the initial weights.
        target: [n], the training targets where the score is to be in their units, else None.

    Raises:
        ConfigError: an activation may not stand where it was put, or the gate may be negative; the reason is a
            counterexample.
    """
    _check_names(network)
    model = PartiallyInputConvexNetwork(
        rows.shape[1] - context_dim,
        context_dim,
        network.hidden,
        network.activation,
        first_activation=network.first_activation or None,
        context_units=network.context_units,
        context_activation=network.context_activation,
        gate=network.gate,
        quadratic=network.quadratic,
        target_scaling=target is not None,
        seed=seed,
    )
    model.adapt(rows, target)
    return model


def _check_names(network: NetworkConfig) -> None:
    """Refuse what may not stand in the network as a configuration's fault, by its key."""
    for key, name, role, expected in (
        ("activation", network.activation, Role.HIDDEN, "a convex, non-decreasing activation"),
        ("first_activation", network.first_activation or network.activation, Role.FIRST, "a convex activation"),
        ("gate", network.gate, None, "a function that is never negative"),
    ):
        try:
            gates.resolve(name) if role is None else activations.resolve(name, role)
        except ActivationRefusedError as err:
            reason = str(err).partition(": ")[2].removesuffix(".")
            raise ConfigError(f"network.{key}", expected, f"another: {reason}") from err


def _seeds(entropy: int | Sequence[int], count: int) -> list[int]:
    """Return seeds of so many initialisers."""
    return [int(part) for part in np.random.SeedSequence(entropy).generate_state(count)]
