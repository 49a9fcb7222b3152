"""The shipped models, published and read back: 100,000 midpoints and supporting hyperplanes, none of them broken."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from service import model_version
from service.program.evaluation import evaluate
from service.program.operators import Dense, Scale
from service.program.program import AffineNode, Program, Term

ROOT = Path(__file__).parents[2]
SHIPPED = {name: ROOT / "models" / name / "1" for name in ("tumours", "colours")}
PAIRS = 100_000

Array = NDArray[np.float64]
Answer = Callable[[Array], tuple[Array, Array]]


@functools.cache
def data_of(model: str) -> Array:
    """Return the rows that a shipped model learned from and was held out from."""
    if model == "tumours":
        return np.loadtxt(ROOT / "training" / "examples" / "tumours.csv", delimiter=",", skiprows=1)[:, :30]
    pixels = np.asarray(Image.open(ROOT / "service" / "rest" / "page" / "photographs" / "china.jpg"))
    return pixels.reshape(-1, 3).astype(np.float64)


def pairs(spread: float, model: str) -> tuple[Array, Array]:
    """Return middles m and halves h [100000, d] such that m - h, m and m + h are float32 numbers exactly.

    Middles are rows of the data, moved by up to `spread` deviations; lengths of h are log-uniform in 1e-4 to 1e3
    deviations. A midpoint that were rounded would itself move the score by more than the slack.
    """
    data = data_of(model)
    deviation = data.std(axis=0)
    generator = np.random.default_rng(2026)
    direction = generator.standard_normal((PAIRS, data.shape[1]))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    h = 10 ** generator.uniform(-4, 3, (PAIRS, 1)) * direction * deviation
    moved = generator.choice([0, 0.1 * spread, spread], (PAIRS, 1)) * deviation
    m = data[generator.integers(0, len(data), PAIRS)] + moved * generator.standard_normal(h.shape)
    unit = np.spacing((2 * (np.abs(m) + np.abs(h))).astype(np.float32)).astype(np.float64)
    return np.round(m / unit) * unit, np.round(h / unit) * unit


def broken(answer: Answer, m: Array, h: Array, ulp: float, least: float = 1.0) -> tuple[int, int]:
    """Return how many midpoints and supporting hyperplanes fail by more than 16 ulp of max(|f|, `least`)."""
    middle, gradient = answer(m)
    left, _ = answer(m - h)
    right, _ = answer(m + h)
    slack = 16 * ulp * np.maximum(np.max(np.abs([middle, left, right]), axis=0), least)
    tangent = middle + (gradient * h).sum(axis=1)
    return int((middle - (left + right) / 2 > slack).sum()), int((tangent - right > slack).sum())


def scale_of(model: str, live: model_version.ModelVersion) -> float:
    """Return what rounding is measured by beside the score: of a potential, which crosses 0, its data's largest score.

    Where a potential is near 0, terms as large as that cancel, and float32 rounds the terms.
    """
    return 1.0 if model == "tumours" else float(np.abs(live.score(data_of(model)[::100])).max())


@pytest.mark.parametrize("model", SHIPPED)
@pytest.mark.parametrize("engine", ["program", "tensorflow"])
def test_no_midpoint_and_no_hyperplane_is_broken_when_either_engine_answers(engine: str, model: str) -> None:
    """Around the data, float32 answers of both engines keep both inequalities within 16 ulp."""
    live = model_version.load(SHIPPED[model], engine=engine)

    def answer(rows: Array) -> tuple[Array, Array]:
        score, gradient = live.score_and_gradient(rows)
        return score.astype(np.float64), gradient.astype(np.float64)

    m, h = pairs(0.5, model)
    assert ((m - h).astype(np.float32) == m - h).all()
    assert ((m + h).astype(np.float32) == m + h).all()
    assert (h != 0).any(axis=1).mean() > 0.9
    assert (0, 0) == broken(answer, m, h, 2.0**-23, scale_of(model, live))


@pytest.mark.parametrize("model", SHIPPED)
def test_no_midpoint_and_no_hyperplane_is_broken_when_the_program_runs_in_float64(model: str) -> None:
    """Far outside the data too, where float32 rounds by more, the proved function itself keeps both inequalities."""
    program = model_version.load(SHIPPED[model], engine="program").loaded.program
    assert program is not None
    m, h = pairs(10.0, model)
    assert (0, 0) == broken(lambda rows: evaluate(program, rows), m, h, 2.0**-44)


@pytest.mark.parametrize("model", SHIPPED)
def test_midpoints_and_hyperplanes_are_broken_when_the_output_weights_are_negated(model: str) -> None:
    """The control: the same search finds thousands of failures in the same network with its output kernel negated."""
    live = model_version.load(SHIPPED[model], engine="program")
    program = live.loaded.program
    assert program is not None
    m, h = pairs(0.5, model)
    least = scale_of(model, live)
    midpoints, hyperplanes = broken(lambda rows: evaluate(negated(program), rows), m, h, 2.0**-23, least)
    assert min(midpoints, hyperplanes) > 1000


def negated(program: Program) -> Program:
    """Return the program with the sign of the last node's first weights flipped: no longer convex, and not proved."""
    last = program.nodes[-1]
    assert isinstance(last, AffineNode)
    first, *rest = last.terms
    assert isinstance(first.operator, Dense | Scale)
    flipped = Term(first.argument, type(first.operator)(-first.operator.coefficients))
    return Program((*program.nodes[:-1], dataclasses.replace(last, terms=(flipped, *rest))))
