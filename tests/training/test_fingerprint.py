"""Fingerprints: what the manifest keeps of a night's rows, how much room it takes, and what is read of others."""

import json

import numpy as np
import pytest

from service.manifest import canonical_json
from tests.training.nights import shuffled
from training import datasets, fingerprint
from training.datasets import Samples, Table


def test_fingerprint_of_a_shipped_data_set_is_small_and_reads_back():
    """Tumours: 30 columns, two classes and 569 hashes in 15 KB, and every share is the file's."""
    table = shuffled("tumours", 0)
    document = fingerprint.facts(table, "malignant")[fingerprint.KEY]
    assert len(canonical_json(document)) < 15_000
    found, why = fingerprint.read(json.loads(canonical_json(document)), 30)
    assert ("", 569, {0.0: 357, 1.0: 212}) == (
        why, found.read, dict(zip(found.target.places.tolist(), found.target.counts.tolist(), strict=True)),
    )  # fmt: skip
    assert [column.count(table.x[:, place]).tolist() for place, column in enumerate(found.columns)] == [
        column.counts.tolist() for column in found.columns
    ]


def test_fingerprint_counts_the_bad_cells_of_each_column(tmp_path):
    """Two missing numbers and an infinite one in `a`, one missing in the target, none in `b`."""
    lines = [f"{i},{i % 7},{i % 2}" for i in range(96)] + [",1,0", "nan,2,1", "1e39,3,0", "5,4,"]
    (tmp_path / "rows.csv").write_text("\n".join(["a,b,y", *lines]))
    table = datasets.read_table(tmp_path / "rows.csv", target="y", max_bad_rows_percent=10)
    assert {"a": 3, "y": 1} == table.bad_cells
    found = fingerprint.take(table, "y")
    assert ([3, 0], 1, 100) == ([column.bad for column in found.columns], found.target.bad, found.read)


def test_two_samples_have_a_fingerprint_each():
    """Source and target file of a transport, neither with a target column."""
    rows = [Table(("a", "b"), np.random.default_rng(i).normal(size=(50 + i, 2)), np.empty((50 + i, 0))) for i in (0, 1)]
    found = fingerprint.facts(Samples(*rows))
    assert [50, 51] == [found[key]["rows"]["count"] for key in (fingerprint.KEY, fingerprint.TARGET_KEY)]
    assert None is found[fingerprint.KEY]["target"]


def test_ten_thousand_columns_fit_and_more_than_the_limit_are_left_out_with_a_sentence():
    """A thousand columns of many digits take less than a tenth of 4 MiB; a smaller limit leaves a sentence in place."""
    table = Table(
        tuple(f"column {i}" for i in range(1000)), np.random.default_rng(0).normal(size=(60, 1000)), np.zeros(60)
    )
    whole = fingerprint.facts(table)[fingerprint.KEY]
    assert (1000, True) == (len(whole["columns"]), len(canonical_json(whole)) < fingerprint.MAX_BYTES / 10)
    left_out = fingerprint.facts(table, max_bytes=2**17)[fingerprint.KEY]
    assert ["left_out"] == list(left_out)
    found, why = fingerprint.read(left_out, 1000)
    assert (None, True) == (found, "no fingerprint of its data: " in why)


@pytest.mark.parametrize(
    ("document", "said"),
    [
        (None, "has no fingerprint"),
        ({}, "cannot be read"),
        (3, "cannot be read"),
        ({"columns": [{}], "target": None, "rows": {}, "read": 1}, "cannot be read"),
    ],
)
def test_manifest_without_a_fingerprint_is_told_of_not_refused(document, said):
    """Versions of earlier days have none, and anything may stand in an object whose inside is free."""
    found, why = fingerprint.read(document, 1)
    assert (None, True) == (found, said in why)


def test_fingerprint_of_other_columns_is_not_compared():
    """Thirty columns are not compared with three."""
    document = fingerprint.facts(shuffled("diabetes", 0), "progression")[fingerprint.KEY]
    assert (None, "the champion's fingerprint has 10 columns, tonight's rows 3") == fingerprint.read(document, 3)
