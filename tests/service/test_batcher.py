"""The batcher: every row once, in order, to its owner; errors, deadlines and dead threads harm nobody else."""

import contextlib
import gc
import queue
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from service.admission import Room
from service.batch_statistics import BatchStatistics
from service.batcher import Batcher
from service.errors import (
    CancelledError,
    DeadlineExceededError,
    InternalError,
    ResourceExhaustedError,
    UnavailableError,
)
from service.fair_queue import Limits
from service.pulse import HUNG_SECONDS
from tests.service.held_engine import FakeClock, HeldEngine, assert_answers, caller, rows_from

SECONDS = 20.0
PLUG = 1e6
"""The first number of the row that occupies the engine while a test lets others queue."""


class Stage:
    """A batcher over a held engine, and threads to call it from."""

    def __init__(self, wait_until, *, max_rows=1000, max_batch_rows=8, turn_rows=4):
        self.wait_until = wait_until
        self.engine = HeldEngine()
        self.clock = FakeClock()
        self.room = Room(max_rows, 1 << 20)
        self.statistics = BatchStatistics()
        self.batcher = Batcher(
            self.engine,
            self.room,
            limits=Limits(max_batch_rows, turn_rows),
            statistics=self.statistics,
            clock=self.clock,
        )
        self.pool = ThreadPoolExecutor(32)
        self.num_waiting = 0

    def submit(self, rows, who=None):
        """Submit on a thread of its own, and return when the rows are in; returns the future."""
        future = self.pool.submit(self.batcher.submit, rows, who or caller())
        self.num_waiting += len(rows)
        self.wait_until(lambda: self.statistics.waiting_rows >= self.num_waiting or future.done(), SECONDS)
        return future

    def hold(self):
        """Occupy the engine with one row on its caller's thread."""
        self.engine.gate.clear()
        plug = self.submit(rows_from(PLUG))
        self.wait_until(lambda: self.engine.batches, SECONDS)
        return plug


@pytest.fixture
def make_stage(wait_until):
    """Return `stage(**options)`, a context that ends everything and checks that no room stays taken."""

    @contextlib.contextmanager
    def make(**options):
        stage = Stage(wait_until, **options)
        try:
            yield stage
        finally:
            stage.engine.gate.set()
            stage.pool.shutdown()
            assert stage.batcher.close(SECONDS)
        assert (0, 0) == (stage.room.num_rows, stage.statistics.waiting_rows)

    return make


@pytest.fixture
def stage(make_stage):
    """Return a stage with batches of 8 rows and turns of 4."""
    with make_stage() as stage:
        yield stage


def test_requests_are_answered_after_one_that_could_not_even_be_counted(stage, monkeypatch):
    """Memory that runs out between a lone request's admission and its computation leaves nobody waiting behind it."""

    def fail(*_):
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(stage.statistics, "count_batch", fail)
        with pytest.raises(MemoryError):
            stage.batcher.submit(rows_from(1), caller())
    rows, who = rows_from(2), caller()
    answer = stage.pool.submit(stage.batcher.submit, rows, who)
    try:
        assert_answers(rows, answer.result(SECONDS / 4))
    finally:
        who.cancel()


def test_lone_requests_are_computed_on_their_callers_thread(stage):
    """One at a time there is no thread in between, and none is started."""
    for number in range(5):
        assert_answers(rows_from(number), stage.batcher.submit(rows_from(number), caller()))
    assert {threading.current_thread()} == set(stage.engine.threads)
    assert [[number] for number in range(5)] == stage.engine.batches


def test_no_rows_are_answered_with_no_rows(stage):
    """A request without rows has empty outputs and takes no room."""
    assert_answers(rows_from(0, 0), stage.batcher.submit(rows_from(0, 0), caller()))


def test_what_comes_while_the_engine_computes_is_the_next_batch(stage):
    """Natural batching: three requests that came meanwhile are computed together, and each gets its own rows."""
    plug = stage.hold()
    futures = [stage.submit(rows_from(10 * number, number)) for number in (1, 2, 3)]
    stage.engine.gate.set()
    assert_answers(rows_from(PLUG), plug.result(SECONDS))
    for number, future in zip((1, 2, 3), futures, strict=True):
        assert_answers(rows_from(10 * number, number), future.result(SECONDS))
    assert [[PLUG], [10, 20, 21, 30, 31, 32]] == stage.engine.batches


