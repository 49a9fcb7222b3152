"""The nightly job: growing data passes, shuffled labels are refused, champions are chosen, servers are awaited."""

import dataclasses
import io
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from service import manifest
from tests.training.conftest import SHIFT, write_rows, write_samples
from training import journal, pipeline, publish, retrain
from training.availability import WaitError
from training.champion import find_champion
from training.config import ConfigError, TrainingConfig, load_config
from training.datasets import DataError
from training.job_log import JobLog
from training.objectives import create_objective
from training.objectives.transport import Transport
from training.runs import Entry, Part, State, Subject


def config_of(folder: Path, *, steps: int = 60, **publishing: object) -> TrainingConfig:
    """Return the job's configuration, shorter, with some `[publish]` keys changed."""
    config = load_config(folder / "job.toml")
    return dataclasses.replace(
        config,
        trainer=dataclasses.replace(config.trainer, steps=steps),
        publish=dataclasses.replace(config.publish, **publishing),
    )


def versions_of(folder: Path) -> list[str]:
    """Return what lies in the model's folder."""
    return sorted(os.listdir(folder / "models" / "small"))


def read_json(path: Path) -> dict:
    """Return a JSON file."""
    return json.loads(path.read_text())


def reseal(version: Path, name: str, data: bytes) -> None:
    """Change a file and write a manifest that fits."""
    (version / name).write_bytes(data)
    document = read_json(version / "manifest.json")
    document["files"][name] = {"bytes": len(data), "sha256": manifest.sha256_hex(data)}
    (version / "manifest.json").write_bytes(manifest.seal(document))


def test_retrain_publishes_the_next_version_when_rows_grew(trained):
    """More rows: a warm start from version 1, the gate's numbers in the report, version 2 with its parent."""
    write_rows(trained / "rows.csv", 500)
    outcome = retrain.retrain(config_of(trained))
    assert trained / "models" / "small" / "2" == outcome.published
    assert "start: the weights of champion version 1" == outcome.lines[0]
    found, report = read_json(outcome.published / "manifest.json"), read_json(outcome.published / "report.json")
    assert (2, 1, 500) == (found["version"], found["parent"], found["data"]["rows"])
    assert (True, found["data"]["held_out_rows"]) == (report["gate"]["passed"], report["gate"]["rows"])
    assert {"this version", "champion", "logistic regression"} < report["metrics"].keys()
    assert report["gate"]["standard_error"] >= 0
    assert read_json(trained / "models" / "small" / "1" / "manifest.json")["data"]["rows"] == 300


def test_retrain_is_refused_before_it_trains_when_its_champions_are_damaged(trained):
    """Nothing is trained or published, the version on disk is left as it was, and the run's record says why."""
    path = trained / "models" / "small" / "1" / "saved_model.pb"
    path.write_bytes(path.read_bytes()[:-1] + b"\0")
    with pytest.raises(manifest.VersionRefusedError, match=r"Restore one from a backup") as caught:
        retrain.retrain(config_of(trained))
    assert ("no-champion", ["1"]) == (caught.value.rule, versions_of(trained))
    (place,) = (trained / "models" / journal.FOLDER / "small").iterdir()
    record = read_json(place / "record.json")
    assert (journal.REFUSED, "champion") == (record["outcome"], record["step"])


def test_retrain_refuses_a_challenger_of_shuffled_labels(trained):
    """Labels that mean nothing publish nothing; only the report of the refusal is written, and it says why."""
    write_rows(trained / "rows.csv", 500, shuffled=True)
    before = versions_of(trained)
    outcome = retrain.retrain(config_of(trained, steps=400))
    assert (None, False) == (outcome.published, outcome.gate.passed)
    assert before == versions_of(trained)
    (place,) = (trained / "models" / journal.FOLDER / "small").iterdir()
    assert list(outcome.gate.reasons) == read_json(place / "report.json")["gate"]["reasons"]
    assert (place / "report.html").exists()
    assert any(line.startswith("refused: ") for line in outcome.lines)


def test_retrain_leaves_one_line_a_step_and_one_record_with_the_runs_id(trained):
    """Log, record, report and manifest of a night bear the same id, and the record has the report's copy."""
    stream = io.StringIO()
    log = JobLog(log_format="json", stream=stream)
    write_rows(trained / "rows.csv", 500)
    outcome = retrain.retrain(config_of(trained, keep=1), log=log)
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    steps = ["lock", "read", "champion", "start", "audit", "train", "stage", "prove", "gate", "report", "publish"]
    assert [*steps, "prune", "published"] == [line["event"] for line in lines]
    assert {log.run_id} == {line["run_id"] for line in lines}
    facts = {line["event"]: line for line in lines}
    assert (500, 1, True, 2, [1]) == (
        facts["read"]["rows"], facts["champion"]["version"], facts["gate"]["passed"], facts["publish"]["version"],
        facts["prune"]["removed"],
    )  # fmt: skip
    (night,) = journal.nights(trained / "models", "small")
    assert (journal.PUBLISHED, 500, 2) == (night.outcome, night.record["rows"], night.record["version"])
    assert [line["event"] for line in lines[:-1]] == [step["step"] for step in night.record["steps"]]
    assert (outcome.published / "report.html").read_bytes() == (night.path / "report.html").read_bytes()
    assert log.run_id == read_json(night.path / "report.json")["made_with"]["run_id"]
    assert log.run_id == read_json(outcome.published / "manifest.json")["run_id"]


