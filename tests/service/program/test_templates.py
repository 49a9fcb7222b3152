"""Templates: a square is recognised as a squared leaky ReLU where it is exactly one, and nowhere else."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from numpy.typing import NDArray

from service.errors import VersionRefusedError
from service.program.atoms import Abs, Softplus, Square, SquaredLeaky, leaky_relu, relu, squared_leaky
from service.program.curvature import prove
from service.program.evaluation import evaluate_both
from service.program.operators import Dense, Divide, Identity, Operator, Scale
from service.program.program import AffineNode, AtomNode, InputNode, MaximumNode, Node, Program, Term
from service.program.templates import squared
from service.program.verification import Run, verify
from tests.oracle.falsifier import falsify

FIFTH = np.float32(0.2)
X, U, CU, LEAKY = 0, 1, 2, 3
ANCHORS = np.linspace(-3, 3, 13)[:, None]


def scale(*factors: float) -> Scale:
    """Return the diagonal map of float32 factors."""
    return Scale(np.array(factors, np.float32))


def by_hand(
    operator: Operator, *, order: tuple[int, int] = (U, CU), argument: int = U, bias: bool = False
) -> list[Node]:
    """Return the nodes of max(u, T(u)) for u = 2 x - 1 of two features; x and u are nodes 0 and 1."""
    return [
        InputNode(2),
        AffineNode(2, (Term(X, scale(2, 2)),), -np.ones(2, np.float32), "u"),
        AffineNode(2, (Term(argument, operator),), np.zeros(2, np.float32) if bias else None, "c u"),
        MaximumNode(2, order, "leaky"),
    ]


@pytest.mark.parametrize("alpha", [0.25, 0.0, 1.0, 1.5, -0.5, float(FIFTH)])
def test_square_of_a_leaky_relu_is_one_atom_of_its_argument(alpha: float) -> None:
    """The square of the atom reads the leaky ReLU's argument, with alpha to the last bit, whatever alpha is."""
    nodes = [InputNode(2), AtomNode(2, X, leaky_relu(alpha))]
    assert (X, squared_leaky(alpha)) == squared(nodes, 1)


@pytest.mark.parametrize("order", [(U, CU), (CU, U)])
@pytest.mark.parametrize("factor", [0.0, 5e-324, float(FIFTH), 1.0])
def test_square_of_a_maximum_by_hand_is_one_atom_when_the_factor_is_a_slope(
    order: tuple[int, int], factor: float
) -> None:
    """The square of max(u, c u), in either order, is the atom of u with alpha = c for c from 0 to 1."""
    assert (U, squared_leaky(factor)) == squared(by_hand(Scale(np.full(2, factor)), order=order), LEAKY)


NEAR = {
    "c above one": by_hand(Scale(np.full(2, np.nextafter(1.0, 2.0)))),
    "c below zero": by_hand(Scale(np.full(2, -5e-324))),
    "c that is NaN": by_hand(scale(np.nan, np.nan)),
    "one c for each feature": by_hand(scale(0.2, 0.3)),
    "another argument": by_hand(scale(0.2, 0.2), argument=X),
    "u twice": by_hand(scale(0.2, 0.2), order=(U, U)),
    "c u twice": by_hand(scale(0.2, 0.2), order=(CU, CU)),
    "maximum with the row": by_hand(scale(0.2, 0.2), order=(X, CU)),
    "a bias": by_hand(scale(0.2, 0.2), bias=True),
    "a matrix": by_hand(Dense(np.array([[0.2, 0], [0, 0.2]], np.float32))),
    "divided": by_hand(Divide(np.array([5, 5], np.float32))),
    "one more term": [
        *by_hand(scale(0.2, 0.2))[:CU],
        AffineNode(2, (Term(U, scale(0.2, 0.2)), Term(X, Identity()))),
        MaximumNode(2, (U, CU)),
    ],
    "softplus": [*by_hand(scale(0.2, 0.2))[:LEAKY], AtomNode(2, U, Softplus())],
    "absolute value": [*by_hand(scale(0.2, 0.2))[:LEAKY], AtomNode(2, U, Abs())],
    "affine": [*by_hand(scale(0.2, 0.2))[:LEAKY], AffineNode(2, (Term(U, scale(0.2, 0.2)),))],
}  # fmt: skip


@pytest.mark.parametrize("name", NEAR)
def test_square_of_anything_else_stays_a_square_of_its_own_argument(name: str) -> None:
    """A pattern that is nearly the leaky ReLU is none: another factor, argument, term, bias or atom."""
    assert isinstance(squared(NEAR[name], LEAKY)[1], Square)
    assert LEAKY == squared(NEAR[name], LEAKY)[0]


def program_of(*nodes: Node) -> Program:
    """Return the program of the square, as it is recognised, of the last node, summed over the features."""
    argument, atom = squared(nodes, len(nodes) - 1)
    width = nodes[-1].width
    square = AtomNode(width, argument, atom, "square")
    ones = Dense(np.ones((width, 1), np.float32), "a sum")
    return Program((*nodes, square, AffineNode(1, (Term(len(nodes), ones),), name="score")))


def one(*, convex: bool) -> list[Node]:
    """Return the nodes of x, or of |x| - 1, and its leaky ReLU of alpha 1/5."""
    inner: list[Node] = [AtomNode(1, X, Abs()), AffineNode(1, (Term(1, Identity()),), -np.ones(1, np.float32), "bowl")]
    nodes: list[Node] = [InputNode(1), *(inner if convex else [])]
    return [*nodes, AtomNode(1, len(nodes) - 1, leaky_relu(float(FIFTH)), "leaky")]