def test_thread_gives_way_to_callers_when_it_is_calm_again(stage):
    """After a crowd the next few lone requests go through the thread, later ones run on their caller's again."""
    plug = stage.hold()
    crowd = [stage.submit(rows_from(number)) for number in range(3)]
    stage.engine.gate.set()
    for future in (plug, *crowd):
        future.result(SECONDS)
    for number in range(10):
        stage.batcher.submit(rows_from(number), caller())
    here = [thread is threading.current_thread() for thread in stage.engine.threads[2:]]
    assert (False, True) == (here[0], here[-1])
    assert sorted(here) == here


FATES = st.tuples(
    st.integers(1, 30), st.sampled_from("abc"), st.sampled_from(["plain", "plain", "guilty", "late", "gone"])
)


@given(
    requests=st.lists(FATES, min_size=1, max_size=8),
    limits=st.builds(Limits, st.integers(1, 16), st.integers(1, 16)),
    deadly=st.sets(st.integers(1, 6), max_size=2),
)
@settings(max_examples=40, deadline=None)
def test_every_row_comes_back_once_in_order_to_its_owner(wait_until, requests, limits, deadly):
    """Whatever comes together, fails, expires, leaves, and however often the thread dies: each owner has its answer."""
    stage = Stage(wait_until, max_batch_rows=limits.max_batch_rows, turn_rows=limits.turn_rows)
    fates = [fate for _, _, fate in requests]
    rows = [rows_from(100 * number, size) for number, (size, _, _) in enumerate(requests)]
    callers = [caller(client, 200.0 if fate == "late" else 1e9) for _, client, fate in requests]
    plug = stage.hold()
    futures = [stage.submit(rows[number], callers[number]) for number in range(len(requests))]
    for number, fate in enumerate(fates):
        if fate == "gone":  # before the time of the others comes
            callers[number].cancel()
        elif fate == "guilty":
            stage.engine.faults[100.0 * number] = ArithmeticError(str(number))
    stage.clock.now = 300.0
    stage.engine.deadly = deadly
    with capture_logs():
        stage.engine.gate.set()
        assert_answers(rows_from(PLUG), plug.result(SECONDS))
        outcomes = [future.exception(SECONDS) for future in futures]
    assert stage.batcher.close(SECONDS)
    stage.pool.shutdown()
    endings = {"gone": CancelledError, "late": DeadlineExceededError, "guilty": ArithmeticError, "plain": type(None)}
    for number, (fate, outcome) in enumerate(zip(fates, outcomes, strict=True)):
        if type(outcome) is not InternalError or len(deadly) < 2:  # two deaths may have been of this request alone
            assert endings[fate] is type(outcome)
        if outcome is None:
            assert_answers(rows[number], futures[number].result())
    dropped = {100.0 * number for number, fate in enumerate(fates) if fate in {"late", "gone"}}
    assert not dropped & set(stage.engine.seen)
    assert all(len(batch) <= limits.max_batch_rows for batch in stage.engine.batches)
    assert (0, 0) == (stage.room.num_rows, stage.statistics.waiting_rows)


def test_large_request_does_not_keep_a_small_one_waiting(stage):
    """One row that comes while a hundred are computed piece by piece is in the very next batch."""
    stage.hold()
    large = stage.submit(rows_from(0, 100))
    small = stage.submit(rows_from(500), caller("b"))
    stage.engine.gate.set()
    assert_answers(rows_from(500), small.result(SECONDS))
    assert_answers(rows_from(0, 100), large.result(SECONDS))
    assert 500 in stage.engine.batches[1]


def test_large_request_is_never_computed_in_one_call(stage):
    """Alone on an idle batcher it is split all the same, so that others can come in between."""
    assert_answers(rows_from(0, 20), stage.batcher.submit(rows_from(0, 20), caller()))
    assert [8, 8, 4] == [len(batch) for batch in stage.engine.batches]


