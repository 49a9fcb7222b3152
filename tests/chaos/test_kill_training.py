"""kill -9 of a training at any moment, also while it writes its checkpoint: what goes on ends with the same weights."""

import json
import random
import shutil
import threading
import time

import pytest

from tests.end_to_end.server_process import ROOT

EXAMPLES = ROOT / "training" / "examples"
STEPS = 240
START_SECONDS = 120.0
RESUMED = "resume: goes on after step"
LONG = [pytest.mark.chaos, pytest.mark.timeout(3600)]

JOB = """
[model]
name = "night"
task = "{task}"
[data]
{data}
[network]
hidden = [{width}]
{network}
[trainer]
steps = {steps}
batch = 64
evaluate_every = 20
checkpoint_every = 3
[gate]
tolerance = 1000.0
max_score_drift = 1000.0
min_rows = 1
[publish]
models_dir = "models"
keep = 1000
"""
TUMOURS = f'file = "{EXAMPLES}/tumours.csv"\ntarget = "malignant"'
DIABETES = f'file = "{EXAMPLES}/diabetes.csv"\ntarget = "progression"'
JOBS = {
    "classification": JOB.format(task="classification", data=TUMOURS, width=16, network="support = true", steps=STEPS),
    "regression": JOB.format(task="regression", data=DIABETES, width=16, network='unit = "maxout"', steps=STEPS),
    "context": JOB.format(
        task="regression",
        data=DIABETES + '\ncontext = ["age", "sex"]',
        width=8,
        network="context_units = 4",
        steps=STEPS,
    ),
    "warm start": JOB.format(task="classification", data=TUMOURS, width=12, network="", steps=STEPS),
    "transport": JOB.format(
        task="transport",
        data=f'source = "{EXAMPLES}/diabetes.csv"\ntarget_file = "{EXAMPLES}/diabetes.csv"\nfeatures = ["bmi", "bp"]',
        width=8,
        network='activation = "smooth_leaky"',
        steps=STEPS,
    ),
}


class Trainings:
    """One job, again and again from the same start.

    Args:
        nursery: that forks it.
        folder: of the job.
        name: which one; a warm start is `retrain` from a version of the same data, others are `train`.
    """

    def __init__(self, nursery, folder, name):
        self.nursery, self.folder, self.models, self.command = nursery, folder, folder / "models", "train"
        (folder / "job.toml").write_text(JOBS[name])
        if name == "warm start":
            self.end()
            shutil.move(self.models, folder / "before")
            self.command = "retrain"
        self.reset()

    def reset(self):
        """Have the models folder as it was before the job."""
        shutil.rmtree(self.models, ignore_errors=True)
        if self.command == "retrain":
            shutil.copytree(self.folder / "before", self.models)

    def start(self):
        """Return the job, started."""
        return self.nursery.start(self.command, self.folder / "job.toml")

    def end(self):
        """Let the job run to its end; return the hash of the weights, as their proof has it, and what was said."""
        job = self.start()
        assert 0 == job.wait(), job.said()
        *_, published = job.said().split()
        manifest = self.models / "night" / published.rpartition("/")[2] / "manifest.json"
        return json.loads(manifest.read_text())["certificate"]["weights_sha256"], job.said()

    def seconds(self, wait_until):
        """Return how long a training takes from its first to its last line, which its checkpoints lie between."""
        job = self.start()
        wait_until(lambda: "step 0 of" in job.said(), START_SECONDS)
        begun = time.monotonic()
        wait_until(lambda: f"step {STEPS} of" in job.said() or job.has_ended(), START_SECONDS)
        ended = time.monotonic()
        assert 0 == job.wait(), job.said()
        self.reset()
        return ended - begun


@pytest.mark.parametrize(("name", "num_kills"), [pytest.param(name, 10, marks=LONG, id=name) for name in JOBS])
def test_weights_are_the_same_bits_when_a_training_is_killed_at_any_moment(
    name, num_kills, nursery, tmp_path, wait_until, report
):
    """Moments drawn from the whole training; a third of the jobs is killed again and again; each ends with one hash."""
    trainings = Trainings(nursery, tmp_path, name)
    expected, _ = trainings.end()
    trainings.reset()
    seconds = trainings.seconds(wait_until)
    generator = random.Random(name)  # noqa: S311  (moments, not a secret)
    jobs = trainings.models / ".jobs"
    killed = ended = resumed = writing = 0
    while killed < num_kills:
        job = trainings.start()
        wait_until(lambda job=job: "step " in job.said() or job.has_ended(), START_SECONDS)
        threading.Event().wait(generator.uniform(0.0, seconds))
        if not job.has_ended():
            job.kill()
        code, said = job.wait(), job.said()
        assert code in {0, -9}, said
        resumed += RESUMED in said
        if code == 0:
            trainings.reset()
            continue
        killed += 1
        writing += (jobs / "night" / "checkpoint.partial").exists()
        if generator.random() < 1 / 3:
            continue
        weights, said = trainings.end()
        resumed += RESUMED in said
        ended += 1
        assert expected == weights
        assert not jobs.exists()
        trainings.reset()
    report(task=name, kills=killed, ended=ended, resumed=resumed, while_writing=writing, weights_sha256=expected[:12])
    assert resumed >= num_kills / 2
    assert ended >= num_kills / 3
