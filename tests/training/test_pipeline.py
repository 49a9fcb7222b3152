"""The way from a configuration to a published version, and what leaves nothing behind."""

import csv
import dataclasses
import hashlib
import json
import tomllib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from service import model_version, repository
from service.engines.program import ProgramEngine
from service.loader import load
from service.manifest import VersionRefusedError
from service.program.certification import certify
from training import datasets, export, pipeline, publish
from training.answers import Answers
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

    def plant(config, run, *others):
        history = original(config, run, *others)
        layer = run.network.constrained[0]
        kernel, *rest = layer.get_weights()
        kernel[2, 1] = -0.03
        layer.set_weights([kernel, *rest])
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
    assert notes == told[1:-1]
    assert "gradient audit: 8 of 8 variables get a gradient" == told[0]
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


def test_transport_goes_the_same_way(moved_once):
    """The manifest has both files and the source's statistics; the served gradient is the map, and nearly exact."""
    path = moved_once / "models" / "moved" / "1"
    found = json.loads((path / "manifest.json").read_text())
    assert ("transport", None, {"proved": True, "gradient": "checked"}) == (
        found["task"], found["threshold"], {key: found["certificate"][key] for key in ("proved", "gradient")},
    )  # fmt: skip
    data = found["data"]
    assert ("p.csv", 300, "q.csv", 280) == (data["file"], data["rows"], data["target_file"], data["target_rows"])
    assert hashlib.sha256((moved_once / "q.csv").read_bytes()).hexdigest() == data["target_sha256"]
    assert "target" not in data
    assert 280 == sum(data[f"target_{side}_rows"] for side in ("train", "validation", "held_out"))
    assert [0.0, 0.0] == pytest.approx(data["feature_means"], abs=0.3)
    metrics = found["metrics"]
    assert {"linear (Gaussian) map", "identity", "two draws of the target"} == metrics["baselines"].keys()
    assert metrics["held_out"]["w2_squared"] < 2.0 * metrics["baselines"]["two draws of the target"]["w2_squared"]
    served = model_version.load(path).score_and_gradient(np.zeros((1, 2), np.float32))
    assert [[3.0, -4.0]] == [pytest.approx(row, abs=0.3) for row in served[1].tolist()]
    assert abs(float(served[0][0])) < 1.0  # 0 at the mean of the source rows, which is near 0


def test_transport_with_itself_says_that_the_map_is_the_identity(moved):
    """The same file on both sides is no error, and no secret."""
    config = load_config(moved / "job.toml")
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, target_file=config.data.source))
    told = []
    pipeline.train(config, tell=told.append)
    assert "Source and target are the same rows: the map to learn is the identity." in told


def test_photograph_is_recoloured_by_the_gradient_on_every_pixel(moved_once, tmp_path):
    """Each pixel of the scaled source picture is the program's gradient there, rounded and cut; tables have none."""
    generator = np.random.default_rng(1)
    config = load_config(moved_once / "job.toml")
    trainer = dataclasses.replace(config.trainer, steps=2)
    places = {}
    for name, (low, high, size) in {"source": (0, 120, (5, 600)), "target_file": (100, 256, (20, 30))}.items():
        places[name] = tmp_path / f"{name}.png"
        Image.fromarray(generator.integers(low, high, (*size, 3), dtype=np.uint8)).save(places[name])
    data = dataclasses.replace(config.data, **places)
    publishing = dataclasses.replace(config.publish, models_dir=tmp_path / "models")
    published = pipeline.train(dataclasses.replace(config, data=data, trainer=trainer, publish=publishing))
    samples = create_objective(config).read(data)
    program = certify(published).program
    found = pipeline.recoloured(program, samples)
    scaled = np.asarray(Image.open(places["source"]).resize((480, 4), Image.Resampling.LANCZOS))
    gradient = pipeline.answers(program, scaled.reshape(-1, 3)).gradient
    expected = np.clip(np.rint(gradient), 0, 255).reshape(4, 480, 3)
    assert ((20, 30, 3), True) == (found.target.shape, np.array_equal(expected, found.mapped))
    assert np.array_equal(scaled, found.source)
    assert abs(float(found.mapped.mean()) - float(found.target.mean())) < 10.0
    assert 3 == (published / "report.html").read_text().count('<img src="data:image/jpeg;base64,')
    assert pipeline.recoloured(program, samples.source) is None
    tables = create_objective(config).read(config.data)
    assert pipeline.recoloured(program, tables) is None


def test_answers_that_are_not_finite_are_refused_before_they_are_measured(trained_once):
    """No metric is made up of NaN, and nothing is published."""
    config = config_of(trained_once)
    objective = create_objective(config)
    rows = pipeline.read_rows(config, objective)
    count = len(rows.held_out)
    answers = Answers(np.full(count, np.nan), np.zeros((count, 3)))
    with pytest.raises(datasets.DataError, match="expected finite answers to the held-out rows"):
        pipeline.measure(objective, pipeline.Proved(None, {}, answers), rows, 7)
