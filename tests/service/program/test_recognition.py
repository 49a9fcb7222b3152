"""Expressions of plain TensorFlow and Keras, lifted in memory: recognised, proved and equal, or refused in words."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from service.errors import VersionRefusedError
from service.program.curvature import prove
from service.program.evaluation import evaluate_both
from service.program.program import AtomNode, LogSumExpNode, Program
from tests.service.program.functions import lifted, score_of, total

ops = keras.ops
KERNEL = np.random.default_rng(1).standard_normal((3, 4)).astype(np.float32)
ALPHAS = np.array([0.0, 1.0, 0.3, 0.7], np.float32)
ABOVE = float(np.nextafter(np.float32(1), np.float32(2)))
BETAS = np.array([0.1, 1.0, 0.3, 7.0], np.float32)
ROWS = np.random.default_rng(5).standard_normal((64, 3)).astype(np.float32) * 2
Function = Callable[[Any], Any]


def affine(x: Any) -> Any:
    """Return an affine map [n, 4] of the row."""
    return x @ KERNEL - 0.5


def convex(x: Any) -> Any:
    """Return a convex function [n, 4] of the row, from -1 on."""
    return tf.nn.softplus(x @ KERNEL) - 1.0


def positive(x: Any) -> Any:
    """Return a convex function [n, 4] of the row that is never negative."""
    return tf.nn.softplus(x @ KERNEL)


def prelu(u: Any, alphas: Any = ALPHAS) -> Any:
    """Return Keras' PReLU, as its layer writes it."""
    return tf.nn.relu(u) + (-alphas) * tf.nn.relu(-u)


def stable_softplus(u: Any) -> Any:
    """Return max(u, 0) + log(1 + exp(-|u|))."""
    return tf.maximum(u, 0.0) + tf.math.log1p(tf.exp(-tf.abs(u)))


def huber(u: Any, delta: float = 1.0) -> Any:
    """Return Huber's function as TensorFlow's loss writes it: continuous for every delta."""
    quadratic = tf.minimum(tf.abs(u), delta)
    return 0.5 * quadratic * quadratic + delta * (tf.abs(u) - quadratic)


def chosen_huber(u: Any, delta: Any = 1.0) -> Any:
    """Return Huber's function as Keras writes it, by a choice."""
    return tf.where(tf.abs(u) <= delta, 0.5 * tf.square(u), delta * tf.abs(u) - 0.5 * tf.square(tf.constant(delta)))


RISING: dict[str, Function] = {
    "prelu": prelu,
    "leaky from two relus": lambda u: tf.nn.relu(u) - 0.3 * tf.nn.relu(-u),
    "leaky by choice": lambda u: tf.where(u > 0, u, 0.3 * u),
    "leaky by the other choice": lambda u: tf.where(tf.logical_not(u > 0), 0.3 * u, u),
    "leaky of alpha 1": lambda u: tf.where(u >= 0, u, 1.0 * u),
    "maximum with zero": lambda u: tf.maximum(0.0, u),
    "maximum with zeros": lambda u: tf.maximum(u, tf.zeros_like(u)),
    "floor": lambda u: tf.maximum(u, -2.5),
    "elu of half": lambda u: ops.elu(u, 0.5),
    "elu of 1": lambda u: ops.elu(u, 1.0),
    "celu": ops.celu,
    "celu of 2": lambda u: ops.celu(u, 2.0),
    "celu of each feature": lambda u: tf.maximum(u, 0.0) + BETAS * tf.math.expm1(tf.minimum(u, 0.0) / BETAS),
    "product of two": lambda u: u * tf.nn.relu(u),
    "stable softplus": stable_softplus,
    "softplus with beta": lambda u: tf.nn.softplus(3.0 * u) / 3.0,
    "plain softplus": lambda u: tf.math.log1p(tf.exp(u)),
    "plainer softplus": lambda u: tf.math.log(1.0 + tf.exp(u)),
    "minus log sigmoid": lambda u: -ops.log_sigmoid(-u),
    "logaddexp with 0": lambda u: ops.logaddexp(u, 0.0 * u),
    "squareplus": lambda u: ops.squareplus(u, 4),
    "smooth leaky": lambda u: 0.2 * u + 0.8 * ops.softplus(4.0 * u) / 4.0,
    "sparse plus": ops.sparse_plus,
    "expm1": tf.math.expm1,
    "three slopes": lambda u: tf.where(u > 1.0, 3.0 * u - 2.0, tf.where(u > 0.0, u, 0.5 * u)),
    "log of a sum of exponentials": lambda u: tf.math.log(tf.reduce_sum(tf.exp(u), -1, keepdims=True)),
    "log-sum-exp": lambda u: tf.reduce_logsumexp(u, -1, keepdims=True),
    "log-sum-exp of Keras": lambda u: ops.logsumexp(u, -1, keepdims=True),
    "logaddexp of two": lambda u: ops.logaddexp(u, 2.0 * u + 1.0),
}  # fmt: skip
"""Convex and never falling: on affine and on convex arguments."""

