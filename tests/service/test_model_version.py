"""A live version: finite answers, one call at a time, warm before it is lent."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from service.caller import Caller
from service.errors import InvalidArgumentError, OutOfRangeError, UnavailableError, VersionRefusedError
from service.model_version import ModelVersion
from service.program.verification import Probe
from tests.service.fake_versions import make_version


def rows(*values):
    """Return float32 rows [n, 3]."""
    return np.array(values, dtype=np.float32)


def test_run_returns_the_wanted_outputs():
    """The engine's arrays come back under the names asked for, and nothing else is computed."""
    live = make_version(version=10)
    results = live.run(rows([1, 2, 3], [0, 0, 0]), ("score",))
    assert ["score"] == list(results)
    assert [16.0, 10.0] == results["score"].tolist()
    assert [(2, ("score",))] == live.engine.calls


def test_run_names_the_first_row_that_leaves_float32():
    """A finite row whose score overflows is OUT_OF_RANGE and named; the words hold none of its numbers."""
    live = make_version()
    with pytest.raises(OutOfRangeError, match=r"^instances\[1\]: score or gradient leaves float32") as caught:
        live.run(rows([0, 0, 0], [3e38, 3e38, 0], [3e38, 3e38, 0]), ("score", "gradient"))
    assert "3e+38" not in caught.value.message


def test_run_sees_a_gradient_that_leaves_float32():
    """One infinite entry of a gradient is enough, though the score is finite."""
    live = make_version()
    live.engine.run = lambda x, _: {"score": x[:, 0], "gradient": np.where(x == 2, np.inf, x)}
    with pytest.raises(OutOfRangeError, match=r"rows\[1\]"):
        live.score_and_gradient(rows([0, 0, 0], [0, 2, 0]))


def test_run_takes_zero_rows():
    """No rows give empty outputs of the right width."""
    results = make_version().run(np.zeros((0, 3), np.float32), ("score", "gradient"))
    assert ((0,), (0, 3)) == (results["score"].shape, results["gradient"].shape)


def test_score_and_gradient_check_and_cast_the_rows():
    """The notebook's methods take float64 and refuse a wrong width as the server does."""
    live = make_version(version=2)
    score, gradient = live.score_and_gradient(np.ones((2, 3)))
    assert ([5.0, 5.0], (2, 3)) == (score.tolist(), gradient.shape)
    assert [5.0] == live.score(np.ones((1, 3))).tolist()
    with pytest.raises(InvalidArgumentError, match=r"rows: expected shape \[n, 3\]"):
        live.score(np.ones((1, 4)))


def test_score_takes_lists_and_refuses_words_and_ragged_rows():
    """What is typed into a notebook is scored, or refused with what was expected."""
    live = make_version(version=2)
    assert [5.0, 2.0] == live.score([[1, 1, 1], [0, 0, 0]]).tolist()
    for wrong in ([["a", "b", "c"]], [[1, 2, 3], [1]], None, [1, 2, 3]):
        with pytest.raises(InvalidArgumentError, match=r"rows: expected (numbers of )?shape \[n, 3\]"):
            live.score(wrong)


def test_warm_up_runs_each_selection_of_outputs_once():
    """Score alone, gradient alone and both are called before the first request."""
    live = make_version()
    live.warm_up()
    assert [(1, ("gradient",)), (1, ("score",)), (1, ("score", "gradient"))] == live.engine.calls


@pytest.mark.parametrize("answer", [np.array([np.nan], np.float32), RuntimeError("device lost")])
def test_warm_up_refuses_an_engine_that_fails(answer):
    """NaN or an exception on the origin refuses the version before anybody gets it."""
    live = make_version()

    def run(_, outputs):
        if isinstance(answer, Exception):
            raise answer
        return dict.fromkeys(outputs, answer)

    live.engine.run = run
    with pytest.raises(VersionRefusedError) as caught:
        live.warm_up()
    assert caught.value.rule == "warm-up"