def test_full_queue_refuses_at_once_and_takes_again_when_it_is_empty(make_stage):
    """One row too many is RESOURCE_EXHAUSTED while the engine is still held; nothing of it was queued."""
    with make_stage(max_rows=3) as stage:
        plug = stage.hold()
        waiting = stage.submit(rows_from(0, 2))
        with pytest.raises(ResourceExhaustedError, match="the queue is full: 3 rows"):
            stage.batcher.submit(rows_from(10), caller())
        stage.engine.gate.set()
        assert_answers(rows_from(0, 2), waiting.result(SECONDS))
        plug.result(SECONDS)
        assert_answers(rows_from(20), stage.batcher.submit(rows_from(20), caller()))
        assert 10 not in stage.engine.seen


def test_refusal_estimates_the_time_from_what_rows_took(make_stage):
    """Retry-After is what waits times the seconds that a row took lately, each batch counting a tenth."""
    with make_stage(max_rows=1) as stage:
        rows = rows_from(0)
        plug = stage.hold()
        stage.clock.now += 5.0
        stage.engine.gate.set()
        plug.result(SECONDS)
        stage.num_waiting = 0
        stage.engine.batches.clear()
        stage.hold()
        with pytest.raises(ResourceExhaustedError) as refusal:
            stage.batcher.submit(rows, caller())
        assert 0.5 == pytest.approx(refusal.value.retry_after_seconds)


def test_only_the_guilty_request_fails_when_a_batch_does(stage):
    """The engine's exception reaches the owner of the row alone; the others are computed by themselves."""
    stage.hold()
    futures = [stage.submit(rows_from(10 * number, 2)) for number in range(4)]
    stage.engine.faults = {21.0: ArithmeticError("row 21")}
    with capture_logs() as logs:
        stage.engine.gate.set()
        outcomes = [future.exception(SECONDS) for future in futures]
    assert [None, None, "row 21", None] == [outcome and str(outcome) for outcome in outcomes]
    for number in (0, 1, 3):
        assert_answers(rows_from(10 * number, 2), futures[number].result())
    assert ["a batch failed; its requests are computed one by one"] == [line["event"] for line in logs]
    assert [[0, 1], [10, 11], [20, 21], [30, 31]] == sorted(stage.engine.batches[2:])


def test_innocent_request_is_answered_when_the_guilty_one_went_away_meanwhile(stage):
    """Who is left alone of a batch that failed is not its cause for that: it is computed again, like any other."""
    plug, who = stage.hold(), caller()
    held = threading.Event()
    stage.engine.faults = {10.0: ArithmeticError("row 10")}
    guilty, innocent = stage.submit(rows_from(10), who), stage.submit(rows_from(20))
    gate, stage.engine.gate = stage.engine.gate, held
    gate.set()
    assert_answers(rows_from(PLUG), plug.result(SECONDS))
    stage.wait_until(lambda: stage.engine.batches[1:], SECONDS)
    who.cancel()
    with capture_logs():
        held.set()
        assert CancelledError is type(guilty.exception(SECONDS))
        assert_answers(rows_from(20), innocent.result(SECONDS))
    assert [[PLUG], [10, 20], [20]] == stage.engine.batches


def test_nothing_is_computed_again_when_the_only_owner_of_a_failed_batch_went_away(stage):
    """A batch of one request that failed after its caller left is over; the next request finds a batcher at rest."""
    plug, who = stage.hold(), caller()
    held = threading.Event()
    stage.engine.faults = {10.0: ArithmeticError("row 10")}
    guilty = stage.submit(rows_from(10), who)
    gate, stage.engine.gate = stage.engine.gate, held
    gate.set()
    assert_answers(rows_from(PLUG), plug.result(SECONDS))
    stage.wait_until(lambda: stage.engine.batches[1:], SECONDS)
    who.cancel()
    held.set()
    assert CancelledError is type(guilty.exception(SECONDS))
    assert_answers(rows_from(20), stage.batcher.submit(rows_from(20), caller()))
    assert [[PLUG], [10], [20]] == stage.engine.batches


def test_rest_of_a_large_request_is_not_computed_when_a_piece_of_it_failed(stage):
    """The first piece that fails ends the request, and the pieces behind it never begin."""
    stage.engine.faults = {3.0: ArithmeticError("row 3")}
    with pytest.raises(ArithmeticError, match="row 3"):
        stage.batcher.submit(rows_from(0, 20), caller())
    assert_answers(rows_from(90), stage.batcher.submit(rows_from(90), caller()))
    assert [[*range(8)], [90]] == stage.engine.batches


