"""The program engine, with the compiled kernel and with NumPy: a row's bits do not depend on its batch."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from service.engines.program import SIZES, ProgramEngine
from service.program.kernel.compiled import TILE_ROWS as KERNEL_TILES
from service.program.kernel.compiled import answers, compiled
from service.program.tiles import TILE_ROWS, evaluate_in_tiles
from tests.service.program.programs import build, closed_form, draw_weights

BOTH = ("score", "gradient")
SHAPES = [(3, (5, 4)), (30, (64, 64)), (17, (33, 7)), (64, (256, 128)), (20, (200, 200)), (30, (100, 100))]
ROOT = Path(__file__).parents[3]


def rows_of(dim: int, count: int = 300) -> NDArray[np.float32]:
    """Return normal rows."""
    return np.random.default_rng(21).standard_normal((count, dim)).astype(np.float32)


@pytest.mark.parametrize("uses_kernel", [False, True])
@pytest.mark.parametrize(("dim", "hidden"), SHAPES)
def test_bits_do_not_change_with_batch_place_or_neighbours(
    dim: int, hidden: tuple[int, int], uses_kernel: bool
) -> None:
    """Alone, in batches of eleven sizes, at every place, among others: the same bits, NumPy's those of its tiles."""
    program = build(draw_weights(1, dim, hidden))
    engine, rows = ProgramEngine(program, uses_kernel=uses_kernel), rows_of(dim)
    expected = (answers if uses_kernel else evaluate_in_tiles)(program, rows, BOTH)
    for size in (1, 2, 3, 7, 16, 31, 32, 33, 64, 129, 300):
        for start in range(0, 301 - size, max(size, 16)):
            part = engine.run(rows[start : start + size], BOTH)
            for name in BOTH:
                assert expected[name][start : start + size].tobytes() == part[name].tobytes()
    for place in range(TILE_ROWS):
        batch = 1e4 * rows_of(dim, TILE_ROWS)
        batch[place] = rows[77]
        moved = engine.run(batch, BOTH)
        assert expected["score"][77].tobytes() == moved["score"][place].tobytes()
        assert expected["gradient"][77].tobytes() == moved["gradient"][place].tobytes()


@pytest.mark.parametrize("uses_kernel", [False, True])
@pytest.mark.parametrize(("dim", "hidden"), SHAPES)
def test_bits_do_not_depend_on_what_was_asked_for(dim: int, hidden: tuple[int, int], uses_kernel: bool) -> None:
    """The score alone, the gradient alone and both: the same bits, and no output that was not asked for."""
    engine, rows = ProgramEngine(build(draw_weights(2, dim, hidden)), uses_kernel=uses_kernel), rows_of(dim)
    both = engine.run(rows, BOTH)
    for outputs in (("score",), ("gradient",)):
        alone = engine.run(rows, outputs)
        assert set(outputs) == set(alone)
        assert both[outputs[0]].tobytes() == alone[outputs[0]].tobytes()


def test_sizes_are_few_known_ones_with_the_fixed_one_among_them() -> None:
    """A version's tiles are some of those worth trying, ascending, and always that of 32 rows."""
    for dim, hidden in SHAPES:
        tile_rows = ProgramEngine(build(draw_weights(1, dim, hidden)), uses_kernel=False).tile_rows
        assert sorted(tile_rows) == list(tile_rows)
        assert {TILE_ROWS} <= set(tile_rows) <= set(SIZES)


def test_only_the_fixed_size_remains_when_nothing_else_is_offered() -> None:
    """Without further sizes every batch is cut into tiles of 32 rows, with the same bits."""
    program, rows = build(draw_weights(1, 30, (64, 64))), rows_of(30)
    fixed = ProgramEngine(program, sizes=(), uses_kernel=False)
    assert (TILE_ROWS,) == fixed.tile_rows
    for size in (1, 40, 300):
        one, other = (engine.run(rows[:size], BOTH) for engine in (fixed, ProgramEngine(program, uses_kernel=False)))
        assert all(one[name].tobytes() == other[name].tobytes() for name in BOTH)


