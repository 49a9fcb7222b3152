"""The compiled kernel: the formulas, in float32, with bits that depend on the row alone."""

import threading

import numpy as np
import pytest
import structlog

from service.program import atoms
from service.program.evaluation import evaluate
from service.program.kernel import compiled
from service.program.kernel.compiled import CompiledProgram, answers, is_trusted
from service.program.operators import Dense, Divide, Identity, Scale
from service.program.program import AffineNode, AtomNode, InputNode, MaximumNode, Program, Term
from tests.service.program.programs import build, closed_form, draw_weights

BOTH = ("score", "gradient")
SHAPES = [(1, (1, 1)), (3, (5, 4)), (17, (33, 7)), (64, (256, 128)), (65, (129, 63)), (200, (20, 100))]


def rows_of(dim, count=211, scale=1.0):
    """Return normal rows."""
    return (scale * np.random.default_rng(21).standard_normal((count, dim))).astype(np.float32)


@pytest.mark.parametrize(("dim", "hidden"), SHAPES)
def test_answers_are_the_closed_form(compiled_code, dim, hidden):
    """Score and gradient within 1e-6 of the largest entry of the formula in float64."""
    weights, rows = draw_weights(6, dim, hidden), rows_of(dim)
    received = CompiledProgram(build(weights), compiled_code).run(rows, BOTH)
    for name, expected in zip(BOTH, closed_form(weights, rows), strict=True):
        assert np.float32 == received[name].dtype
        assert np.abs(received[name] - expected).max() <= 1e-6 * np.abs(expected).max()


@pytest.mark.parametrize(("dim", "hidden"), SHAPES)
def test_bits_depend_on_the_row_alone(compiled_code, dim, hidden):
    """Alone, in batches of many sizes, at many places, among huge neighbours, with fewer outputs: every bit."""
    found, rows = CompiledProgram(build(draw_weights(1, dim, hidden)), compiled_code), rows_of(dim)
    together = found.run(rows, BOTH)
    for size in (1, 2, 3, 4, 5, 6, 7, 12, 31, 47, 48, 49, 96, 97, 211):
        for start in range(0, 212 - size, max(size, 19)):
            part = found.run(rows[start : start + size], BOTH)
            assert all(together[name][start : start + size].tobytes() == part[name].tobytes() for name in BOTH)
    neighbours = 1e30 * rows_of(dim, 50)
    neighbours[31] = rows[7]
    moved = found.run(neighbours, BOTH)
    assert all(together[name][7].tobytes() == moved[name][31].tobytes() for name in BOTH)
    for name in BOTH:
        assert together[name].tobytes() == found.run(rows, (name,))[name].tobytes()


@pytest.mark.parametrize(("dim", "hidden"), SHAPES)
def test_bits_do_not_depend_on_the_instructions(compiled_code, dim, hidden):
    """Every level of instructions that this processor has gives the same bits."""
    program, rows = build(draw_weights(2, dim, hidden)), rows_of(dim)
    levels = range(1, compiled_code.level + 1)
    first, *others = (CompiledProgram(program, compiled_code, level).run(rows, BOTH) for level in levels)
    assert all(first[name].tobytes() == other[name].tobytes() for other in others for name in BOTH)


ARGUMENTS = np.concatenate(
    [
        np.linspace(-110.0, 110.0, 40_001),
        np.linspace(-1.0, 1.0, 10_001),
        [0.0, -0.0, 1e-38, -1e-38, 1e-45, 88.7, 88.8, -87.4, -103.9, 3e38, -3e38],
    ]
).astype(np.float32)


def closed_atom(name, u):
    """Return value and slope of an atom in float64."""
    with np.errstate(over="ignore"):
        return {
            "softplus": lambda: (np.logaddexp(0.0, u), np.exp(-np.logaddexp(0.0, -u))),
            "relu": lambda: (np.maximum(u, 0.0), np.where(u > 0, 1.0, 0.0)),
            "leaky": lambda: (np.where(u > 0, u, 0.25 * u), np.where(u > 0, 1.0, 0.25)),
            "elu": lambda: (np.where(u < 0, np.expm1(u), u), np.where(u < 0, np.exp(u), 1.0)),
            "exp": lambda: (np.exp(u), np.exp(u)),
            "square": lambda: (u * u, 2 * u),
            "squared_leaky": lambda: (np.where(u > 0, u, 0.25 * u) ** 2, np.where(u > 0, 2 * u, 0.125 * u)),
            "abs": lambda: (np.abs(u), np.sign(u)),
        }[name]()


