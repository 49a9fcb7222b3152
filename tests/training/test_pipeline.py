"""The way from a configuration to a published version, and what leaves nothing behind."""

import csv
import dataclasses
import json
import tomllib
from pathlib import Path

import numpy as np
import pytest

from service import repository
from service.engines.program import ProgramEngine
from service.loader import load
from service.manifest import VersionRefusedError
from service.program.certification import certify
from training import datasets, export, pipeline, publish
from training.config import TrainingConfig, load_config
from training.objectives import create_objective
from training.progress import reporting


def config_of(folder: Path, **trainer: int) -> TrainingConfig:
    """Return the job's configuration with some `[trainer]` keys changed."""
    config = load_config(folder / "job.toml")
    return dataclasses.replace(config, trainer=dataclasses.replace(config.trainer, **trainer))


def manifest_of(folder: Path, version: int = 1) -> dict:
    """Return a published version's manifest as JSON."""
    return json.loads((folder / "models" / "small" / str(version) / "manifest.json").read_text())


def test_train_publishes_a_version_that_the_service_loads(trained_once):
    """The whole way: the server's own loader takes what training published, and proves the same weights."""
    path = trained_once / "models" / "small" / "1"
    loaded = load(path, model="small", version=1)
    certificate = manifest_of(trained_once)["certificate"]
    assert certificate["weights_sha256"] == loaded.certificate.weights_sha256
    assert certificate["program_sha256"] == loaded.certificate.program_sha256
    assert ["1"] == [entry.name for entry in path.parent.iterdir()]


def test_train_writes_the_manifest_of_the_contract(trained_once):
    """Identity, facts of the data, metrics beside the baselines, the TOML verbatim, and no path of the machine."""
    found = manifest_of(trained_once)
    assert (None, None, 0.0, "classification") == (
        found["parent"], found["rolled_back_to"], found["threshold"], found["task"],
    )  # fmt: skip
    assert {"name": "x", "dtype": "float32", "dim": 3, "features": ["left", "right", "height"]} == found["input"]
    assert tomllib.loads((trained_once / "job.toml").read_text()) == found["config"]
    data = found["data"]
    assert ("rows.csv", 300) == (data["file"], data["rows"])
    assert 300 == data["train_rows"] + data["validation_rows"] + data["held_out_rows"]
    assert data["held_out_rows"] == found["metrics"]["held_out"]["rows"]
    assert {"logistic regression", "gradient boosting"} == found["metrics"]["baselines"].keys()
    assert ("checked", True) == (found["certificate"]["gradient"], found["certificate"]["proved"])
    assert str(trained_once) not in json.dumps(found)


def test_train_learns_the_ellipsoid(trained_once):
    """The network beats logistic regression where the classes are inside and outside of an ellipsoid."""
    metrics = manifest_of(trained_once)["metrics"]
    assert metrics["held_out"]["roc_auc"] > 0.7
    assert metrics["baselines"]["logistic regression"]["roc_auc"] < 0.65


def test_train_gives_the_same_weights_for_the_same_seed_and_others_for_another(trained):
    """Same data, configuration and seed: the same weights, bit for bit; and the seed does matter."""
    pipeline.train(config_of(trained))
    pipeline.train(config_of(trained, seed=8, steps=5))
    hashes = [manifest_of(trained, version)["certificate"]["weights_sha256"] for version in (1, 2, 3)]
    assert hashes[0] == hashes[1] != hashes[2]


def test_train_publishes_nothing_when_the_artefact_is_not_proved(tmp_path, trained, monkeypatch):
    """A hidden weight below zero, however it came there, is found on the files and named; nothing is published."""
    original = pipeline.run_fit

    def plant(config, objective, model, rows, progress):
        history = original(config, objective, model, rows, progress)
        layer = model.constrained[0]
        kernel, *others = layer.get_weights()
        kernel[2, 1] = -0.03
        layer.set_weights([kernel, *others])
        return history

    monkeypatch.setattr(pipeline, "run_fit", plant)
    monkeypatch.setattr(export, "_save_keras", lambda *_: None)  # Keras's save would see it before the proof does
    with pytest.raises(VersionRefusedError, match="hidden_1") as caught:
        pipeline.train(config_of(trained, steps=2))
    assert "nonneg-matmul" == caught.value.rule
    assert ["1"] == [entry.name for entry in (trained / "models" / "small").iterdir()]
    assert not list(tmp_path.glob("**/.staging-*"))


