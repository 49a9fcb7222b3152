"""Files that bulk scoring reads: what is refused, and that memory does not grow with the file."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import feather, parquet

from service.bulk.failure import BulkError
from service.bulk.sources import open_source

ROOT = Path(__file__).parents[3]
NAMES = ("a", "b")


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("rows.xlsx", b"", "expected a file that ends in .parquet, .csv, .npy, .arrow"),
        ("missing.csv", None, "No such file"),
        ("rows.parquet", b"PAR1 and nothing else", "cannot be read"),
        ("rows.npy", b"\x93NUMPY\x01\x00", "cannot be read"),
        ("rows.arrow", b"ARROW1\0\0 and nothing else", "cannot be read"),
        ("rows.feather", b"", "cannot be read"),
        ("rows.csv", b"", "empty, expected rows"),
        ("rows.csv", b"1,2,3\n", "3 columns and no header, expected 2: a, b"),
        ("rows.csv", b"a,b\n1,2,3\n", "cannot be read"),
        ("rows.csv", b"a,b\n\xff,1\n", "cannot be read"),
    ],
)
def test_file_that_cannot_be_read_is_one_sentence(tmp_path, name, content, why):
    """A wrong ending, a missing, damaged or ragged file says what it is, by its name and without a path."""
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(BulkError, match=why) as refused, open_source(tmp_path / name, NAMES, 10) as source:
        list(source.batches)
    assert str(tmp_path) not in str(refused.value)


@pytest.mark.parametrize(
    "table",
    [np.zeros(4, np.float32), np.zeros((2, 3), np.float32), np.zeros((2, 2), complex), np.array([["a", "b"]])],
    ids=["flat", "wide", "complex", "text"],
)
def test_npy_of_another_shape_or_type_is_refused(tmp_path, table):
    """Only numbers of shape [n, width] are rows."""
    np.save(tmp_path / "rows.npy", table)
    with pytest.raises(BulkError, match="expected"), open_source(tmp_path / "rows.npy", NAMES, 10):
        pass


def test_npy_of_objects_is_never_unpickled(tmp_path):
    """A file of Python objects is refused: reading one would run what it says."""
    np.save(tmp_path / "rows.npy", np.array([[print, 1]], dtype=object), allow_pickle=True)
    with pytest.raises(BulkError, match="cannot be read"), open_source(tmp_path / "rows.npy", NAMES, 10):
        pass


@pytest.mark.parametrize("dtype", [">f4", "<f8", "<i4", "<f2"])
def test_npy_of_any_numbers_keeps_its_values(tmp_path, dtype):
    """Byte order and width of the numbers do not matter."""
    rows = np.arange(50).reshape(-1, 2)
    np.save(tmp_path / "rows.npy", rows.astype(dtype))
    with open_source(tmp_path / "rows.npy", NAMES, 10) as source:
        batches = list(source.batches)
    assert [10, 10, 5] == [batch.num_rows for batch in batches]
    assert rows.tolist() == [list(row.values()) for batch in batches for row in batch.to_pylist()]


def test_csv_batches_are_no_larger_than_asked_and_keep_every_row(tmp_path):
    """Rows come in order, in batches of at most the asked size, quoted line breaks and a byte-order mark included."""
    lines = [f'{i},"x\n{i}"' for i in range(1000)]
    (tmp_path / "rows.csv").write_text("\ufeffa,b\n" + "\n".join(lines) + "\n", encoding="utf-8")
    with open_source(tmp_path / "rows.csv", NAMES, 64) as source:
        batches = list(source.batches)
    assert 64 == max(batch.num_rows for batch in batches)
    assert [{"a": str(i), "b": f"x\n{i}"} for i in range(1000)] == [row for b in batches for row in b.to_pylist()]


@pytest.mark.parametrize("compression", ["uncompressed", "lz4", "zstd"])
def test_arrow_file_gives_every_row_in_batches_no_larger_than_asked(tmp_path, compression):
    """A Feather file of three chunks, compressed or not, comes in order."""
    table = pa.table({"a": np.arange(250.0), "b": [f"x{i}" for i in range(250)]})
    feather.write_feather(table, str(tmp_path / "rows.feather"), compression, chunksize=100)
    with open_source(tmp_path / "rows.feather", NAMES, 60) as source:
        batches = list(source.batches)
    assert [60, 40, 60, 40, 50] == [batch.num_rows for batch in batches]
    assert table == pa.Table.from_batches(batches)


def test_arrow_file_that_claims_what_it_has_not_is_refused(tmp_path):
    """A column of text whose lengths lead out of the file is told, and never followed."""
    feather.write_feather(pa.table({"a": ["xx", "yy"]}), str(tmp_path / "rows.arrow"), "uncompressed")
    body = (tmp_path / "rows.arrow").read_bytes()
    lengths = np.int32([0, 2, 4]).tobytes()
    assert 1 == body.count(lengths)
    (tmp_path / "rows.arrow").write_bytes(body.replace(lengths, np.int32([0, 2, 1 << 30]).tobytes()))
    with pytest.raises(BulkError, match="cannot be read"), open_source(tmp_path / "rows.arrow", NAMES, 10) as source:
        list(source.batches)


def test_memory_does_not_grow_with_a_row_group(tmp_path):
    """A file of one row group of 96 MB is read within 48 MB."""
    table = pa.table({name: np.random.default_rng(0).standard_normal(6_000_000) for name in NAMES})
    parquet.write_table(table, tmp_path / "rows.parquet", row_group_size=6_000_000, use_dictionary=False)
    del table
    code = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from service.bulk.sources import open_source\n"
        "import pyarrow.parquet\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "with open_source(Path(sys.argv[1]), ('a', 'b'), 4096) as source:\n"
        "    rows = sum(batch.num_rows for batch in source.batches)\n"
        "print(rows, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    said = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "rows.parquet"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout
    num_rows, grown = map(int, said.split())
    assert 6_000_000 == num_rows
    unit = 1 if sys.platform == "darwin" else 1024
    assert 48e6 > grown * unit
