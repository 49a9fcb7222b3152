"""Bulk scoring from file to file, with a version whose answers are known by heart."""

import contextlib
import re
import threading

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import feather, parquet

from service.bulk.failure import BulkError
from service.bulk.scoring import Job, Scored, score_file
from service.signature import Signature
from tests.service.quadratic_versions import FEATURES, QuadraticEngine, make_version


class CountedRows:
    """Notes what a job says of its rows."""

    def __init__(self):
        self.expected = []
        self.done = []

    @contextlib.contextmanager
    def __call__(self, num_rows):
        """Note how many rows there will be and give what notes those that are done."""
        self.expected.append(num_rows)
        yield self.done.append


@pytest.fixture
def live():
    """Give version 2 of a model: score = |x|^2, gradient = 2 x."""
    version = make_version(version=2)
    yield version
    version.close()


def table_of(rows, **others):
    """Return a table with the model's features in another order, between other columns."""
    columns = dict(zip(FEATURES, rows.T, strict=True))
    return pa.table({"id": [f"n{i}" for i in range(len(rows))]} | dict(sorted(columns.items())) | others)


def rows_of(count):
    """Return rows whose squares float32 has exactly."""
    return np.random.default_rng(3).integers(-9, 9, (count, 3)).astype(np.float32)


def test_parquet_keeps_its_columns_and_gets_scores_and_gradients(tmp_path, live):
    """Each row has its closed-form answer, in order, in columns behind those that were there, whose types stay."""
    rows = rows_of(100_000)
    source = table_of(rows, weight=np.arange(len(rows)))
    parquet.write_table(source, tmp_path / "rows.parquet", row_group_size=70_000)
    counted = CountedRows()
    scored = score_file(Job(tmp_path / "rows.parquet", tmp_path / "out.parquet", has_gradient=True), live, counted)
    assert Scored(100_000, 0) == scored
    assert [100_000] == counted.expected
    assert 100_000 == sum(counted.done)
    found = parquet.read_table(tmp_path / "out.parquet")
    assert [*source.schema.names, "score", *(f"gradient_{name}" for name in FEATURES)] == found.schema.names
    assert source.equals(found.select(source.schema.names))
    assert ((rows**2).sum(axis=1) == found["score"].to_numpy()).all()
    gradient = np.column_stack([found[f"gradient_{name}"].to_numpy() for name in FEATURES])
    assert (2 * rows == gradient).all()
    assert {pa.float32()} == {field.type for field in found.schema if field.name.startswith(("score", "gradient"))}


def test_csv_text_stays_as_it_was_and_gets_scores(tmp_path, live):
    """What a CSV file says of its columns is written again, quotes where they are needed, with the score behind it."""
    (tmp_path / "rows.csv").write_text('name,texture,radius,area\n"a, b",1.50,2,0\n"say ""no""",0,0,3\n,1e0, 1 ,007\n')
    score_file(Job(tmp_path / "rows.csv", tmp_path / "out.csv"), live, CountedRows())
    expected = 'name,texture,radius,area,score\n"a, b",1.50,2,0,6.25\n"say ""no""",0,0,3,9\n,1e0, 1 ,007,51\n'
    assert expected == (tmp_path / "out.csv").read_text()


@pytest.mark.parametrize("ending", ["csv", "parquet", "npy", "arrow"])
def test_any_form_becomes_any_other_with_the_same_numbers(tmp_path, live, ending):
    """A table of numbers in any of the forms gives the same columns in each of them."""
    rows = rows_of(500)
    np.save(tmp_path / "rows.npy", rows)
    parquet.write_table(pa.table(dict(zip(FEATURES, rows.T, strict=True))), tmp_path / "rows.parquet")
    feather.write_feather(parquet.read_table(tmp_path / "rows.parquet"), str(tmp_path / "rows.arrow"), chunksize=70)
    text = "".join(",".join(map(str, row)) + "\n" for row in rows.tolist())
    (tmp_path / "rows.csv").write_text(",".join(FEATURES) + "\n" + text)
    expected = np.column_stack([rows, (rows**2).sum(axis=1), 2 * rows])
    for source in ("csv", "parquet", "npy", "arrow"):
        out = tmp_path / f"{source}.{ending}"
        score_file(Job(tmp_path / f"rows.{source}", out, has_gradient=True), live, CountedRows())
        if ending == "npy":
            found = np.load(out)
        elif ending == "csv":
            found = np.loadtxt(out, delimiter=",", skiprows=1)
        else:
            table = (parquet.read_table if ending == "parquet" else feather.read_table)(out)
            found = np.column_stack([column.to_numpy() for column in table.columns])
        assert (expected == found).all()