@pytest.mark.parametrize("error", [export.ExportError("disk full"), OSError(28, "No space left on device")])
def test_train_leaves_nothing_when_the_disk_is_full(trained, monkeypatch, error):
    """An error while staging, of TensorFlow or of the system, leaves the models folder as it was."""

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(export, "stage", fail)
    with pytest.raises((export.ExportError, publish.PublishError)):
        pipeline.train(config_of(trained, steps=2))
    assert ["1"] == [entry.name for entry in (trained / "models" / "small").iterdir()]


def test_train_prunes_to_the_configured_number(trained):
    """With `keep = 1` the second version takes the place of the first."""
    config = config_of(trained, steps=1)
    pipeline.train(dataclasses.replace(config, publish=dataclasses.replace(config.publish, keep=1)))
    folders = repository.Repository(trained / "models").versions("small")
    assert [2] == [folder.version for folder in folders]


def trained_on(value: float) -> int:
    """Return a number that puts the row 4, `value`, number, 1 among the training rows."""
    candidates = [(number, np.array([[4.0, value, number, 1.0]])) for number in range(100)]
    for number, row in candidates:
        data = datasets.row_bytes(row)[0]
        if not datasets.is_held_out(data, "small", 25) and not datasets.is_held_out(data, "small/validation", 20):
            return number
    raise AssertionError


def test_report_and_log_say_what_was_wrong_with_the_data(trained):
    """A constant column is kept and named, bad rows are counted, and a value out of all proportion is shown."""
    path = trained / "rows.csv"
    rows = list(csv.reader(path.read_text().splitlines()))
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["flat", *rows[0]])
        writer.writerows(["4", *row] for row in rows[1:])
        writer.writerow(["4", "nan", "1", "1", "0"])
        writer.writerow(["4", "1e30", f"{trained_on(1e30)}", "1", "0"])
    told = []
    published = pipeline.train(config_of(trained, steps=2), tell=told.append)
    notes = json.loads((published / "report.json").read_text())["notes"]
    expected = ["1 with a missing number", "flat", "Column left: one row (1e+30)"]
    assert [True] * 3 == [words in note for words, note in zip(expected, notes, strict=False)]
    assert notes == told[:-1]
    assert told[-1].startswith("ROC-AUC 0.")
    assert 1 == manifest_of(trained, 2)["data"]["dropped_rows"]


def test_rows_are_on_one_side_only(trained_once):
    """Training, validation and held-out rows share no row, and together they are the file."""
    config = config_of(trained_once)
    rows = pipeline.read_rows(config, create_objective(config))
    sides = [set(datasets.row_bytes(side.x)) for side in (rows.train, rows.validation, rows.held_out)]
    assert not sides[0] & sides[1] | sides[0] & sides[2] | sides[1] & sides[2]
    assert len(rows.data) == sum(len(side) for side in sides)


@pytest.mark.parametrize("count", [1, 31, 32, 33, 100])
def test_answers_are_those_of_the_servers_engine(trained_once, count):
    """The numbers in metrics and `evaluate` are the bits that a server's program engine gives."""
    program = certify(trained_once / "models" / "small" / "1").program
    rows = np.random.default_rng(0).normal(size=(count, 3)).astype(np.float32) * 50
    expected = ProgramEngine(program).run(rows, ("score", "gradient"))
    actual = pipeline.answers(program, rows)
    assert expected["score"].tobytes() == actual.score.tobytes()
    assert expected["gradient"].tobytes() == actual.gradient.tobytes()


def test_regression_goes_the_same_way(tmp_path):
    """A numeric target: the score is in its units, there is no threshold, and the report shows scores and targets."""
    generator = np.random.default_rng(1)
    x = generator.normal(size=(200, 2))
    with (tmp_path / "bowl.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["a", "b", "cost"])
        writer.writerows([*map(float, row), float(1000 + 50 * (row**2).sum())] for row in x)
    (tmp_path / "job.toml").write_text(
        '[model]\nname = "bowl"\ntask = "regression"\n[data]\nfile = "bowl.csv"\ntarget = "cost"\n'
        "[network]\nhidden = [8]\n[trainer]\nsteps = 150\nlearning_rate = 0.02\nbatch = 32\n"
    )
    published = pipeline.train(load_config(tmp_path / "job.toml"), progress=reporting)
    found = json.loads((published / "manifest.json").read_text())
    assert (None, "regression", "bowl") == (found["threshold"], found["task"], found["model"])
    assert found["metrics"]["held_out"]["r2"] > 0.8
    assert found["metrics"]["baselines"]["ridge"]["r2"] < 0.3
