"""Threads that share a call: as many as are free, never more at once than there are processors."""

import os
import threading

import numpy as np
import pytest

from service.program.kernel import compiled
from service.program.kernel.compiled import CompiledProgram
from service.program.kernel.sharing import Sharing, num_processors
from tests.service.program.programs import build, draw_weights

BOTH = ("score", "gradient")


class Crowd:
    """Counts who works at once; each waits until `together` do."""

    def __init__(self, together):
        self.barrier = threading.Barrier(together, timeout=10.0)
        self.told = []

    def __call__(self, num_threads):
        """Work."""
        self.told.append((num_threads, threading.get_ident()))
        self.barrier.wait()


@pytest.mark.parametrize(("limit", "most", "expected"), [(3, 5, 3), (5, 3, 3), (1, 9, 1), (0, 9, 1), (4, 1, 1)])
def test_work_is_shared_by_as_many_threads_as_are_worth_it_and_there_are(limit, most, expected):
    """At the same time, one of them the caller's, each told how many they are."""
    crowd = Crowd(expected)
    Sharing(lambda: limit).run(crowd, most)
    assert [expected] * expected == [num_threads for num_threads, _ in crowd.told]
    threads = {thread for _, thread in crowd.told}
    assert expected == len(threads)
    assert threading.get_ident() in threads


def test_calls_at_once_leave_each_other_the_processors():
    """Of four processors a call within a call of two gets two, a third one its own thread alone."""
    sharing, numbers = Sharing(lambda: 4), []

    def innermost(num_threads):
        numbers.append(num_threads)

    def inner(num_threads):
        numbers.append(num_threads)
        if threading.current_thread() is threading.main_thread():
            sharing.run(innermost, 9)

    def outer(num_threads):
        numbers.append(num_threads)
        if threading.current_thread() is threading.main_thread():
            sharing.run(inner, 9)

    sharing.run(outer, 2)
    assert [1, 2, 2, 2, 2] == sorted(numbers)
    crowd = Crowd(4)
    sharing.run(crowd, 9)
    assert 4 == len(crowd.told)


@pytest.mark.parametrize("fails", ["caller", "other"])
def test_error_of_any_thread_is_raised_and_all_processors_are_free_again(fails):
    """The caller hears of it, and the next call is shared as before."""
    sharing = Sharing(lambda: 2)

    def work(num_threads):
        assert 2 == num_threads
        if (threading.current_thread() is threading.main_thread()) == (fails == "caller"):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        sharing.run(work, 2)
    crowd = Crowd(2)
    sharing.run(crowd, 2)
    assert 2 == len(crowd.told)


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


def test_small_calls_are_not_shared_and_large_ones_are(compiled_code, monkeypatch):
    """A batch of 256 rows of a small program asks for no thread, one with more work for three, or for fewer."""
    asked = []

    class Asked(Sharing):
        def run(self, work, most):
            asked.append(most)
            work(1)

    monkeypatch.setattr(compiled, "_sharing", Asked())
    found = CompiledProgram(build(draw_weights(1, 30, (64, 33))), compiled_code)
    found.run(np.zeros((256, 30), np.float32), BOTH)
    assert [] == asked
    monkeypatch.setattr(compiled, "_SHARE", 1_000_000)
    found.run(np.zeros((256, 30), np.float32), BOTH)
    CompiledProgram(build(draw_weights(1, 30, (64, 33))), compiled_code, num_threads=2).run(
        np.zeros((256, 30), np.float32), BOTH
    )
    CompiledProgram(build(draw_weights(1, 30, (64, 33))), compiled_code, num_threads=1).run(
        np.zeros((256, 30), np.float32), BOTH
    )
    multiply_adds = 2 * (30 * 64 + 64 * 33 + 30 * 33 + 33 + 30)
    assert [256 * (multiply_adds + 30 + 40 * (64 + 33 + 30)) // 1_000_000, 2] == asked