ATOMS = {
    "softplus": atoms.Softplus(),
    "relu": atoms.relu(),
    "leaky": atoms.leaky_relu(0.25),
    "elu": atoms.Elu(),
    "exp": atoms.Exp(),
    "square": atoms.Square(),
    "squared_leaky": atoms.squared_leaky(0.25),
    "abs": atoms.Abs(),
}


@pytest.mark.parametrize("name", ATOMS)
def test_atom_is_its_formula_to_three_units_in_the_last_place(compiled_code, name):
    """Value and slope on a grid over all of the exponential's range, at its ends, at denormals and huge numbers."""
    program = Program((InputNode(1), AtomNode(1, 0, ATOMS[name])))
    received = CompiledProgram(program, compiled_code).run(ARGUMENTS[:, None], BOTH)
    found = (received["score"], received["gradient"][:, 0])
    for numbers, expected in zip(found, closed_atom(name, ARGUMENTS.astype(np.float64)), strict=True):
        with np.errstate(over="ignore"):
            in_range = np.isfinite(expected.astype(np.float32))
        assert np.isinf(numbers[~in_range]).all()
        unit = np.spacing(np.abs(expected[in_range]).astype(np.float32)).astype(np.float64)
        assert (np.abs(numbers[in_range] - expected[in_range]) / unit).max() <= 3.0


@pytest.mark.parametrize("name", ATOMS)
def test_atom_passes_on_what_is_no_number(compiled_code, name):
    """NaN stays NaN, and infinity is what it is in NumPy."""
    rows = np.array([[np.nan], [np.inf], [-np.inf], [1.0]], np.float32)
    program = Program((InputNode(1), AtomNode(1, 0, ATOMS[name])))
    received = CompiledProgram(program, compiled_code).run(rows, BOTH)
    with np.errstate(invalid="ignore"):
        expected, _ = evaluate(program, rows)
    np.testing.assert_array_equal(np.isnan(expected), np.isnan(received["score"]))
    np.testing.assert_array_equal(np.isinf(expected), np.isinf(received["score"]))
    assert np.isnan(received["score"][0])


def branching() -> Program:
    """Return max(u, v) + x / c + 3 s x with u = W x + b, v = u / 2 + u: every operator, and shared nodes."""
    random = np.random.default_rng(4)
    normal = lambda *shape: random.standard_normal(shape).astype(np.float32)  # noqa: E731
    return Program(
        (
            InputNode(4),
            AffineNode(4, (Term(0, Dense(normal(4, 4))),), normal(4)),
            AffineNode(4, (Term(1, Scale(np.full(4, 0.5, np.float32))), Term(1, Identity())), normal(4)),
            MaximumNode(4, (1, 2)),
            AffineNode(
                4, (Term(3, Identity()), Term(0, Divide(np.full(4, 7.0, np.float32))), Term(0, Scale(normal(4))))
            ),
            AffineNode(1, (Term(4, Dense(np.abs(normal(4, 1)))), Term(0, Dense(normal(4, 1))))),
        )
    )


def test_every_operator_and_a_shared_node_give_the_float64_answers(compiled_code):
    """Sums, factors, divisors, maxima and several readers of one node, against the evaluation in float64."""
    program, rows = branching(), rows_of(4)
    received = CompiledProgram(program, compiled_code).run(rows, BOTH)
    score, gradient = evaluate(program, rows.astype(np.float64))
    assert np.abs(received["score"] - score).max() <= 1e-6 * np.abs(score).max()
    assert np.abs(received["gradient"] - gradient).max() <= 1e-6 * np.abs(gradient).max()


