"""The shipped model, published and read back: 100,000 midpoints and supporting hyperplanes, none of them broken."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from service import model_version
from service.program.evaluation import evaluate
from service.program.operators import Dense
from service.program.program import AffineNode, Program, Term

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "models" / "tumours" / "1"
PAIRS = 100_000

Array = NDArray[np.float64]
Answer = Callable[[Array], tuple[Array, Array]]


def pairs(spread: float) -> tuple[Array, Array]:
    """Return middles m and halves h [100000, 30] such that m - h, m and m + h are float32 numbers exactly.

    Middles are rows of the data, moved by up to `spread` deviations; lengths of h are log-uniform in 1e-4 to 1e3
    deviations. A midpoint that were rounded would itself move the score by more than the slack.
    """
    data = np.loadtxt(ROOT / "training" / "examples" / "tumours.csv", delimiter=",", skiprows=1)[:, :30]
    deviation = data.std(axis=0)
    generator = np.random.default_rng(2026)
    direction = generator.standard_normal((PAIRS, 30))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    h = 10 ** generator.uniform(-4, 3, (PAIRS, 1)) * direction * deviation
    moved = generator.choice([0, 0.1 * spread, spread], (PAIRS, 1)) * deviation
    m = data[generator.integers(0, len(data), PAIRS)] + moved * generator.standard_normal(h.shape)
    unit = np.spacing((2 * (np.abs(m) + np.abs(h))).astype(np.float32)).astype(np.float64)
    return np.round(m / unit) * unit, np.round(h / unit) * unit


def broken(answer: Answer, m: Array, h: Array, ulp: float) -> tuple[int, int]:
    """Return how many midpoints and supporting hyperplanes fail by more than 16 ulp of max(|f|, 1)."""
    middle, gradient = answer(m)
    left, _ = answer(m - h)
    right, _ = answer(m + h)
    slack = 16 * ulp * np.maximum(np.max(np.abs([middle, left, right]), axis=0), 1.0)
    tangent = middle + (gradient * h).sum(axis=1)
    return int((middle - (left + right) / 2 > slack).sum()), int((tangent - right > slack).sum())


@pytest.mark.parametrize("engine", ["program", "tensorflow"])
def test_no_midpoint_and_no_hyperplane_is_broken_when_either_engine_answers(engine: str) -> None:
    """Around the data, float32 answers of both engines keep both inequalities within 16 ulp of the score."""
    live = model_version.load(SHIPPED, engine=engine)

    def answer(rows: Array) -> tuple[Array, Array]:
        score, gradient = live.score_and_gradient(rows)
        return score.astype(np.float64), gradient.astype(np.float64)

    m, h = pairs(spread=0.5)
    assert ((m - h).astype(np.float32) == m - h).all()
    assert ((m + h).astype(np.float32) == m + h).all()
    assert (h != 0).any(axis=1).mean() > 0.9
    assert (0, 0) == broken(answer, m, h, 2.0**-23)


def test_no_midpoint_and_no_hyperplane_is_broken_when_the_program_runs_in_float64() -> None:
    """Far outside the data too, where float32 rounds by more, the proved function itself keeps both inequalities."""
    program = model_version.load(SHIPPED, engine="program").loaded.program
    assert program is not None
    m, h = pairs(spread=10.0)
    assert (0, 0) == broken(lambda rows: evaluate(program, rows), m, h, 2.0**-44)


def test_midpoints_and_hyperplanes_are_broken_when_the_output_weights_are_negated() -> None:
    """The control: the same search finds thousands of failures in the same network with its output kernel negated."""
    program = model_version.load(SHIPPED, engine="program").loaded.program
    assert program is not None
    m, h = pairs(spread=0.5)
    midpoints, hyperplanes = broken(lambda rows: evaluate(negated(program), rows), m, h, 2.0**-23)
    assert min(midpoints, hyperplanes) > 1000


def negated(program: Program) -> Program:
    """Return the program with the sign of the last node's first matrix flipped: no longer convex, and not proved."""
    last = program.nodes[-1]
    assert isinstance(last, AffineNode)
    first, *rest = last.terms
    assert isinstance(first.operator, Dense)
    flipped = Term(first.argument, Dense(-first.operator.coefficients))
    return Program((*program.nodes[:-1], dataclasses.replace(last, terms=(flipped, *rest))))
