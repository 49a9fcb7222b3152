"""Evaluation of a published version on a file: metrics, the answers of the server's engine, and refusals."""

import dataclasses
import re
import shutil

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from service.manifest import VersionRefusedError
from service.model_version import load
from training import evaluation
from training.datasets import DataError, Samples, read_table


def test_evaluate_gives_the_metrics_of_the_answers(trained_once):
    """The metric is scikit-learn's of the very scores, on all rows of the file."""
    found = evaluation.evaluate(trained_once / "models" / "small" / "1", trained_once / "rows.csv")
    expected = roc_auc_score(found.rows.y, found.answers.score)
    assert (300, pytest.approx(expected)) == (len(found.rows), found.metrics["roc_auc"])


def test_evaluate_answers_as_the_service_does(trained_once):
    """The same float32 numbers as a loaded version gives for the rows of the file, bit for bit."""
    path = trained_once / "models" / "small" / "1"
    rows = read_table(trained_once / "rows.csv", target="label").x.astype(np.float32)
    score, gradient = load(path, engine="program").score_and_gradient(rows)
    found = evaluation.evaluate(path, trained_once / "rows.csv").answers
    assert (score.tobytes(), gradient.tobytes()) == (found.score.tobytes(), found.gradient.tobytes())


def test_page_shows_the_metrics(trained_once):
    """The page names version and file."""
    found = evaluation.evaluate(trained_once / "models" / "small" / "1", trained_once / "rows.csv")
    page = found.page()
    assert all(words in page for words in ("small version 1: evaluation report", "rows.csv", "calibration"))


def test_evaluate_refuses_a_version_without_a_manifest(trained):
    """A SavedModel made elsewhere has no task and no features to evaluate."""
    path = trained / "models" / "small" / "1"
    for name in ("manifest.json", "model.keras", "probe.npz", "report.json"):
        (path / name).unlink()
    with pytest.raises(VersionRefusedError) as caught:
        evaluation.evaluate(path, trained / "rows.csv")
    assert "manifest-missing" == caught.value.rule


def test_evaluate_refuses_a_version_that_is_not_whole(trained):
    """The bytes are checked before anything is computed with them."""
    path = trained / "models" / "small" / "1"
    data = next(path.glob("variables/*.data*"))
    data.write_bytes(data.read_bytes()[:-4] + b"\0\0\0\1")
    with pytest.raises(VersionRefusedError) as caught:
        evaluation.evaluate(path, trained / "rows.csv")
    assert "file-hash" == caught.value.rule


def test_evaluate_names_a_column_that_the_file_lacks(trained):
    """Features are taken by name, in the version's order; a missing one is named."""
    text = (trained / "rows.csv").read_text()
    (trained / "rows.csv").write_text(text.replace("height", "depth", 1))
    with pytest.raises(DataError, match="height"):
        evaluation.evaluate(trained / "models" / "small" / "1", trained / "rows.csv")


def test_evaluate_takes_a_copied_folder_of_any_name(trained):
    """The folder's name does not matter here: the version is what its manifest says."""
    shutil.copytree(trained / "models" / "small" / "1", trained / "copy")
    assert "small version 1" == evaluation.evaluate(trained / "copy", trained / "rows.csv").name


def test_evaluate_measures_a_map_against_target_rows(moved_once):
    """Both files are named; all their rows are used, and the page has the map's figures."""
    path = moved_once / "models" / "moved" / "1"
    found = evaluation.evaluate(path, moved_once / "p.csv", str(moved_once / "q.csv"))
    assert (300, 280, 0) == (len(found.rows), len(found.rows.target), found.dropped)
    assert {"w2_uvp", "w2_squared", "w2", "transport_cost"} == found.metrics.keys()
    assert found.metrics["w2_squared"] < 1.0
    assert 25.0 == pytest.approx(found.metrics["transport_cost"], rel=0.1)
    assert "mapped source and target" in found.page()


def test_page_tells_what_was_done_to_the_numbers_of_the_files(moved_once):
    """The notes of source and target, and rows dropped from them, stand on the page as they do in a training report."""
    found = evaluation.evaluate(moved_once / "models" / "moved" / "1", moved_once / "p.csv", str(moved_once / "q.csv"))
    assert 'class="note"' not in found.page()
    source = dataclasses.replace(found.rows.source, notes=("The picture is greyscale.",))
    target = dataclasses.replace(found.rows.target, notes=("Its transparency was left out.",), dropped={"NaN": 2})
    page = dataclasses.replace(found, rows=Samples(source, target)).page()
    assert [
        "Source, p.csv: The picture is greyscale.",
        "Target, q.csv: Its transparency was left out.",
        "Target, q.csv: Rows that were dropped: 2 with NaN.",
    ] == re.findall(r'<p class="note">(.*?)</p>', page)


def test_evaluate_asks_for_the_target_rows_of_a_map(moved_once):
    """Which rows a map should lead to is not in its manifest, only what they were called."""
    path = moved_once / "models" / "moved" / "1"
    with pytest.raises(DataError, match=r"received none\. Name their file with --target"):
        evaluation.evaluate(path, moved_once / "p.csv")
