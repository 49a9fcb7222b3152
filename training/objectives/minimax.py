"""The minimax training of two networks: the gradient of one is the transport map, that of the other its inverse.

Over `icnn`, `gradients` and `assignment`; `objectives.transport` starts it, `trainer` drives it.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import ops
from numpy.typing import NDArray

from training.assignment import w2_squared
from training.config import ObjectiveConfig, TrainerConfig
from training.datasets import Samples, Table
from training.gradients import input_gradient, required
from training.icnn import InputConvexNetwork, PenalizedNetwork
from training.runs import DivergenceError, Entry, Part, State, Subject, give_values, values_of

WARM_UP_STEPS = 200
"""Steps of g alone before the first step of f: a warm start brings an f that no g was fitted to."""

FINAL_RATE = 0.03
"""The learning rates fall along half a cosine to this share of where they start."""

UNTRAINED: Mapping[str, str] = {
    "output/bias": "a constant added to f or g changes neither gradient, and cancels between the expectations of V",
}
"""The trainable variables that are always left out, with the reason; `audit` finds these and any others by itself."""

_BETAS = (0.5, 0.9)
"""Decay rates of Adam's moments. Players of a minimax circle each other, and a long memory drives the circle wider."""

_VALIDATION_ROWS = 1000

Floats = NDArray[np.floating]


