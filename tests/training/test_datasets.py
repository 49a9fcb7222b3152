"""Data files: what is read, what is refused and how, and the rule that holds rows out."""

import hashlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from training import datasets
from training.datasets import DataError, Samples, Table

X = np.array([[1.0, 2.5], [3.0, -4.0], [5.5, 6.0]])
Y = np.array([0.0, 1.0, 0.0])


def write(tmp_path: Path, text: str | bytes, name: str = "rows.csv") -> Path:
    """Return a file of this content."""
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def table_of(x: np.ndarray) -> Table:
    """Return a table of rows with zero targets."""
    return Table(tuple(f"x{i}" for i in range(x.shape[1])), x, np.zeros(len(x)), "rows.csv", "", len(x))


def write_rows(path: Path) -> None:
    """Write columns a, y, b with `X` and `Y` in the format of the file's ending."""
    columns = {"a": X[:, 0], "y": Y, "b": X[:, 1]}
    if path.suffix == ".csv":
        lines = ["a,y,b", *(f"{a},{int(y)},{b}" for (a, b), y in zip(X, Y, strict=True))]
        path.write_text("\n".join(lines))
    elif path.suffix == ".parquet":
        parquet.write_table(pa.table({"a": X[:, 0].astype("f4"), "y": Y.astype("i8"), "b": X[:, 1]}), path)
    else:
        rows = np.zeros(3, dtype=[("a", "f8"), ("y", "i4"), ("b", "f4")])
        for name, values in columns.items():
            rows[name] = values
        np.save(path, rows)


@pytest.mark.parametrize("name", ["rows.csv", "rows.parquet", "rows.npy", "ROWS.CSV"])
def test_each_format_gives_the_same_rows(name, tmp_path):
    """CSV, Parquet and a structured NPY array of the same numbers are the same table."""
    path = tmp_path / name
    write_rows(path.with_suffix(path.suffix.lower()))
    path.with_suffix(path.suffix.lower()).rename(path)
    table = datasets.read_table(path, target="y")
    np.testing.assert_array_equal(X, table.x)
    np.testing.assert_array_equal(Y, table.y)
    assert (("a", "b"), 3, {}) == (table.features, table.rows_read, dict(table.dropped))
    assert (np.float64, np.float64) == (table.x.dtype, table.y.dtype)


def test_plain_npy_array_names_its_columns_by_number(tmp_path):
    """Without names, columns are `column_0`, `column_1`, ..."""
    np.save(tmp_path / "rows.npy", np.column_stack([X, Y]).astype(np.float32))
    table = datasets.read_table(tmp_path / "rows.npy", target="column_2")
    np.testing.assert_array_equal(X, table.x)
    assert ("column_0", "column_1") == table.features


def test_chosen_features_come_in_the_order_asked(tmp_path):
    """The model's column order is that of the configuration; other columns may hold anything."""
    path = write(tmp_path, "name,a,y,b\nx,1,0,2\ny,3,1,4\n")
    table = datasets.read_table(path, target="y", features=("b", "a"))
    np.testing.assert_array_equal([[2.0, 1.0], [4.0, 3.0]], table.x)
    assert ("b", "a") == table.features