def convexity_refuted(program: Program) -> bool:
    """Return whether the falsifier refutes the program in float64."""
    return None is not falsify(
        lambda x: evaluate_both(program, x)[0], lambda x: evaluate_both(program, x)[1], ANCHORS, pairs=2000, exact=True
    )


def test_squared_leaky_relu_of_an_affine_argument_is_proved_and_not_refuted() -> None:
    """The first layer of the network may have it: one step of the proof, and no counterexample."""
    program = program_of(*one(convex=False))
    assert [("square", "convex-of-affine"), ("score", "nonneg-matmul")] == [
        (step.node, step.rule) for step in prove(program).steps if step.node != "leaky"
    ]
    assert not convexity_refuted(program)


def test_squared_leaky_relu_of_a_convex_argument_is_refused_and_refuted() -> None:
    """A hidden layer may not have it: with alpha = 1/5 of |x| - 1 it is 1/25 at 0 and 0 at -1 and 1."""
    program = program_of(*one(convex=True))
    score = evaluate_both(program, np.array([[-1.0], [0.0], [1.0]]))[0]
    np.testing.assert_allclose(score, [0, 0.04, 0], rtol=1e-6, atol=0)
    with pytest.raises(VersionRefusedError) as caught:
        prove(program)
    assert "atom-nondecreasing" == caught.value.rule
    assert caught.value.reason.startswith("node square: squared_leaky(0x1.99999a0000000p-3) is convex but falls")
    assert convexity_refuted(program)


def test_squared_maximum_of_two_functions_is_refused_and_refuted() -> None:
    """The square of max(x, (x - 10)/5) has a slope that falls from -1 to -5 at -5/2: no leaky ReLU, and not convex."""
    nodes: list[Node] = [
        InputNode(1),
        AffineNode(1, (Term(0, Identity()),), np.full(1, -10, np.float32)),
        AffineNode(1, (Term(1, Scale(np.full(1, FIFTH))),)),
        MaximumNode(1, (0, 2), "maximum"),
    ]
    program = program_of(*nodes)
    assert isinstance(program.nodes[4], AtomNode)
    assert Square().text == program.nodes[4].atom.text
    with pytest.raises(VersionRefusedError) as caught:
        prove(program)
    assert "atom-nondecreasing" == caught.value.rule
    assert convexity_refuted(program)


KERNEL = np.random.default_rng(4).standard_normal((3, 8)).astype(np.float32)
FORMS: dict[str, tuple[Callable[[Any], Any], list[Node]]] = {
    "leaky relu": (lambda u: tf.square(tf.nn.leaky_relu(u, alpha=0.2)), [AtomNode(8, 1, leaky_relu(float(FIFTH)))]),
    "relu": (lambda u: tf.square(tf.nn.relu(u)), [AtomNode(8, 1, relu())]),
    "by hand": (
        lambda u: tf.square(tf.maximum(u, 0.2 * u)),
        [AffineNode(8, (Term(1, Scale(np.full(8, FIFTH))),)), MaximumNode(8, (1, 2))],
    ),
    "by hand, reversed, times itself": (
        lambda u: tf.maximum(0.2 * u, u) * tf.maximum(0.2 * u, u),
        [AffineNode(8, (Term(1, Scale(np.full(8, FIFTH))),)), MaximumNode(8, (2, 1))],
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_recognised_form_is_tensorflows_function_within_the_tolerances_of_the_load(form: str) -> None:
    """In float32 TensorFlow's score and gradient of each form pass the verification against the one atom."""
    function, tail = FORMS[form]
    program = program_of(InputNode(3), AffineNode(8, (Term(0, Dense(KERNEL)),)), *tail)
    assert [SquaredLeaky] == [type(node.atom) for node in program.nodes[-2:] if isinstance(node, AtomNode)]

    def run(rows: NDArray[np.float32]) -> tuple[Any, Any]:
        x = tf.constant(rows)
        with tf.GradientTape() as tape:
            tape.watch(x)
            score = tf.reduce_sum(function(x @ KERNEL), axis=-1)
        return score.numpy(), tape.gradient(score, x).numpy()

    record = verify(program, run, None)
    assert "checked" == record.gradient
    assert "square" not in record.untaken


def slightly_wrong(alpha: float) -> Run:
    """Return the function of KERNEL with another alpha than 1/5, in float64 closed form."""

    def run(rows: NDArray[np.float32]) -> tuple[Any, Any]:
        u = rows.astype(np.float64) @ KERNEL.astype(np.float64)
        slope = 2 * u * np.where(u > 0, 1.0, alpha**2)
        return (u * slope / 2).sum(axis=1), slope @ KERNEL.T.astype(np.float64)

    return run


def test_wrong_alpha_is_another_function_and_is_refused() -> None:
    """A program with alpha off by a ten-thousandth does not agree with the model, one with the true alpha does."""
    _, tail = FORMS["leaky relu"]
    program = program_of(InputNode(3), AffineNode(8, (Term(0, Dense(KERNEL)),)), *tail)
    assert "checked" == verify(program, slightly_wrong(float(FIFTH)), None).gradient
    with pytest.raises(VersionRefusedError) as caught:
        verify(program, slightly_wrong(0.2001), None)
    assert "agreement" == caught.value.rule
