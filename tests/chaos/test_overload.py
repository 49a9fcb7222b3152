"""Ten times more requests than the server can answer, at a fixed rate: it goes on answering, refuses at once, recovers.

The load and its figures are those of `python -m bench overload`; the ratios compare phases of one run.
"""

import dataclasses
import subprocess
import sys

import pytest

from bench.overload import PLANS, Plan, run, run_on
from bench.server_process import serving
from tests.end_to_end.server_process import ROOT

ROOM = ("--max-queue-rows", "8192", "--max-waiting-requests", "2", "--http-threads", "2")
SHORT = Plan(
    num_rows=4096,
    dim=3,
    model="colours",
    timeout_seconds=20.0,
    peak_callers=(2,),
    peak_seconds=0.5,
    calm_seconds=0.3,
    overload_seconds=1.5,
    factor=20.0,
    max_callers=64,
)
KNOWN = {"http": {"ok", "429", "504"}, "grpc": {"ok", "RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED", "UNAVAILABLE"}}
"""UNAVAILABLE: gRPC itself refuses streams that come faster than it takes them, before the service sees the call."""
LONG = [pytest.mark.chaos, pytest.mark.timeout(600)]


def counts_of(result):
    """Return outcome -> number over all phases, after each phase's have been added up."""
    total = {}
    for phase in result["phases"]:
        assert phase["num_sent"] == sum(phase["counts"].values())
        for outcome, count in phase["counts"].items():
            total[outcome] = total.get(outcome, 0) + count
    return total


def assert_nobody_was_failed(result, protocol):
    """Every request got an answer of the contract, every score the same bits; the server logged no error."""
    counts, figures = counts_of(result), result["figures"]
    assert set(counts) <= KNOWN[protocol]
    assert counts.get("ok", 0) > 0
    assert (0, 0, 0) == (figures["num_hung"], figures["num_failed_probes"], figures["num_error_lines"])
    assert 1 == figures["num_distinct_answers"]
    assert 0 == sum(phase["num_without_retry_after"] for phase in result["phases"])


@pytest.fixture(scope="module")
def crowded():
    """Serve the shipped models with room for two requests."""
    with serving(ROOT / "models", *ROOM) as server:
        yield server


@pytest.mark.parametrize(("protocol", "refusal"), [("http", "429"), ("grpc", "RESOURCE_EXHAUSTED")])
def test_more_than_can_be_answered_is_refused_at_once(crowded, protocol, refusal):
    """With room for two requests, a crowd is refused with Retry-After, nobody hangs, no row is computed in vain."""
    result = run_on(crowded, dataclasses.replace(SHORT, protocol=protocol))
    assert_nobody_was_failed(result, protocol)
    counts = counts_of(result)
    assert counts[refusal] > 0
    assert "UNAVAILABLE" not in counts
    assert (0, {}) == (result["figures"]["num_rows_computed_in_vain"], result["figures"]["num_rows_dropped"])


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """Return a folder with the reference model."""
    folder = tmp_path_factory.mktemp("reference")
    words = [sys.executable, "-m", "bench.reference_model", folder]
    subprocess.run(words, cwd=ROOT, check=True, capture_output=True, timeout=100)
    return folder


@pytest.mark.parametrize(
    "plan", [pytest.param(plan, marks=LONG, id=f"{plan.protocol}-{plan.num_rows}") for plan in PLANS]
)
def test_goodput_stays_and_refusals_are_quick_under_ten_times_the_peak(plan, reference, report):
    """The server keeps nine tenths of its peak, refuses in under 10 ms, holds its memory and is well after a second."""
    result = run(plan, reference)
    figures = result["figures"]
    report(protocol=plan.protocol, num_rows=plan.num_rows, **figures)
    assert_nobody_was_failed(result, plan.protocol)
    if plan in PLANS[:2]:  # of the others, a small part of whose cost is the model's, the counts are asserted
        assert figures["offered_factor"] >= 0.9 * plan.factor
        assert figures["goodput_share"] >= 0.9
        assert figures["refusal_p50_milliseconds"] < 10.0
        assert figures["memory_growth_mib"] < 64.0
        assert figures["recovery_seconds"] is not None
        assert figures["recovery_seconds"] <= 1.0


def test_checker_tells_who_was_failed():
    """A lost request, a hung one, a refusal without Retry-After, other bits, a status of no contract: each is told."""
    phase = {"num_sent": 3, "counts": {"ok": 2, "429": 1}, "num_without_retry_after": 0}
    figures = {"num_hung": 0, "num_failed_probes": 0, "num_error_lines": 0, "num_distinct_answers": 1}
    assert_nobody_was_failed({"phases": [phase], "figures": figures}, "http")
    phases = [{"num_sent": 4}, {"counts": {"ok": 2, "500": 1}}, {"counts": {"429": 3}}, {"num_without_retry_after": 1}]
    for change in phases:
        with pytest.raises(AssertionError):
            assert_nobody_was_failed({"phases": [phase | change], "figures": figures}, "http")
    for name in figures:
        with pytest.raises(AssertionError):
            assert_nobody_was_failed({"phases": [phase], "figures": figures | {name: 2}}, "http")