def test_fingerprint_is_the_hash_of_the_file(tmp_path):
    """The manifest can say which bytes were trained on."""
    path = write(tmp_path, "a,y\n1,0\n,1\n")
    table = datasets.read_table(path, target="y", max_bad_rows_percent=50)
    expected = {
        "file": "rows.csv",
        "rows": 2,
        "dropped_rows": 1,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }
    assert expected == datasets.data_fingerprint(table)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "empty"),
        ("  \n", "the file is empty"),
        ("a,y\n", "a header and none"),
        ("a,y\n1,2\nx,3\n", r"column 'a' is not numeric, received string \(row 2: 'x'\)"),
        ("a,y\n1,yes\n", r"column 'y' is not numeric, received string \(row 1: 'yes'\)"),
        ("a,y\ntrue,1\nfalse,0\n", "column 'a' is not numeric, received bool"),
        ("a,y\n2024-01-01,1\n", "column 'a' is not numeric, received date"),
        ("a,a,y\n1,2,3\n", "column 'a' appears 2 times"),
        (",a,y\n0,2,3\n", "column 1 has no name"),
        ("a,z\n1,2\n", r"expected a column 'y', received none of that name \(nearest: 'z'; all: a, z\)"),
        ("a,z\nx,2\n", r"expected a column 'y'"),
        ("a;y\n1;2\n", r"expected cells separated by commas, received 'a;y' as one cell"),
        ("a\ty\n1\t2\n", r"expected cells separated by commas"),
        ("y\n1\n", "at least one feature column"),
        ("a,y\n,1\n,0\n", "column 'a' has no number in any row"),
        (b"\xff\xfe\x00a,y\n1,2\n", "a header in UTF-8, received the byte 0xff"),
        ("gr\u00f6\u00dfe,y\n1,2\n".encode("latin-1"), "received the byte 0xf6 in it. Save the file as UTF-8"),
        (b"a,y\n\xff,2\n", "column 'a' is not numeric"),
        ("a,y\n1,0\n2\n", r"1 of 2 rows are bad \(1 with wrong number of cells\)"),
        ("a,y\n1,0\n2,1,3\n", r"1 of 2 rows are bad \(1 with wrong number of cells\)"),
        ("a,y\n1,0\nnan,1\n", r"1 of 2 rows are bad \(1 with a missing number\)"),
        ("a,y\n1,0\n1e39,1\n", r"1 of 2 rows are bad \(1 with an infinite number\)"),
        ("a,y\n1,0\n2,-inf\n", r"1 of 2 rows are bad \(1 with an infinite number\)"),
    ],
)
def test_bad_csv_is_refused_with_what_and_where(content, said, tmp_path):
    """Each mistake has a sentence that names the file, the column or row, and the finding."""
    with pytest.raises(DataError, match=rf"^rows\.csv: .*{said}"):
        datasets.read_table(write(tmp_path, content), target="y")


def test_advice_on_a_column_of_words_fits_its_place(tmp_path):
    """A target of words cannot be left out; a feature of words can, by listing the others."""
    path = write(tmp_path, "a,y\n1,yes\n")
    with pytest.raises(DataError, match="Encode it as numbers, two classes as 0 and 1"):
        datasets.read_table(path, target="y")
    with pytest.raises(DataError, match=r"or list in data\.features the columns to use"):
        datasets.read_table(write(tmp_path, "a,b,y\n1,x,0\n"), target="y")


def test_missing_chosen_feature_is_refused_with_the_nearest_column(tmp_path):
    """A column that tonight's file lost or renamed is named, with the nearest one."""
    with pytest.raises(DataError, match=r"expected a column 'radius', received none .*nearest: 'radiuss'"):
        datasets.read_table(write(tmp_path, "radiuss,y\n1,2\n"), target="y", features=("radius",))


@pytest.mark.parametrize("name", ["rows.csv", "rows.parquet", "rows.npy"])
def test_missing_and_broken_files_are_refused(name, tmp_path):
    """A file that is not there, and one that is not what its ending says."""
    with pytest.raises(DataError, match="No such file"):
        datasets.read_table(tmp_path / name, target="y")
    with pytest.raises(DataError, match=rf"^{name}: "):
        datasets.read_table(write(tmp_path, b"\x00\x01\x02 no table", name), target="y")


def test_unknown_ending_and_folders_are_refused(tmp_path):
    """The sentence names the endings that are read."""
    with pytest.raises(DataError, match=r"rows\.xlsx: expected a file that ends in \.csv, \.parquet, \.npy"):
        datasets.read_table(write(tmp_path, "a,y\n1,2\n", "rows.xlsx"), target="y")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(DataError, match="directory"):
        datasets.read_table(tmp_path / "folder.csv", target="y")


def test_npy_of_objects_or_of_wrong_rank_is_refused_and_never_unpickled(tmp_path):
    """A pickle in an array file would run code."""
    np.save(tmp_path / "objects.npy", np.array([[object()]], dtype=object), allow_pickle=True)
    np.save(tmp_path / "rank1.npy", np.arange(5.0))
    for name, said in (("objects.npy", "never unpickled"), ("rank1.npy", r"shape \[5\]")):
        with pytest.raises(DataError, match=said):
            datasets.read_table(tmp_path / name, target="column_0")