def test_csv_without_a_header_has_the_models_columns(tmp_path, live):
    """A first line of numbers is a row, and its columns are the features in the model's order."""
    (tmp_path / "rows.csv").write_text("1,2,3\n4,5,6\n")
    score_file(Job(tmp_path / "rows.csv", tmp_path / "out.csv"), live, CountedRows())
    assert "radius,texture,area,score\n1,2,3,14\n4,5,6,77\n" == (tmp_path / "out.csv").read_text()


def test_model_without_names_takes_the_only_numeric_columns(tmp_path):
    """Where a model has no names, the numeric columns are its features, and gradients are named after them."""
    live = make_version(signature=Signature("m", 1, 2, made_elsewhere=True))
    table = pa.table({"id": ["a"], "u": [3.0], "v": [4]})
    parquet.write_table(table, tmp_path / "rows.parquet")
    score_file(Job(tmp_path / "rows.parquet", tmp_path / "out.parquet", has_gradient=True), live, CountedRows())
    expected = {"id": "a", "u": 3.0, "v": 4, "score": 12.5, "gradient_u": 3.0, "gradient_v": 4.0}
    assert [expected] == parquet.read_table(tmp_path / "out.parquet").to_pylist()
    live.close()


def test_column_of_fixed_size_lists_holds_whole_rows(tmp_path, live):
    """A column `x` of lists as long as a row is taken for the rows, and an empty list cell is a bad row."""
    rows = pa.array([[1.0, 2.0, 3.0], None, [0.0, 0.0, 2.0]], pa.list_(pa.float32(), 3))
    parquet.write_table(pa.table({"x": rows}), tmp_path / "rows.parquet")
    job = Job(tmp_path / "rows.parquet", tmp_path / "out.parquet", skips_bad_rows=True)
    assert Scored(3, 1) == score_file(job, live, CountedRows())
    assert [14.0, None, 4.0] == parquet.read_table(tmp_path / "out.parquet")["score"].to_pylist()


@pytest.mark.parametrize(
    ("cell", "why"),
    [
        ("", "column texture is empty"),
        ("nan", "column texture is NaN"),
        ("1e39", "column texture is 1e+39, which float32 does not have"),
        ("many", "column texture is 'many', which is no number"),
        ("1_0", "column texture is '1_0', which is no number"),
        ("3e19", "the score or its gradient leaves float32"),
    ],
)
def test_bad_row_ends_the_job_with_its_number_and_its_column(tmp_path, live, cell, why):
    """A row that has no answer is named, counted from the first row of the file, and nothing is written."""
    lines = ["radius,texture,area", *["1,2,3"] * 40_000, f"1,{cell},3", "1,2,3"]
    (tmp_path / "rows.csv").write_text("\n".join(lines) + "\n")
    (tmp_path / "out.csv").write_text("before")
    with pytest.raises(BulkError, match=re.escape(f"row 40001: {why}")):
        score_file(Job(tmp_path / "rows.csv", tmp_path / "out.csv"), live, CountedRows())
    assert "before" == (tmp_path / "out.csv").read_text()
    assert {"rows.csv", "out.csv"} == {path.name for path in tmp_path.iterdir()}


def test_bad_rows_get_empty_scores_when_that_is_wanted(tmp_path, live):
    """Rows without an answer keep their place with an empty score, and their neighbours have their own."""
    cells = ["2", "", "nan", "inf", "many", "3e19", "0"]
    (tmp_path / "rows.csv").write_text("radius,texture,area\n" + "".join(f"1,{cell},2\n" for cell in cells))
    job = Job(tmp_path / "rows.csv", tmp_path / "out.parquet", has_gradient=True, skips_bad_rows=True)
    assert Scored(7, 5) == score_file(job, live, CountedRows())
    found = parquet.read_table(tmp_path / "out.parquet")
    assert [9.0, None, None, None, None, None, 5.0] == found["score"].to_pylist()
    assert [2.0, None, None, None, None, None, 2.0] == found["gradient_radius"].to_pylist()


