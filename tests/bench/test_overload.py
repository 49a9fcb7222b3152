"""The figures of an overload: recovery, quantiles and what became of the rows, from samples known by heart."""

import json

import pytest

from bench.load import Job, Phase, Tally, body_of, quantiles
from bench.overload import Plan, recovery_seconds


def test_recovery_is_when_all_that_follows_is_normal():
    """Slow until 0.45 s, refused at 0.62 s, quick from then on: recovered at the next tenth."""
    samples = [(0.0, 0.5), (0.45, 0.3), (0.55, 0.01), (0.62, None), *((0.7 + step / 1000, 0.01) for step in range(90))]
    assert pytest.approx(0.7) == recovery_seconds(samples, 0.02)


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        ([], None),
        ([(0.0, 0.01), (1.0, 0.5)], None),
        ([(0.0, 0.01), (1.0, None)], None),
        ([(0.0, 0.01), (1.0, 0.01)], 0.0),
    ],
)
def test_recovery_is_none_when_the_last_request_is_not_normal(samples, expected):
    """Nothing sent, or a slow or refused request at the end: never; all normal: at once."""
    assert expected == recovery_seconds(samples, 0.02)


def test_quantiles_are_in_milliseconds():
    """Of 0 to 100 ms in steps of one: the median 50, p99 99, the maximum 100."""
    assert {"p50": 50.0, "p99": 99.0, "max": 100.0} == quantiles([step / 1000 for step in range(101)])


def test_tally_counts_each_outcome_and_those_that_came_late():
    """Two answers, one after its deadline, and a refusal: counts, lateness and samples say so."""
    tally = Tally(Phase("p", 1.0, 2.0, keeps_samples=True), 10.0)
    tally.num_sent = 3
    for outcome, sent, now in (("ok", 10.0, 10.25), ("ok", 10.5, 12.0), ("429", 10.75, 10.76)):
        tally.note(outcome, sent, now)
    tally.num_ok_meanwhile = 1
    tally.stop(12.0)
    document = json.loads(json.dumps(tally.document(timeout_seconds=1.0)))
    assert {"ok": 2, "429": 1} == document["counts"]
    assert (1, 1.5, 0.5) == (document["num_late"], document["offered_per_second"], document["ok_per_second"])
    assert [[0.0, 0.25], [0.5, 1.5], [0.75, None]] == document["samples"]


def test_requests_of_a_job_are_rows_of_its_width():
    """512 KiB for 2,048 rows of 64 numbers, and the same ones each time."""
    job = Job("127.0.0.1:1", "m", Plan().num_rows, Plan().dim, 1.0, ())
    assert 524288 == len(body_of(job))
    assert body_of(job) == body_of(job)
