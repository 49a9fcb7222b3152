"""How to make one of every class that `training` registers with Keras, for the tests that go through all of them.

A new class gets a recipe here: without one the tests fail that look for it.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np

from tests.training.user_functions import HINGE, mirrored
from training.activations import ConvexActivation, Role
from training.constraints import NonNegative
from training.icnn import InputConvexNetwork, PenalizedNetwork
from training.initializers import NonNegativeLogNormal, PassthroughNormal
from training.layers.act_norm import ActNorm
from training.layers.bump import Bump
from training.layers.convex_batch_normalization import ConvexBatchNormalization
from training.layers.dense_partially_constrained import DensePartiallyConstrained
from training.layers.diagonal_quadratic import DiagonalQuadratic
from training.layers.domain_weight import DomainWeight
from training.layers.feature_pooling import FeaturePooling
from training.layers.filter_bank import FilterBank
from training.layers.filter_bank_model import FilterBankModel
from training.layers.function import Function
from training.layers.gaussian_bump import GaussianBump
from training.layers.jointly_regularized import JointlyRegularized
from training.layers.log_sum_exp import LogSumExp
from training.layers.low_rank_quadratic import LowRankQuadratic
from training.layers.maxout import Maxout
from training.layers.orthogonal_projection import OrthogonalProjection
from training.layers.positive_scale import AtLeast
from training.layers.potential_scaling import PotentialScaling
from training.layers.prelu import PReLU, UnitInterval
from training.layers.quadratic import Quadratic
from training.layers.quadratic_form import QuadraticForm
from training.layers.sigma_bump import SigmaBump
from training.layers.standardization import Standardization
from training.layers.target_scaling import TargetScaling
from training.orthonormality import Orthonormal
from training.picnn import PartiallyInputConvexNetwork
from training.piece_initializers import PieceLogNormal
from training.regularizers import KernelFunction, PairwiseOrthogonality

Shape = tuple[int, ...]


def shifted(weight: Any) -> Any:
    """Return a weight with something positive added, so that no weight is at its initial value."""
    added = np.random.default_rng(weight.size).uniform(0.05, 0.3, weight.shape)
    return weight + added.astype(weight.dtype)


def kept(weight: Any) -> Any:
    """Return a weight as it is, where its random start is what the class allows."""
    return weight


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How to make a layer or network, with arguments that are not the defaults.

    Args:
        make: takes the arguments of `keras.layers.Layer` and returns the layer.
        shapes: of its inputs, without the batch axis; one shape, or several for a list of inputs.
        change: changes each weight, from float array to float array.
        ranks: whether the layer takes inputs with more axes before the last one.
    """

    make: Callable[..., keras.layers.Layer]
    shapes: tuple[Shape, ...]
    change: Callable[[Any], Any] = shifted
    ranks: bool = True

    def layer(self, *lead: int, weights: list[Any] | None = None, **arguments: Any) -> keras.layers.Layer:
        """Return the layer, built for these axes behind the batch, with these weights or others than the initial."""
        layer = self.make(**arguments)
        if not layer.built:
            layer.build(self.input_shape(None, *lead))
        for place, weight in enumerate(layer.weights):
            if weights is not None:
                weight.assign(weights[place])
            elif "float" in weight.dtype:
                weight.assign(self.change(np.asarray(weight.value)))
        return layer

    def input_shape(self, *lead: int | None) -> Any:
        """Return the shape that `build` takes, with these axes in front."""
        shapes = [(*lead, *shape) for shape in self.shapes]
        return shapes if len(shapes) > 1 else shapes[0]

    def rows(self, *lead: int, seed: int = 0, dtype: str = "float32") -> Any:
        """Return inputs, or the list of them, with these axes in front."""
        draws = np.random.default_rng(seed)
        arrays = [draws.normal(size=(*lead, *shape)).astype(dtype) for shape in self.shapes]
        return arrays if len(arrays) > 1 else arrays[0]


def _dense(**kernel: Any) -> Callable[..., keras.layers.Layer]:
    """Return how to make a plain Keras layer that has something of ours on its kernel."""
    return lambda **arguments: keras.layers.Dense(2, **kernel, **arguments)


def _joint(**arguments: Any) -> keras.Model:
    """Return a model of two banks that are penalised together."""
    rows = keras.Input((3,))
    banks = [FilterBank(2, name="first"), FilterBank(3, trainable_parts=[True, False, True], name="second")]
    inner = keras.Model(rows, keras.layers.Concatenate()([bank(rows) for bank in banks]))
    return JointlyRegularized(inner, PairwiseOrthogonality(0.5), **arguments)


