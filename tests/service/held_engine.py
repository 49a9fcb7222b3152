"""An engine in closed form that can be held, fails where it is told to, and notes every batch that it gets."""

import threading

import numpy as np

from service.caller import Caller


class HeldEngine:
    """score = x0 + x1, gradient = 2 x; a row is told by its first number, which tests make unique."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.batches: list[list[float]] = []
        self.threads: list[threading.Thread] = []
        self.faults: dict[float, BaseException] = {}
        self.deadly: set[int] = set()
        """Numbers of the batches, from 0, that end in a SystemExit."""

    @property
    def seen(self) -> list[float]:
        """The first numbers of all rows that were computed, in order."""
        return [number for batch in self.batches for number in batch]

    def __call__(self, rows):
        """Return score [n] and gradient [n, 2], once the gate is open."""
        is_deadly = len(self.batches) in self.deadly
        self.batches.append(rows[:, 0].tolist())
        self.threads.append(threading.current_thread())
        assert self.gate.wait(20)
        for number in rows[:, 0].tolist():
            if number in self.faults:
                raise self.faults[number]
        if is_deadly:
            raise SystemExit
        return {"score": rows.sum(axis=1), "gradient": 2 * rows}


def rows_from(first, count=1):
    """Return rows [first, -1], [first + 1, -1] ... as float32 [count, 2]."""
    return np.column_stack([np.arange(first, first + count), -np.ones(count)]).astype(np.float32)


def assert_answers(rows, outputs):
    """Check score and gradient of rows against the closed form, row by row."""
    np.testing.assert_array_equal(rows[:, 0] - 1, outputs["score"], strict=True)
    np.testing.assert_array_equal(2 * rows, outputs["gradient"], strict=True)


def caller(client="a", deadline_seconds=1e9):
    """Return a caller with a deadline far away."""
    return Caller(deadline_seconds, client)


class FakeClock:
    """Monotonic seconds that only the test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        """Return the time."""
        return self.now
