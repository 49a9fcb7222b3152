"""kill -9 of a training at any moment, also while it writes its checkpoint: what goes on ends with the same weights."""

import json
import random
import threading
import time

import pytest

from tests.end_to_end.server_process import ROOT

EXAMPLES = ROOT / "training" / "examples"
STEPS = 240
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
    "transport": JOB.format(
        task="transport",
        data=f'source = "{EXAMPLES}/diabetes.csv"\ntarget_file = "{EXAMPLES}/diabetes.csv"\nfeatures = ["bmi", "bp"]',
        width=8,
        network='activation = "smooth_leaky"',
        steps=STEPS,
    ),
}


def weights_sha256(version):
    """Return the hash of a version's weights, as its proof has it."""
    return json.loads((version / "manifest.json").read_text())["certificate"]["weights_sha256"]


def train(nursery, folder):
    """Return the newest version and the lines of a training that runs to its end."""
    job = nursery.start("train", folder / "job.toml")
    assert 0 == job.wait(), job.said()
    *_, published = job.said().split()
    return folder / "models" / "night" / published.rpartition("/")[2], job.said()


def training_seconds(nursery, folder, wait_until):
    """Return how long a training takes from its first to its last line, which its checkpoints lie between."""
    job = nursery.start("train", folder / "job.toml")
    wait_until(lambda: "step 0 of" in job.said())
    begun = time.monotonic()
    wait_until(lambda: " held-out rows" in job.said() or f"step {STEPS} of" in job.said())
    ended = time.monotonic()
    assert 0 == job.wait(), job.said()
    return ended - begun


@pytest.mark.parametrize(("name", "num_kills"), [pytest.param(name, 13, marks=LONG, id=name) for name in JOBS])
def test_weights_are_the_same_bits_when_a_training_is_killed_at_any_moment(
    name, num_kills, nursery, tmp_path, wait_until, report
):
    """Moments drawn from the whole training; a third of the jobs is killed again and again; each ends with one hash."""
    (tmp_path / "job.toml").write_text(JOBS[name])
    place = tmp_path / "models" / ".jobs" / "night"
    expected = weights_sha256(train(nursery, tmp_path)[0])
    seconds = training_seconds(nursery, tmp_path, wait_until)
    generator = random.Random(name)  # noqa: S311  (moments, not a secret)
    killed = ended = resumed = writing = 0
    while killed < num_kills:
        job = nursery.start("train", tmp_path / "job.toml")
        wait_until(lambda job=job: "step " in job.said() or job.has_ended())
        threading.Event().wait(generator.uniform(0.0, seconds))
        if not job.has_ended():
            job.kill()
        code, said = job.wait(), job.said()
        assert code in {0, -9}, said
        resumed += "resume: goes on after step" in said
        if code == -9:
            killed += 1
            writing += (place / "checkpoint.partial").exists()
            if generator.random() < 1 / 3:
                continue
        version, said = train(nursery, tmp_path)
        resumed += "resume: goes on after step" in said
        ended += 1
        assert expected == weights_sha256(version)
        assert not place.exists()
    report(task=name, kills=killed, ended=ended, resumed=resumed, while_writing=writing, weights_sha256=expected[:12])
    assert resumed >= num_kills / 2