def test_exception_of_a_lone_request_is_raised_on_its_callers_thread(stage):
    """Nothing is retried, the batcher goes on, and the failure is counted like that of any batch."""
    stage.engine.faults = {7.0: ArithmeticError("row 7")}
    with pytest.raises(ArithmeticError, match="row 7"):
        stage.batcher.submit(rows_from(7), caller())
    assert_answers(rows_from(8), stage.batcher.submit(rows_from(8), caller()))
    assert 1 == stage.statistics.num_failed_batches
    assert [[7], [8]] == stage.engine.batches


@pytest.mark.parametrize(
    ("raised", "expected"),
    [(SystemExit, InternalError), (GeneratorExit, InternalError), (KeyboardInterrupt, KeyboardInterrupt)],
)
def test_lone_request_is_answered_when_its_engine_would_end_the_thread(stage, raised, expected):
    """What is no Exception comes as INTERNAL, for no transport would answer it; but a person may interrupt."""
    stage.engine.faults = {7.0: raised()}
    with pytest.raises(expected):
        stage.batcher.submit(rows_from(7), caller())
    assert_answers(rows_from(8), stage.batcher.submit(rows_from(8), caller()))
    assert [[7], [8]] == stage.engine.batches


def test_expired_rows_are_never_computed(stage):
    """A deadline that passes in the queue is DEADLINE_EXCEEDED, at once, while the engine is still held."""
    stage.hold()
    late = stage.submit(rows_from(10, 3), caller(deadline_seconds=101.0))
    kept = stage.submit(rows_from(20), caller(deadline_seconds=1000.0))
    stage.clock.now = 101.0
    assert DeadlineExceededError is type(late.exception(SECONDS))
    stage.engine.gate.set()
    assert_answers(rows_from(20), kept.result(SECONDS))
    assert [PLUG, 20] == stage.engine.seen
    assert 3 == stage.statistics.dropped_rows["deadline"]


def test_expired_request_is_refused_before_it_is_queued(stage):
    """Who comes too late takes no room."""
    with pytest.raises(DeadlineExceededError):
        stage.batcher.submit(rows_from(1), caller(deadline_seconds=99.0))
    assert [] == stage.engine.seen


def test_rest_of_a_large_request_is_not_computed_when_its_deadline_passes(stage, wait_until):
    """What was computed by then is thrown away; the other pieces never begin."""
    stage.engine.gate.clear()
    large = stage.submit(rows_from(0, 20), caller(deadline_seconds=101.0))
    wait_until(lambda: stage.engine.batches, SECONDS)
    stage.clock.now = 102.0
    assert DeadlineExceededError is type(large.exception(SECONDS))
    stage.engine.gate.set()
    assert_answers(rows_from(90), stage.batcher.submit(rows_from(90), caller()))
    assert [*range(8), 90] == stage.engine.seen
    assert 12 == stage.statistics.dropped_rows["deadline"]


def test_cancelled_rows_are_never_computed(stage):
    """Who goes away is answered at once, though the engine is held, and its rows are forgotten."""
    stage.hold()
    who = caller()
    future = stage.submit(rows_from(10, 2), who)
    who.cancel()
    assert CancelledError is type(future.exception(SECONDS))
    early = caller()
    early.cancel()
    with pytest.raises(CancelledError):
        stage.batcher.submit(rows_from(30), early)
    stage.engine.gate.set()
    assert_answers(rows_from(20), stage.submit(rows_from(20)).result(SECONDS))
    assert [PLUG, 20] == stage.engine.seen
    assert 3 == stage.statistics.dropped_rows["cancelled"]


def test_cancel_after_the_answer_changes_nothing(stage):
    """A call ends for its caller after it was answered: that is no cancellation."""
    plug = stage.hold()
    callers = [caller() for _ in range(2)]
    futures = [stage.submit(rows_from(number), who) for number, who in enumerate(callers)]
    stage.engine.gate.set()
    for future in (plug, *futures):
        future.result(SECONDS)
    for who in callers:
        who.cancel()
    assert 0 == sum(stage.statistics.dropped_rows.values())