def test_compiled_kernel_computes_where_there_is_one() -> None:
    """By default the engine uses the kernel, whose tiles have any number of rows up to six."""
    program = build(draw_weights())
    if compiled(program) is None:
        pytest.skip("no C compiler could be had: the kernel is not compiled")
    assert KERNEL_TILES == ProgramEngine(program).tile_rows


THREADS = """
import sys, hashlib
import numpy as np
from threadpoolctl import threadpool_info
from service.engines.program import ProgramEngine
from tests.service.program.programs import build, draw_weights
count = lambda: [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]
before = count()
engine = ProgramEngine(build(draw_weights(1, 784, (200, 64))), uses_kernel=False)
answer = engine.run(np.random.default_rng(3).standard_normal((90, 784)).astype(np.float32), ("score", "gradient"))
print(before, count(), hashlib.sha256(answer["score"].tobytes() + answer["gradient"].tobytes()).hexdigest())
"""


def test_bits_do_not_depend_on_the_threads_that_blas_was_given() -> None:
    """With one and with two threads of BLAS in the environment the engine computes on one, the same bits."""
    found = []
    for threads in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", THREADS],
            cwd=ROOT,
            env={"OPENBLAS_NUM_THREADS": threads, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        before, after, digest = done.stdout.split()
        assert (f"[{threads}]", "[1]") == (before, after)
        found.append(digest)
    assert found[0] == found[1]


@pytest.mark.parametrize("uses_kernel", [False, True])
def test_a_neighbour_that_overflows_harms_no_row(uses_kernel: bool) -> None:
    """Infinity and NaN stay in their own row."""
    engine, rows = ProgramEngine(build(draw_weights()), uses_kernel=uses_kernel), rows_of(3, 32)
    expected = engine.run(rows, BOTH)
    rows[5] = 1e30
    spoilt = engine.run(rows, BOTH)
    assert not np.isfinite(spoilt["score"][5])
    others = np.arange(32) != 5
    for name in BOTH:
        assert expected[name][others].tobytes() == spoilt[name][others].tobytes()


@pytest.mark.parametrize("uses_kernel", [False, True])
def test_answers_are_the_closed_form_in_float32(uses_kernel: bool) -> None:
    """Scores within 1e-6 and gradients within 2e-6 of the largest entry of the formula in float64."""
    weights, rows = draw_weights(6, 30, (64, 64)), rows_of(30)
    received = ProgramEngine(build(weights), uses_kernel=uses_kernel).run(rows, BOTH)
    for name, expected, bound in zip(BOTH, closed_form(weights, rows), (1e-6, 2e-6), strict=True):
        assert np.float32 == received[name].dtype
        assert np.abs(received[name] - expected).max() <= bound * np.abs(expected).max()


@pytest.mark.parametrize("uses_kernel", [False, True])
def test_no_rows_are_answered_with_no_scores(uses_kernel: bool) -> None:
    """[0, dim] in, [0] and [0, dim] out."""
    received = ProgramEngine(build(draw_weights()), uses_kernel=uses_kernel).run(np.empty((0, 3), np.float32), BOTH)
    assert ((0,), (0, 3)) == (received["score"].shape, received["gradient"].shape)


@pytest.mark.parametrize("uses_kernel", [False, True])
def test_rows_that_are_a_view_are_read_as_they_are(uses_kernel: bool) -> None:
    """Strided rows give the bits of their copy."""
    engine = ProgramEngine(build(draw_weights()), uses_kernel=uses_kernel)
    view = np.asfortranarray(rows_of(3))[::2]
    assert (
        engine.run(np.ascontiguousarray(view), BOTH)["gradient"].tobytes()
        == engine.run(view, BOTH)["gradient"].tobytes()
    )
