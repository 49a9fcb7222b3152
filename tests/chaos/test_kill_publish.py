"""Jobs that are killed while they publish or roll back: before every operation on a file, and at random moments."""

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
    """Return `kill(job, **how)`, which has a job killed again and again beside a watcher, and returns what was seen."""
    watching = Watching(tmp_path / "models")

    def run(job, **how):
        words = json.dumps({"models_dir": str(tmp_path / "models"), "job": job, **how})
        command = [sys.executable, "-m", "tests.chaos.mortal_publisher", words]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            while process.poll() is None:
                watching.scan()
                with_pause(process)
            out, err = process.communicate(timeout=60)
        watching.scan()
        assert ("", 0) == (err, process.returncode)
        return json.loads(out), watching

    yield run
    watching.close()


def with_pause(process):
    """Wait a moment, or until the process has ended."""
    try:
        process.wait(0.01)
    except subprocess.TimeoutExpired:
        return


@pytest.mark.parametrize("job", ["publish_and_prune", "roll_back"])
@pytest.mark.parametrize(
    ("every", "num_moments"), [(9, 3), pytest.param(1, 200, marks=LONG)], ids=["some-points", "all-points"]
)
def test_nothing_half_is_seen_or_left_when_a_job_is_killed_anywhere(job, every, num_moments, kill, report):
    """Every version that is read is whole, synced and newer; the next job works, mends the labels and leaves nothing.

    A power cut is a kill after which only what was synced is there, in the state in which it was synced: each file and
    folder of a version that can be seen must be in that state.
    """
    seen, watching = kill(job, every=every, num_moments=num_moments)
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


@pytest.mark.parametrize(
    ("job", "next_job", "every", "kinds"),
    [
        ("wrong_in_place", "publish_and_prune", 3, {"half", "unsynced"}),
        ("wrong_manifest_first", "publish_and_prune", 4, {"half", "unsynced"}),
        ("wrong_unsynced", "publish_and_prune", 7, {"unsynced"}),
        ("wrong_unswept", "wrong_unswept", 9, {"leftovers"}),
        ("wrong_labels_alone", "publish_and_prune", 10, {"labels"}),
    ],
)
def test_wrong_way_to_publish_is_found_when_it_is_killed(job, next_job, every, kinds, kill):
    """Files written in place, a manifest before its files, no sync, no sweep, labels moved last and unannounced."""
    seen, _ = kill(job, next_job=next_job, every=every)
    assert kinds == seen["faults"].keys()
