"""The constant of strong convexity: against closed forms, exact arithmetic and the falsifier, and never too large."""

from fractions import Fraction

import numpy as np
import pytest

from service.program.atoms import Abs, Atom, Elu, Exp, Softplus, Square, leaky_relu, relu, squared_leaky
from service.program.curvature import prove
from service.program.evaluation import evaluate_both
from service.program.operators import Dense, Divide, Identity, Operator, Scale
from service.program.program import AffineNode, AtomNode, InputNode, Program, Term
from tests.oracle.falsifier import falsify
from tests.service.program.programs import DIM, atoms_after, build, draw_weights


def rounded_down(value: Fraction) -> float:
    """Return the largest float64 that is not above `value`."""
    nearest = float(value)
    return nearest if Fraction(nearest) <= value else float(np.nextafter(nearest, -np.inf))


def test_strong_convexity_is_the_closed_form_rounded_down() -> None:
    """The constant is min_j 2 q_j, of q_j x_j^2; softplus adds nothing."""
    weights = draw_weights(2)
    expected = min(2 * Fraction(float(q)) for q in weights.quadratic)
    assert rounded_down(expected) == prove(build(weights)).strong_convexity


def test_strong_convexity_of_standardised_features_is_exact() -> None:
    """It is min_j 2 c (1/s_j)^2 in rational numbers, for c sum_j ((x_j - mu_j)/s_j)^2 with thirds and sevenths."""
    scale = np.array([3.0, 7.0, 0.3], np.float32)
    c = np.float32(0.1)
    program = Program(
        (
            InputNode(DIM),
            AffineNode(DIM, (Term(0, Identity()),), np.array([1, -2, 3], np.float32)),
            AffineNode(DIM, (Term(1, Divide(scale)),)),
            AtomNode(DIM, 2, Square()),
            AffineNode(1, (Term(3, Dense(np.ones((DIM, 1), np.float32))),)),
            AffineNode(1, (Term(4, Scale(np.array([c]))),)),
        )
    )
    expected = min(2 * Fraction(float(c)) / Fraction(float(s)) ** 2 for s in scale)
    received = prove(program).strong_convexity
    assert rounded_down(expected) == received
    assert Fraction(received) <= expected < Fraction(float(np.nextafter(received, np.inf)))


def test_strong_convexity_is_zero_where_one_feature_has_no_square() -> None:
    """The smallest coefficient counts: a feature without a square makes m = 0."""
    weights = draw_weights()
    assert 0.0 == prove(build(weights.changed("quadratic", (1,), 0.0))).strong_convexity


@pytest.mark.parametrize(("factor", "expected"), [(1e200, np.finfo(np.float64).max), (1e-200, 0.0)])
def test_strong_convexity_beyond_float64_is_rounded_down(factor: float, expected: float) -> None:
    """A constant too large for float64 is its largest number, one too small is 0."""
    assert expected == prove(atoms_after(Scale(np.full(DIM, factor)), Square())).strong_convexity


def test_strong_convexity_of_a_long_chain_of_scales_is_found_in_a_moment() -> None:
    """Exact fractions that grow without end are given up for m = 0, instead of keeping the loader busy."""
    steps = [Divide(np.full(DIM, 1.1, np.float32)) for _ in range(2000)]
    certificate = prove(atoms_after(*steps, Square()))
    assert 0.0 == certificate.strong_convexity


@pytest.mark.parametrize(
    ("atom", "modulus"),
    [
        (Square(), 2), (squared_leaky(0.25), Fraction(1, 8)), (squared_leaky(1.0), 2), (squared_leaky(1.5), 2),
        (squared_leaky(-0.5), Fraction(1, 2)), (squared_leaky(0.0), 0), (Softplus(), 0), (relu(), 0), (Abs(), 0),
        (leaky_relu(0.5), 0), (Elu(), 0), (Exp(), 0),
    ],
)  # fmt: skip
def test_modulus_of_an_atom_is_its_least_second_derivative(atom: Atom, modulus: Fraction) -> None:
    """It is 2 for u^2 and the lesser of 2 and 2 alpha^2 for a squared leaky ReLU; the others are flat somewhere."""
    assert modulus == atom.modulus
    assert float(modulus) == prove(atoms_after(atom)).strong_convexity