@pytest.mark.parametrize(
    ("columns", "why"),
    [
        ({"radius": [1.0], "textur": [1.0], "area": [1.0]}, "column texture: not in the file; the nearest is textur"),
        ({"radius": [1.0], "texture": ["a"], "area": [1.0]}, "column texture: of type string, expected numbers"),
        ({"radius": [True], "texture": [1.0], "area": [1.0]}, "column radius: of type bool, expected numbers"),
        ({"radius": [1.0], "texture": [1.0], "area": [1.0], "score": [1.0]}, "column score: the file has one already"),
        ({"x": pa.array([[1.0, 2.0]], pa.list_(pa.float32(), 2))}, "column x: lists of 2 numbers, expected 3"),
    ],
)
def test_columns_that_are_not_the_models_are_refused(tmp_path, live, columns, why):
    """A file without the model's features as numbers, or with a column where an answer belongs, is told so."""
    parquet.write_table(pa.table(columns), tmp_path / "rows.parquet")
    with pytest.raises(BulkError, match=why):
        score_file(Job(tmp_path / "rows.parquet", tmp_path / "out.parquet"), live, CountedRows())
    assert not (tmp_path / "out.parquet").exists()


def test_two_columns_of_a_features_name_are_refused(tmp_path, live):
    """Which of two equal names is meant cannot be known."""
    (tmp_path / "rows.csv").write_text("radius,texture,area,area\n1,2,3,4\n")
    with pytest.raises(BulkError, match="area"):
        score_file(Job(tmp_path / "rows.csv", tmp_path / "out.csv"), live, CountedRows())


def test_text_beside_the_features_is_refused_for_npy_and_named(tmp_path, live):
    """A table of numbers alone cannot hold a word, which would be lost in it."""
    (tmp_path / "rows.csv").write_text("name,radius,texture,area\nanna,1,2,3\n")
    with pytest.raises(BulkError, match=r"column name: 'anna' is no number, and \.npy holds numbers alone"):
        score_file(Job(tmp_path / "rows.csv", tmp_path / "out.npy"), live, CountedRows())


@pytest.mark.parametrize("ending", ["csv", "parquet", "npy"])
def test_file_without_rows_gives_a_file_without_rows(tmp_path, live, ending):
    """No rows in, no rows out, with the columns of the answers."""
    (tmp_path / "rows.csv").write_text("radius,texture,area\n")
    assert Scored(0, 0) == score_file(Job(tmp_path / "rows.csv", tmp_path / f"out.{ending}"), live, CountedRows())
    if ending == "npy":
        assert (0, 4) == np.load(tmp_path / "out.npy").shape
    elif ending == "csv":
        assert "radius,texture,area,score\n" == (tmp_path / "out.csv").read_text()
    else:
        assert (0, 4) == parquet.read_table(tmp_path / "out.parquet").shape


def test_file_may_be_replaced_by_its_own_scored_rows(tmp_path, live):
    """Input and output may be one name: what was read is replaced only when the new file is whole."""
    np.save(tmp_path / "rows.npy", rows_of(20_000))
    score_file(Job(tmp_path / "rows.npy", tmp_path / "rows.npy"), live, CountedRows())
    assert (20_000, 4) == np.load(tmp_path / "rows.npy").shape


def test_few_batches_are_in_memory_at_once_however_long_the_file_is(tmp_path):
    """While the first batch is computed no more are read than wait for a thread."""
    engine = QuadraticEngine(1)
    engine.gate.clear()
    live = make_version(engine=engine)
    np.save(tmp_path / "rows.npy", rows_of(16_384 * 40))
    job = Job(tmp_path / "rows.npy", tmp_path / "out.npy", num_threads=2)
    thread = threading.Thread(target=score_file, args=(job, live, CountedRows()))
    thread.start()
    opened = threading.Event()
    opened.wait(0.3)  # time in which a reader without a bound would have read all
    submitted = sum(name.startswith("bulk") for name in (each.name for each in threading.enumerate()))
    assert 2 == submitted
    assert 2 >= len(engine.calls)
    engine.gate.set()
    thread.join(20)
    assert 40 == len(engine.calls)
    assert (16_384 * 40, 4) == np.load(tmp_path / "out.npy", mmap_mode="r").shape
    live.close()


def test_failure_of_the_engine_leaves_no_file_and_no_thread(tmp_path):
    """What an engine raises ends the job as it is; nothing is left on disk."""
    engine = QuadraticEngine(1)
    engine.failure = MemoryError()
    live = make_version(engine=engine)
    np.save(tmp_path / "rows.npy", rows_of(100))
    with pytest.raises(MemoryError):
        score_file(Job(tmp_path / "rows.npy", tmp_path / "out.npy"), live, CountedRows())
    assert ["rows.npy"] == [path.name for path in tmp_path.iterdir()]
    live.close()
