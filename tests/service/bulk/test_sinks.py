"""Files that bulk scoring writes: whole or not at all."""

import contextlib
import csv
import errno
import os

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import feather, parquet

from service.bulk import sinks
from service.bulk.failure import BulkError
from service.bulk.sinks import open_sink

SCHEMA = pa.schema([("a", pa.float32()), ("n", pa.int64())])


def batch_of(start, count):
    """Return a batch of SCHEMA."""
    numbers = np.arange(start, start + count)
    return pa.RecordBatch.from_arrays([pa.array(numbers, pa.float32()), pa.array(numbers)], schema=SCHEMA)


@pytest.mark.parametrize("ending", ["parquet", "csv", "npy", "arrow"])
def test_file_appears_only_when_it_is_whole(tmp_path, ending):
    """While it is written nothing has its name, and afterwards nothing else is in the folder."""
    path = tmp_path / f"out.{ending}"
    with open_sink(path, SCHEMA) as write:
        for start in range(0, 300, 100):
            write(batch_of(start, 100))
            assert not path.exists()
    assert [path] == list(tmp_path.iterdir())


@pytest.mark.parametrize("ending", ["parquet", "csv", "npy", "arrow"])
def test_job_that_fails_leaves_what_was_there_before(tmp_path, ending):
    """An error in the middle removes the half-written file and changes no other."""
    path = tmp_path / f"out.{ending}"
    path.write_bytes(b"before")
    with contextlib.ExitStack() as stack:
        stack.enter_context(pytest.raises(KeyboardInterrupt))
        stack.enter_context(open_sink(path, SCHEMA))(batch_of(0, 10))
        raise KeyboardInterrupt
    assert b"before" == path.read_bytes()
    assert [path] == list(tmp_path.iterdir())


@pytest.mark.parametrize("ending", ["parquet", "csv", "npy", "arrow"])
def test_full_disk_is_one_sentence_and_leaves_nothing(tmp_path, ending, monkeypatch):
    """A disk that is full when the file is synced is told, and nothing is left of it."""

    def full(_descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with (
        pytest.raises(BulkError, match=r"cannot be written \(No space left on device\); nothing was changed"),
        open_sink(tmp_path / f"out.{ending}", SCHEMA) as write,
    ):
        write(batch_of(0, 10))
    assert [] == list(tmp_path.iterdir())


def test_place_that_cannot_be_written_is_one_sentence(tmp_path):
    """A missing folder and an unknown ending are told by the file's name."""
    with pytest.raises(BulkError, match=r"out\.csv: cannot be written"), open_sink(tmp_path / "no" / "out.csv", SCHEMA):
        pass
    with (
        pytest.raises(BulkError, match=r"out\.xml: expected a name that ends in"),
        open_sink(tmp_path / "out.xml", SCHEMA),
    ):
        pass


def test_parquet_groups_hold_many_batches(tmp_path):
    """Batches are gathered: a reader meets few row groups, and all rows in order."""
    with open_sink(tmp_path / "out.parquet", SCHEMA) as write:
        for start in range(0, 300_000, 1000):
            write(batch_of(start, 1000))
    assert 3 == parquet.ParquetFile(tmp_path / "out.parquet").num_row_groups
    assert list(range(300_000)) == parquet.read_table(tmp_path / "out.parquet")["n"].to_pylist()


@pytest.mark.parametrize("ending", ["arrow", "feather"])
def test_arrow_file_holds_all_rows_in_order_and_nothing_compressed(tmp_path, ending):
    """What pyarrow, pandas and Polars open as Feather, batch by batch, so that a reader may map it."""
    with open_sink(tmp_path / f"out.{ending}", SCHEMA) as write:
        for start in range(0, 3000, 1000):
            write(batch_of(start, 1000))
    table = feather.read_table(tmp_path / f"out.{ending}", memory_map=True)
    assert SCHEMA == table.schema
    assert list(range(3000)) == table["n"].to_pylist() == table["a"].to_pylist()
    assert 3 == table["a"].num_chunks
    assert np.arange(1000, dtype=np.float32).tobytes() in (tmp_path / f"out.{ending}").read_bytes()


@pytest.mark.parametrize("value", ["plain", "a,b", 'a"b', "a\nb", "a\rb", "", " padded ", "é"])
def test_csv_text_reads_back_the_same(tmp_path, value):
    """Any text comes back from the file as Python's own reader reads it."""
    schema = pa.schema([("text", pa.string()), ("a", pa.float32())])
    with open_sink(tmp_path / "out.csv", schema) as write:
        write(pa.RecordBatch.from_arrays([pa.array([value]), pa.array([0.1], pa.float32())], schema=schema))
    with (tmp_path / "out.csv").open(encoding="utf-8", newline="") as file:
        assert [["text", "a"], [value, "0.1"]] == list(csv.reader(file))


def test_csv_floats_are_the_shortest_that_read_back(tmp_path):
    """Every float32 comes back bit for bit."""
    values = np.random.default_rng(1).integers(0, 2**32, 20_000, np.uint32).view(np.float32)
    values = values[np.isfinite(values)]
    schema = pa.schema([("a", pa.float32()), ("b", pa.float32())])
    with open_sink(tmp_path / "out.csv", schema) as write:
        write(pa.RecordBatch.from_arrays([pa.array(values), pa.array(-values)], schema=schema))
    found = np.loadtxt(tmp_path / "out.csv", np.float64, delimiter=",", skiprows=1).astype(np.float32)
    assert (values.view(np.uint32) == found[:, 0].view(np.uint32)).all()
    assert max(len(line) for line in (tmp_path / "out.csv").read_text().splitlines()) < 33


@pytest.mark.parametrize("schema", [pa.schema([("a", pa.string())]), pa.schema([("a", pa.list_(pa.int8()))])])
def test_npy_of_what_is_no_number_is_refused(tmp_path, schema):
    """A table of numbers alone says which column it cannot hold."""
    with pytest.raises(BulkError, match=r"column a: of type .*Write .parquet"), open_sink(tmp_path / "a.npy", schema):
        pass


def test_csv_of_a_list_is_refused_with_its_type(tmp_path):
    """A column that has no text is not guessed."""
    schema = pa.schema([("a", pa.list_(pa.int8()))])
    batch = pa.RecordBatch.from_arrays([pa.array([[1]], pa.list_(pa.int8()))], schema=schema)
    with pytest.raises(BulkError, match=r"Write \.parquet"), open_sink(tmp_path / "a.csv", schema) as write:
        write(batch)
    assert {".parquet", ".csv", ".npy", ".arrow", ".feather"} == set(sinks.SINKS)