def test_tie_of_a_maximum_goes_to_the_first_argument(compiled_code):
    """max(x, -x) at 0 has slope 1, as in TensorFlow, and NaN on either side is NaN."""
    nodes = (InputNode(1), AffineNode(1, (Term(0, Scale(np.full(1, -1.0, np.float32))),)), MaximumNode(1, (0, 1)))
    received = CompiledProgram(Program(nodes), compiled_code).run(np.array([[0.0], [-2.0], [np.nan]], np.float32), BOTH)
    np.testing.assert_array_equal([0.0, 2.0, np.nan], received["score"])
    np.testing.assert_array_equal([1.0, -1.0], received["gradient"][:2, 0])


@pytest.mark.parametrize("nodes", [(InputNode(1),), (InputNode(2), AffineNode(1, (), np.ones(1, np.float32)))])
def test_smallest_programs_are_computed(compiled_code, nodes):
    """The row itself, and a constant, whose gradient is zero; of no rows there is no score."""
    found, rows = CompiledProgram(Program(nodes), compiled_code), rows_of(nodes[0].width, 9)
    received = found.run(rows, BOTH)
    expected = rows[:, 0] if len(nodes) == 1 else np.ones(9, np.float32)
    np.testing.assert_array_equal(expected, received["score"])
    np.testing.assert_array_equal(np.full(rows.shape, float(len(nodes) == 1)), received["gradient"])
    none = found.run(rows[:0], BOTH)
    assert ((0,), (0, rows.shape[1])) == (none["score"].shape, none["gradient"].shape)


def test_threads_that_compute_at_once_do_not_meet(compiled_code):
    """Four threads on one program: each call's scratch memory is its own."""
    found, rows = CompiledProgram(build(draw_weights(1, 30, (64, 64))), compiled_code), rows_of(30)
    expected, wrong = found.run(rows, BOTH)["gradient"].tobytes(), []

    def work():
        received = (found.run(rows, BOTH)["gradient"].tobytes() for _ in range(50))
        wrong.extend(each for each in received if each != expected)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [] == wrong


def test_kernel_is_trusted_that_computes_the_program(compiled_code):
    """The real kernel passes its trial, and `answers` has its bits."""
    program, rows = build(draw_weights()), rows_of(3)
    assert compiled_code is not None
    assert is_trusted(program, None)
    expected = CompiledProgram(program, compiled_code).run(rows, BOTH)
    assert all(expected[name].tobytes() == answers(program, rows, BOTH)[name].tobytes() for name in BOTH)


class Planted(CompiledProgram):
    """A kernel with a defect."""

    defect = ""

    def run(self, rows, outputs):
        """Return answers of which one is wrong."""
        found = super().run(rows, outputs)
        if self.defect == "another function":
            found["score"] = found["score"] * np.float32(1.0001)
        if self.defect == "bits of a batch" and len(rows) == 5:
            found["score"] = np.nextafter(found["score"], np.float32(np.inf))
        return found


@pytest.mark.parametrize("defect", ["another function", "bits of a batch"])
def test_kernel_with_a_defect_is_not_trusted(compiled_code, defect, monkeypatch):
    """Another function, or one bit in batches of five rows: an error in the log, and NumPy computes."""
    monkeypatch.setattr(Planted, "defect", defect)
    monkeypatch.setattr(compiled, "compiled", lambda program: Planted(program, compiled_code))
    with structlog.testing.capture_logs() as lines:
        assert not is_trusted(build(draw_weights()), None)
    assert ["error"] == [line["log_level"] for line in lines]


def test_program_with_an_unknown_step_is_left_to_numpy(monkeypatch):
    """Where the kernel does not know an atom, or is missing, there is no compiled program and NumPy answers."""
    program, rows = build(draw_weights()), rows_of(3)
    monkeypatch.setattr(compiled, "library", lambda: None)
    assert compiled.compiled(program) is None
    assert not is_trusted(program, None)
    expected, _ = evaluate(program, rows.astype(np.float64))
    assert np.abs(answers(program, rows, ("score",))["score"] - expected).max() <= 1e-6 * np.abs(expected).max()
