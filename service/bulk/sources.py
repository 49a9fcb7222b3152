"""Files read in batches of bounded size: Parquet, CSV, NPY, Arrow.

Above: `scoring`. Below: pyarrow and NumPy. What is held in memory does not grow with the file, nor with the size of its
row groups; it does with the record batches of an Arrow file, which are read one by one.
"""

import contextlib
import csv as text
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import csv, parquet

from service.bulk.failure import BulkError

_BUFFER_BYTES = 1 << 20


@dataclasses.dataclass(frozen=True)
class Source:
    """An open file.

    Args:
        schema: its columns.
        batches: its rows in order, for once.
        num_rows: how many, or None where only reading tells.
        is_text: whether its columns are the text of a CSV file, which a CSV file keeps as it is.
    """

    schema: pa.Schema
    batches: Iterator[pa.RecordBatch]
    num_rows: int | None = None
    is_text: bool = False


def open_source(path: Path, names: Sequence[str], batch_rows: int) -> AbstractContextManager[Source]:
    """Open a file by its name's ending.

    Args:
        path: `.parquet`, `.csv`, `.npy`, or an Arrow IPC file, `.arrow` or `.feather`.
        names: what the columns are called where the file does not say.
        batch_rows: most rows of a batch.

    Raises:
        BulkError: another ending, not readable, or not what its ending says; also while batches are taken.
    """
    opener = SOURCES.get(path.suffix.lower())
    if opener is None:
        raise BulkError(f"{path.name}: expected a file that ends in {', '.join(SOURCES)}.")
    return _readable(path, opener(path, names, batch_rows))


@contextlib.contextmanager
def _readable(path: Path, opened: AbstractContextManager[Source]) -> Iterator[Source]:
    """Turn what a reader raises into one sentence; what the caller's own block raises goes through."""
    try:
        source = opened.__enter__()
    except (OSError, ValueError, pa.ArrowException) as err:
        raise _unreadable(path, err) from err
    try:
        yield dataclasses.replace(source, batches=_guarded(path, source.batches))
    finally:
        opened.__exit__(None, None, None)


def _guarded(path: Path, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    try:
        yield from batches
    except (OSError, ValueError, pa.ArrowException) as err:
        raise _unreadable(path, err) from err


def _unreadable(path: Path, err: Exception) -> BulkError:
    said = err.strerror if isinstance(err, OSError) and err.strerror else str(err).splitlines()[0] if str(err) else ""
    return BulkError(f"{path.name}: cannot be read ({said[:200] or type(err).__name__}).")


@contextlib.contextmanager
def _open_parquet(path: Path, _names: Sequence[str], batch_rows: int) -> Iterator[Source]:
    # With a buffer, a column's pages come one by one; without one, whole chunks of a row group, however large.
    with parquet.ParquetFile(path, buffer_size=_BUFFER_BYTES, pre_buffer=False) as file:
        batches = file.iter_batches(batch_size=batch_rows)
        yield Source(file.schema_arrow, batches, file.metadata.num_rows)


@contextlib.contextmanager
def _open_csv(path: Path, names: Sequence[str], batch_rows: int) -> Iterator[Source]:
    first = _first_line(path)
    if not first:
        raise BulkError(f"{path.name}: empty, expected rows.")
    has_header = not all(map(_is_number, first))
    if not has_header and len(first) != len(names):
        message = f"{path.name}: {len(first)} columns and no header, expected {len(names)}: {', '.join(names[:8])}."
        raise BulkError(message)
    columns = first if has_header else list(names)
    converting = csv.ConvertOptions(column_types=dict.fromkeys(columns, pa.string()), strings_can_be_null=False)
    reading = csv.ReadOptions(column_names=columns, skip_rows=int(has_header), block_size=_BUFFER_BYTES)
    parsing = csv.ParseOptions(newlines_in_values=True)
    try:
        reader = csv.open_csv(path, reading, parsing, converting)
    except pa.ArrowInvalid as err:
        if "Empty CSV file" not in str(err):
            raise
        yield Source(pa.schema([(name, pa.string()) for name in columns]), iter(()), 0, is_text=True)
        return
    with reader:
        batches = (piece for batch in reader for piece in _pieces(batch, batch_rows))
        yield Source(reader.schema, batches, is_text=True)


def _first_line(path: Path) -> list[str]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        return next(text.reader(file), [])


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _pieces(batch: pa.RecordBatch, batch_rows: int) -> Iterator[pa.RecordBatch]:
    for start in range(0, batch.num_rows, batch_rows):
        yield batch.slice(start, batch_rows)


@contextlib.contextmanager
def _open_npy(path: Path, names: Sequence[str], batch_rows: int) -> Iterator[Source]:
    table = np.load(path, mmap_mode="r", allow_pickle=False)
    if table.ndim != 2 or table.dtype.kind not in "fiu":
        message = (
            f"{path.name}: {table.dtype} of shape {list(table.shape)}, expected numbers of shape [n, {len(names)}]."
        )
        raise BulkError(message)
    if table.shape[1] != len(names):
        raise BulkError(f"{path.name}: {table.shape[1]} columns, expected {len(names)}: {', '.join(names[:8])}.")
    native = table.dtype.newbyteorder("=")
    schema = pa.schema([(name, pa.from_numpy_dtype(native)) for name in names])

    def batches() -> Iterator[pa.RecordBatch]:
        for start in range(0, len(table), batch_rows):
            columns = np.ascontiguousarray(table[start : start + batch_rows].T, native)
            yield pa.RecordBatch.from_arrays(list(map(pa.array, columns)), schema=schema)

    yield Source(schema, batches(), len(table))


@contextlib.contextmanager
def _open_arrow(path: Path, _names: Sequence[str], batch_rows: int) -> Iterator[Source]:
    with pa.OSFile(str(path), "rb") as file, pa.ipc.open_file(file) as reader:

        def batches() -> Iterator[pa.RecordBatch]:
            for position in range(reader.num_record_batches):
                batch = reader.get_batch(position)
                batch.validate(full=True)  # what it claims of its own lengths
                yield from _pieces(batch, batch_rows)

        yield Source(reader.schema, batches())


SOURCES: dict[str, Callable[[Path, Sequence[str], int], AbstractContextManager[Source]]] = {
    ".parquet": _open_parquet,
    ".csv": _open_csv,
    ".npy": _open_npy,
    ".arrow": _open_arrow,
    ".feather": _open_arrow,
}
"""What reads a file, by its name's ending."""
