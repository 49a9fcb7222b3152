"""Files written batch by batch and renamed into place when they are whole: Parquet, CSV, NPY, Arrow.

Above: `scoring`. Below: pyarrow and NumPy. A job that fails, is interrupted or finds the disk full leaves what was
there before, and no part of a file.
"""

import contextlib
import csv
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import compute, parquet

from service.bulk.failure import BulkError

Write = Callable[[pa.RecordBatch], None]

_GROUP_ROWS = 1 << 17
_GROUP_BYTES = 1 << 25


@contextlib.contextmanager
def open_sink(path: Path, schema: pa.Schema) -> Iterator[Write]:
    """Give what writes batches of `schema`; once the block is left without an error, the file is `path`.

    Args:
        path: `.parquet`, `.csv`, `.npy`, `.arrow` or `.feather`; a file of this name is replaced.
        schema: the columns.

    Raises:
        BulkError: another ending, a column that the form does not have, or a place that cannot be written.
    """
    opener = SINKS.get(path.suffix.lower())
    if opener is None:
        raise BulkError(f"{path.name}: expected a name that ends in {', '.join(SINKS)}.")
    staged = path.parent / f".{path.name}.{uuid.uuid4().hex}"
    try:
        with _writable(path), opener(staged, schema) as write:
            yield _guarded(path, write)
        with _writable(path):
            _place(staged, path)
    finally:
        with contextlib.suppress(OSError):
            staged.unlink(missing_ok=True)


@contextlib.contextmanager
def _writable(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, pa.ArrowException) as err:
        said = err.strerror if isinstance(err, OSError) and err.strerror else str(err).partition("\n")[0]
        raise BulkError(f"{path.name}: cannot be written ({said[:200]}); nothing was changed.") from err


def _guarded(path: Path, write: Write) -> Write:
    def guarded(batch: pa.RecordBatch) -> None:
        with _writable(path):
            write(batch)

    return guarded


def _place(staged: Path, path: Path) -> None:
    """Sync the file, give it its name, and sync the folder."""
    for place, flags in ((staged, os.O_RDWR), (path.parent, os.O_RDONLY | os.O_DIRECTORY)):
        descriptor = os.open(place, flags)
        try:
            os.fsync(descriptor)
            if place == staged:
                staged.replace(path)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def _open_parquet(staged: Path, schema: pa.Schema) -> Iterator[Write]:
    waiting: list[pa.RecordBatch] = []

    # Scores hardly repeat: a dictionary of them would be larger than they are, and as slow to make as to compute.
    repeating: Any = [field.name for field in schema if not pa.types.is_floating(field.type)]
    with parquet.ParquetWriter(staged, schema, use_dictionary=repeating) as file:

        def flush() -> None:
            if waiting:
                file.write_table(pa.Table.from_batches(waiting, schema))
            waiting.clear()

        def write(batch: pa.RecordBatch) -> None:
            waiting.append(batch)
            rows, size = sum(each.num_rows for each in waiting), sum(each.nbytes for each in waiting)
            if rows >= _GROUP_ROWS or size >= _GROUP_BYTES:
                flush()

        yield write
        flush()


@contextlib.contextmanager
def _open_csv(staged: Path, schema: pa.Schema) -> Iterator[Write]:
    with staged.open("x", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerow(schema.names)

        def write(batch: pa.RecordBatch) -> None:
            lines = compute.binary_join_element_wise(*map(_cells, batch.columns), ",")
            file.write("".join(f"{line}\n" for line in lines.to_pylist()))

        yield write


def _cells(column: Any) -> Any:
    """Return a column as CSV has it (RFC 4180): text quoted where needed, the shortest decimals, nothing for null."""
    try:
        said = column.cast(pa.string())
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid) as err:
        message = f"a column of type {column.type} has no text in .csv. Write .parquet."
        raise BulkError(message) from err
    if not (pa.types.is_floating(column.type) or pa.types.is_integer(column.type)):
        quoted = compute.binary_join_element_wise('"', compute.replace_substring(said, '"', '""'), '"', "")
        said = compute.if_else(compute.match_substring_regex(said, '[",\r\n]'), quoted, said)
    return said.fill_null("")


@contextlib.contextmanager
def _open_npy(staged: Path, schema: pa.Schema) -> Iterator[Write]:
    kinds = [_number_type(field) for field in schema]
    dtype = np.result_type(np.float32, *kinds)
    num_rows = 0
    with staged.open("xb") as file:

        def write_head() -> None:
            head = {
                "descr": np.lib.format.dtype_to_descr(dtype),
                "fortran_order": False,
                "shape": (num_rows, len(kinds)),
            }
            np.lib.format.write_array_header_1_0(file, head)

        def write(batch: pa.RecordBatch) -> None:
            nonlocal num_rows
            num_rows += batch.num_rows
            file.write(_table(batch, dtype).tobytes())

        write_head()
        begin = file.tell()
        yield write
        file.seek(0)
        write_head()  # with the number of rows; writers leave room for it to grow
        if file.tell() != begin:
            message = "the head of the file did not keep its size"
            raise BulkError(message)


@contextlib.contextmanager
def _open_arrow(staged: Path, schema: pa.Schema) -> Iterator[Write]:
    # Not compressed: numbers of many digits would hardly be smaller, and so a reader can map the file.
    with pa.OSFile(str(staged), "wb") as file, pa.ipc.new_file(file, schema) as writer:
        yield writer.write_batch


def _number_type(field: "pa.Field[Any]") -> np.dtype[np.generic]:
    kind = field.type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        message = f"column {field.name}: of type {kind}, and .npy holds numbers alone. Write .parquet or .csv."
        raise BulkError(message)
    return np.dtype(kind.to_pandas_dtype())


def _table(batch: pa.RecordBatch, dtype: np.dtype[np.generic]) -> NDArray[np.generic]:
    table = np.empty((batch.num_rows, batch.num_columns), dtype)
    for position, column in enumerate(batch.columns):
        table[:, position] = column.to_numpy(zero_copy_only=False)
    return table


SINKS: dict[str, Callable[[Path, pa.Schema], AbstractContextManager[Write]]] = {
    ".parquet": _open_parquet,
    ".csv": _open_csv,
    ".npy": _open_npy,
    ".arrow": _open_arrow,
    ".feather": _open_arrow,
}
"""What writes a file, by its name's ending."""
