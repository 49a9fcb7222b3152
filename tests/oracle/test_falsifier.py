"""The falsifier's own control: it refutes functions that are not convex by construction, and no convex one."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.oracle.falsifier import falsify
from tests.service.program.programs import closed_form, draw_weights, sigmoid

Array = NDArray[np.float64]
Function = Callable[[Array], Array]
DIM = 6
ANCHORS = np.random.default_rng(31).standard_normal((200, DIM)) * np.array([1, 2, 0.5, 1, 3, 1]) + 1.0
MUTANTS = 200


def convex(seed: int) -> tuple[Function, Function]:
    """Return score and gradient of a random input-convex network without its quadratic part."""
    weights = draw_weights(seed, DIM, (12, 8))
    weights = type(weights)(**{**vars(weights), "quadratic": np.zeros(DIM, np.float32)})
    return lambda x: closed_form(weights, x)[0], lambda x: closed_form(weights, x)[1]


def unit(generator: np.random.Generator) -> Array:
    """Return a random direction."""
    direction = generator.standard_normal(DIM)
    return direction / np.linalg.norm(direction)


def minus_square(f: Function, v: Array, g: np.random.Generator) -> Function:
    """Subtract a square: far out, where softplus is straight, the curvature along v is negative."""
    strength = 10 ** g.uniform(-2, 0)
    return lambda x: f(x) - strength * (x @ v) ** 2


def minus_softplus(f: Function, v: Array, g: np.random.Generator) -> Function:
    """Subtract a softplus: along v the slope falls by 1.5 to 10 times what the network's rises."""
    far = 1e5 * np.array([[-2.0], [-1.0], [1.0], [2.0]]) * v
    values = f(far)
    rise = ((values[3] - values[2]) - (values[1] - values[0])) / 1e5
    strength = rise * 10 ** g.uniform(np.log10(1.5), 1)
    return lambda x: f(x) - strength * np.logaddexp(0, x @ v - 1)


def sine(f: Function, v: Array, g: np.random.Generator) -> Function:
    """Add a wave: far out its curvature of both signs is all there is."""
    frequency, height = 10 ** g.uniform(-0.5, 1), 10 ** g.uniform(-1, 1)
    return lambda x: f(x) + height * np.sin(frequency * (x @ v))


def minimum(f: Function, v: Array, g: np.random.Generator) -> Function:
    """Take the minimum of two functions that cross: a kink that points up."""
    level = float(np.median(f(ANCHORS)))
    slope = 10 ** g.uniform(0, 1)
    return lambda x: np.minimum(f(x), level + slope * (x - ANCHORS.mean(axis=0)) @ v)


def saddle(f: Function, _v: Array, g: np.random.Generator) -> Function:
    """Add a product of two features: curvature of both signs, and the network's fades far out."""
    i, j = g.choice(DIM, 2, replace=False)
    strength = 10 ** g.uniform(-1.5, 0.5)
    return lambda x: f(x) + strength * x[:, i] * x[:, j]


def saturated(f: Function, _v: Array, g: np.random.Generator) -> Function:
    """Put a sigmoid on top: bounded and not constant, so not convex."""
    center, width = float(np.median(f(ANCHORS))), float(f(ANCHORS).std()) * 10 ** g.uniform(-0.5, 1)
    return lambda x: 10 * sigmoid((f(x) - center) / width)


def stepped(f: Function, _v: Array, g: np.random.Generator) -> Function:
    """Round the score to multiples of a hundredth to a tenth of its spread: jumps."""
    step = float(f(ANCHORS).std()) * 10 ** g.uniform(-2, -1)
    return lambda x: step * np.round(f(x) / step)


def negated(f: Function, _v: Array, _g: np.random.Generator) -> Function:
    """Turn the network over: concave and not straight."""
    return lambda x: -f(x)


def dented(f: Function, _v: Array, g: np.random.Generator) -> Function:
    """Subtract a bump deeper than the network's curvature can hide, as wide as the data or a fifth of it."""
    center, width = ANCHORS[g.integers(len(ANCHORS))], 10 ** g.uniform(-0.7, 0.3)
    return lambda x: f(x) + 10 * np.exp(-(((x - center) / width) ** 2).sum(axis=1))


