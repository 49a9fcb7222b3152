"""Threads that share a call: as many as are free, never more at once than there are processors."""

import contextlib
import os
import threading

import numpy as np
import pytest

from service.program.kernel import compiled, library
from service.program.kernel.compiled import CompiledProgram
from service.program.kernel.plan import aligned, plan
from service.program.kernel.sharing import Sharing, num_processors
from tests.service.program.programs import build, draw_weights

BOTH = ("score", "gradient")


@pytest.mark.parametrize(("limit", "most", "expected"), [(3, 5, 3), (5, 3, 3), (1, 9, 1), (0, 9, 1), (4, 1, 1)])
def test_call_gets_as_many_threads_as_are_worth_it_and_there_are(limit, most, expected):
    """The smaller of both numbers, and its own thread in any case."""
    with Sharing(lambda: limit).threads(most) as number:
        assert expected == number


def test_calls_at_once_leave_each_other_the_processors():
    """Of four processors a call beside one of two gets two, and a third one its own thread alone."""
    sharing = Sharing(lambda: 4)
    with sharing.threads(2) as first, sharing.threads(9) as second, sharing.threads(9) as third:
        assert (2, 2, 1) == (first, second, third)
    with sharing.threads(9) as number:
        assert 4 == number


def test_processors_are_free_again_after_an_error():
    """A call that fails gives back what it had."""
    sharing = Sharing(lambda: 2)
    with contextlib.suppress(ZeroDivisionError), sharing.threads(2):
        raise ZeroDivisionError
    with sharing.threads(2) as number:
        assert 2 == number


def test_pinned_thread_has_one_processor():
    """A process that is pinned to one core computes on one thread."""
    numbers = []

    def pinned():
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # 0: this thread
        numbers.append(num_processors())

    thread = threading.Thread(target=pinned)
    thread.start()
    thread.join()
    assert [1] == numbers
    assert len(os.sched_getaffinity(0)) == num_processors()


@pytest.mark.parametrize("limit", [1, 2, 5])
@pytest.mark.parametrize("num_rows", [1, 2, 11, 48, 97, 611])
def test_bits_do_not_depend_on_the_number_of_threads(limit, num_rows, compiled_code, monkeypatch):
    """A call that is shared, however small, has every bit of one that is not."""
    found = CompiledProgram(build(draw_weights(1, 30, (64, 33))), compiled_code)
    rows = np.random.default_rng(3).standard_normal((num_rows, 30)).astype(np.float32)
    expected = found.run(rows, BOTH)
    monkeypatch.setattr(compiled, "_SHARE", 1)
    monkeypatch.setattr(compiled, "_sharing", Sharing(lambda: limit))
    for outputs in (BOTH, BOTH[:1]):
        received = found.run(rows, outputs)
        assert all(expected[name].tobytes() == received[name].tobytes() for name in outputs)


@pytest.mark.parametrize(("asked", "expected"), [(1, 1), (3, 3), (library.MAX_THREADS, 64), (10_000, 64)])
def test_as_many_threads_compute_as_are_asked_for(asked, expected, compiled_code):
    """The code says how many threads there were, and never takes more than there is room for."""
    made = plan(build(draw_weights()), gradient=False)
    rows, score = np.ones((200, 3), np.float32), np.full(200, np.nan, np.float32)
    scratch = aligned(expected * 6 * made.scratch_width)
    run = compiled_code.bind(made, rows, (score, None), 1)
    assert expected == run(scratch.ctypes.data, 6 * made.scratch_width, 6, asked)
    assert np.isfinite(score).all()
    assert 1 == len(set(score.tolist()))


def test_small_calls_are_not_shared_and_large_ones_are(compiled_code, monkeypatch):
    """A batch of 256 rows of a small program asks for no thread, one with more work for three, or for fewer."""
    asked = []

    class Asked(Sharing):
        def threads(self, most):
            asked.append(most)
            return super().threads(1)

    monkeypatch.setattr(compiled, "_sharing", Asked())
    program, rows = build(draw_weights(1, 30, (64, 33))), np.zeros((256, 30), np.float32)
    CompiledProgram(program, compiled_code).run(rows, BOTH)
    assert [] == asked
    monkeypatch.setattr(compiled, "_SHARE", 1_000_000)
    for num_threads in (0, 2, 1):
        CompiledProgram(program, compiled_code, num_threads=num_threads).run(rows, BOTH)
    multiply_adds = 2 * (30 * 64 + 64 * 33 + 30 * 33 + 33 + 30)
    assert [256 * (multiply_adds + 30 + 40 * (64 + 33 + 30)) // 1_000_000, 2] == asked