FALLING: dict[str, Function] = {
    "absolute value by maximum": lambda u: tf.maximum(u, -u),
    "absolute value by relus": lambda u: tf.nn.relu(u) + tf.nn.relu(-u),
    "leaky falling": lambda u: tf.where(u > 0, u, -0.3 * u),
    "huber": huber,
    "huber with delta": lambda u: huber(u, 0.7),
    "huber by choice": chosen_huber,
    "huber by two choices": lambda u: tf.where(u > 1.0, 2 * u - 1, tf.where(u < -1.0, -2 * u - 1, u * u)),
    "log cosh": lambda u: u + ops.softplus(-2.0 * u) - ops.log(tf.constant(2.0)),
    "stable log cosh": lambda u: tf.abs(u) + tf.math.log1p(tf.exp(-2.0 * tf.abs(u))) - 0.6931472,
    "pseudo huber": lambda u: 4.0 * (tf.sqrt(1.0 + tf.square(u / 2.0)) - 1.0),
    "rounded absolute value": lambda u: tf.sqrt(u * u + 1e-6),
    "root of a square": lambda u: tf.sqrt(tf.square(u)),
    "logistic loss": lambda u: tf.nn.sigmoid_cross_entropy_with_logits(0.3 + 0.0 * u, u),
    "dead zone": lambda u: tf.maximum(tf.abs(u) - 0.5, 0.0),
    "fourth power": lambda u: tf.pow(u, 4.0),
    "squared difference": lambda u: tf.math.squared_difference(u, 1.0),
    "norm": lambda u: tf.norm(u, axis=-1, keepdims=True),
    "norm with epsilon": lambda u: tf.sqrt(tf.reduce_sum(tf.square(u), -1, keepdims=True) + 1e-3),
    "norm of Keras": lambda u: ops.norm(u, axis=-1, keepdims=True),
}  # fmt: skip
"""Convex, and falling somewhere on [-1, inf): on affine arguments, and on those never negative where they rise."""

RISING_ABOVE_ZERO = sorted(set(FALLING) - {"logistic loss", "squared difference"})


def proved(function: Function, inner: Function) -> Program:
    """Return the proved program of the sum of function(inner(x)), which must be TensorFlow's function."""

    def score(x: Any) -> Any:
        return total(function(inner(x)))

    program = lifted(score)
    prove(program)
    expected = score_of(score)(ROWS)
    received = evaluate_both(program, ROWS)[0]
    np.testing.assert_allclose(received, expected, rtol=0, atol=1e-6 * np.abs(expected).max())
    return program


def rule(function: Function, inner: Function) -> tuple[str, str]:
    """Return rule and reason of the refusal of the sum of function(inner(x))."""
    with pytest.raises(VersionRefusedError) as caught:
        prove(lifted(lambda x: total(function(inner(x)))))
    return caught.value.rule, caught.value.reason


@pytest.mark.parametrize("inner", [affine, convex])
@pytest.mark.parametrize("name", RISING)
def test_rising_form_is_proved_and_is_tensorflows_function(name: str, inner: Function) -> None:
    """Of affine and of convex arguments it is convex, and the program computes what TensorFlow does."""
    proved(RISING[name], inner)


@pytest.mark.parametrize("name", FALLING)
def test_falling_form_is_proved_of_affine_arguments_alone(name: str) -> None:
    """It is convex of affine arguments, and refused of a convex one that may lie where it falls."""
    proved(FALLING[name], affine)
    received, _ = rule(FALLING[name], convex)
    assert received in {"atom-nondecreasing", "nonneg-scale"}


@pytest.mark.parametrize("name", RISING_ABOVE_ZERO)
def test_falling_form_is_proved_of_convex_arguments_that_are_never_negative(name: str) -> None:
    """From 0 on it rises, and the interval of softplus starts there."""
    proved(FALLING[name], positive)