@pytest.mark.parametrize("shuffled", [False, True])
def test_dry_run_ends_with_the_gate(trained, shuffled):
    """Passed or refused, no version, label or file of the model is touched; the report is where the record is."""
    write_rows(trained / "rows.csv", 500, shuffled=shuffled)
    before = {path: path.stat().st_mtime_ns for path in (trained / "models" / "small").rglob("*")}
    config = config_of(trained, keep=1, steps=400 if shuffled else 60)
    outcome = retrain.retrain(config, dry_run=True)
    assert (None, not shuffled) == (outcome.published, outcome.gate.passed)
    assert before == {path: path.stat().st_mtime_ns for path in (trained / "models" / "small").rglob("*")}
    (night,) = journal.nights(trained / "models", "small")
    assert (journal.WOULD_REFUSE if shuffled else journal.WOULD_PUBLISH) == night.outcome
    assert f"report: {night.path / 'report.html'}" == outcome.lines[-1]
    assert outcome.gate.passed is read_json(night.path / "report.json")["gate"]["passed"]


def test_retrain_that_fails_says_in_which_step(trained):
    """The record of a night that ended in an error has the step and the sentence."""
    with pytest.raises(WaitError):
        retrain.retrain(config_of(trained, wait_available="http://127.0.0.1:9"), wait_seconds=0.0)
    (night,) = journal.nights(trained / "models", "small")
    assert (journal.FAILED, "wait", 2) == (night.outcome, night.record["step"], night.record["version"])
    assert "does not say AVAILABLE" in night.record["error"]


def test_retrain_starts_from_nothing_when_there_is_no_champion(trained):
    """The first night trains and publishes version 1."""
    shutil.rmtree(trained / "models")
    outcome = retrain.retrain(config_of(trained))
    assert ("1", None) == (outcome.published.name, read_json(outcome.published / "manifest.json")["parent"])
    assert "there is no champion" in outcome.lines[0]


def test_retrain_starts_cold_when_the_keras_file_cannot_be_used(trained):
    """A model.keras that is no archive of ours is never given to Keras, and stops no night."""
    reseal(trained / "models" / "small" / "1", "model.keras", b"not an archive")
    outcome = retrain.retrain(config_of(trained, steps=200))
    assert "model.keras cannot be used" in outcome.lines[0]
    assert outcome.lines[0].startswith("start: new weights")
    assert outcome.gate.champion is not None  # it is still the one to beat


def test_retrain_starts_cold_when_the_network_is_another(trained):
    """Other widths cannot go on from the old weights."""
    (trained / "job.toml").write_text((trained / "job.toml").read_text().replace("[6, 5]", "[7]"))
    config = config_of(trained)
    objective = create_objective(config)
    rows = pipeline.read_rows(config, objective)
    with publish.lock(trained / "models", "small") as folder:
        champion, _ = find_champion(folder)
    model, told = retrain._start(config, objective, rows, champion)
    assert ((7,), True) == (model.hidden, "is another one" in told)


@pytest.mark.parametrize("features", [("left", "right", "depth"), ("right", "left", "height")])
def test_retrain_refuses_other_features(trained, features):
    """Clients send columns in the champion's order: a renamed or moved column is not published by night."""
    write_rows(trained / "rows.csv", 300, features=features)
    with pytest.raises(DataError, match="features of version 1"):
        retrain.retrain(config_of(trained))
    assert ["1"] == versions_of(trained)


@pytest.mark.parametrize(
    ("change", "key"),
    [(('salt = "small"', 'salt = "other"'), "data.salt"), (("percent = 25", "percent = 26"), "data.held_out_percent")],
)
def test_retrain_refuses_a_rule_that_holds_out_rows_of_the_champions_training(trained, change, key):
    """A champion measured on rows that it learned from would win every night, and so would what starts from it."""
    path = trained / "job.toml"
    path.write_text(path.read_text().replace(*change))
    with pytest.raises(ConfigError, match="as in version 1, received") as caught:
        retrain.retrain(config_of(trained))
    assert (key, ["1"]) == (caught.value.key, versions_of(trained))