@pytest.mark.parametrize(("bad", "allowed"), [(1, True), (2, True), (3, False)])
def test_bad_rows_are_dropped_up_to_the_limit_and_refused_above(bad, allowed, tmp_path):
    """With 2 percent of 100 rows allowed, two are dropped and counted, three are an error."""
    lines = [f"{i},{i % 2}" for i in range(100 - bad)] + ["nan,0", "1,2,3", "inf,1"][:bad]
    path = write(tmp_path, "\n".join(["a,y", *lines]))
    if allowed:
        table = datasets.read_table(path, target="y", max_bad_rows_percent=2.0)
        assert (100, 100 - bad, bad) == (table.rows_read, len(table), sum(table.dropped.values()))
        assert np.isfinite(table.x).all()
    else:
        with pytest.raises(DataError, match=r"3 of 100 rows are bad .* at most 2 percent are allowed"):
            datasets.read_table(path, target="y", max_bad_rows_percent=2.0)


def test_constant_column_is_kept_and_named(tmp_path):
    """It carries no information, but the model's columns stay those of the file; the report warns."""
    table = datasets.read_table(write(tmp_path, "a,b,y\n7,1,0\n7,2,1\n"), target="y")
    assert (("a", "b"), ("a",)) == (table.features, table.constant_features)


def test_held_out_rule_is_the_one_of_the_contract():
    """A row is held out if sha256(float32 row bytes + salt) mod 100 < percent."""
    x = np.random.default_rng(0).normal(size=(300, 4))
    for percent, salt in ((20, "tumours"), (50, ""), (1, "ö")):
        expected = [
            int(hashlib.sha256(row.tobytes() + salt.encode()).hexdigest(), 16) % 100 < percent
            for row in x.astype("<f4")
        ]
        assert expected == [datasets.is_held_out(row, salt, percent) for row in datasets.row_bytes(x)]


def test_held_out_share_is_about_the_percentage_and_the_sides_are_disjoint():
    """20 percent of 20,000 rows are within four standard deviations of it, and no row is on both sides."""
    x = np.random.default_rng(0).normal(size=(20_000, 3))
    sides = datasets.split(table_of(x), percent=20, salt="s")
    assert len(sides.held_out) == pytest.approx(4000, abs=4 * np.sqrt(20_000 * 0.2 * 0.8))
    train, held_out = (set(datasets.row_bytes(side.x)) for side in (sides.train, sides.held_out))
    assert set() == train & held_out
    assert 20_000 == len(sides.train) + len(sides.held_out)


def test_row_never_changes_sides():
    """Other rows, another order, more digits than float32 has, the sign of zero, and the target do not matter."""
    x = np.random.default_rng(0).normal(size=(500, 3)).astype(np.float32).astype(float)
    x[:, 2] = 0.0
    held_out = set(datasets.row_bytes(datasets.split(table_of(x), percent=20, salt="s").held_out.x))
    more = np.vstack([np.random.default_rng(1).normal(size=(700, 3)), x[::-1] * (1 + 1e-12)])
    more[:, 2] = -0.0
    later = datasets.split(Table(("a", "b", "c"), more, np.ones(1200)), percent=20, salt="s")
    assert held_out == set(datasets.row_bytes(x)) & set(datasets.row_bytes(later.held_out.x))
    assert held_out.isdisjoint(datasets.row_bytes(later.train.x))


def test_validation_rows_are_drawn_from_training_rows_alone_and_by_another_salt():
    """Early stopping never sees a held-out row, and its draw is independent of the first one."""
    x = np.random.default_rng(0).normal(size=(20_000, 3))
    sides = datasets.split(table_of(x), percent=20, salt="s")
    inner = datasets.validation_split(sides.train, percent=20, salt="s")
    assert 3200 == pytest.approx(len(inner.held_out), abs=4 * np.sqrt(16_000 * 0.16))
    validation = set(datasets.row_bytes(inner.held_out.x))
    assert validation.isdisjoint(datasets.row_bytes(sides.held_out.x))
    assert validation.isdisjoint(datasets.row_bytes(inner.train.x))


