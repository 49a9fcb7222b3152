"""The input-convex network: one recursion over the layers, raw features in, one convex score out.

Over `layers` and `activations`; `objectives` and `trainer` fit it, `export` writes it.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from training import activations
from training.activations import ActivationRefusedError, Role
from training.config import ConfigError, NetworkConfig
from training.datasets import DataError
from training.initializers import PASSTHROUGH_SHARE
from training.layers.domain_weight import DomainWeight
from training.layers.potential_scaling import PotentialScaling
from training.layers.quadratic import Quadratic
from training.layers.quadratic_form import QuadraticForm
from training.layers.standardization import Standardization
from training.layers.target_scaling import TargetScaling
from training.layers.unit_kinds import DENSE, UnitKind
from training.positivity import PENALTY, PROJECTION

START_SHARE = 0.01
"""Weight, in a potential, of the layers beside the identity's quadratic form when training starts."""

SCALES = (1e-15, 1e15)
"""Least and largest common standard deviation of two samples: a potential has its square for a factor, and float32 ends
near 1e38 and 1e-38."""


@dataclasses.dataclass(frozen=True, eq=False)
class Units:
    """What a potential's standard units are: u = (x - source_mean) / scale, v = (y - target_mean) / scale.

    Args:
        source_mean: [d].
        target_mean: [d].
        scale: one for all features of both, above 0.
    """

    source_mean: NDArray[np.floating]
    target_mean: NDArray[np.floating]
    scale: float

    def swapped(self) -> "Units":
        """Return the units of the inverse map's potential."""
        return Units(self.target_mean, self.source_mean, self.scale)


