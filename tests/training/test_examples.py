"""The shipped examples: their data are what their README says, and the convex network is as good as is claimed."""

import csv
import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest

from training import datasets, objectives, trainer
from training.config import load_config

EXAMPLES = Path(__file__).parents[2] / "training" / "examples"


@pytest.mark.parametrize(("name", "rows", "features"), [("tumours", 569, 30), ("diabetes", 442, 10)])
def test_readme_regenerates_the_data_files_to_the_byte(name, rows, features, tmp_path):
    """The code block of the README, run elsewhere, writes the committed file."""
    code = re.search(r"```python\n(.*?)```", (EXAMPLES / "README.md").read_text(), re.DOTALL).group(1)
    elsewhere = code.replace("training/examples/", f"{tmp_path}/")
    assert elsewhere != code
    exec(compile(elsewhere, "README.md", "exec"), {})  # noqa: S102  # our own documentation
    committed = (EXAMPLES / f"{name}.csv").read_bytes()
    assert committed == (tmp_path / f"{name}.csv").read_bytes()
    lines = list(csv.reader(committed.decode().splitlines()))
    assert (rows + 1, features + 1) == (len(lines), len(lines[0]))


def test_tumours_labels_malignant_as_one():
    """212 malignant masses are outside the acceptance region, 357 benign ones inside."""
    table = datasets.read_table(EXAMPLES / "tumours.csv", target="malignant")
    assert (212, 357) == (int((table.y == 1).sum()), int((table.y == 0).sum()))
    assert ("mean radius", 17.99, 1.0) == (table.features[0], table.x[0, 0], table.y[0])
    assert () == table.constant_features


def held_out_metrics(name: str, seeds: tuple[int, ...]) -> tuple[list[dict[str, float]], dict[str, dict[str, float]]]:
    """Return the metrics of one training a seed on the held-out rows, and the baselines'."""
    config = load_config(EXAMPLES / f"{name}.toml")
    objective = objectives.create_objective(config)
    table = objective.read(config.data)
    sides = datasets.split(table, percent=config.data.held_out_percent, salt=config.data.salt)
    inner = datasets.validation_split(
        sides.train, percent=config.trainer.validation_percent, salt=config.data.salt
    )  # fmt: skip
    objective.check(inner.train)
    found = []
    for seed in seeds:
        model = objective.create_network(config.network, inner.train, seed)
        settings = dataclasses.replace(config.trainer, seed=seed)
        trainer.fit(objective.start(model, inner.train, inner.held_out, settings), settings)
        scores = model(sides.held_out.x.astype(np.float32)).numpy()
        found.append(objective.score_metrics(scores, sides.held_out.y))
    return found, objective.baselines(sides.train, sides.held_out, seed=7)


def test_tumours_reaches_the_promised_ranking_over_five_seeds():
    """Held-out ROC-AUC, mean of five seeds, is at least 0.985, and within 0.005 of both baselines or above."""
    found, baselines = held_out_metrics("tumours", (1, 2, 3, 4, 5))
    mean = float(np.mean([metrics["roc_auc"] for metrics in found]))
    assert mean >= 0.985
    assert mean >= max(metrics["roc_auc"] for metrics in baselines.values()) - 0.005


def test_diabetes_is_between_its_baselines_or_better():
    """A convex regression explains more held-out variance than gradient boosting does on so few rows."""
    found, baselines = held_out_metrics("diabetes", (7,))
    assert found[0]["r2"] > min(metrics["r2"] for metrics in baselines.values())