def test_requests_are_answered_by_a_new_thread_when_theirs_dies(stage):
    """What the dead thread held and what waited behind it is computed by its successor, which is counted."""
    stage.hold()
    futures = [stage.submit(rows_from(10 * number, 5)) for number in range(4)]
    stage.engine.deadly = {1}
    with capture_logs() as logs:
        stage.engine.gate.set()
        for number, future in enumerate(futures):
            assert_answers(rows_from(10 * number, 5), future.result(SECONDS))
    assert ["the batch thread died; it is replaced"] == [line["event"] for line in logs]
    assert 1 == stage.statistics.num_threads_replaced


def test_request_that_kills_the_thread_again_and_again_ends_alone(stage):
    """Computed alone, it kills once more and is answered INTERNAL; its neighbours have their answers."""
    stage.hold()
    futures = [stage.submit(rows_from(10 * number, 2)) for number in range(3)]
    stage.engine.faults = {10.0: SystemExit()}
    with capture_logs():
        stage.engine.gate.set()
        outcomes = [type(future.exception(SECONDS)) for future in futures]
    assert [type(None), InternalError, type(None)] == outcomes
    assert 2 == stage.statistics.num_threads_replaced
    assert 2 == sum(10.0 in batch for batch in stage.engine.batches)


def test_waiting_requests_find_a_thread_that_died_without_a_word(stage):
    """Even where the thread could not say that it dies, those who wait see it and start another."""
    stage.hold()
    threads = []

    def die():
        threads.append(threading.current_thread())
        del stage.batcher._work

    stage.batcher._work = die
    futures = [stage.submit(rows_from(number)) for number in range(3)]
    stage.engine.gate.set()
    for number, future in enumerate(futures):
        assert_answers(rows_from(number), future.result(SECONDS))
    assert 1 == len(threads)
    assert threads[0] not in stage.engine.threads
    assert 1 == stage.statistics.num_threads_replaced


def test_requests_wait_on_when_no_thread_can_be_started(stage, monkeypatch):
    """A machine without threads to give is asked again until it has one."""
    stage.hold()
    start, failures = threading.Thread.start, [RuntimeError("can't start new thread")] * 2

    def refuse(thread):
        if failures and thread.name == "batcher":
            raise failures.pop()
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with capture_logs() as logs:
        future = stage.submit(rows_from(1))
        stage.engine.gate.set()
        assert_answers(rows_from(1), future.result(SECONDS))
    assert ["no batch thread can be started now"] * 2 == [line["event"] for line in logs]
    assert 0 == stage.statistics.num_threads_replaced


def test_begun_requests_are_put_where_they_are_waited_for_together(stage):
    """Nobody waits for each: those that are computed, fail or expire are all put into the one place, and tell how."""
    stage.hold()
    ended = queue.SimpleQueue()
    stage.engine.faults = {20.0: ArithmeticError("guilty")}
    begun = [stage.batcher.begin(rows_from(10 * number, 2), caller(), ended) for number in range(3)]
    late = stage.batcher.begin(rows_from(50), caller(deadline_seconds=200.0), ended)
    stage.clock.now = 300.0
    stage.batcher.look(begun[0])
    assert ended.empty()
    stage.batcher.look(late)
    assert late is ended.get(timeout=SECONDS)
    with capture_logs():
        stage.engine.gate.set()
        assert set(begun) == {ended.get(timeout=SECONDS) for _ in begun}
    for number in range(2):
        assert_answers(rows_from(10 * number, 2), begun[number].outcome())
    for request, error in ((begun[2], ArithmeticError), (late, DeadlineExceededError)):
        with pytest.raises(error):
            request.outcome()
    assert 50.0 not in stage.engine.seen


def test_look_replaces_a_thread_that_died_without_a_word(stage):
    """Whoever waits for several requests keeps the batch thread alive as those do who wait for one."""
    stage.hold()
    stage.batcher._work = lambda: stage.batcher.__dict__.pop("_work")
    ended = queue.SimpleQueue()
    request = stage.batcher.begin(rows_from(1), caller(), ended)
    stage.batcher._thread.join(SECONDS)
    stage.batcher.look(request)
    stage.engine.gate.set()
    assert request is ended.get(timeout=SECONDS)
    assert_answers(rows_from(1), request.outcome())
    assert 1 == stage.statistics.num_threads_replaced


