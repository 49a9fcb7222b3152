"""The atom of a domain weight: its formula, its range, and that no rule of the proof takes it for convex."""

import math
import pickle

import numpy as np
import pytest

from service.errors import VersionRefusedError
from service.program.atoms import Square
from service.program.curvature import prove
from service.program.domain_weight import DomainWeight
from service.program.evaluation import evaluate
from service.program.operators import Dense
from service.program.partial_atoms import Sqrt
from service.program.program import AffineNode, AtomNode, InputNode, Program, Term
from tests.oracle import bumps

RADIUS, LIMIT = 2.5, 2.5 * math.sqrt(1 - 1 / 89)


def program():
    """Return the weight of the root of a sum of two numbers' squares."""
    nodes = (
        InputNode(2),
        AtomNode(2, 0, Square()),
        AffineNode(1, (Term(1, Dense(np.ones((2, 1), np.float32))),)),
        AtomNode(1, 2, Sqrt()),
        AtomNode(1, 3, DomainWeight(RADIUS, LIMIT)),
    )
    return Program(nodes)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_weight_and_slope_are_those_of_the_unit_peak_bump(dtype):
    """On distances from 0 to infinity the value and slope are the closed forms, and finite."""
    u = np.concatenate([np.linspace(0, 3, 3001), [1e30, 3e38, np.inf]]).astype(dtype)
    value, slope = DomainWeight(RADIUS, LIMIT).value_and_slope(u, np)
    exact, by_u, _ = bumps.bump(u, RADIUS, peak=1.0)
    assert (dtype, dtype) == (value.dtype, slope.dtype)
    np.testing.assert_allclose(exact, value, atol=2e-6)
    np.testing.assert_allclose(by_u, slope, atol=1e-5)
    assert (0.0, 1.0) == (value.min(), value.max())


def test_image_of_distances_is_the_unit_interval_and_of_anything_else_unknown():
    """Bounds are [0, 1] where the argument is known not to be negative, else none."""
    low, high = DomainWeight(RADIUS, LIMIT).image(np.array([0.0, -1.0]), np.array([np.inf, 1.0]))
    assert ([0.0, -np.inf], [1.0, np.inf]) == (low.tolist(), high.tolist())


@pytest.mark.parametrize(
    ("radius", "limit"), [(1.0, 1.0), (1.0, 2.0), (1.0, 0.0), (-1.0, -2.0), (math.inf, 1.0), (math.nan, 1.0)]
)
def test_numbers_with_which_the_weight_could_leave_its_range_are_refused(radius, limit):
    """Unless 0 < limit < radius < infinity the formula may divide by zero or exceed 1."""
    with pytest.raises(ValueError, match="expected 0 < limit < radius"):
        DomainWeight(radius, limit)


def test_domain_weight_in_the_place_of_a_score_is_not_proved():
    """It is lifted without any curvature: as a score the proof refuses it."""
    with pytest.raises(VersionRefusedError) as refused:
        prove(program())
    assert "atom-convex" == refused.value.rule


def test_program_with_a_domain_weight_computes_and_survives_a_pickle():
    """The program of a weight evaluates to the closed form, and its text and hash are the same after a pickle."""
    rows = np.random.default_rng(0).normal(size=(50, 2)) * 2
    again = pickle.loads(pickle.dumps(program()))  # noqa: S301  # our own bytes
    np.testing.assert_allclose(
        bumps.bump(np.linalg.norm(rows, axis=1), RADIUS, peak=1.0)[0],
        evaluate(again, rows, gradient=False)[0],
        atol=1e-12,
    )
    assert program().program_sha256 == again.program_sha256
    assert f"domain_weight({float(RADIUS).hex()}, {float(LIMIT).hex()})" in again.text
