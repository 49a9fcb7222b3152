"""Jobs that are killed while they publish or roll back: before every operation on a file, and at random moments.

A power cut is a kill after which only what was synced is there, in the state in which it was synced: so each file and
folder of a version that can be seen must be in a state in which it was synced.
"""

import itertools
import json
import subprocess
import sys

import pytest

from tests.chaos.watching import Watching
from tests.end_to_end.server_process import ROOT

LONG = [pytest.mark.chaos, pytest.mark.timeout(1200)]


@pytest.fixture
def kill(tmp_path):
    """Return `kill(**how)`, which has a job killed again and again beside a watcher, and returns what was seen."""
    watching = Watching(tmp_path / "models")

    def run(**how):
        words = json.dumps({"models_dir": str(tmp_path / "models"), **how})
        with started(words) as process:
            while process.poll() is None:
                watching.scan()
                with_pause(process)
            (seen,) = result(process)
        watching.scan()
        return seen, watching

    yield run
    watching.close()


def started(*words):
    """Start the process that forks, kills and looks, once for each of its arguments."""
    command = [sys.executable, "-m", "tests.chaos.mortal_publisher", *words]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def result(process):
    """Return what it found, when it has ended."""
    out, err = process.communicate(timeout=100)
    assert ("", 0) == (err, process.returncode)
    return json.loads(out)


def with_pause(process):
    """Wait a moment, or until the process has ended."""
    try:
        process.wait(0.01)
    except subprocess.TimeoutExpired:
        return


@pytest.mark.parametrize("job", ["publish_and_prune", "roll_back"])
@pytest.mark.parametrize(
    ("every", "num_moments"), [(11, 2), pytest.param(1, 200, marks=LONG)], ids=["some-points", "all-points"]
)
def test_nothing_half_is_seen_or_left_when_a_job_is_killed_anywhere(job, every, num_moments, kill, report):
    """Every version that is read is whole, synced, newer; the next job works, mends the labels and leaves nothing."""
    seen, watching = kill(job=job, every=every, num_moments=num_moments)
    assert {} == seen["faults"]
    assert (0, num_moments) == (seen["code"], seen["num_killed_at_moments"])
    assert len(range(0, seen["num_steps"], every)) == seen["num_killed_at_steps"]
    assert seen["num_new"] > 0  # some came after the rename
    assert len(watching.served) > 1
    assert (set(), set()) == (watching.refused, watching.waited_for)
    assert all(earlier < later for earlier, later in itertools.pairwise(watching.served))
    report(
        points=seen["num_killed_at_steps"] + seen["num_killed_at_moments"],
        steps=seen["num_steps"],
        new=seen["num_new"],
        versions_served=len(watching.served),
    )


WRONG = {
    "wrong_in_place": ({"every": 6}, {"half", "unsynced"}),
    "wrong_manifest_first": ({"begin": 20, "every": 5}, {"half", "unsynced"}),
    "wrong_unsynced": ({"every": 100}, {"unsynced"}),
    "wrong_unswept": ({"next_job": "wrong_unswept", "every": 15}, {"leftovers"}),
    "wrong_labels_alone": ({"begin": 70, "every": 7}, {"labels"}),
}


def test_wrong_way_to_publish_is_found_when_it_is_killed(tmp_path):
    """Files written in place, a manifest before its files, no sync, no sweep, labels moved last and unannounced."""
    words = [json.dumps({"models_dir": str(tmp_path / job), "job": job, **how}) for job, (how, _) in WRONG.items()]
    with started(*words) as process:
        seen = result(process)
    found = {job: set(each["faults"]) for job, each in zip(WRONG, seen, strict=True)}
    assert {job: kinds for job, (_, kinds) in WRONG.items()} == found