def test_log_sum_exp_of_two_functions_is_one_node() -> None:
    """Of an affine and a convex function logaddexp is one node, and of a sum of more features one for each run."""
    two = proved(lambda u: ops.logaddexp(u, tf.nn.softplus(u[:, ::-1]) - 1.0), affine)
    runs = proved(lambda u: tf.reduce_logsumexp(tf.reshape(u, [-1, 2, 2]), axis=1), convex)
    for program, width in ((two, 4), (runs, 2)):
        assert [width] == [node.width for node in program.nodes if isinstance(node, LogSumExpNode)]
    with pytest.raises(VersionRefusedError) as caught:
        prove(lifted(lambda x: total(ops.logaddexp(affine(x), -positive(x)[:, ::-1]))))
    assert "nonneg-scale" == caught.value.rule


REFUSED: dict[str, tuple[Function, str, str]] = {
    "elu above 1": (lambda u: ops.elu(u, 2.0), "atom-convex", "slope falls from 2 to 1 at 0"),
    "elu just above 1": (lambda u: ops.elu(u, ABOVE), "atom-convex", "falls from 1 to 1 at 0"),
    "leaky just above 1": (lambda u: tf.where(u < 0, ABOVE * u, u) + tf.square(u), "atom-convex", "falls from 1 to 1"),
    "prelu above 1": (lambda u: prelu(u, ALPHAS + np.float32(0.5)), "atom-convex", "slope falls from 1.5 to 1 at 0"),
    "selu": (ops.selu, "atom-convex", "slope falls from 1.7581 to 1.0507 at 0"),
    "relu6": (tf.nn.relu6, "atom-convex", "slope falls from 1 to 0 at 6"),
    "relu with a cap": (keras.layers.ReLU(max_value=3.0), "atom-convex", "slope falls from 1 to 0 at 3"),
    "relu with a threshold": (keras.layers.ReLU(threshold=1.0), "not-lifted", "differ by 1 at 1"),
    "hard tanh": (ops.hard_tanh, "atom-convex", "slope falls from 1 to 0 at 1"),
    "hard sigmoid": (ops.hard_sigmoid, "atom-convex", "slope falls"),
    "soft shrink": (ops.soft_shrink, "atom-convex", "slope falls from 1 to 0 at -0.5"),
    "hard shrink": (ops.hard_shrink, "not-lifted", "differ by"),
    "clipped": (lambda u: tf.clip_by_value(u, -1.0, 1.0), "atom-convex", "slope falls from 1 to 0 at 1"),
    "softplus by choice": (
        lambda u: tf.where(u > 20.0, u, tf.math.log1p(tf.exp(u))), "not-lifted", "differ by -2.06e-09 at 20"
    ),
    "huber with a rounded delta": (lambda u: chosen_huber(u, 0.7), "not-lifted", "differ by -1.79e-09 at -0.7"),
    "parabola with a jump": (
        lambda u: tf.where(u > 1.0, 2.0 * u - 1.0000001, u * u), "not-lifted", "differ by -1.19e-07 at 1"
    ),
    "choice by another function": (
        lambda u: tf.where(u[:, ::-1] > 0, u, 0.3 * u), "not-lifted", "joins several functions"
    ),
    "choice of a sign": (lambda u: tf.where(u > 0, 1.0, -1.0), "not-lifted", "differ by 2 at 0"),
    "choice beside the kink": (lambda u: tf.where(u > 1e-30, u, 0.3 * u), "not-lifted", "where the choice changes"),
    "sigmoid": (ops.sigmoid, "not-lifted", "sigmoid, which is neither convex nor concave"),
    "tanh": (ops.tanh, "not-lifted", "tanh, which is neither"),
    "softsign": (ops.softsign, "not-lifted", "softsign, which is neither"),
    "silu": (ops.silu, "not-lifted", "sigmoid"),
    "gelu": (ops.gelu, "not-lifted", "tanh"),
    "exact gelu": (lambda u: ops.gelu(u, approximate=False), "not-lifted", "error function"),
    "product of other two": (lambda u: u * tf.nn.softplus(u), "not-lifted", "not both piecewise affine"),
    "product that bends": (lambda u: u * tf.nn.relu(-u), "atom-convex", "bends downward"),
    "quotient of two": (lambda u: u / (1.0 + tf.abs(u)), "not-lifted", "divides by something"),
    "cube": (lambda u: u**3, "atom-convex", "known to be positive"),
    "power of a third": (lambda u: tf.pow(u, 1.5), "not-lifted", "whole exponents"),
    "reciprocal": (lambda u: 1.0 / u, "atom-convex", "known to be positive"),
    "logarithm": (tf.math.log, "atom-convex", "concave"),
    "root of a sum": (lambda u: tf.sqrt(tf.reduce_sum(u, -1, keepdims=True)), "atom-convex", "concave"),
    "minimum": (lambda u: tf.minimum(u, 0.5 * u), "nonneg-scale", "negative entries"),
    "log sigmoid": (ops.log_sigmoid, "nonneg-scale", "negative entries"),
    "log-sum-exp with another shift": (
        lambda u: tf.math.log(tf.reduce_sum(tf.exp(u - tf.reduce_max(u, -1, keepdims=True)), -1, keepdims=True))
        + 2.0 * tf.reduce_max(u, -1, keepdims=True), "nonneg-matmul", ""
    ),
    "a mask of what overflowed": (
        lambda u: tf.where(tf.math.is_finite(tf.exp(u)), u, -u), "not-lifted", "finite"
    ),
    "comparison as a number": (lambda u: tf.cast(u > 0, tf.float32) * u, "not-lifted", "compares numbers"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_form_that_is_not_convex_is_refused_with_its_reason(name: str) -> None:
    """The rule is named, and the words say what was seen and where."""
    function, expected, words = REFUSED[name]
    received, reason = rule(function, affine)
    assert expected == received, reason
    assert words in reason


def test_recognised_form_is_one_atom_with_a_text_of_its_own() -> None:
    """Two spellings of leaky give one program, and another slope another."""
    texts = [
        proved(function, affine).text
        for function in (RISING["leaky from two relus"], RISING["leaky by choice"], RISING["leaky by the other choice"])
    ]
    assert 1 == len(set(texts))
    assert texts[0] != proved(lambda u: tf.where(u > 0, u, 0.31 * u), affine).text
    atoms = [node.atom.name for node in proved(prelu, affine).nodes if isinstance(node, AtomNode)]
    assert ["piecewise"] == atoms


def test_form_that_needs_no_recognition_keeps_its_nodes() -> None:
    """Programs of atoms and maxima that the rules know stay as they were, in text and in hash."""
    program = lifted(lambda x: total(tf.maximum(affine(x), 0.2 * affine(x)) + tf.nn.softplus(affine(x))))
    assert ["maximum", "softplus"] == sorted(
        getattr(getattr(node, "atom", None), "name", "maximum")
        for node in program.nodes
        if hasattr(node, "arguments") or hasattr(node, "atom")
    )


def test_gradient_of_a_recognised_form_is_tensorflows_away_from_kinks() -> None:
    """Reverse mode through piecewise atoms, log-sum-exp and norms gives the gradient that TensorFlow gives."""
    for name in ("prelu", "elu of half", "squareplus", "log-sum-exp", "logaddexp of two"):
        compare_gradients(RISING[name])
    for name in ("huber", "pseudo huber", "norm", "fourth power"):
        compare_gradients(FALLING[name])


def compare_gradients(function: Function) -> None:
    """Require TensorFlow's gradient of function(affine(x))."""

    def score(x: Any) -> Any:
        return total(function(affine(x)))

    x = tf.constant(ROWS)
    with tf.GradientTape() as tape:
        tape.watch(x)
        value = score(x)
    expected = tape.gradient(value, x).numpy()
    received = evaluate_both(lifted(score), ROWS)[1]
    np.testing.assert_allclose(received, expected, rtol=0, atol=2e-6 * np.abs(expected).max())


def test_norm_has_gradient_zero_where_it_vanishes() -> None:
    """At the origin TensorFlow's own gradient is no number; ours is 0, a subgradient."""
    program = lifted(lambda x: total(tf.norm(x, axis=-1, keepdims=True)))
    score, gradient = evaluate_both(program, np.zeros((1, 3), np.float32))
    assert ([0.0], [[0.0, 0.0, 0.0]]) == (score.tolist(), gradient.tolist())


def test_log_sum_exp_stays_finite_where_plain_sums_overflow() -> None:
    """At 1e4 the exponential leaves the floats, and log-sum-exp is the largest argument."""
    program = lifted(lambda x: tf.reduce_logsumexp(x, -1))
    score, gradient = evaluate_both(program, np.array([[1e4, 0, -1e4], [1e4, 1e4, 0]], np.float32))
    np.testing.assert_allclose(score, [1e4, 1e4 + np.log(2)])
    np.testing.assert_allclose(gradient, [[1, 0, 0], [0.5, 0.5, 0]])
