"""Steps that are joined: a factor goes into the product before it, and only where nobody else reads the product."""

import numpy as np
import pytest

from service.program.atoms import Softplus
from service.program.evaluation import evaluate
from service.program.kernel.buffers import NOWHERE
from service.program.kernel.compiled import CompiledProgram
from service.program.kernel.joining import Operation, joined
from service.program.kernel.plan import GRADIENT, INPUT, plan
from service.program.operators import Dense, Identity, Scale
from service.program.program import AffineNode, AtomNode, InputNode, Program, Term
from tests.service.program.programs import build, closed_form, draw_weights


def step(operation, first, out, second=NOWHERE, **fields):
    """Return a step of width 4."""
    return {
        "operation": operation, "width": 4, "depth": 0, "first": first, "second": second, "out": out, "slope": NOWHERE,
        "accumulates": False, "numbers": 0, "bias": 0, "parameter": 0.0,
    } | fields  # fmt: skip


def brief(steps):
    """Return operation, places and constants of each step."""
    return [(s["operation"], s["first"], s["second"], s["out"], s["numbers"], s["bias"]) for s in steps]


SLOPE = step(Operation.SOFTPLUS, INPUT, 0, slope=1)
PRODUCT = step(Operation.PRODUCT, 0, 2, numbers=77)
TIMES = step(Operation.TIMES, 2, 3, second=1)


def test_factor_goes_into_the_product_before_it():
    """One step less, and the product writes where its factor's step wrote."""
    expected = [*brief([SLOPE]), (Operation.PRODUCT, 0, 1, 3, 77, 0)]
    assert expected == brief(joined([SLOPE, PRODUCT, TIMES]))


def test_numbers_that_are_the_same_for_every_row_become_factors():
    """A FILL that is multiplied is no step of its own, also where the result is added."""
    fill = step(Operation.FILL, NOWHERE, 2, bias=55)
    for adds in (False, True):
        received = joined([SLOPE, fill, TIMES | {"accumulates": adds}])
        assert [*brief([SLOPE]), (Operation.SCALE, 1, NOWHERE, 3, 55, 0)] == brief(received)
        assert adds == received[1]["accumulates"]


@pytest.mark.parametrize(
    "steps",
    [
        [SLOPE, PRODUCT, TIMES, step(Operation.SUM, 2, 4)],
        [SLOPE, PRODUCT, TIMES | {"accumulates": True}],
        [SLOPE, PRODUCT, PRODUCT | {"accumulates": True}, TIMES],
        [PRODUCT | {"first": INPUT}, SLOPE, TIMES],
        [SLOPE, step(Operation.SUM, 0, 2), TIMES],
        [SLOPE, step(Operation.FILL, NOWHERE, 2), TIMES],
    ],
    ids=["read elsewhere", "added", "a sum of two", "factor comes later", "no product", "zeros"],
)
def test_steps_that_cannot_be_joined_stay_as_they_are(steps):
    """What another step reads, what is added to, what is not there yet."""
    assert brief(steps) == brief(joined(steps))


def test_what_nobody_reads_is_not_made():
    """A FILL of a buffer without a reader goes; one of the gradient stays."""
    dead, kept = step(Operation.FILL, NOWHERE, 5, bias=1), step(Operation.FILL, NOWHERE, GRADIENT)
    assert brief([kept]) == brief(joined([dead, kept]))


def test_reverse_pass_begins_without_products_of_a_constant():
    """The plan of a network has one product for each matrix and direction, dots for single columns, and no TIMES."""
    made = plan(build(draw_weights(0, 6, (8, 7))), gradient=True)
    operations = [Operation(int(number)).name for number in made.steps["operation"]]
    counts = {name: operations.count(name) for name in set(operations)}
    assert 6 == counts["PRODUCT"]
    assert 3 == counts["DOT"]  # of the last layer, of x and of its squares
    assert "TIMES" not in counts
    assert (made.steps["depth"][made.steps["operation"] == Operation.PRODUCT] > 1).all()


def shared() -> Program:
    """Return f = s(u) . v + 4 g, g = s(u) . w + x . a, u = x A + b, s softplus: two terms reach s(u)."""
    random = np.random.default_rng(8)
    normal = lambda *shape: random.standard_normal(shape).astype(np.float32)  # noqa: E731
    column = lambda: Dense(np.abs(normal(5, 1)))  # noqa: E731
    nodes = (
        InputNode(3),
        AffineNode(5, (Term(0, Dense(normal(3, 5))),), normal(5)),
        AtomNode(5, 1, Softplus()),
        AffineNode(1, (Term(2, column()), Term(0, Dense(normal(3, 1))))),
        AffineNode(1, (Term(2, column()), Term(3, Scale(np.full(1, 3.0, np.float32))), Term(3, Identity()))),
    )
    return Program(nodes)


def test_adjoints_of_several_readers_are_the_formula(compiled_code):
    """A node that two terms with numbers common to all rows reach, against the evaluation in float64."""
    program = shared()
    rows = np.random.default_rng(0).standard_normal((29, 3)).astype(np.float32)
    received = CompiledProgram(program, compiled_code).run(rows, ("score", "gradient"))
    score, gradient = evaluate(program, rows.astype(np.float64))
    assert np.abs(received["score"] - score).max() <= 1e-6 * np.abs(score).max()
    assert np.abs(received["gradient"] - gradient).max() <= 1e-6 * np.abs(gradient).max()


@pytest.mark.parametrize("depth", [1, 63, 64, 65, 200])
@pytest.mark.parametrize("num_rows", [1, 11, 12, 13, 50])
def test_dots_are_sums_in_the_order_of_a_product(depth, num_rows, compiled_code):
    """One column alone has every bit of the same column as one of two of a product, for any number of rows."""
    random = np.random.default_rng(depth)
    column, rows = random.standard_normal((depth, 1)), random.standard_normal((num_rows, depth)).astype(np.float32)
    column = column.astype(np.float32)
    first = np.array([[1.0], [0.0]], np.float32)
    alone = Program((InputNode(depth), AffineNode(1, (Term(0, Dense(column)),))))
    beside = AffineNode(2, (Term(0, Dense(np.hstack([column, column]))),))
    paired = Program((InputNode(depth), beside, AffineNode(1, (Term(1, Dense(first)),))))
    one, other = (CompiledProgram(each, compiled_code).run(rows, ("score",))["score"] for each in (alone, paired))
    assert one.tobytes() == other.tobytes()


def test_joined_plan_is_the_closed_form(compiled_code):
    """Score and gradient of a network whose widths fill no vector."""
    weights, rows = draw_weights(4, 9, (70, 67)), np.random.default_rng(2).standard_normal((31, 9)).astype(np.float32)
    received = CompiledProgram(build(weights), compiled_code).run(rows, ("score", "gradient"))
    for name, expected in zip(("score", "gradient"), closed_form(weights, rows), strict=True):
        assert np.abs(received[name] - expected).max() <= 1e-6 * np.abs(expected).max()
