"""The nightly job on data that are wrong: nothing is published, and the reason is in the outcome and in the report."""

import dataclasses
import json
import os
from pathlib import Path

import numpy as np
import pytest

from service.manifest import VersionRefusedError
from tests.training.conftest import write_rows
from tests.training.test_retrain import config_of
from training import datasets, pipeline, retrain
from training.datasets import join
from training.objectives.classification import Classification


def versions_of(folder: Path) -> list[str]:
    """Return what lies in the model's folder."""
    return sorted(name for name in os.listdir(folder / "models" / "small") if not name.startswith("."))


def test_retrain_refuses_new_rows_in_another_unit_and_shows_the_column(trained):
    """The third column of 100 new rows is in another unit: refused by name, and first in the page's table."""
    write_rows(trained / "rows.csv", 400)
    lines = (trained / "rows.csv").read_text().splitlines()
    cells = [line.split(",") for line in lines[301:]]
    changed = [",".join([a, b, repr(float(c) * 1000.0), label]) for a, b, c, label in cells]
    (trained / "rows.csv").write_text("\n".join([*lines[:301], *changed]) + "\n")
    outcome = retrain.retrain(config_of(trained, steps=5))
    assert (None, False, ["1"]) == (outcome.published, outcome.gate.passed, versions_of(trained))
    assert [] != [reason for reason in outcome.gate.reasons if reason.startswith("column 'height' (new rows, 100)")]
    page = Path(outcome.report)
    text = page.read_text()
    assert "Tonight&#x27;s rows beside the champion&#x27;s" in text
    assert "<td>height</td><td>new</td>" in text
    found = json.loads((page.parent / "report.json").read_text())["gate"]["evidence"]["data"]
    assert ("height", "new", 100, 2 * 4) == (
        found["columns"][0]["column"], found["columns"][0]["compared"], found["new"], len(found["columns"]),
    )  # fmt: skip


def test_retrain_passes_an_honest_night_and_keeps_what_the_next_one_is_compared_with(trained):
    """A hundred rows more: published, with the fingerprint of 400 rows, their errors, and what the gate let slip."""
    write_rows(trained / "rows.csv", 400)
    outcome = retrain.retrain(config_of(trained, steps=5))
    data = json.loads((outcome.published / "manifest.json").read_text())["data"]
    found = data["fingerprint"]
    assert (400, 3, 2) == (found["rows"]["count"], len(found["columns"]), len(found["target"]["counts"]))
    assert data["validation_rows"] + data["held_out_rows"] == data["row_errors"]["rows"]
    assert {"metric": "roc_auc", "value": outcome.gate.fallen} == data["fallen"]


def test_retrain_refuses_a_split_that_moved_held_out_rows_into_training(trained, monkeypatch):
    """Three held-out rows among the training rows: found before a step is taken, nothing is published."""

    def leaking(data, **rule):
        sides = datasets.split(data, **rule)
        moved = np.arange(len(sides.held_out)) < 3
        return dataclasses.replace(
            sides, train=join(sides.train, sides.held_out.take(moved)), held_out=sides.held_out.take(~moved)
        )

    monkeypatch.setattr(pipeline, "split", leaking)
    with pytest.raises(VersionRefusedError, match=r"have [1-3] held-out") as caught:
        retrain.retrain(config_of(trained))
    assert ("held-out-leak", ["1"]) == (caught.value.rule, versions_of(trained))


def test_retrain_refuses_a_run_that_is_given_held_out_rows(trained, monkeypatch):
    """The split is right and the run gets more: its own batches give it away."""
    config = config_of(trained)
    held_out = pipeline.read_rows(config, Classification()).held_out
    start = Classification.start

    def leaking(self, network, train, validation, settings):
        return start(self, network, join(train, held_out), validation, settings)

    monkeypatch.setattr(Classification, "start", leaking)
    with pytest.raises(VersionRefusedError, match=r"no training rows, \d+ of them held out"):
        retrain.retrain(config)
    assert ["1"] == versions_of(trained)