def test_close_refuses_what_waits_and_finishes_what_is_computed(stage):
    """UNAVAILABLE for those in the queue and for whoever comes later; the batch in the engine is answered."""
    plug = stage.hold()
    waiting = stage.submit(rows_from(1))
    assert stage.batcher.close(0.0) is False
    assert UnavailableError is type(waiting.exception(SECONDS))
    with pytest.raises(UnavailableError):
        stage.batcher.submit(rows_from(2), caller())
    stage.engine.gate.set()
    assert_answers(rows_from(PLUG), plug.result(SECONDS))
    assert stage.batcher.close(SECONDS) is True
    assert [PLUG] == stage.engine.seen
    assert 2 == stage.statistics.dropped_rows["closed"]


def test_refuse_waiting_answers_at_once_while_the_engine_computes(stage):
    """Those in the queue read UNAVAILABLE before the batch in the engine is done, and that batch is answered."""
    plug = stage.hold()
    waiting = stage.submit(rows_from(1))
    stage.batcher.refuse_waiting()
    assert UnavailableError is type(waiting.exception(SECONDS))
    assert not plug.done()
    stage.engine.gate.set()
    assert_answers(rows_from(PLUG), plug.result(SECONDS))
    assert [PLUG] == stage.engine.seen


@pytest.mark.parametrize("is_alone", [True, False])
def test_pulse_tells_of_an_engine_that_hangs_on_whatever_thread(stage, is_alone):
    """A lone request on its caller's thread, or a batch on the batch thread: trouble until the engine comes back."""
    plug = stage.hold()
    futures = [plug]
    if not is_alone:
        held, stage.engine.gate = stage.engine.gate, threading.Event()
        futures.append(stage.submit(rows_from(1)))
        held.set()
        stage.wait_until(lambda: len(stage.engine.batches) == 2, SECONDS)
    assert "" == stage.batcher.pulse.trouble()
    stage.clock.now += HUNG_SECONDS + 1.0
    assert "the engine has computed one batch for 31 s" in stage.batcher.pulse.trouble()
    stage.engine.gate.set()
    for future in futures:
        future.result(SECONDS)
    stage.wait_until(lambda: stage.batcher.pulse.trouble() == "", SECONDS)


def test_engine_that_answers_too_few_rows_gives_nobody_anothers(stage):
    """A batch whose outputs do not fit is a failure of the engine."""
    plug = stage.hold()
    future = stage.submit(rows_from(1))
    stage.batcher._run = lambda rows: {"score": rows[:0, 0]}
    stage.engine.gate.set()
    assert "answered 0 rows of score" in str(future.exception(SECONDS))
    plug.result(SECONDS)


@pytest.mark.parametrize("fails", [False, True])
def test_answered_requests_leave_no_garbage(stage, fails):
    """Rows and outputs die with their request, not at the next garbage collection, after an error too."""
    stage.hold()
    rows = rows_from(5, 2)
    gone = weakref.ref(rows)
    future = stage.submit(rows)
    if fails:
        stage.engine.faults = {5.0: ArithmeticError()}
    gc.disable()
    try:
        stage.engine.gate.set()
        assert fails == (future.exception(SECONDS) is not None)
        stage.engine.faults.clear()
        del rows, future
        stage.wait_until(lambda: gone() is None, SECONDS)
    finally:
        gc.enable()


def test_statistics_count_batches_and_waits(stage):
    """Batch sizes and the time that each request waited for its first row."""
    plug = stage.hold()
    futures = [stage.submit(rows_from(number)) for number in range(3)]
    stage.clock.now += 2.0
    stage.engine.gate.set()
    for future in (plug, *futures):
        future.result(SECONDS)
    assert (2, 4.0) == (stage.statistics.batch_rows.count, stage.statistics.batch_rows.total)
    assert (4, 6.0) == (stage.statistics.wait_seconds.count, stage.statistics.wait_seconds.total)