def exceeds(matrix: list[list[Fraction]], m: float) -> bool:
    """Return whether a symmetric matrix less m is positive semidefinite, by the minors of all principal blocks."""
    rows = [[entry - Fraction(m) * (i == j) for j, entry in enumerate(row)] for i, row in enumerate(matrix)]
    subsets = [[i for i in range(len(rows)) if mask >> i & 1] for mask in range(1, 2 ** len(rows))]
    return all(determinant([[rows[i][j] for j in chosen] for i in chosen]) >= 0 for chosen in subsets)


def determinant(rows: list[list[Fraction]]) -> Fraction:
    """Return a determinant by its expansion along the first row, in rational arithmetic."""
    if not rows:
        return Fraction(1)
    minors = ([row[:j] + row[j + 1 :] for row in rows[1:]] for j in range(len(rows)))
    return sum(((-1) ** j * rows[0][j] * determinant(minor) for j, minor in enumerate(minors)), Fraction(0))


def gram(columns: np.ndarray, weights: np.ndarray) -> list[list[Fraction]]:
    """Return the exact matrix 2 sum_k w_k b_k b_k^T for the columns b_k."""
    exact = [[Fraction(float(value)) for value in row] for row in columns]
    strengths = [2 * Fraction(float(weight)) for weight in weights]
    return [
        [sum((s * a * b for s, a, b in zip(strengths, left, right, strict=True)), Fraction(0)) for right in exact]
        for left in exact
    ]


@pytest.mark.parametrize("seed", range(8))
def test_strong_convexity_of_a_quadratic_form_is_close_below_its_least_eigenvalue(seed: int) -> None:
    """Of sum_k w_k (x b_k)^2 it is the least eigenvalue of 2 B diag(w) B^T but for a share of 1e-8, and never more."""
    generator = np.random.default_rng(seed)
    dim, count = int(generator.integers(2, 5)), int(generator.integers(4, 9))
    columns = generator.standard_normal((dim, count)).astype(np.float32)
    weights = generator.uniform(0.1, 2, count).astype(np.float32)
    program = atoms_after(Dense(columns), Square(), Scale(weights), dim=dim)
    claim = prove(program).strong_convexity
    least = np.linalg.eigvalsh(2 * (columns * weights.astype(np.float64)) @ columns.T.astype(np.float64))[0]
    assert claim == pytest.approx(least, rel=1e-8)
    assert exceeds(gram(columns, weights), claim)
    assert not exceeds(gram(columns, weights), claim * (1 + 1e-8))


def test_eigenvalue_that_floats_take_for_positive_is_not_claimed() -> None:
    """Of forms that are flat along a direction floats give eigenvalues above 0, and exact arithmetic refuses them."""
    too_large = 0
    for seed in range(20):
        flat = 1000 * np.random.default_rng(seed).standard_normal((3, 2))
        exact = gram(flat, np.ones(2))  # of rank 2: its least eigenvalue is 0
        too_large += np.linalg.eigvalsh(np.array(exact, np.float64))[0] > 0
        assert 0.0 == prove(atoms_after(Dense(flat), Square())).strong_convexity
    assert too_large >= 5


def transported(first: Operator, *, alpha: float = 0.0) -> Program:
    """Return 3 (1 . softplus(x) + 1/2 1 . phi(T((x - 1) / (1/2, 2, 3)))) + x . (1, -2, 3), phi a square or leaky."""
    scaled = AffineNode(DIM, (Term(1, Divide(np.array([0.5, 2, 3], np.float32))),))
    atom = squared_leaky(alpha) if alpha else Square()
    ones = Dense(np.ones((DIM, 1), np.float32))
    return Program(
        (
            InputNode(DIM),
            AffineNode(DIM, (Term(0, Identity()),), -np.ones(DIM, np.float32)),
            scaled,
            AffineNode(DIM, (Term(2, first),), name="rotated"),
            AtomNode(DIM, 3, atom),
            AtomNode(DIM, 0, Softplus()),
            AffineNode(1, (Term(4, Dense(np.full((DIM, 1), 0.5, np.float32))), Term(5, ones))),
            AffineNode(1, (Term(6, Scale(np.full(1, 3, np.float32))),)),
            AffineNode(1, (Term(7, Identity()), Term(0, Dense(np.array([[1], [-2], [3]], np.float32))))),
        )
    )