LAYERS: Mapping[str, tuple[Recipe, ...]] = {
    "ActNorm": (Recipe(ActNorm, ((3,),)),),
    "Bump": (
        Recipe(lambda **more: Bump(per_feature=True, unit_peak=True, **more), ((3,),)),
        Recipe(lambda **more: Bump(radial=True, tanh=True, positivity="softplus", **more), ((3,),)),
    ),
    "ConvexBatchNormalization": (
        Recipe(lambda **more: ConvexBatchNormalization(momentum=0.9, epsilon=0.01, **more), ((3,),)),
        Recipe(lambda **more: ConvexBatchNormalization(center=False, **more), ((3,),)),
    ),
    "DensePartiallyConstrained": (
        Recipe(lambda **more: DensePartiallyConstrained(4, "softplus", **more), ((3,), (2,))),
        Recipe(
            lambda **more: DensePartiallyConstrained(
                4, "relu", False, positivity="penalty", regularizer_constant=0.5, **more
            ),
            ((3,), (2,)),
        ),
    ),
    "DiagonalQuadratic": (Recipe(lambda **more: DiagonalQuadratic(2, initial=0.5, **more), ((3,),)),),
    "DomainWeight": (Recipe(DomainWeight, ((3,),), ranks=False),),
    "FeaturePooling": tuple(
        Recipe(lambda mode=mode, **more: FeaturePooling(2, mode, temperature=0.5, **more), ((6,),))
        for mode in ("average", "max", "log_sum_exp")
    ),
    "FilterBank": (
        Recipe(lambda **more: FilterBank(3, trainable_parts=[True, False, True], **more), ((4,),)),
        Recipe(
            lambda **more: FilterBank(
                2, 3, 2, "same", False, regularizer=PairwiseOrthogonality(0.5), kernel_constraint=NonNegative(), **more
            ),
            ((5, 4, 2),),
            ranks=False,
        ),
    ),
    "Function": (Recipe(lambda **more: Function(HINGE, Role.HIDDEN, **more), ((3,),)),),
    "GaussianBump": (
        Recipe(lambda **more: GaussianBump(per_feature=True, trainable_center=False, **more), ((3,),)),
        Recipe(lambda **more: GaussianBump(radial=True, positivity="projection", **more), ((3,),)),
    ),
    "LogSumExp": (
        Recipe(lambda **more: LogSumExp(4, 3, temperature=0.5, **more), ((3,), (2,))),
        Recipe(lambda **more: LogSumExp(4, 1, False, kernel_initializer="ones", **more), ((3,), (2,))),
        Recipe(lambda **more: LogSumExp(2, **more), ((3,),)),
    ),
    "LowRankQuadratic": (
        Recipe(lambda **more: LowRankQuadratic(2, 4, initial=0.5, directions_initializer="he_normal", **more), ((3,),)),
    ),
    "Maxout": (
        Recipe(lambda **more: Maxout(4, 3, bias_initializer="ones", **more), ((3,), (2,))),
        Recipe(lambda **more: Maxout(2, use_bias=False, passthrough_initializer="he_normal", **more), ((3,),)),
    ),
    "OrthogonalProjection": (Recipe(lambda **more: OrthogonalProjection(2, **more), ((3,),), kept),),
    "PReLU": (Recipe(lambda **more: PReLU("zeros", "l2", **more), ((3,),)),),
    "PotentialScaling": (Recipe(PotentialScaling, ((), (3,)), ranks=False),),
    "Quadratic": (Recipe(lambda **more: Quadratic(0.25, **more), ((3,),)),),
    "QuadraticForm": (Recipe(QuadraticForm, ((3,),)),),
    "SigmaBump": (Recipe(lambda **more: SigmaBump(positivity="projection", **more), ((3,),)),),
    "Standardization": (Recipe(Standardization, ((3,),)),),
    "TargetScaling": (Recipe(TargetScaling, ((),), ranks=False),),
}
"""Recipes of each registered layer."""

