"""Threads apart while requests are refused: which processors each gets, and when all may run everywhere again."""

import os
import threading

import pytest

from service.apart import CALM_SECONDS, Apart, of_process


class Machine:
    """Notes where each thread was put, and tells a time of its own."""

    def __init__(self, num_processors):
        self.now = 100.0
        self.placed = []
        self.apart = Apart(range(num_processors), self.place, lambda: self.now)

    def place(self, processors):
        """Note it."""
        self.placed.append((threading.current_thread().name, tuple(processors)))

    def compute(self, name="batch"):
        """Compute once on a thread of its own; return where it was put."""
        before = len(self.placed)
        thread = threading.Thread(target=self._compute, name=name)
        thread.start()
        thread.join()
        return [processors for _, processors in self.placed[before:]]

    def _compute(self):
        with self.apart.computing():
            pass


@pytest.mark.parametrize(
    ("num_processors", "refusing", "computing"),
    [(2, (1,), (0,)), (3, (2,), (0, 1)), (8, (6, 7), (0, 1, 2, 3, 4, 5))],
)
def test_refusing_and_computing_threads_share_no_processor(num_processors, refusing, computing):
    """A quarter, at least one, is for refusals; the others compute."""
    machine = Machine(num_processors)
    machine.apart.refused()
    assert [("MainThread", refusing)] == machine.placed
    assert [computing] == machine.compute()


def test_nothing_happens_while_nothing_is_refused():
    """No thread is placed anywhere."""
    machine = Machine(2)
    machine.apart.look()
    assert [] == machine.compute()
    assert [] == machine.placed


@pytest.mark.parametrize("num_processors", [0, 1])
def test_nothing_happens_on_a_single_processor(num_processors):
    """There is no second one to go to; nor on a system that does not say."""
    machine = Machine(num_processors)
    machine.apart.refused()
    assert [] == machine.compute()
    assert [] == machine.placed


def test_threads_run_everywhere_again_a_while_after_the_last_refusal():
    """The loop goes back when it looks, a batch thread with its next batch, and each refusal begins the time anew."""
    machine = Machine(2)
    machine.apart.refused()
    machine.now += 0.9 * CALM_SECONDS
    machine.apart.refused()
    machine.now += 0.9 * CALM_SECONDS
    machine.apart.look()
    with machine.apart.computing():
        assert [("MainThread", (1,)), ("MainThread", (0,))] == machine.placed
    machine.apart.refused()
    machine.now += CALM_SECONDS
    machine.apart.look()
    with machine.apart.computing():
        assert ("MainThread", (0, 1)) == machine.placed[-1]


def test_more_computing_threads_than_fit_run_everywhere():
    """The second of two batches on two processors is not crowded onto the first one's."""
    machine = Machine(2)
    machine.apart.refused()
    with machine.apart.computing():
        assert [] == machine.compute()
    assert [(0,)] == machine.compute()


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="Linux alone places threads")
def test_threads_of_a_process_are_really_placed():
    """The system says so of the thread itself, and of no other."""
    before = os.sched_getaffinity(0)
    found = []

    def refuse():
        of_process().refused()
        found.append(os.sched_getaffinity(0))

    thread = threading.Thread(target=refuse)
    thread.start()
    thread.join()
    expected = set(sorted(before)[-max(1, len(before) // 4) :]) if len(before) > 1 else before
    assert [expected] == found
    assert before == os.sched_getaffinity(0)
