"""What a report shows of a transport: its words, its curves, its rows, and the photographs."""

import dataclasses
import re

import numpy as np
import pytest

from tests.training.test_report import FACTS, read
from training import figures, report
from training.answers import Answers
from training.datasets import Samples, Table
from training.pictures import Recoloured
from training.trainer import History

HISTORY = History(
    (0, 50), (12.0, 12.5), (8.0, 0.5), 50, stopped_early=False, chosen=False,
    curves={"inverse_w2_squared": (9.0, 0.75), "penalty": (0.0, 0.001), "gradient_norm_f": (0.0, 3.0)},
)  # fmt: skip
METRICS = {
    "this version": {"w2_squared": 2.5, "w2": 1.5811, "transport_cost": 25.0},
    "linear (Gaussian) map": {"w2_squared": 3.5, "w2": 1.8708, "transport_cost": 24.0},
    "identity": {"w2_squared": 39787.9, "w2": 199.47, "transport_cost": 0.0},
    "two draws of the target": {"w2_squared": 0.5, "w2": 0.7071},
}


def transport_of(dim: int = 3, rows: int = 40, **changes: object) -> report.TrainingReport:
    """Return the report of a transport of `rows` rows in so many features."""
    generator = np.random.default_rng(0)
    source, target = (
        Table(tuple("abc"[:dim]), generator.normal(size=(rows, dim)) * [0.1, 2.0, 1.0][:dim], np.empty((rows, 0)))
        for _ in range(2)
    )
    facts = {
        "task": "transport",
        "features": source.features,
        "metrics": METRICS,
        "history": HISTORY,
        "data": {"file": "p.csv", "target_file": "q.csv"},
        "answers": Answers(np.zeros(rows), source.x + 1.0),
        "measured": Samples(source, target),
    }
    return dataclasses.replace(FACTS, **{**facts, **changes})


def test_transport_page_says_what_score_and_gradient_mean():
    """The map is the gradient, the score its potential, and the distances are explained with their unit."""
    text = read(report.to_html(transport_of())).text
    for words in ("The gradient of the score is a map", "0 at the mean of the source", "exact squared Wasserstein-2"):
        assert words in text
    for words in ("no factor one half", "5 draws of 20 rows a side", "All 50 steps were taken", "q.csv", "2.5"):
        assert words in text
    assert "W2 squared 2.5 on 40 held-out rows (linear (Gaussian) map 3.5, identity 39788" in text


def test_transport_page_draws_curves_of_both_maps_and_the_rows_of_the_two_widest_features():
    """Distances of the map and its inverse, penalty and norms; of three features the two that vary most."""
    page = report.to_html(transport_of())
    assert 2 == read(page).tags.count("svg")
    for words in ("inverse map", "estimate of half W2 squared", "gradient norm f", "mapped source and target"):
        assert words in page
    labels = re.findall(r"<text[^>]*>([abc])</text>", page)
    assert {"b", "c"} == set(labels)


def test_best_of_a_column_is_a_model_and_only_where_one_can_be_better():
    """Two draws of the target are no map, and a move of no length is no merit: neither is marked."""
    page = report.to_html(transport_of())
    assert ["2.5", "1.581"] == re.findall(r'<td class="best">([\d.]+)</td>', page)
    assert all(words in page for words in ("W2 squared ↓", "W2 ↓", "<th>transport cost</th>"))


def test_photographs_stand_side_by_side_and_in_the_page_itself():
    """Source, recoloured and target are pictures inside the page, each with its words; nothing is loaded."""
    plain = np.full((6, 9, 3), 90, np.uint8)
    found = read(report.to_html(transport_of(recoloured=Recoloured(plain, plain + 50, plain + 100))))
    assert 3 == found.tags.count("img")
    assert all(address.startswith(("#", "data:image/")) for address in found.addresses)
    assert "each pixel mapped by the gradient" in found.text
    alone = read(report.to_html(transport_of(recoloured=Recoloured(plain, plain, None))))
    assert 2 == alone.tags.count("img")
    assert 0 == read(report.to_html(transport_of())).tags.count("img")


@pytest.mark.parametrize(("dim", "rows"), [(1, 40), (1, 2), (2, 2), (3, 3000)])
def test_transport_page_is_made_of_few_rows_and_of_one_feature(dim, rows):
    """Matplotlib warns of nothing, and many rows do not make the page large."""
    page = report.to_html(transport_of(dim, rows))
    assert page.endswith("</html>\n")
    assert len(page) < 600_000


def test_transport_page_is_made_of_a_run_without_other_curves():
    """A history of the loss alone still has its figure, and values without a logarithm are drawn too."""
    plain = History((0,), (-1.0,), (0.0,), 0, stopped_early=False)
    assert "estimate of half W2 squared" in figures.of_training("transport", plain)