TURN = np.array([[1, 0.5, 0], [-0.25, 1.5, 0.5], [0, 0.25, 2]], np.float32)


@pytest.mark.parametrize("alpha", [0.0, 0.5])
def test_strong_convexity_of_a_transport_score_is_claimed_and_refuted_beyond(alpha: float) -> None:
    """Through standardised features and s2 > 0 it is s2 alpha^2 times the least eigenvalue, which softplus adds to."""
    program = transported(Dense(TURN), alpha=alpha)
    standardised = TURN / np.array([[0.5], [2], [3]])
    least = 3 * (alpha or 1.0) ** 2 * np.linalg.eigvalsh(standardised @ standardised.T)[0]
    claim = prove(program).strong_convexity
    assert claim == pytest.approx(least, rel=1e-8)

    def refuted(m: float) -> bool:
        anchors = np.random.default_rng(0).standard_normal((40, DIM)) * 3 - 40  # where softplus is nearly flat
        found = falsify(
            lambda x: evaluate_both(program, x)[0] - m / 2 * (x * x).sum(axis=1), None, anchors, pairs=4000, exact=True
        )
        return found is not None

    assert not refuted(claim)
    assert refuted(1.5 * claim)


def test_quadratic_form_without_full_rank_claims_nothing_of_its_own() -> None:
    """Two squares in three features are flat along one direction, and a diagonal beside them keeps its exact claim."""
    flat = TURN.copy()
    flat[:, 2] = flat[:, 0] + flat[:, 1]
    assert 0.0 == prove(transported(Dense(flat))).strong_convexity
    tenth = np.float32(0.1)
    program = Program(
        (
            InputNode(DIM),
            AffineNode(2, (Term(0, Dense(1000 * TURN[:, :2])),)),
            AtomNode(2, 1, Square()),
            AtomNode(DIM, 0, Square()),
            AffineNode(1, (Term(2, Dense(np.ones((2, 1)))), Term(3, Dense(np.full((DIM, 1), tenth))))),
        )
    )
    assert 2 * float(tenth) == prove(program).strong_convexity


def test_squares_that_cancel_in_the_row_claim_no_strong_convexity() -> None:
    """The square of x - x is 0, and so is its share."""
    minus = Scale(np.full(DIM, -1, np.float32))
    program = Program(
        (
            InputNode(DIM),
            AffineNode(DIM, (Term(0, Identity()), Term(0, minus))),
            AtomNode(DIM, 1, Square()),
            AffineNode(1, (Term(2, Dense(np.ones((DIM, 1), np.float32))),)),
        )
    )
    assert 0.0 == prove(program).strong_convexity


def test_squares_of_a_hidden_layer_claim_no_strong_convexity() -> None:
    """The square of softplus bends with the row's softplus, of which nothing is known."""
    assert 0.0 == prove(atoms_after(Dense(TURN), Softplus(), Square())).strong_convexity


def test_squares_of_many_mixed_features_claim_nothing_in_a_moment() -> None:
    """Beyond 32 features, or a layer of very many products, exact arithmetic is not tried."""
    wide = np.eye(40, dtype=np.float32) + np.float32(0.01)
    assert 0.0 == prove(atoms_after(Dense(wide), Square(), dim=40)).strong_convexity
    layers = [Dense(np.full((32, 32), 0.01, np.float32) + np.eye(32, dtype=np.float32)) for _ in range(50)]
    assert 0.0 == prove(atoms_after(*layers, Square(), dim=32)).strong_convexity


@pytest.mark.parametrize("factor", [1e-150, 1e150])
def test_strong_convexity_of_extreme_quadratic_forms_stays_below_the_exact_one(factor: float) -> None:
    """A form whose entries reach both ends of float64 is bounded by the same exact arithmetic, or by 0."""
    claim = prove(atoms_after(Dense(TURN.astype(np.float64) * factor), Square())).strong_convexity
    exact = gram(TURN.astype(np.float64) * factor, np.ones(DIM))
    assert exceeds(exact, claim)
    assert claim > 0
