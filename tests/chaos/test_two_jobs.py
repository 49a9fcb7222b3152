"""Two jobs on one model at once: with locks the second is sent away, without them both get numbers of their own."""

import json
import subprocess
import sys

import pytest

from tests.end_to_end.server_process import ROOT

LONG = [pytest.mark.chaos, pytest.mark.timeout(1200)]


@pytest.fixture
def pair(tmp_path):
    """Return `pair(way, rounds)`, which lets two jobs run at once again and again and returns what was seen."""

    def run(way, rounds, **how):
        words = json.dumps({"models_dir": str(tmp_path / "models"), "way": way, "rounds": rounds, **how})
        command = [sys.executable, "-m", "tests.chaos.job_pairs", words]
        ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=1000)
        assert ("", 0) == (ended.stderr, ended.returncode)
        return json.loads(ended.stdout)

    return run


@pytest.mark.parametrize("count", [10, pytest.param(200, marks=LONG)])
def test_no_version_is_lost_or_clobbered_when_two_jobs_run_at_once(count, pair, report):
    """The second exits 4 while the first still works; without locks both publish, although both chose one number."""
    seen = pair("right", {"free": count, "held": count, "unlocked": count})
    assert {} == seen["faults"]
    assert count == seen["outcomes"]["held [0, 4]"] == seen["outcomes"]["unlocked [0, 0]"]
    free = seen["outcomes"].get("free [0, 4]", 0), seen["outcomes"].get("free [0, 0]", 0)
    assert count == sum(free)
    assert 3 * count + free[1] + count == seen["num_versions"]
    report(rounds=3 * count, versions=seen["num_versions"], lost=0, clobbered=0)


@pytest.mark.parametrize(
    ("way", "mode", "kinds"),
    [
        ("wrong_overwriting", "unlocked", {"clobbered", "half"}),
        ("wrong_overwriting", "held", {"codes"}),
        ("wrong_waiting", "held", {"waited", "codes"}),
    ],
)
def test_wrong_way_is_found_when_two_jobs_run_at_once(way, mode, kinds, pair):
    """A publisher that writes over what is there, and one that waits for the lock, are found out."""
    seen = pair(way, {mode: 2}, patience_seconds=0.2)
    assert kinds & seen["faults"].keys()