def test_retrain_refuses_to_run_twice_at_once(trained):
    """The second job is told so and changes nothing."""
    with publish.lock(trained / "models", "small"), pytest.raises(publish.LockHeldError):
        retrain.retrain(config_of(trained))
    assert ["1"] == versions_of(trained)


def test_retrain_prunes_when_all_is_done(trained):
    """With `keep = 1` the champion makes room for the challenger that beat it, and the log says so."""
    outcome = retrain.retrain(config_of(trained, keep=1))
    assert (["2"], "pruned: 1") == (versions_of(trained), outcome.lines[-1])


def test_retrain_prunes_nothing_while_the_server_has_not_the_new_version(trained):
    """The old version must stay on disk as long as it may be needed again."""
    with pytest.raises(WaitError):
        retrain.retrain(config_of(trained, keep=1, wait_available="http://127.0.0.1:9"), wait_seconds=0.0)
    assert ["1", "2"] == versions_of(trained)


class Placed:
    """A run that takes no step: it leaves a potential whose map is the shift to the target and `offset` more."""

    keeps_best = False
    names = ("w2_squared", "w2_squared")

    def __init__(self, network, offset):
        self.network, self.offset = network, np.asarray(offset)

    def subject(self):
        """Return a loss that every variable moves."""

        def draw(generator, rows):
            return (tf.constant(generator.normal(size=(rows, 2)), tf.float32),)

        parts = (Part(self.network, self.network, Entry.VALUE),)
        return Subject(parts, lambda x: tf.reduce_mean(tf.square(self.network(x))), draw)

    def leave_out(self, paths):
        """Take nothing out: there is no step."""

    def start_loss(self):
        """Return a loss."""
        return 1.0

    def step(self):
        """Set the target mean of the potential."""
        units = self.network.units
        self.network.set_units(dataclasses.replace(units, target_mean=units.source_mean + SHIFT + self.offset))
        return 1.0

    def validation(self):
        """Return a number that is no judge."""
        return {"w2_squared": 1.0}

    def weights(self):
        """Return the network's weights."""
        return self.network.get_weights()

    def restore(self, weights):
        """Give the network these weights."""
        self.network.set_weights(weights)

    def state(self):
        """Return nothing: every step is the same."""
        return State({}, {})

    def verify(self):
        """Look at the network's signs."""
        self.network.verify()


def test_transport_goes_on_from_the_champion_and_passes(moved):
    """A night with more rows on both sides: a warm start, the paired draws in the gate's report, version 2."""
    write_samples(moved, (500, 400))
    outcome = retrain.retrain(load_config(moved / "job.toml"))
    assert "start: the weights of champion version 1" == outcome.lines[0]
    found = read_json(outcome.published / "manifest.json")
    assert (2, 1, 500, 400) == (
        found["version"], found["parent"], found["data"]["rows"], found["data"]["target_rows"],
    )  # fmt: skip
    assert "w2_squared" == outcome.gate.metric
    assert outcome.gate.method.startswith("5 paired draws of ")
    assert outcome.gate.data_drift < 1.0


def test_transport_that_misses_the_target_is_refused_and_a_better_one_passes(moved, monkeypatch):
    """By (2, 1.5) more than the shift, W2 squared is worse by about 6.25; a champion that misses so is beaten."""
    config = load_config(moved / "job.toml")
    monkeypatch.setattr(Transport, "start", lambda _, network, *__: Placed(network, (2.0, 1.5)))
    refused = retrain.retrain(config)
    assert (None, False) == (refused.published, refused.gate.passed)
    assert ["w2_squared"] == [reason.split()[0] for reason in refused.gate.reasons]
    assert -9.0 < refused.gate.difference < -3.5
    pipeline.train(config)  # publishes what the gate refused, as `train` may
    monkeypatch.setattr(Transport, "start", lambda _, network, *__: Placed(network, (0.0, 0.0)))
    passed = retrain.retrain(config)
    assert ("3", True) == (passed.published.name, passed.gate.passed)
    assert 3.5 < passed.gate.difference < 9.0


def test_retrain_refuses_another_task_than_the_champions(moved):
    """A regression's score under a transport's name would answer clients with another meaning."""
    job = (moved / "job.toml").read_text()
    job = job.replace("transport", "regression").replace('source = "p.csv"', 'file = "q.csv"')
    job = job.replace('target_file = "q.csv"', 'target = "left"').replace("inner_steps = 1", "")
    job = job.replace('metric = "w2_squared"', "")
    (moved / "job.toml").write_text(job)
    with pytest.raises(ConfigError, match=r"^model\.task: expected 'transport' as in version 1, received 'regression'"):
        retrain.retrain(load_config(moved / "job.toml"))
