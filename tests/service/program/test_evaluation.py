"""Evaluation: score and gradient against the closed form in float64 NumPy, and its float32 error."""

import numpy as np
import pytest

from service.program.atoms import Abs, leaky_relu, relu, squared_leaky
from service.program.evaluation import evaluate, evaluate_both, node_values
from service.program.operators import Dense
from service.program.program import AffineNode, AtomNode, InputNode, MaximumNode, Program, Term
from tests.service.program.programs import DIM, atoms_after, build, closed_form, draw_weights

ROWS = np.random.default_rng(11).standard_normal((200, DIM)) * np.geomspace(0.01, 100, 200)[:, None]


@pytest.mark.parametrize("seed", range(3))
def test_float64_evaluation_is_the_closed_form(seed: int) -> None:
    """Score and gradient are the formula's to 1e-13 of the largest entry."""
    weights = draw_weights(seed)
    score, gradient = evaluate_both(build(weights), ROWS)
    expected_score, expected_gradient = closed_form(weights, ROWS)
    np.testing.assert_allclose(score, expected_score, rtol=0, atol=1e-13 * np.abs(expected_score).max())
    np.testing.assert_allclose(gradient, expected_gradient, rtol=0, atol=1e-13 * np.abs(expected_gradient).max())


@pytest.mark.parametrize("seed", range(3))
def test_float32_evaluation_errs_by_less_than_the_bound(seed: int) -> None:
    """In float32 scores err by at most 1e-6 and gradients by 2e-6 of the largest entry, in float32 arrays."""
    weights = draw_weights(seed, hidden=(64, 64))
    rows = ROWS.astype(np.float32)
    score, gradient = evaluate_both(build(weights), rows)
    assert score.dtype == gradient.dtype == np.float32
    expected_score, expected_gradient = closed_form(weights, rows)
    assert np.abs(score - expected_score).max() <= 1e-6 * np.abs(expected_score).max()
    assert np.abs(gradient - expected_gradient).max() <= 2e-6 * np.abs(expected_gradient).max()


def test_gradient_is_the_central_difference_of_the_closed_form() -> None:
    """The reverse pass agrees with differences of an independent forward pass within 1e-7 of the largest entry."""
    weights = draw_weights(4)
    rows = ROWS[50:120]
    gradient = evaluate_both(build(weights), rows)[1]
    for j in range(DIM):
        h = np.cbrt(np.finfo(np.float64).eps) * np.maximum(1.0, np.abs(rows[:, j]))
        up, down = rows.copy(), rows.copy()
        up[:, j] += h
        down[:, j] -= h
        difference = (closed_form(weights, up)[0] - closed_form(weights, down)[0]) / (up[:, j] - down[:, j])
        np.testing.assert_allclose(gradient[:, j], difference, rtol=0, atol=1e-7 * np.abs(gradient).max())


def test_score_alone_has_the_bits_of_score_with_gradient() -> None:
    """Leaving the reverse pass out changes no bit of the score."""
    program, rows = build(draw_weights()), ROWS.astype(np.float32)
    score, gradient = evaluate(program, rows, gradient=False)
    assert gradient is None
    assert score.tobytes() == evaluate_both(program, rows)[0].tobytes()


def test_ties_choose_the_slopes_that_tensorflow_chooses() -> None:
    """At 0: relu 0, leaky alpha, abs 0, a squared leaky ReLU 0, and a maximum gives its slope to the first argument."""
    rows = np.zeros((1, DIM))
    for atom, slope in ((relu(), 0.0), (leaky_relu(0.25), 0.25), (Abs(), 0.0), (squared_leaky(0.25), 0.0)):
        assert [[slope] * DIM] == evaluate_both(atoms_after(atom), rows)[1].tolist()
    one, two = (np.full((DIM, 1), value, np.float32) for value in (1, 2))
    program = Program(
        (
            InputNode(DIM),
            AffineNode(1, (Term(0, Dense(one)),)),
            AffineNode(1, (Term(0, Dense(two)),)),
            MaximumNode(1, (1, 2)),
            AffineNode(1, (Term(3, Dense(np.ones((1, 1), np.float32))),)),
        )
    )
    assert [[1.0] * DIM] == evaluate_both(program, rows)[1].tolist()
    assert [[2.0] * DIM] == evaluate_both(program, rows + 1)[1].tolist()
    assert [3.0 * 2] == evaluate_both(program, rows + 1)[0].tolist()


def test_a_node_that_is_read_twice_collects_both_adjoints() -> None:
    """The function sum(x) + sum(relu(x)) has the slope 1 + [x > 0]."""
    ones = Dense(np.ones((DIM, 1), np.float32))
    program = Program((InputNode(DIM), AtomNode(DIM, 0, relu()), AffineNode(1, (Term(0, ones), Term(1, ones)))))
    assert [[2.0, 1.0, 1.0]] == evaluate_both(program, np.array([[3.0, -1.0, 0.0]]))[1].tolist()


def test_a_program_that_does_not_read_the_row_has_gradient_zero() -> None:
    """Weights of 0 give zeros, not None."""
    score, gradient = evaluate_both(atoms_after(Dense(np.zeros((DIM, 1), np.float32))), ROWS)
    assert not score.any()
    assert gradient.shape == ROWS.shape
    assert not gradient.any()


def test_no_rows_give_no_scores() -> None:
    """[0, dim] in, [0] and [0, dim] out."""
    score, gradient = evaluate_both(build(draw_weights()), np.empty((0, DIM), np.float32))
    assert ((0,), (0, DIM)) == (score.shape, gradient.shape)


def test_overflow_is_infinite_and_raises_nothing() -> None:
    """A row whose score leaves float32 comes back as infinity or NaN, its neighbour untouched, without a warning."""
    program = build(draw_weights())
    rows = np.array([[1e30, 0, 0], [1, 2, 3]], np.float32)
    score, _ = evaluate_both(program, rows)
    assert not np.isfinite(score[0])
    assert score[1] == pytest.approx(closed_form(draw_weights(), rows[1:])[0][0], rel=1e-6)


def test_node_values_are_those_of_each_node() -> None:
    """Every node's value is given, in the order of the nodes."""
    weights = draw_weights()
    values = node_values(build(weights), ROWS)
    np.testing.assert_allclose(values[1], ROWS @ weights.first.astype(np.float64) + weights.first_bias, rtol=1e-12)
    np.testing.assert_allclose(values[-1][:, 0], closed_form(weights, ROWS)[0], rtol=1e-12)