class Minimax:
    r"""One run of the minimax of Makkuva, Taghvaei, Oh, Lee (ICML 2020, arXiv 1908.10962).

    .. math::
        V(f, g) = E_Q[f(\nabla g(Y)) - \langle Y, \nabla g(Y) \rangle] - E_P[f(X)], \qquad
        \tfrac12 W_2^2(P, Q) = \max_{f\ \mathrm{convex}}\ \min_g V(f, g) + \tfrac12 E|X|^2 + \tfrac12 E|Y|^2

    At the saddle point the gradient of f maps source rows X ~ P to target rows Y ~ Q, and that of g maps them back.
    A step is `inner_steps` steps of g down the first expectation, plus the penalty of g's layers, through the second
    derivatives of g; then one step of f up V. In f's step the points grad g(Y) are held fixed: where g is at its
    minimum, the derivative through them is zero (the envelope theorem). f is projected onto non-negative kernels after
    every step, g is only drawn to them by its penalty; an f whose kernels are left to a penalty has it in its own step.
    A step whose gradient is not finite, or too large, is not taken: the weights stay the last finite ones.

    All of it happens in common standard units (`PotentialScaling`). The exported network holds an exponential average
    of f's weights over the steps, in which the circling of a minimax cancels; it keeps f's constraints, which are
    convex. The constant that V leaves open is fixed by f(source mean) = 0.

    Args:
        network: the potential to train, in place: a new one, or that of an earlier version.
        train: rows to fit.
        validation: rows to measure the maps on.
        settings: the `[trainer]` section.
        objective: the `[objective]` section.
        compiled: whether steps are compiled; else they run as Python, operation by operation, for a look inside.
    """

    names = ("half_w2_squared", "w2_squared")
    keeps_best = False
    """Two samples of a few rows are far apart even where their distributions are equal, and nearest to each other
    under a map that shrinks: their distance is a curve to look at, not a judge between steps."""

    def __init__(
        self,
        network: InputConvexNetwork,
        train: Samples,
        validation: Samples,
        settings: TrainerConfig,
        objective: ObjectiveConfig,
        *,
        compiled: bool = True,
    ) -> None:
        self.network = network
        config = network.get_config()
        self.f = type(network).from_config({**config, "name": "f"})
        self.f.set_weights(network.get_weights())
        seed, penalty = network.seed + 1, objective.penalty
        self.g = PenalizedNetwork.from_config({**config, "name": "g", "seed": seed, "regularizer_constant": penalty})
        self._units = network.units
        self.g.set_units(self._units.swapped())
        self._settings, self._objective = settings, objective
        self._generator = np.random.default_rng(settings.seed)
        self._u, self._v = self._standard(train)
        self._squares = sum(float(np.mean(np.sum(rows.astype(np.float64) ** 2, axis=1))) for rows in (self._u, self._v))
        rows = min(_VALIDATION_ROWS, len(validation.source), len(validation.target))
        self._seen = self._standard(Samples(self._some(validation.source, rows), self._some(validation.target, rows)))
        self._batch = min(settings.batch, len(self._u), len(self._v))
        self._steps = 0
        self._largest = {"f": 0.0, "g": 0.0}
        self._left_out = {name: frozenset(UNTRAINED) for name in ("f", "g")}
        self._compiled = partial(tf.function, autograph=False) if compiled else _as_it_is
        self._make_steps()

    def subject(self) -> Subject:
        """Return V with its two networks, on batches of the training rows in standard units."""

        def draw(generator: np.random.Generator, rows: int) -> tuple[Any, ...]:
            return tuple(tf.constant(side[generator.integers(0, len(side), rows)]) for side in (self._u, self._v))

        networks = {"f": self.f, "g": self.g}
        entries = {"f": Entry.DIFFERENCE, "g": Entry.SLOPE}
        parts = tuple(Part(networks[name], networks[name].standard_score, entries[name]) for name in networks)
        left_out = tuple(f"{name}/{path}" for name, paths in self._left_out.items() for path in sorted(paths))
        return Subject(parts, self._value_of, draw, left_out, self._standard)

    def leave_out(self, paths: Collection[str]) -> None:
        """Take variables out of training, such as `f/hidden_1/bias`; what is exported keeps their start."""
        before = dict(self._left_out)
        for name in self._left_out:
            self._left_out[name] |= {local for path in paths for of, _, local in [path.partition("/")] if of == name}
        if self._left_out != before:
            self._make_steps()

    def start_loss(self) -> float:
        """Fit g to the f of the start; return the estimate of W2^2 / 2 before any step of f.

        Raises:
            DivergenceError: as `step`.
            MissingGradientError: V does not reach a variable of g that is to be trained.
        """
        self._checked(g=self._descend(self._draw(self._v, WARM_UP_STEPS)))
        return self._half_w2_squared(float(self._value(self._draw(self._u), self._draw(self._v))))

    def step(self) -> float:
        """Take `inner_steps` steps of g and one of f; return the estimate of W2^2 / 2 on the batch of f.

        Raises:
            DivergenceError: the norm of a gradient is not finite, or above `objective.max_gradient_norm`.
            MissingGradientError: V does not reach a variable of f that is to be trained.
        """
        self._steps += 1
        norm_g = self._descend(self._draw(self._v, self._objective.inner_steps))
        keep = min(self._objective.averaging, self._steps / (10.0 + self._steps))
        value, norm_f = self._ascend(self._draw(self._u), self._draw(self._v), tf.constant(keep, tf.float32))
        self._checked(f=norm_f, g=norm_g)
        return self._half_w2_squared(float(value))

    def validation(self) -> Mapping[str, float]:
        """Return how well the maps do on validation rows, and the state of the run.

        `w2_squared`: exact squared Wasserstein-2 distance between mapped source rows and target rows, in the samples'
        units; `inverse_w2_squared`: the same for target rows mapped by g, and source rows; `penalty` of g;
        `gradient_norm_f`, `gradient_norm_g`: the largest since the validation before, in standard units.

        Raises:
            DivergenceError: a map left the finite numbers.
        """
        self._fix_constant()
        u, v = self._seen
        found = {
            "w2_squared": self._distance(self._map(u), v, "the map"),
            "inverse_w2_squared": self._distance(self._inverse(v), u, "the inverse map"),
            "penalty": self._penalty(),
            **{f"gradient_norm_{name}": norm for name, norm in self._largest.items()},
        }
        self._largest = dict.fromkeys(self._largest, 0.0)
        return found

    def weights(self) -> list[Floats]:
        """Return the weights of the network that is exported."""
        found: list[Floats] = self.network.get_weights()
        return found

    def restore(self, weights: Sequence[Floats]) -> None:
        """Give the network that is exported these weights."""
        self.network.set_weights(weights)

    def state(self) -> State:
        """Return the variables of f, g, their average and their optimisers, the generator, and the counters."""
        arrays = [values_of(name, variables) for name, variables in self._changing().items()]
        numbers = {"generator": self._generator.bit_generator.state, "steps": self._steps, "largest": self._largest}
        return State({name: value for values in arrays for name, value in values.items()}, numbers)

    def resume(self, state: State) -> None:
        """Go on from there."""
        for name, variables in self._changing().items():
            give_values(name, variables, state.arrays)
        self._generator.bit_generator.state = state.numbers["generator"]
        self._steps = int(state.numbers["steps"])
        self._largest = {name: float(norm) for name, norm in state.numbers["largest"].items()}

    def _changing(self) -> dict[str, Sequence[Any]]:
        """Return all variables, by what they belong to."""
        networks = {"network": self.network.variables, "f": self.f.variables, "g": self.g.variables}
        return {**networks, **{f"optimizer_{name}": one.variables for name, one in self._optimizers.items()}}

    def verify(self) -> None:
        """Refuse a network that need not be convex (NegativeWeightError)."""
        self.f.verify()
        self.network.verify()

    # ------------------------------------------------------------------------------------------------ compiled parts
    def _make_steps(self) -> None:
        """Make the optimisers, and the steps as compiled functions of rows in standard units.

        Without autograph, which would hide a `MissingGradientError` in an error of its own.
        """
        steps = {"f": self._settings.steps}
        steps["g"] = WARM_UP_STEPS + self._settings.steps * self._objective.inner_steps
        self._optimizers = {name: self._optimizer(name, count) for name, count in steps.items()}
        rows = tf.TensorSpec((None, self.network.dim), tf.float32)
        batches = tf.TensorSpec((None, self._batch, self.network.dim), tf.float32)
        share = tf.TensorSpec((), tf.float32)
        compiled = self._compiled
        self._descend = compiled(self._descend_g, input_signature=[batches])
        self._ascend = compiled(self._ascend_f, input_signature=[rows, rows, share])
        self._value = compiled(self._value_of, input_signature=[rows, rows])
        self._map = compiled(partial(input_gradient, self.network.standard_score), input_signature=[rows])
        self._inverse = compiled(partial(input_gradient, self.g.standard_score), input_signature=[rows])

    def _descend_g(self, batches: Any) -> Any:
        """Take one step of g for each batch of target rows; return the largest norm of a gradient."""
        variables = self._trained("g")

        def step(largest: Any, v: Any) -> Any:
            with tf.GradientTape() as tape:
                x = input_gradient(self.g.standard_score, v)
                loss = ops.mean(self.f.standard_score(x) - ops.sum(v * x, axis=-1)) + sum(self.g.losses)
            return tf.maximum(largest, self._apply("g", tape.gradient(loss, variables), variables))

        return tf.foldl(step, batches, tf.constant(0.0))

    def _ascend_f(self, u: Any, v: Any, keep: Any) -> Any:
        """Take one step of f and move the average towards it; return V before it, and the norm of its gradient."""
        variables = self._trained("f")
        x = tf.stop_gradient(input_gradient(self.g.standard_score, v))
        with tf.GradientTape() as tape:
            loss = ops.mean(self.f.standard_score(u)) - ops.mean(self.f.standard_score(x))
            penalised = loss + sum(self.f.losses) if self.f.losses else loss
        norm = self._apply("f", tape.gradient(penalised, variables), variables)
        keep = tf.where(norm <= self._objective.max_gradient_norm, keep, 1.0)  # a step not taken is not averaged
        for average, variable in zip(self._trained("f", self.network), variables, strict=True):
            average.assign(keep * average + (1.0 - keep) * variable)
        return -loss - ops.mean(ops.sum(v * x, axis=-1)), norm

    def _apply(self, name: str, gradients: Sequence[Any], variables: Sequence[Any]) -> Any:
        """Take one optimiser step, unless the gradient is too large or no number; return the gradient's norm."""
        gradients = required(gradients, variables)
        norm = tf.linalg.global_norm(gradients)

        def move() -> Any:
            self._optimizers[name].apply(gradients, variables)
            return tf.constant(True)

        tf.cond(norm <= self._objective.max_gradient_norm, move, lambda: tf.constant(False))
        return norm

    def _value_of(self, u: Any, v: Any) -> Any:
        """Return V on rows u, v."""
        return minimax_value(self.f.standard_score, self.g.standard_score, u, v)

    # ------------------------------------------------------------------------------------------------------- helpers
    def _trained(self, name: str, network: Any = None) -> list[Any]:
        """Return the variables of f or g that are trained, or those of another network at the same places."""
        variables = (network or getattr(self, name)).trainable_variables
        return [variable for variable in variables if variable.path.partition("/")[2] not in self._left_out[name]]

    def _optimizer(self, name: str, steps: int) -> Any:
        """Return Adam with its state made, for so many steps of f or g."""
        rate = keras.optimizers.schedules.CosineDecay(self._settings.learning_rate, steps, alpha=FINAL_RATE)
        optimizer = keras.optimizers.Adam(rate, beta_1=_BETAS[0], beta_2=_BETAS[1])
        optimizer.build(self._trained(name))
        return optimizer

    def _standard(self, samples: Samples) -> tuple[Floats, Floats]:
        """Return source and target rows in standard units, float32."""
        units = self._units
        sides = ((samples.source, units.source_mean), (samples.target, units.target_mean))
        first, second = (((table.x - mean) / units.scale).astype(np.float32) for table, mean in sides)
        return first, second

    def _some(self, table: Table, rows: int) -> Table:
        """Return that many rows of a table."""
        mask = np.zeros(len(table), np.bool_)
        mask[self._generator.permutation(len(table))[:rows]] = True
        return table.take(mask)

    def _draw(self, rows: Floats, batches: int | None = None) -> Any:
        """Return a batch of rows drawn with replacement, [batch, d], or that many of them, [batches, batch, d]."""
        shape = (self._batch,) if batches is None else (batches, self._batch)
        return tf.constant(rows[self._generator.integers(0, len(rows), shape)])

    def _half_w2_squared(self, value: float) -> float:
        """Return the estimate of W2^2 / 2, in the samples' units, that goes with V in standard units."""
        shift = float(np.sum((self._units.source_mean.astype(np.float64) - self._units.target_mean) ** 2))
        return self._units.scale**2 * (value + 0.5 * self._squares) + 0.5 * shift

    def _distance(self, mapped: Any, rows: Floats, what: str) -> float:
        """Return W2^2 between mapped rows and rows, in the samples' units."""
        points = mapped.numpy()
        if not np.isfinite(points).all():
            raise DivergenceError(self._steps, what, math.nan)
        return self._units.scale**2 * w2_squared(points, rows)

    def _penalty(self) -> float:
        """Return the penalty of g's layers, which a call of theirs adds."""
        self.g.standard_score(tf.zeros((1, self.g.dim)))
        return sum(float(loss) for loss in self.g.losses)

    def _fix_constant(self) -> None:
        """Give the exported network the output bias with which it is 0 at the source mean."""
        bias = self.network.constrained[-1].bias
        bias.assign(bias - self.network.standard_score(tf.zeros((1, self.network.dim))))

    def _checked(self, **norms: Any) -> None:
        """Refuse gradients that are too large, or no numbers; keep the largest for the curves."""
        for name, tensor in norms.items():
            norm = float(tensor)
            if not norm <= self._objective.max_gradient_norm:
                limit = f"objective.max_gradient_norm is {self._objective.max_gradient_norm:g}"
                raise DivergenceError(self._steps, f"the norm of the gradient of {name}", norm, limit)
            self._largest[name] = max(self._largest[name], norm)


def minimax_value(f: Callable[[Any], Any], g: Callable[[Any], Any], u: Any, v: Any) -> Any:
    """Return V(f, g) of two functions, rows to scores [n], on source rows u [n, d] and target rows v [m, d]."""
    x = input_gradient(g, v)
    first = ops.mean(f(x) - ops.sum(v * x, axis=-1))
    return first - ops.mean(f(u))


def _as_it_is(function: Callable[..., Any], **_: Any) -> Callable[..., Any]:
    return function
