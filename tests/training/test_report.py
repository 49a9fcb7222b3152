"""The report: what is in it, that it is self-contained, and that names in it are text."""

import dataclasses
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from training import report
from training.answers import Answers
from training.datasets import Table
from training.trainer import History

CERTIFICATE = {
    "proved": True,
    "strong_convexity": 0.001,
    "steps": [
        {"node": "hidden/Softplus", "rule": "nondecreasing-of-convex", "curvature": "convex"},
        {"node": "hidden/BiasAdd", "rule": "nonneg-matmul", "curvature": "convex", "min_weight": 0.25},
    ],
}
FACTS = report.TrainingReport(
    title="small",
    task="classification",
    created="2026-11-20T03:00:12Z",
    features=("height", "width"),
    data={"file": "rows.csv", "rows": 4, "feature_means": [1.5, 2.5], "feature_deviations": [0.25, 0.75]},
    metrics={
        "this version": {"roc_auc": np.float64(0.987654321), "log_loss": 0.4},
        "logistic regression": {"roc_auc": 0.9, "log_loss": 0.3},
    },
    certificate=CERTIFICATE,
    gate={"passed": False, "reasons": ["scores drift"], "score_drift": 0.7, "standard_error": float("nan")},
    history=History((0, 50), (0.7, 0.2), (0.8, 0.3), 50, stopped_early=True),
    notes=("A note.",),
    config={"trainer": {"seed": 7}},
    made_with={"keras": "3.15.1"},
    answers=Answers(np.array([-3.0, -1.0, 1.0, 3.0]), np.zeros((4, 2))),
    measured=Table(("height", "width"), np.zeros((4, 2)), np.array([0.0, 1.0, 0.0, 1.0])),
)


class Tags(HTMLParser):
    """Collects every tag, address and text of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note a tag and where it points."""
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name.removeprefix("xlink:") in {"href", "src"}]

    def handle_data(self, data: str) -> None:
        """Note text."""
        self.text += data


def read(page: str) -> Tags:
    """Return what a page is made of."""
    parser = Tags()
    parser.feed(page)
    return parser


def test_write_makes_both_files(tmp_path):
    """report.json is strict JSON with every fact; report.html is the page."""
    report.write(FACTS, tmp_path)
    document = json.loads((tmp_path / "report.json").read_text(), parse_constant=pytest.fail)
    assert (0.987654321, None) == (document["metrics"]["this version"]["roc_auc"], document["gate"]["standard_error"])
    assert ([0, 50], CERTIFICATE) == (document["history"]["steps"], document["certificate"])
    assert (tmp_path / "report.html").read_text() == report.to_html(FACTS)


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_page_is_self_contained(task):
    """No script, no address outside the page, so a sandbox and an offline reader show it whole."""
    found = read(report.to_html(dataclasses.replace(FACTS, task=task)))
    assert not {"script", "link", "img", "iframe", "object", "embed"} & set(found.tags)
    assert all(address.startswith("#") for address in found.addresses)
    assert 2 == found.tags.count("svg")


def test_page_shows_metrics_gate_steps_and_curves():
    """What a reader looks for is there."""
    text = read(report.to_html(FACTS)).text
    for words in ("0.9877", "refused", "scores drift", "nonneg matmul", "0.25", "A note.", "rows.csv", "step 50"):
        assert words in text
    for words in ("log-odds of label 1", "f(z) >= f(x) + <g, z - x>", "trainer.seed", "3.15.1", "height", "0.75"):
        assert words in text


def test_page_says_first_how_well_and_how_sure():
    """One sentence at the top: the first metric beside the others, the rows, and that the score is proved convex."""
    page = report.to_html(FACTS)
    expected = "ROC-AUC 0.9877 on 4 held-out rows (logistic regression 0.9). The score is proved convex in 2 features"
    assert expected in page
    assert page.index(expected) < page.index("<h2>")
    assert "Refused by the gate, nothing was published. ROC-AUC" in page
    assert "Refused" not in report.to_html(dataclasses.replace(FACTS, gate={**FACTS.gate, "passed": True}))
    assert "proved convex" not in report.to_html(dataclasses.replace(FACTS, certificate=None))


def test_metrics_table_marks_the_best_of_each_column():
    """More ROC-AUC is better and less log loss is, so each row of the table has one bold number."""
    page = report.to_html(FACTS)
    assert ["0.9877", "0.3"] == re.findall(r'<td class="best">([\d.]+)</td>', page)
    alone = dataclasses.replace(FACTS, metrics={"this version": {"roc_auc": 0.9}})
    assert "best" not in report.to_html(alone).partition("<body>")[2]
    assert all(words in page for words in ("ROC-AUC ↑", "log loss ↓", "↑ more is better"))


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_page_is_made_also_of_one_row_or_of_scores_that_are_all_equal(task):
    """A report never fails because there is little to draw, and Matplotlib warns of nothing."""
    for score, target in (([1.0], [1.0]), ([2.0, 2.0, 2.0], [0.0, 1.0, 1.0])):
        rows = np.zeros((len(score), 2))
        answers, measured = Answers(np.array(score), rows), Table(FACTS.features, rows, np.array(target))
        facts = dataclasses.replace(FACTS, task=task, answers=answers, measured=measured)
        assert report.to_html(facts).endswith("</html>\n")


def test_page_takes_names_as_text():
    """A feature, file or model name cannot become markup."""
    evil = "<script>alert(1)</script>"
    facts = dataclasses.replace(FACTS, title=evil, notes=(evil,), data={"file": evil}, metrics={evil: {evil: 1.0}})
    page = report.to_html(facts)
    assert "script" not in read(page).tags
    assert evil in read(page).text


def test_page_is_the_same_twice():
    """Equal facts make equal bytes: no time, no random ids."""
    page = report.to_html(FACTS)
    assert page == report.to_html(FACTS)
    assert not re.search(r"20\d\d-\d\d-\d\dT", page.replace(FACTS.created, ""))
