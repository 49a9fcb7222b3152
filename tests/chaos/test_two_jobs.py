"""Two jobs on one model at once: with locks the second is sent away, without them both get numbers of their own."""

import json
import subprocess
import sys

import pytest

from tests.end_to_end.server_process import ROOT

LONG = [pytest.mark.chaos, pytest.mark.timeout(1200)]


def pair(*runs):
    """Let two jobs run at once again and again, and return what was seen in each run."""
    command = [sys.executable, "-m", "tests.chaos.job_pairs", *map(json.dumps, runs)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=1000)
    assert ("", 0) == (ended.stderr, ended.returncode)
    return json.loads(ended.stdout)


@pytest.mark.parametrize("count", [4, pytest.param(200, marks=LONG)])
def test_no_version_is_lost_or_clobbered_when_two_jobs_run_at_once(count, tmp_path, report):
    """The second exits 4 while the first still works; without locks both publish, although both chose one number."""
    rounds = {"free": count, "held": count, "unlocked": count}
    (seen,) = pair({"models_dir": str(tmp_path), "way": "right", "rounds": rounds})
    assert {} == seen["faults"]
    assert count == seen["outcomes"]["held [0, 4]"] == seen["outcomes"]["unlocked [0, 0]"]
    free = seen["outcomes"].get("free [0, 4]", 0), seen["outcomes"].get("free [0, 0]", 0)
    assert count == sum(free)
    assert 4 * count + free[1] == seen["num_versions"]
    report(rounds=3 * count, versions=seen["num_versions"], lost=0, clobbered=0)


WRONG = (
    ("wrong_overwriting", "unlocked", {"clobbered"}),
    ("wrong_overwriting", "held", {"codes"}),
    ("wrong_waiting", "held", {"waited", "codes"}),
)


def test_wrong_way_is_found_when_two_jobs_run_at_once(tmp_path):
    """A publisher that writes over what is there, and one that waits for the lock, are found out."""
    runs = [
        {"models_dir": str(tmp_path / str(number)), "way": way, "rounds": {mode: 1}, "patience_seconds": 0.2}
        for number, (way, mode, _) in enumerate(WRONG)
    ]
    for (_, _, kinds), seen in zip(WRONG, pair(*runs), strict=True):
        assert kinds <= seen["faults"].keys()
