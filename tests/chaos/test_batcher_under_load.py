"""The batcher pushed to its limits: ten times too much, deadlines that pass, a thread that is killed all the time."""

import ctypes
import itertools
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from structlog.testing import capture_logs

from service.admission import Room
from service.batch_statistics import BatchStatistics
from service.batcher import Batcher
from service.caller import Caller
from service.errors import DeadlineExceededError, InternalError, ResourceExhaustedError
from service.fair_queue import Limits

SECONDS = 60.0
MAX_BATCH_ROWS = 8


class TickingEngine:
    """score = x0; a batch takes one tick of the clock, which stands still otherwise, and a row says its deadline."""

    def __init__(self):
        self.now = 0.0
        self.sizes = []
        self.num_expired = 0
        self.pause_seconds = 0.0005
        self._never = threading.Lock()  # an event would be left locked by a kill
        self._never.acquire()

    def clock(self):
        """Return the time in ticks."""
        return self.now

    def __call__(self, rows):
        """Return the scores, after a moment in which others may come."""
        self.sizes.append(len(rows))
        self.num_expired += int((rows[:, 1] <= self.now).sum())
        self._never.acquire(timeout=self.pause_seconds)
        self.now += 1.0
        return {"score": rows[:, 0].copy()}


class Crowd:
    """Clients that ask in a closed loop, each request with its own deadline, and count what they get."""

    def __init__(self, num_clients, *, max_rows, patience):
        self.engine = TickingEngine()
        self.statistics = BatchStatistics()
        self.room = Room(max_rows, 1 << 20)
        self.batcher = Batcher(
            self.engine,
            self.room,
            limits=Limits(MAX_BATCH_ROWS, MAX_BATCH_ROWS),
            statistics=self.statistics,
            clock=self.engine.clock,
        )
        self.num_clients = num_clients
        self.patience = patience
        self.stopping = threading.Event()
        self.outcomes = dict.fromkeys(["exact", "wrong", "late", "refused", "internal"], 0)
        self._numbers = itertools.count()
        self._counting = threading.Lock()

    def ask(self, rng, client):
        """Send one request and return what became of it."""
        deadline = self.engine.now + float(rng.integers(0, self.patience))
        rows = np.full((int(rng.integers(1, MAX_BATCH_ROWS + 1)), 2), deadline, np.float32)
        rows[:, 0] = [next(self._numbers) for _ in rows]
        try:
            score = self.batcher.submit(rows, Caller(deadline, client))["score"]
        except DeadlineExceededError:
            return "late"
        except ResourceExhaustedError:
            return "refused"
        except InternalError:
            return "internal"
        return "exact" if score.tobytes() == rows[:, 0].tobytes() else "wrong"

    def client(self, number, num_requests):
        """Ask until told to stop, or so many times."""
        rng = np.random.default_rng(number)
        for _ in range(num_requests):
            if self.stopping.is_set():
                return
            outcome = self.ask(rng, number)
            with self._counting:
                self.outcomes[outcome] += 1
            if outcome == "refused":
                threading.Event().wait(0.002)  # a client that obeys Retry-After

    def run(self, num_requests, meanwhile=lambda: None):
        """Let every client send its requests; nobody may hang."""
        with ThreadPoolExecutor(self.num_clients) as pool:
            clients = [pool.submit(self.client, number, num_requests) for number in range(self.num_clients)]
            meanwhile()
            for client in clients:
                client.result(SECONDS)
        assert self.batcher.close(SECONDS)
        assert (0, 0) == (self.room.num_rows, self.statistics.waiting_rows)


LONG = [pytest.mark.chaos, pytest.mark.timeout(900)]


@pytest.mark.parametrize("num_requests", [40, pytest.param(1000, marks=LONG)])
def test_no_expired_row_is_computed_and_batches_are_full_when_ten_times_too_much_comes(num_requests):
    """Ten times what the queue holds: some are refused, some late, none of them computed, and batches are full."""
    crowd = Crowd(num_clients=80, max_rows=4 * MAX_BATCH_ROWS, patience=8)
    crowd.run(num_requests)
    outcomes = crowd.outcomes
    assert 80 * num_requests == sum(outcomes.values())
    assert (0, 0, 0) == (outcomes["wrong"], outcomes["internal"], crowd.engine.num_expired)
    assert min(outcomes["exact"], outcomes["late"], outcomes["refused"]) > 0
    assert max(crowd.engine.sizes) == MAX_BATCH_ROWS
    assert np.mean(crowd.engine.sizes[: len(crowd.engine.sizes) // 2]) >= 0.9 * MAX_BATCH_ROWS


def test_refusal_waits_for_nothing_when_the_engine_is_held():
    """A thousand requests too many are all refused while not a single batch ends."""
    crowd = Crowd(num_clients=4, max_rows=1, patience=2)
    held = threading.Event()
    entered = threading.Event()

    def hold(rows):
        entered.set()
        assert held.wait(SECONDS)
        return {"score": rows[:, 0]}

    crowd.batcher._run = hold
    row = np.ones((1, 2), np.float32)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(crowd.batcher.submit, row, Caller(9.0))
        assert entered.wait(SECONDS)
        for _ in range(1000):
            with pytest.raises(ResourceExhaustedError):
                crowd.batcher.submit(row, Caller(9.0))
        assert not first.done()
        held.set()
        assert [1.0] == first.result(SECONDS)["score"].tolist()


@pytest.mark.parametrize("num_kills", [10, pytest.param(1000, marks=LONG)])
def test_nobody_hangs_when_the_batch_thread_is_killed_at_any_instruction(num_kills, wait_until):
    """Wherever it stands when it is killed: each client is answered exactly or told INTERNAL, each thread replaced."""
    crowd = Crowd(num_clients=8, max_rows=1000, patience=1_000_000)
    crowd.engine.pause_seconds = 0.0

    def is_killed_often_enough():
        """Kill the thread that there is (a garbage collector's callback may swallow it: then again)."""
        thread = crowd.batcher._thread
        if thread is not None:
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(SystemExit))
        return crowd.statistics.num_threads_replaced >= num_kills

    def kill():
        try:
            wait_until(is_killed_often_enough, SECONDS)
        finally:
            crowd.stopping.set()

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)  # so that threads are interrupted anywhere
    try:
        with capture_logs():
            crowd.run(1 << 40, kill)
    finally:
        sys.setswitchinterval(interval)
    outcomes = crowd.outcomes
    assert num_kills <= crowd.statistics.num_threads_replaced
    assert (0, 0, 0) == (outcomes["wrong"], outcomes["late"], outcomes["refused"])
    assert outcomes["internal"] <= MAX_BATCH_ROWS * crowd.statistics.num_threads_replaced < outcomes["exact"]