NETWORKS: Mapping[str, tuple[Recipe, ...]] = {
    "FilterBankModel": (
        Recipe(lambda **more: FilterBankModel(2, regularizer=KernelFunction(mirrored), **more), ((3,),), ranks=False),
    ),
    "InputConvexNetwork": (
        Recipe(
            lambda **more: InputConvexNetwork(3, (4, 3), "elu", quadratic=0.1, target_scaling=True, seed=1, **more),
            ((3,),),
            ranks=False,
        ),
        Recipe(lambda **more: InputConvexNetwork(3, (4, 3), unit="maxout", pieces=3, **more), ((3,),), ranks=False),
        Recipe(lambda **more: InputConvexNetwork(3, (4, 3), unit="log_sum_exp", **more), ((3,),), ranks=False),
        Recipe(lambda **more: InputConvexNetwork(3, (4,), potential=True, support=True, **more), ((3,),), ranks=False),
    ),
    "JointlyRegularized": (Recipe(_joint, ((3,),), ranks=False),),
    "PartiallyInputConvexNetwork": (
        Recipe(
            lambda **more: PartiallyInputConvexNetwork(
                3, 2, (4, 3), "elu", context_units=5, context_activation="tanh", gate="sigmoid", seed=1, **more
            ),
            ((3,), (2,)),
            ranks=False,
        ),
        Recipe(
            lambda **more: PartiallyInputConvexNetwork(3, 2, (4,), quadratic=0.1, target_scaling=True, **more),
            ((3,), (2,)),
            ranks=False,
        ),
    ),
    "PenalizedNetwork": (
        Recipe(lambda **more: PenalizedNetwork(3, (4,), regularizer_constant=0.5, **more), ((3,),), ranks=False),
    ),
}
"""Recipes of each registered network: their inputs are rows."""

PARTS: Mapping[str, tuple[Recipe, ...]] = {
    "AtLeast": (Recipe(_dense(kernel_constraint=AtLeast(0.5)), ((3,),)),),
    "ConvexActivation": (
        Recipe(_dense(activation=ConvexActivation("squared_leaky(0.3)", Role.FIRST)), ((3,),)),
        Recipe(_dense(activation=ConvexActivation("smooth_leaky", parameters={"alpha": 0.1})), ((3,),)),
    ),
    "KernelFunction": (Recipe(_dense(kernel_regularizer=KernelFunction(mirrored, 0.5)), ((3,),)),),
    "PairwiseOrthogonality": (Recipe(_dense(kernel_regularizer=PairwiseOrthogonality(cosine=True)), ((3,),)),),
    "NonNegative": (Recipe(_dense(kernel_constraint=NonNegative()), ((3,),)),),
    "NonNegativeLogNormal": (Recipe(_dense(kernel_initializer=NonNegativeLogNormal(0.1, 0.2, 3)), ((3,),)),),
    "Orthonormal": (Recipe(_dense(kernel_constraint=Orthonormal()), ((3,),)),),
    "PassthroughNormal": (Recipe(_dense(kernel_initializer=PassthroughNormal(0.2, 3)), ((3,),)),),
    "PieceLogNormal": (Recipe(_dense(kernel_initializer=PieceLogNormal(3, 0.5, 3)), ((3,),)),),
    "UnitInterval": (Recipe(_dense(kernel_constraint=UnitInterval()), ((3,),)),),
}
"""Recipes of each registered constraint, initialiser, regulariser and activation, in a plain layer."""

RECIPES: Mapping[str, tuple[Recipe, ...]] = {**LAYERS, **NETWORKS, **PARTS}

OBJECTS: Mapping[str, tuple[Any, ...]] = {
    "AtLeast": (AtLeast(0.5),),
    "KernelFunction": (KernelFunction(mirrored, 0.5),),
    "PairwiseOrthogonality": (PairwiseOrthogonality(0.5), PairwiseOrthogonality(cosine=True, power=4)),
    "NonNegative": (NonNegative(),),
    "NonNegativeLogNormal": (NonNegativeLogNormal(0.1, 0.2, 3), NonNegativeLogNormal(seed=None)),
    "Orthonormal": (Orthonormal(),),
    "PassthroughNormal": (PassthroughNormal(0.2, 3), PassthroughNormal(seed=None)),
    "PieceLogNormal": (PieceLogNormal(3, 0.5, 3), PieceLogNormal(seed=None)),
    "UnitInterval": (UnitInterval(),),
}
"""The constraints, initialisers and regularisers themselves, which answer for a kernel."""


def cases(*tables: Mapping[str, tuple[Recipe, ...]]) -> dict[str, Recipe]:
    """Return the recipes of tables by the name of the class and their number."""
    return {
        f"{name}-{number}": recipe
        for table in tables
        for name, recipes in table.items()
        for number, recipe in enumerate(recipes)
    }
