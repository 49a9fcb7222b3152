"""kill -9 of the whole nightly job at any moment: no half version, nothing to clean up, the server serves on."""

import random
import threading
import time

import numpy as np
import pytest

from service import model_version
from tests.end_to_end.clients import RestClient
from tests.end_to_end.server_process import ROOT

DATA = ROOT / "training" / "examples" / "tumours.csv"
LONG = [pytest.mark.chaos, pytest.mark.timeout(3600)]
JOB = """
[model]
name = "night"
task = "classification"
[data]
file = "tonight.csv"
target = "malignant"
salt = "night"
[network]
hidden = [16]
[trainer]
steps = 300
batch = 64
learning_rate = 0.003
checkpoint_every = 25
[gate]
tolerance = 0.5
max_score_drift = 100.0
min_rows = 20
[publish]
models_dir = "models"
keep = 1000
"""


class Nights:
    """The nights of one model: jobs over data that grows by a row each time.

    Args:
        nursery: that forks the jobs.
        folder: of the job.
        rows: how many there are on the first night.
        job: its configuration.
    """

    def __init__(self, nursery, folder, rows, job=JOB):
        self.nursery, self.folder, self.rows = nursery, folder, rows
        self.models = folder / "models"
        self._proved = {}
        (folder / "job.toml").write_text(job)

    def start(self):
        """Return tonight's job."""
        header, *lines = DATA.read_text().splitlines()
        random.Random(1).shuffle(lines)  # noqa: S311  (an order that mixes the classes, not a secret)
        (self.folder / "tonight.csv").write_text("\n".join([header, *lines[: self.rows]]) + "\n")
        return self.nursery.start("retrain", self.folder / "job.toml")

    def pass_by(self):
        """Let tonight's job end by itself and return what it said; tomorrow there is a row more."""
        job = self.start()
        assert 0 == job.wait(), job.said()
        self.rows += 1
        assert [] == self.leftovers()
        return job.said()

    def is_killed(self, moment):
        """Start tonight's job and kill it after so many seconds; return whether it was still there."""
        job = self.start()
        threading.Event().wait(moment)
        if job.has_ended():
            return False
        job.kill()
        assert job.wait() in {0, -9}, job.said()
        return job.code == -9

    def versions(self):
        """Return the versions in the folder by number; each is whole: it was proved from its files when first seen."""
        found = {int(path.name) for path in (self.models / "night").iterdir() if path.name.isdigit()}
        for number in found - self._proved.keys():
            self._proved[number] = model_version.load(self.models / "night" / str(number))
        return {number: self._proved[number] for number in sorted(found)}

    def leftovers(self):
        """Return what lies in the models folder beside versions, and the records of the nights."""
        found = (*self.models.iterdir(), *(self.models / "night").iterdir())
        names = (path.relative_to(self.models).as_posix() for path in found if path != self.models / "night")
        return sorted(name for name in names if not name.rpartition("/")[2].isdigit() and name != ".reports")


def test_next_night_goes_on_when_the_job_was_killed_in_its_training(nursery, tmp_path, wait_until):
    """Killed at its first checkpoint it leaves no version; run again it says that it goes on, publishes, and tidies."""
    nights = Nights(nursery, tmp_path, 200, JOB.replace("checkpoint_every = 25", "checkpoint_every = 10"))
    job = nights.start()
    wait_until((nights.models / ".jobs" / "night" / "checkpoint").exists, 60.0)
    job.kill()
    assert -9 == job.wait()
    assert ({}, [".jobs", "night/.lock"]) == (nights.versions(), nights.leftovers())
    assert "resume: goes on after step " in nights.pass_by()
    assert [1] == [*nights.versions()]


@pytest.mark.parametrize("num_kills", [pytest.param(20, marks=LONG)])
def test_server_serves_on_when_the_nightly_job_is_killed_at_any_moment(
    num_kills, nursery, serve, tmp_path, wait_until, report
):
    """Each killed night is followed by one that ends by itself; a client never fails and sees whole versions alone."""
    nights = Nights(nursery, tmp_path, 400)
    nights.pass_by()
    begun = time.monotonic()
    nights.pass_by()
    duration = time.monotonic() - begun
    server = serve(nights.models, "--default-model", "night")
    rows = np.loadtxt(DATA, delimiter=",", skiprows=1, max_rows=3)[:, :30].astype(np.float32)
    client = RestClient(server.address("rest"), rows, "night", raw=True, pause_seconds=0.05)
    client.start()
    generator = random.Random(20)  # noqa: S311  (moments, not a secret)
    killed = {"moments": [], "after the rename": 0, "while staging": 0, "resumed": 0}
    try:
        while len(killed["moments"]) < num_kills:
            before, moment = len(nights.versions()), generator.uniform(0.0, duration)
            if nights.is_killed(moment):
                killed["moments"].append(round(moment, 2))
                killed["after the rename"] += len(nights.versions()) - before
                killed["while staging"] += any(".staging" in name for name in nights.leftovers())
            assert [] == client.failures
            killed["resumed"] += "resume: goes on after step" in nights.pass_by()
            newest = max(nights.versions())
            wait_until(lambda newest=newest: newest in client.seen(), 60.0)
    finally:
        client.stopping.set()
        client.join(30)
    live = nights.versions()
    check_answers(client, live, rows)
    report(versions=len(live), answers=len(client.answers), **{f"killed_{key}": killed[key] for key in killed})
    assert list(range(1, len(live) + 1)) == list(live)
    assert len(set(client.seen())) >= num_kills
    assert 0 == server.terminate()


def check_answers(client, live, rows):
    """Compare each answer, bit for bit, with the version that it names; versions only go up."""
    assert [] == client.failures + client.refusals
    expected = {number: version.score_and_gradient(rows) for number, version in live.items()}
    for number, score, gradient in client.answers:
        assert expected[number][0].tobytes() == score.tobytes()
        assert expected[number][1].tobytes() == gradient.tobytes()
    assert sorted(client.seen()) == client.seen()
