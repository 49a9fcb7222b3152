"""Program to plan: what its steps read was written before, constants lie where they say, the unknown is refused."""

import numpy as np
import pytest

from service.program.atoms import Atom, Softplus
from service.program.kernel.buffers import NOWHERE
from service.program.kernel.plan import (
    GRADIENT,
    INPUT,
    PANEL,
    SCORE,
    STEP,
    Operation,
    UnknownStepError,
    aligned,
    packed,
    plan,
)
from service.program.operators import Operator
from service.program.program import AffineNode, AtomNode, InputNode, Program, Term
from tests.service.program.programs import build, draw_weights


@pytest.mark.parametrize("shape", [(1, 1), (5, 64), (7, 65), (3, 200)])
def test_packed_matrix_holds_each_column_in_its_panel(shape):
    """Entry [k, j] is at panel j // 64, row k, column j % 64; what is over is zero."""
    matrix = np.random.default_rng(0).normal(size=shape)
    panels = packed(matrix)
    assert (-(-shape[1] // PANEL), shape[0], PANEL) == panels.shape
    assert 0 == panels.ctypes.data % 64
    whole = panels.transpose(1, 0, 2).reshape(shape[0], -1)
    assert matrix.astype(np.float32).tobytes() == whole[:, : shape[1]].tobytes()
    assert not whole[:, shape[1] :].any()


@pytest.mark.parametrize("count", [1, 3, 64, 1000])
def test_aligned_memory_begins_at_a_line_of_the_cache(count):
    """As many floats as were asked for, at a multiple of 64 bytes."""
    memory = aligned(count)
    assert ((count,), np.float32, 0) == (memory.shape, memory.dtype, memory.ctypes.data % 64)


@pytest.mark.parametrize("gradient", [False, True])
def test_every_step_reads_what_was_written_before(gradient):
    """Each place is an output's, the input's, or in the scratch memory after a step that wrote it there."""
    made = plan(build(draw_weights()), gradient=gradient)
    written = {INPUT}
    for step in made.steps:
        for name in ("first", "second"):
            assert step[name] == NOWHERE or step[name] in written
        assert not step["accumulates"] or step["out"] in written
        written |= {int(step["out"]), int(step["slope"])}
        assert max(step["out"], step["slope"]) + step["width"] <= made.scratch_width or step["out"] < 0
    assert SCORE in written
    assert gradient == (GRADIENT in written)


def test_plan_of_the_score_alone_keeps_no_slope():
    """Without a gradient there is no reverse pass, and less scratch memory is needed."""
    program = build(draw_weights(0, 8, (64, 64)))
    alone, both = plan(program, gradient=False), plan(program, gradient=True)
    assert (NOWHERE == alone.steps["slope"]).all()
    assert len(alone.steps) < len(both.steps)
    assert alone.scratch_width < both.scratch_width


def test_constants_stay_alive_where_the_steps_point():
    """Each address in a step is that of one of the plan's constants."""
    made = plan(build(draw_weights()), gradient=True)
    there = {0} | {constant.ctypes.data for constant in made.constants}
    assert set(map(int, made.steps["numbers"])) | set(map(int, made.steps["bias"])) <= there


def test_step_has_the_layout_of_the_source():
    """Eleven fields of eight bytes, in the order of steps.h."""
    assert 11 * 8 == STEP.itemsize
    assert ("operation", "width", "depth") == STEP.names[:3]
    assert {"FILL": 0, "REST": 7, "SOFTPLUS": 16, "ABS": 22}.items() <= {o.name: int(o) for o in Operation}.items()


class Cubic(Atom):
    """An atom that the kernel does not know."""

    name = "cubic"


class Shift(Operator):
    """An operator that the kernel does not know."""


def test_unknown_atom_and_unknown_operator_are_refused():
    """A program with a step that has no code in the kernel gets no plan."""
    Cubic.__abstractmethods__ = Shift.__abstractmethods__ = frozenset()
    odd = Shift(np.ones(1, np.float32))
    for node in (AtomNode(1, 0, Cubic()), AffineNode(1, (Term(0, odd),))):
        with pytest.raises(UnknownStepError):
            plan(Program((InputNode(1), node, AtomNode(1, 1, Softplus()))), gradient=False)
