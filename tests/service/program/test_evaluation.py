"""Evaluation: score and gradient against the closed form in float64 NumPy, and its float32 error."""

import numpy as np
import pytest

from service.program.atoms import Abs, leaky_relu, relu, squared_leaky
from service.program.evaluation import evaluate, evaluate_both, node_values, operations, prepared
from service.program.operators import Dense, Identity, Scale
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


def test_sums_change_no_node_that_they_read() -> None:
    """A sum that begins with the row itself, and is read again later, leaves row and nodes as they were."""
    double = Scale(np.full(DIM, 2, np.float32))
    ones = Dense(np.ones((DIM, 1), np.float32))
    program = Program(
        (
            InputNode(DIM),
            AffineNode(DIM, (Term(0, Identity()), Term(0, double), Term(0, double)), np.ones(DIM, np.float32)),
            AffineNode(DIM, (Term(1, Identity()),), np.ones(DIM, np.float32)),
            AffineNode(1, (Term(0, ones), Term(1, ones), Term(2, ones))),
        )
    )
    rows = np.array([[1.0, 2.0, 3.0]])
    values = node_values(program, rows)
    assert [[1.0, 2.0, 3.0]] == rows.tolist()
    assert [[6.0, 11.0, 16.0]] == values[1].tolist()
    assert [[7.0, 12.0, 17.0]] == values[2].tolist()
    assert [[6.0 + 33.0 + 36.0]] == values[3].tolist()


def test_operations_are_every_product_both_ways_and_every_atom() -> None:
    """Each takes and gives what the formula says, alone: x A, its transposed map, an atom's value and slope."""
    weights = draw_weights()
    found = [
        (width, [part.shape[1] for part in operation(np.ones((2, width)))])
        for width, operation in operations(build(weights))
    ]
    dense = [(3, 5), (5, 3), (5, 4), (4, 5), (3, 4), (4, 3), (3, 3), (3, 3), (4, 1), (1, 4), (3, 1), (1, 3)]
    atoms = [(5, [5, 5]), (4, [4, 4]), (3, [3, 3])]
    expected = [(taken, [given]) for taken, given in [*dense, (3, 1), (1, 3)]] + atoms
    assert sorted(expected) == sorted(found)
    first = next(operations(build(weights)))[1]
    np.testing.assert_allclose(first(ROWS)[0], ROWS @ weights.first.astype(np.float64), rtol=0, atol=1e-12)


def test_prepared_program_computes_the_same_bits_without_converting() -> None:
    """Float64 constants are rounded once to float32, with no bit of an answer changed; float32 ones are shared."""
    program = build(draw_weights(3))
    wide = Program(tuple(widened(node) for node in program.nodes))
    rows = ROWS.astype(np.float32)
    for given in (program, wide):
        ready = prepared(given, np.float32)
        assert {np.dtype(np.float32)} == {array.dtype for array in ready.weights()}
        for expected, received in zip(evaluate_both(given, rows), evaluate_both(ready, rows), strict=True):
            assert expected.tobytes() == received.tobytes()
    pairs = zip(program.weights(), prepared(program, np.float32).weights(), strict=True)
    assert all(np.shares_memory(one, other) for one, other in pairs)


def widened(node):
    """Return the node with its kernels and bias in float64, at numbers that float32 does not have."""
    if not isinstance(node, AffineNode):
        return node
    terms = tuple(
        Term(term.argument, type(term.operator)(term.operator.coefficients.astype(np.float64) * (1 + 1e-9)))
        for term in node.terms
    )
    return AffineNode(node.width, terms, None if node.bias is None else node.bias.astype(np.float64) * (1 + 1e-9))