def negative_layer(_f: Function, _v: Array, g: np.random.Generator) -> Function:
    """Give the last kernel the other sign and nothing else: an affine function less a convex one."""
    weights = draw_weights(int(g.integers(1000)), DIM, (12, 8))
    zero = np.zeros(DIM, np.float32)
    weights = type(weights)(**{**vars(weights), "quadratic": zero, "last_kernel": -weights.last_kernel})
    return lambda x: closed_form(weights, x)[0]


KINDS = [
    minus_square, minus_softplus, sine, minimum, saddle, saturated, stepped, negated, dented, negative_layer,
]  # fmt: skip


def test_falsifier_refutes_functions_that_are_not_convex_by_construction() -> None:
    """Of 200 mutants of ten kinds it refutes at least 95 %, without any gradient."""
    survivors: list[str] = []
    for number in range(MUTANTS):
        kind = KINDS[number % len(KINDS)]
        generator = np.random.default_rng([32, number])
        mutant = kind(convex(number)[0], unit(generator), generator)
        if falsify(mutant, None, ANCHORS, pairs=4000, seed=number) is None:
            survivors.append(kind.__name__)
    assert len(survivors) <= MUTANTS // 20, (
        survivors
    )  # three of the 200, dents a fifth as wide as the data, when this was written


GRADIENTS: dict[str, Callable[[Array], Array]] = {
    "scaled": lambda g: 1.05 * g,
    "negated": lambda g: -g,
    "zero": lambda g: 0 * g,
    "of another feature": lambda g: np.roll(g, 1, axis=1),
}


@pytest.mark.parametrize("name", GRADIENTS)
def test_falsifier_refutes_a_gradient_that_is_no_subgradient(name: str) -> None:
    """A convex score with a wrong gradient is refuted by a supporting hyperplane."""
    score, gradient = convex(1)
    found = falsify(score, lambda x: GRADIENTS[name](gradient(x)), ANCHORS, pairs=2000)
    assert found is not None
    assert found.kind in {"hyperplane", "monotonicity"}


CONVEX: dict[str, tuple[Function, Function | None]] = {
    **{f"network {seed}": convex(seed) for seed in range(4)},
    "norm": (lambda x: np.linalg.norm(x, axis=1), None),
    "largest feature": (lambda x: x.max(axis=1), lambda x: np.eye(DIM)[x.argmax(axis=1)]),
    "log-sum-exp": (lambda x: np.logaddexp.reduce(x, axis=1), None),
    "linear": (lambda x: x @ np.arange(DIM), lambda x: np.tile(np.arange(DIM), (len(x), 1))),
    "square": (lambda x: (x * x).sum(axis=1), lambda x: 2 * x),
}


@pytest.mark.parametrize("name", CONVEX)
def test_falsifier_refutes_no_convex_function(name: str) -> None:
    """Convex by theory: no counterexample, in float64 and with scores and gradients rounded to float32."""
    score, gradient = CONVEX[name]

    def rounded(function: Any) -> Any:
        return lambda x: function(x).astype(np.float32).astype(np.float64)

    assert falsify(score, gradient, ANCHORS, pairs=10_000) is None
    assert falsify(rounded(score), None if gradient is None else rounded(gradient), ANCHORS, pairs=10_000) is None


def test_gradients_that_turn_back_refute_where_the_scores_alone_do_not() -> None:
    """A gradient that falls along a line is refuted by its own monotonicity, whatever slack the scores need."""
    found = falsify(lambda x: 1e9 + 0 * x[:, 0], lambda x: -1e-3 * np.tanh(x), ANCHORS, pairs=2000)
    assert found is not None
    assert "monotonicity" == found.kind


def test_counterexample_is_one() -> None:
    """What is returned violates the inequality by more than the slack, by the definition itself."""

    def hill(x: Array) -> Array:
        return -(x * x).sum(axis=1)

    found = falsify(hill, None, ANCHORS, pairs=1000)
    assert found is not None
    assert "midpoint" == found.kind
    a, b, middle = (row[None, :] for row in found.rows)
    np.testing.assert_array_equal(middle, (a + b) / 2)
    assert hill(middle)[0] - (hill(a)[0] + hill(b)[0]) / 2 >= found.gap > 0