@pytest.mark.parametrize(("spoil", "refused"), [(0.0, False), (1e-3, True), (float("nan"), True)])
def test_reproduce_refuses_an_engine_that_answers_the_probe_otherwise(spoil, refused):
    """The probe's answers must come out of the very engine that serves, a GPU's too, within 1e-5 of the largest."""
    x = np.arange(48, dtype=np.float32).reshape(16, 3)
    probe = Probe(x, x.sum(axis=1) + 1, np.ones_like(x))
    live = make_version(version=1)
    live.engine.offset += np.float32(spoil * probe.score.max())
    if not refused:
        live.reproduce(probe)
        return
    with pytest.raises(VersionRefusedError) as caught:
        live.reproduce(probe)
    assert "probe" == caught.value.rule


@pytest.mark.parametrize(("thread_safe", "expected"), [(False, 1), (True, 2)])
def test_run_lets_one_call_at_a_time_into_an_engine_that_is_not_thread_safe(thread_safe, expected, wait_until):
    """Two requests meet inside the engine only where it says that it is thread safe."""
    plain = make_version()
    plain.engine.thread_safe = thread_safe
    plain.engine.gate.clear()
    live = ModelVersion(plain.loaded, plain.engine)
    both = threading.Barrier(3)

    def call():
        both.wait(10)
        live.run(rows([0, 0, 0]), ("score",))

    threads = [threading.Thread(target=call) for _ in range(2)]
    for thread in threads:
        thread.start()
    both.wait(10)
    wait_until(lambda: len(plain.engine.calls) == expected)
    assert expected == len(plain.engine.calls)
    plain.engine.gate.set()
    for thread in threads:
        thread.join(10)
    assert 2 == len(plain.engine.calls)


def test_submit_returns_the_bits_of_run_for_every_set_of_outputs():
    """Through the queue or not, the same engine gives the same answer, and only what was asked for."""
    live, x = make_version(version=2), rows([1, 2, 3], [4, 5, 6])
    for outputs in (("score",), ("gradient",), ("score", "gradient")):
        expected, received = live.run(x, outputs), live.submit(x, outputs, Caller())
        assert list(outputs) == list(received)
        assert all(expected[name].tobytes() == received[name].tobytes() for name in outputs)


def test_submit_names_the_row_that_leaves_float32_in_its_own_request(wait_until):
    """Two requests share a batch, and only the owner of the row fails, by the row's place in its own request."""
    live = make_version()
    live.engine.gate.clear()
    with ThreadPoolExecutor(3) as pool:
        futures = [pool.submit(live.submit, rows([0, 0, 0]), ("score",), Caller())]
        wait_until(lambda: live.engine.calls)
        futures.append(pool.submit(live.submit, rows([1, 0, 0], [2, 0, 0]), ("score",), Caller()))
        futures.append(pool.submit(live.submit, rows([0, 0, 0], [3e38, 3e38, 0]), ("score",), Caller()))
        wait_until(lambda: live._room.num_rows == 5)
        live.engine.gate.set()
        assert [2.0, 3.0] == futures[1].result(10)["score"].tolist()
        assert "instances[1]: score or gradient leaves float32" in str(futures[2].exception(10))
    assert [1, 4] == [num_rows for num_rows, _ in live.engine.calls]
    assert live.close()


def test_closed_version_refuses_requests_and_still_runs():
    """UNAVAILABLE for a request; whoever holds the object may go on computing."""
    live = make_version()
    assert live.close()
    with pytest.raises(UnavailableError):
        live.submit(rows([0, 0, 0]), ("score",), Caller())
    assert [1.0] == live.run(rows([0, 0, 0]), ("score",))["score"].tolist()


def test_version_tells_what_its_status_shows():
    """Proof, date and metrics come from what was loaded."""
    live = make_version(proved=False)
    assert ("unproved", "2026-11-20T03:00:12Z", {"held_out": {"rows": 112}}) == (
        live.convexity,
        live.created,
        live.metrics,
    )
    assert "proved" == make_version().convexity