def test_too_few_rows_for_two_sides_are_refused():
    """One row is on one side only, and so are many equal ones; the sentence says how many are not equal."""
    for count, equal, more in ((1, "", "more"), (300, r" \(1 distinct in float32; .*\)", "more distinct")):
        said = rf"{count} rows{equal} at 20 percent leave no (training|held-out) row\. Give {more} rows"
        with pytest.raises(DataError, match=said):
            datasets.split(table_of(np.ones((count, 2))), percent=20, salt="s")


def test_rows_without_a_target_are_all_features(tmp_path):
    """With no target asked for, every column is a feature, and the rows still have a number."""
    table = datasets.read_table(write(tmp_path, "a,y\n1,0\n3,1\n5,\n"), target=None, max_bad_rows_percent=50)
    assert (("a", "y"), 2, (2, 0), 3) == (table.features, len(table), table.y.shape, table.rows_read)
    np.testing.assert_array_equal([[1.0, 0.0], [3.0, 1.0]], table.take(np.array([True, True])).x)


def two_samples(seed: int = 0) -> Samples:
    """Return 600 source and 400 target rows."""
    source, target = (np.random.default_rng(seed + i).normal(size=(n, 3)) for i, n in enumerate((600, 400)))
    return Samples(table_of(source), table_of(target))


def test_samples_are_seen_as_their_source():
    """A model scores source rows: number, features and constant columns are theirs."""
    samples = two_samples()
    flat = Samples(table_of(np.ones((2, 1))), table_of(np.arange(3.0)[:, None]))
    assert (600, ("x0", "x1", "x2"), "rows.csv") == (len(samples), samples.features, samples.file)
    assert samples.source.x is samples.x
    assert (("x0",), 2) == (flat.constant_features, len(flat))


def test_samples_are_split_row_by_row_on_both_sides():
    """Each side is held out by the rule of a table, so a row that both have is on the same side in both."""
    samples = two_samples()
    sides = datasets.split(samples, percent=20, salt="s")
    for name in ("source", "target"):
        expected = datasets.split(getattr(samples, name), percent=20, salt="s")
        np.testing.assert_array_equal(expected.train.x, getattr(sides.train, name).x)
        np.testing.assert_array_equal(expected.held_out.x, getattr(sides.held_out, name).x)
    inner = datasets.validation_split(sides.train, percent=20, salt="s")
    assert len(sides.train.target) == len(inner.train.target) + len(inner.held_out.target)
    with pytest.raises(DataError, match=r"1 rows at 20 percent"):
        datasets.split(Samples(samples.source, table_of(np.ones((1, 3)))), percent=20, salt="s")


def test_join_puts_the_rows_of_one_behind_those_of_the_other():
    """Tables keep their targets, and samples are joined side by side."""
    table, samples = Table(("a",), np.array([[1.0]]), np.array([2.0]), "rows.csv"), two_samples()
    both = datasets.join(table, Table(("a",), np.array([[3.0]]), np.array([4.0])))
    assert ([[1.0], [3.0]], [2.0, 4.0], "rows.csv") == (both.x.tolist(), both.y.tolist(), both.file)
    joined = datasets.join(samples, two_samples(seed=5))
    assert (1200, 800) == (len(joined.source), len(joined.target))
    np.testing.assert_array_equal(two_samples(seed=5).target.x, joined.target.x[400:])


def test_fingerprint_of_two_samples_names_both_files():
    """The source's facts stand where a table's do, the target's beside them."""
    source, target = Table(("a",), X[:, :1], Y, "p.csv", "aa", 3), Table(("a",), X[:2, :1], Y[:2], "q.csv", "bb", 2)
    expected = {
        "file": "p.csv", "rows": 3, "dropped_rows": 0, "sha256": "aa",
        "target_file": "q.csv", "target_rows": 2, "target_dropped_rows": 0, "target_sha256": "bb",
    }  # fmt: skip
    assert expected == datasets.data_fingerprint(Samples(source, target))
