"""Threads that answer: every task runs, in order, and stuck ones do not hold the end up."""

import threading

from service.rest.threads import Threads

SECONDS = 10.0


def test_threads_run_every_task_before_they_end():
    """One thread runs what waits in the order in which it came, and only then ends."""
    done = []
    threads = Threads(1, "test")
    for number in range(5):
        threads.run(lambda number=number: done.append(number))
    threads.start()
    assert threads.stop(SECONDS)
    assert [0, 1, 2, 3, 4] == done


def test_threads_run_tasks_at_the_same_time():
    """Two tasks that wait for each other both end on two threads."""
    meeting = threading.Barrier(2)
    threads = Threads(2, "test")
    threads.start()
    for _ in range(2):
        threads.run(lambda: meeting.wait(SECONDS))
    assert threads.stop(SECONDS)
    assert not meeting.broken


def test_stop_says_that_a_thread_does_not_end():
    """A task that never ends is left behind after the time given."""
    gate, entered = threading.Event(), threading.Event()

    def stick():
        entered.set()
        gate.wait(SECONDS)

    threads = Threads(1, "test")
    threads.start()
    threads.run(stick)
    assert entered.wait(SECONDS)
    assert not threads.stop(0.01)
    gate.set()
    assert threads.stop(SECONDS)


def test_threads_that_never_started_stop_at_once():
    """A server that was bound and never started has nothing to wait for."""
    assert Threads(2, "test").stop(SECONDS)
