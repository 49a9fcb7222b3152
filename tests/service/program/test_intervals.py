"""Ranges: sampled values lie inside, unbounded boxes, roundings outward, empty boxes."""

from fractions import Fraction

import numpy as np
import pytest

from service.program import intervals
from service.program.atoms import Atom, Elu, Exp, Square, leaky_relu, relu, squared_leaky
from service.program.evaluation import node_values
from service.program.operators import Dense, Scale
from service.program.program import AffineNode, AtomNode, InputNode, MaximumNode, Program, Term
from tests.service.program.programs import DIM, atoms_after, build, draw_weights


def maximum_program() -> Program:
    """Return sum(max(x A, x B))."""
    a, b = (np.random.default_rng(seed).standard_normal((DIM, 4)).astype(np.float32) for seed in (1, 2))
    return Program(
        (
            InputNode(DIM),
            AffineNode(4, (Term(0, Dense(a)),)),
            AffineNode(4, (Term(0, Dense(b)),), np.ones(4, np.float32)),
            MaximumNode(4, (1, 2)),
            AffineNode(1, (Term(3, Dense(np.ones((4, 1), np.float32))),)),
        )
    )


PROGRAMS = [
    build(draw_weights(3)),
    maximum_program(),
    atoms_after(Dense(np.eye(DIM, dtype=np.float32) * -2), Elu(), Scale(np.full(DIM, 0.1, np.float32)), Exp()),
    atoms_after(leaky_relu(-0.5), Square()),
    atoms_after(Dense(np.eye(DIM, dtype=np.float32) * -2), squared_leaky(0.2), squared_leaky(0.5)),
]


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("radius", [1e-6, 0.5, 20.0])
def test_values_of_rows_in_the_box_lie_in_the_ranges(program: Program, radius: float) -> None:
    """Every node's value on 2,000 rows of the box, its corners among them, lies within the node's range."""
    center = np.array([0.3, -1.0, 2.0])
    generator = np.random.default_rng(5)
    rows = center + radius * generator.uniform(-1, 1, (2000, DIM))
    rows[:8] = center + radius * np.array(np.meshgrid(*[[-1, 1]] * DIM)).reshape(DIM, -1).T
    found = intervals.ranges(program, center - radius, center + radius)
    for (low, high), values in zip(found, node_values(program, rows), strict=True):
        assert (low <= values).all()
        assert (values <= high).all()


@pytest.mark.parametrize("program", PROGRAMS)
def test_ranges_over_all_rows_have_no_nan_and_hold_everything(program: Program) -> None:
    """The unbounded box is allowed: bounds are numbers or infinity, and values of rows up to 1e3 lie inside."""
    rows = 1e3 * np.random.default_rng(6).standard_normal((500, DIM))
    for (low, high), values in zip(intervals.unbounded(program), node_values(program, rows), strict=True):
        assert not np.isnan(low).any()
        assert not np.isnan(high).any()
        finite = np.isfinite(values)
        assert (np.where(finite, low <= values, True)).all()
        assert (np.where(finite, values <= high, True)).all()


def test_half_bounded_box_keeps_the_known_end() -> None:
    """A free upper end does not cost the lower one."""
    program = atoms_after(Scale(np.full(DIM, 2, np.float32)), dim=DIM)
    low, high = intervals.ranges(program, np.array([1.0, -np.inf, 0.0]), np.array([np.inf, 3.0, 0.0]))[1]
    np.testing.assert_allclose(low, [2.0, -np.inf, 0.0], atol=1e-300)
    np.testing.assert_allclose(high, [np.inf, 6.0, 0.0], atol=1e-300)


@pytest.mark.parametrize("atom", [relu(), Exp(), Square(), squared_leaky(0.2)])
def test_no_sign_is_lost_on_the_way_through_sums(atom: Atom) -> None:
    """A non-negative combination of non-negative numbers has the lower end 0, not a rounding below it."""
    program = atoms_after(atom, Dense(np.full((DIM, 2), 0.1, np.float32)))
    assert [0.0, 0.0] == intervals.unbounded(program)[2][0].tolist()


def test_lower_end_is_rounded_outward_although_the_upper_one_is_free() -> None:
    """0.1 + 0.2 + 0.3 less its own float64 sum is below 0 in real numbers, and so is the lower end."""
    weights, bias = np.array([[0.1], [0.2], [0.3]]), np.array([-(0.1 + 0.2 + 0.3)])
    ones = np.ones(DIM, np.float32)
    program = Program(
        (
            InputNode(DIM),
            AtomNode(DIM, 0, Exp()),
            AffineNode(DIM, (Term(1, Scale(ones)),), ones),
            AffineNode(1, (Term(2, Dense(weights)),), bias),
        )
    )
    exact = sum(Fraction(float(weight)) for weight in weights[:, 0]) + Fraction(float(bias[0]))
    assert exact < 0
    low = intervals.unbounded(program)[3][0][0]
    assert Fraction(float(low)) <= exact
    assert float(exact) - low < 1e-14


def test_a_sum_beyond_float64_is_unbounded_and_not_infinite_below() -> None:
    """Products that overflow are no lower bounds."""
    big = np.full(DIM, 1e300)
    program = atoms_after(Exp(), Scale(big), Scale(big))
    low, high = intervals.ranges(program, np.zeros(DIM), np.ones(DIM))[3]
    assert np.isneginf(low).all()
    assert np.isposinf(high).all()


@pytest.mark.parametrize(
    "ends", [([0.0, 1.0, 0.0], [1.0, 0.0, 1.0]), ([np.nan, 0, 0], [1, 1, 1]), ([0, 0, 0], [1, np.nan, 1])]
)
def test_a_box_that_holds_nothing_is_refused(ends: tuple[list[float], list[float]]) -> None:
    """A lower end above its upper end, or NaN, is an error and no range."""
    with pytest.raises(ValueError, match="empty or has a NaN"):
        intervals.ranges(build(draw_weights()), *(np.array(end, np.float64) for end in ends))