class _Recursion(keras.Model):
    """The layers and their order, for the two networks below; `positivity` says how kernels are kept non-negative."""

    positivity: str

    def __init__(  # noqa: PLR0913  # a network's arguments, all but two by keyword
        self,
        dim: int,
        hidden: Sequence[int] = (64, 64),
        activation: str = "softplus",
        *,
        first_activation: str | None = None,
        quadratic: float = 0.0,
        potential: bool = False,
        target_scaling: bool = False,
        passthrough_share: float = PASSTHROUGH_SHARE,
        support: bool = False,
        unit: str = DENSE,
        pieces: int = 2,
        regularizer_constant: float = 1.0,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not hidden:
            message = f"{self.name}: hidden: expected at least one width, received none."
            raise ValueError(message)
        if potential and target_scaling:
            message = f"{self.name}: target_scaling: a potential has units of its own. Leave one of the two away."
            raise ValueError(message)
        if not 0.0 <= passthrough_share < 1.0:
            message = f"{self.name}: passthrough_share: expected a number in [0, 1), received {passthrough_share!r}."
            raise ValueError(message)
        self.dim = dim
        self.hidden = tuple(hidden)
        self.passthrough_share = float(passthrough_share)
        self.activation = activations.resolve(activation, Role.HIDDEN)
        self.first_activation = activations.resolve(first_activation or activation, Role.FIRST)
        self.regularizer_constant = regularizer_constant
        self.seed = seed
        seeds = [int(part) for part in np.random.SeedSequence(seed).generate_state(2 * len(hidden) + 1)]
        self.standardization = Standardization(name="standardization")
        self.kind = UnitKind(unit, pieces, self.positivity)
        self.first = self.kind.first(self.hidden[0], self.first_activation, seeds.pop())
        widths = zip(self.hidden, (*self.hidden[1:], 1), strict=True)
        self.constrained = [
            self._constrained(index, fan_in, units, (seeds.pop(), seeds.pop()))
            for index, (fan_in, units) in enumerate(widths, start=1)
        ]
        self.quadratic = Quadratic(quadratic, name="quadratic") if quadratic else None
        self.quadratic_form = QuadraticForm(name="quadratic_form") if potential else None
        self.target_scaling = TargetScaling(name="target_scaling") if target_scaling else None
        self.potential_scaling = PotentialScaling(name="potential_scaling") if potential else None
        self.domain_weight = DomainWeight(name="domain_weight") if support else None
        self.build((None, dim))
        if potential:
            self._start_at_identity()

    def _constrained(self, index: int, fan_in: int, units: int, seeds: tuple[int, int]) -> Any:
        """Return the layer above `fan_in` units; the last one is the affine output."""
        form = {"share": self.passthrough_share, "regularizer_constant": self.regularizer_constant}
        if index == len(self.hidden):
            return self.kind.output(fan_in, self.activation, seeds, name="output", **form)
        return self.kind.above(fan_in, units, self.activation, seeds, name=f"hidden_{index}", **form)

    def _start_at_identity(self) -> None:
        """Make the gradient nearly the identity: the quadratic form is, and the layers beside it weigh little."""
        output = self.constrained[-1]
        output.kernel.assign(ops.full_like(output.kernel, START_SHARE / self.hidden[-1]))
        output.passthrough.assign(ops.zeros_like(output.passthrough))
        output.bias.assign(ops.zeros_like(output.bias))

    def build(self, _input_shape: Any) -> None:
        """Make every layer's weights."""
        rows = (None, self.dim)
        self.standardization.build(rows)
        self.first.build(rows)
        for layer, fan_in in zip(self.constrained, self.hidden, strict=True):
            layer.build([(None, fan_in), rows])
        for layer_of_rows in (self.quadratic, self.quadratic_form, self.domain_weight):
            if layer_of_rows is not None:
                layer_of_rows.build(rows)
        if self.target_scaling is not None:
            self.target_scaling.build((None,))
        if self.potential_scaling is not None:
            self.potential_scaling.build([(None,), rows])

    @property
    def units(self) -> Units:
        """The units of a potential.

        Raises:
            ValueError: the network is none.
        """
        return Units(
            self.standardization.mean.numpy(), self._scaling().mean.numpy(), float(self._scaling().scale.numpy())
        )

    def set_units(self, units: Units) -> None:
        """Make raw rows of the source, and gradients that are raw rows of the target.

        Raises:
            ValueError: the network is no potential, or a number is not finite in float32 or not positive.
        """
        self.standardization.set_statistics(units.source_mean, np.full(self.dim, units.scale))
        self._scaling().set_statistics(units.target_mean, units.scale)

    def _scaling(self) -> PotentialScaling:
        """Return the layer that puts a potential into units."""
        if self.potential_scaling is None:
            message = f"{self.name}: expected a potential, received no such network. Make it with potential=True."
            raise ValueError(message)
        return self.potential_scaling

    def call(self, x: Any) -> Any:
        """Return the scores [n] of raw rows `x` [n, d]."""
        u = self.standardization(x)
        score = self.standard_score(u)
        if self.potential_scaling is not None:
            return self.potential_scaling([score, u])
        return score if self.target_scaling is None else self.target_scaling(score)

    def standard_score(self, u: Any) -> Any:
        """Return the scores [n] in standard units of standardised rows `u` [n, d]: all but the scalings."""
        z = self.first(u)
        for layer in self.constrained:
            z = layer([z, u])
        for quadratic in (self.quadratic, self.quadratic_form):
            if quadratic is not None:
                z = ops.add(z, quadratic(u))
        return ops.squeeze(z, axis=-1)

    def support(self, x: Any) -> Any:
        """Return the domain weights [n] in [0, 1] of raw rows `x` [n, d]: how far inside of the training data they lie.

        Raises:
            ValueError: the network has none.
        """
        if self.domain_weight is None:
            message = f"{self.name}: expected a network with a domain weight, received one without. Make it so with "
            raise ValueError(f"{message}support=True.")
        return self.domain_weight(self.standardization(x))

    def adapt_support(self, x: NDArray[np.floating]) -> None:
        """Set the domain weight's radius, where there is one, from raw training rows `x` [n, d]."""
        if self.domain_weight is not None:
            mean, scale = (statistic.numpy() for statistic in (self.standardization.mean, self.standardization.scale))
            self.domain_weight.adapt((x.astype(np.float32).astype(np.float64) - mean) / scale)

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
        for layer_of_numbers in (self.target_scaling, self.potential_scaling, self.domain_weight):
            if layer_of_numbers is not None:
                layer_of_numbers.verify()

    def get_config(self) -> dict[str, Any]:
        """Return the arguments; the weights, statistics included, are saved beside them."""
        return {
            "name": self.name,
            "dim": self.dim,
            "hidden": list(self.hidden),
            "activation": self.activation.name,
            "first_activation": self.first_activation.name,
            "quadratic": 0.0 if self.quadratic is None else self.quadratic.coefficient,
            "potential": self.potential_scaling is not None,
            "target_scaling": self.target_scaling is not None,
            "passthrough_share": self.passthrough_share,
            "support": self.domain_weight is not None,
            "unit": self.kind.name,
            "pieces": self.kind.pieces,
            "seed": self.seed,
        }


@keras.saving.register_keras_serializable(package="convex_scoring")
class InputConvexNetwork(_Recursion):
    r"""A scalar function of a row that is convex in it for all weights that it can hold.

    .. math::
        u = (x - \mu) / s, \quad z_0 = \varphi_0(u A_0 + b_0), \quad
        z_k = \varphi(z_{k-1} W_k + u A_k + b_k), \quad
        f(x) = z_L w + u a + b + \tfrac{m}{2} \|u\|^2

    with all W_k and w non-negative, the activation convex and non-decreasing, that of the first layer convex: Amos, Xu,
    Kolter (ICML 2017), Proposition 1. `DensePartiallyConstrained` enforces the signs, `activations` the activations;
    what is served is proved again from the exported files. Where the target is standardised, f is a positive scale
    and a shift of the above. A *potential*, whose gradient maps one sample to another, has a trained quadratic form
    beside the layers (`QuadraticForm`), starts with the identity as its map, and is put into the samples' units by
    `PotentialScaling`.

    Args:
        dim: number d of features.
        hidden: width of each hidden layer, at least one.
        activation: name of an activation for hidden layers.
        first_activation: name of the first layer's, which sees an affine argument and may be one that is convex only;
            None: as `activation`.
        quadratic: m, at least 0, in units of the standardised features.
        potential: whether the gradient is to be a transport map.
        target_scaling: whether the score is scaled back into the units of a standardised target.
        passthrough_share: share of each pre-activation's variance at the start that comes through the passthrough, in
            [0, 1). Without any, deep networks become one function in all units, or explode (`initializers`).
        unit: `dense`; or `maxout` or `log_sum_exp`, units of several pieces each, without an activation.
        pieces: number of pieces of each such unit, at least 1.
        support: whether there is a domain weight beside the score, `support`; no gradient goes through it.
        seed: of the weights' initial values: the same seed, the same weights.
        **kwargs: of `keras.Model`.

    Input shape:
        float32 [n, d], raw features.

    Output shape:
        float32 [n], the scores.

    Raises:
        ActivationRefusedError: an activation may not stand where it was put.
        ValueError: no hidden layer, a negative m, a share that is none, an unknown unit, or both scalings.
    """

    positivity = PROJECTION


@keras.saving.register_keras_serializable(package="convex_scoring")
class PenalizedNetwork(_Recursion):
    """The network of `InputConvexNetwork` with its kernels drawn to be non-negative by a penalty, not held there.

    For the second network of a minimax, which is not served: where the penalty in `losses` is zero it is convex, and
    nothing else promises that it is.

    Args:
        *args: as of `InputConvexNetwork`.
        **kwargs: the same, and `regularizer_constant`, the factor of the penalty.
    """

    positivity = PENALTY

    def get_config(self) -> dict[str, Any]:
        """Return the arguments."""
        return {**super().get_config(), "regularizer_constant": self.regularizer_constant}


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
        ConfigError: `network.activation` may not stand in a hidden layer, or `network.first_activation` in the first;
            the reason is a counterexample.
    """
    model = _configured(network, x.shape[1], seed, target_scaling=target is not None)
    model.standardization.adapt(x)
    if model.target_scaling is not None and target is not None:
        model.target_scaling.adapt(target)
    model.adapt_support(x)
    return model


def create_potential(
    network: NetworkConfig, source: NDArray[np.floating], target: NDArray[np.floating], *, seed: int
) -> InputConvexNetwork:
    """Return a new network whose gradient maps source rows to target rows; it starts as the shift of their means.

    Source and target are centred at their own means and share one scale, the root mean square of all their standard
    deviations (1 where nothing varies).

    Args:
        network: the `[network]` section.
        source: [n, d], training rows.
        target: [m, d], training rows.
        seed: of the initial weights.

    Raises:
        DataError: the deviations are so large or so small that float32 does not hold their squares.
        ConfigError: as `create_network`; or the last layer's activation is piecewise linear: the second network of the
            minimax enters by its gradient alone, in which the biases of such layers do not appear.
    """
    if network.unit != DENSE:
        received = f"'{network.unit}': the network of the inverse map has dense units"
        raise ConfigError("network.unit", "'dense' for a transport", received)
    model = _configured(network, source.shape[1], seed, potential=True)
    first, second = (rows.astype(np.float32).astype(np.float64) for rows in (source, target))
    scale = float(np.sqrt((first.var(axis=0).mean() + second.var(axis=0).mean()) / 2.0)) or 1.0
    if not SCALES[0] <= scale <= SCALES[1]:
        message = (
            f"source and target: expected rows whose common standard deviation is from {SCALES[0]:g} to {SCALES[1]:g}, "
            f"so that float32 holds the score, received {scale:.3g}. Look for extreme values, or use another unit."
        )
        raise DataError(message)
    model.set_units(Units(first.mean(axis=0), second.mean(axis=0), scale))
    model.adapt_support(source)
    return model


def _configured(network: NetworkConfig, dim: int, seed: int, **form: bool) -> InputConvexNetwork:
    """Return a new network, an activation that may not stand where it is named refused as a configuration's fault."""
    for key, role in (("activation", Role.HIDDEN), ("first_activation", Role.FIRST)):
        try:
            activations.resolve(getattr(network, key) or network.activation, role)
        except ActivationRefusedError as err:
            reason = str(err).removeprefix("activation: ").removesuffix(".")
            expected = "a convex, non-decreasing activation" if role is Role.HIDDEN else "a convex activation"
            raise ConfigError(f"network.{key}", expected, f"another: {reason}") from err
    return InputConvexNetwork(
        dim,
        network.hidden,
        network.activation,
        first_activation=network.first_activation or None,
        quadratic=network.quadratic,
        support=network.support,
        unit=network.unit,
        pieces=network.pieces,
        seed=seed,
        **form,
    )
