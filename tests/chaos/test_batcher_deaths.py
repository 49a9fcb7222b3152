"""The batch thread of a real server killed again and again: nobody hangs, and what is answered is exact."""

import re
import threading

import pytest

from tests.chaos.checking_clients import Crowd
from tests.chaos.mortal_server import MortalServer

COPIES = 64
DEADLINE_SECONDS = 10.0
GRACE_SECONDS = 1.0
LONG = [pytest.mark.chaos, pytest.mark.timeout(1800)]
REPLACED = re.compile(rb'convex_batch_threads_replaced_total{[^}]*outputs="score,gradient"} ([0-9.]+)')


def is_internal(error):
    """Whether an exception is the answer INTERNAL, which a request may have whose thread died twice under it."""
    return str(error).startswith("500:") or "StatusCode.INTERNAL" in str(error)


@pytest.mark.parametrize("num_deaths", [4, pytest.param(100, marks=LONG)])
def test_nobody_hangs_when_the_batch_thread_of_a_server_is_killed_under_load(
    num_deaths, serve, ramps, tmp_path, wait_until, report
):
    """Eight clients on both protocols are answered within their deadline; each death is counted; liveness tells."""
    ramps.publish(tmp_path / "models", 1)
    server = serve(tmp_path / "models", "--request-timeout-seconds", DEADLINE_SECONDS, kind=MortalServer)
    assert 200 == server.get("/healthz")[0]

    def num_replaced():
        return int(float(REPLACED.search(server.get("/metrics")[1])[1]))

    def has_died(before):
        server.kill_batch_threads()
        threading.Event().wait(0.01)
        return num_replaced() > before

    # More rows than a batch may have: they are never computed on their caller's thread.
    with Crowd(server, ramps, copies=COPIES, forgives=is_internal) as crowd:
        wait_until(lambda: crowd.num_answers > 100 or crowd.faults)
        while (before := num_replaced()) < num_deaths:
            wait_until(lambda count=before: has_died(count), 60.0)
            assert [] == crowd.faults
        answered = crowd.num_answers
        wait_until(lambda: crowd.num_answers > answered + 100 or crowd.faults)
    assert [] == crowd.faults
    durations = crowd.durations(0.0, float("inf"))
    assert len(durations) == crowd.num_answers + crowd.num_forgiven
    assert durations[-1] <= DEADLINE_SECONDS + GRACE_SECONDS
    assert crowd.num_forgiven < crowd.num_answers
    code, body = server.get("/healthz")
    assert 500 == code
    assert b"died twice" in body
    report(
        deaths=num_replaced(),
        answers=crowd.num_answers,
        internal=crowd.num_forgiven,
        longest_seconds=round(float(durations[-1]), 3),
    )
