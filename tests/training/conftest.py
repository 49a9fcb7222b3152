"""Two small jobs that train in seconds, and one version of each trained once for all tests that only read."""

import csv
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from training.functions import registry

CONFIG = """
[model]
name = "small"
task = "classification"
[data]
file = "rows.csv"
target = "label"
held_out_percent = 25
salt = "small"
[network]
hidden = [6, 5]
[trainer]
steps = 200
batch = 32
learning_rate = 0.01
patience = 4
evaluate_every = 25
[gate]
metric = "roc_auc"
tolerance = 0.05
min_rows = 20
max_score_drift = 0.5
[publish]
models_dir = "models"
keep = 3
"""

MOVED = """
[model]
name = "moved"
task = "transport"
[data]
source = "p.csv"
target_file = "q.csv"
held_out_percent = 25
salt = "moved"
[network]
hidden = [4]
[objective]
inner_steps = 1
[trainer]
steps = 20
batch = 32
learning_rate = 0.001
evaluate_every = 10
[gate]
metric = "w2_squared"
tolerance = 0.3
min_rows = 20
max_score_drift = 0.5
"""
SHIFT = (3.0, -4.0)

FEATURES = ("left", "right", "height")

WriteJob = Callable[..., Path]


def write_rows(path: Path, count: int, *, shuffled: bool = False, features: tuple[str, ...] = FEATURES) -> None:
    """Write `count` rows, label 1 outside an ellipsoid, with some noise; the first rows are the same for any count."""
    generator = np.random.default_rng(5)
    x = generator.normal(size=(4000, 3)) * [1.0, 20.0, 0.1] + [0.0, 100.0, 3.0]
    radius = ((x - [0.0, 100.0, 3.0]) / [1.0, 20.0, 0.1]) ** 2
    label = (radius.sum(axis=1) + generator.normal(size=4000) > 3.0).astype(int)[:count]
    if shuffled:
        generator.shuffle(label)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*features, "label"])
        writer.writerows([*map(repr, map(float, row)), y] for row, y in zip(x[:count], label, strict=True))


def write_job(folder: Path, count: int = 300, config: str = CONFIG) -> Path:
    """Write rows and configuration into `folder` and return the configuration's path."""
    folder.mkdir(parents=True, exist_ok=True)
    write_rows(folder / "rows.csv", count)
    (folder / "job.toml").write_text(config)
    return folder / "job.toml"


@pytest.fixture(scope="session")
def trained_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a job's folder with its version 1 published. Read only: copy it with `trained` to change anything."""
    from training import pipeline
    from training.config import load_config

    path = write_job(tmp_path_factory.mktemp("trained"))
    pipeline.train(load_config(path))
    return path.parent


@pytest.fixture
def trained(trained_once: Path, tmp_path: Path) -> Path:
    """Return a copy of `trained_once` of one's own."""
    return Path(shutil.copytree(trained_once, tmp_path / "job"))


def write_samples(folder: Path, counts: tuple[int, int] = (300, 280)) -> None:
    """Write so many rows of a standard normal source, and of the same distribution moved by `SHIFT` as the target."""
    for name, mean, count, seed in zip(("p.csv", "q.csv"), ((0.0, 0.0), SHIFT), counts, (5, 6), strict=True):
        with (folder / name).open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["left", "right"])
            writer.writerows((np.random.default_rng(seed).normal(size=(count, 2)) + mean).tolist())


@pytest.fixture(scope="session")
def moved_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a transport job's folder with its version 1 published. Read only: copy it with `moved`."""
    from training import pipeline
    from training.config import load_config

    folder = tmp_path_factory.mktemp("moved")
    write_samples(folder)
    (folder / "job.toml").write_text(MOVED)
    pipeline.train(load_config(folder / "job.toml"))
    return folder


@pytest.fixture
def moved(moved_once: Path, tmp_path: Path) -> Path:
    """Return a copy of `moved_once` of one's own."""
    return Path(shutil.copytree(moved_once, tmp_path / "moved"))


@pytest.fixture
def register_function():
    """Return `register_function(name, forward, **arguments)`, which registers a function until the test is over."""
    names = []

    def register(name, forward, **arguments):
        registry.register(name, **arguments)(forward)
        names.append(name)
        return forward

    yield register
    for name in names:
        registry.unregister(name)
