"""The messages of an Arrow IPC stream, read and written: a schema, then record batches, each with its buffers.

Of the format only what a table of numbers needs; slots and numbers are those of its `Message.fbs` and `Schema.fbs`.
A message is a mark, the length of its metadata, the metadata (`flat_tables`), and a body of so many bytes. What is read
is claims: lengths are held against the bytes that came, but nothing is allocated for them. Above: `arrow`. Below:
`flat_tables` and `errors`.
"""

import dataclasses
import struct
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from service.codecs import flat_tables
from service.codecs.flat_tables import INT16, INT32, INT64, UINT8, BrokenTableError, Items, Number, Table
from service.errors import InvalidArgumentError

END = struct.pack("<Ii", 0xFFFFFFFF, 0)
"""The end of a stream: a message without metadata."""

_SCHEMA, _BATCH = 1, 3
_KINDS = {2: "a dictionary", 4: "a tensor", 5: "a sparse tensor"}
_PREFIX = struct.Struct("<Ii")
_MARK = 0xFFFFFFFF
_FILE_MARK = b"ARROW1"
_V4, _V5 = 3, 4  # they differ in unions alone, which no table of numbers has
_WORDS_BYTES = 16
_ALIGNMENT = 8
_MAX_SHOWN = 40
_EXTENSION = b"ARROW:extension:name"
_MAX_PAIRS = 64  # of a field's own metadata

_INT, _FLOAT, _LIST = 2, 3, 16
_TYPES = ("none", "null", "int", "float", "binary", "utf8", "bool", "decimal", "date", "time", "timestamp", "interval")
_NESTED_TYPES = {12: "list", 13: "struct", 14: "union", 16: "fixed-size lists of others than numbers", 17: "map"}
_FLOATS = ("<f2", "<f4", "<f8")
_INTS = {(bits, sign): f"<{'ui'[sign]}{bits // 8}" for bits in (8, 16, 32, 64) for sign in (0, 1)}


@dataclasses.dataclass(frozen=True, slots=True)
class Message:
    """One message.

    Args:
        number: its place in the stream, from 0.
        kind: what it is, as a number.
        metadata: what it says.
        header: the part of it that is of its kind.
        body: its buffers, a view of the stream.
    """

    number: int
    kind: int
    metadata: memoryview
    header: Table
    body: memoryview


@dataclasses.dataclass(frozen=True, slots=True)
class Field:
    """One column of a schema.

    Args:
        name: as it was sent; it should be UTF-8.
        dtype: of its numbers, or of those in its lists.
        list_size: how many numbers each of its lists has; None where it holds numbers.
    """

    name: memoryview
    dtype: np.dtype[Any]
    list_size: int | None = None


def read_messages(data: bytes) -> Iterator[Message]:
    """Yield the messages of a stream up to its end, or to the end of the data.

    Raises:
        InvalidArgumentError: not an Arrow stream, a message that is damaged, cut off, or of another version of the
            format, or bytes behind the end of the stream.
    """
    view, position, number = memoryview(data), 0, 0
    while position < len(view):
        length = _metadata_bytes(data, position, number)
        position += _PREFIX.size
        if not length:
            if position < len(view):
                message = f"body: {len(view) - position} bytes behind the end of the Arrow stream. Send one alone."
                raise InvalidArgumentError(message)
            return
        try:
            metadata = view[position : position + length]
            table = Table.root(metadata)
            version, kind, header = table.number(0, INT16), table.number(1, UINT8), table.table(2)
            size = table.number(3, INT64)
        except BrokenTableError as error:
            raise broken(number) from error
        position += length
        if version not in (_V4, _V5) or header is None or size < 0:
            raise broken(number)
        _check_length(size, len(view) - position, number)
        yield Message(number, kind, metadata, header, view[position : position + size])
        position += size
        number += 1


def read_fields(metadata: bytes, most: int) -> Iterator[Field]:
    """Yield the columns that the metadata of a stream's first message tell of, the first `most` of them.

    Raises:
        InvalidArgumentError: they are not numbers nor lists of a fixed number of them, or the message is damaged.
    """
    try:
        table = Table.root(memoryview(metadata)) if metadata else None
        schema = table.table(2) if table is not None and table.number(1, UINT8) == _SCHEMA else None
        if schema is None:
            message = "body: no Arrow stream: it does not begin with a schema. Write it with an IPC stream writer."
            raise InvalidArgumentError(message)
        if schema.number(0, INT16):
            message = "body: an Arrow stream of big-endian numbers, expected little-endian ones. Convert them."
            raise InvalidArgumentError(message)
        for field in schema.tables(1, most):
            yield _field(field)
    except BrokenTableError as error:
        raise broken(0) from error


def count_rows(batch: Message) -> int:
    """Return how many rows a record batch claims to have.

    Raises:
        InvalidArgumentError: it is no record batch, is compressed, or is damaged.
    """
    where = f"message {batch.number} of the Arrow stream"
    if batch.kind != _BATCH:
        found = _KINDS.get(batch.kind, "no record batch")
        raise InvalidArgumentError(f"{where}: {found}, expected a record batch. Write one table of plain numbers.")
    try:
        num_rows = batch.header.number(0, INT64)
        is_compressed = batch.header.table(3) is not None
    except BrokenTableError as error:
        raise broken(batch.number) from error
    if is_compressed:
        message = f"{where}: compressed buffers, expected plain ones. Write it without compression; the body as a whole"
        raise InvalidArgumentError(f"{message} may be compressed with gzip.")
    if num_rows < 0:
        raise broken(batch.number)
    return num_rows


def read_words(batch: Message, num_arrays: int, num_buffers: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return what a record batch says of its arrays and of its buffers.

    Args:
        batch: the message.
        num_arrays: how many there must be, those within lists counted too.
        num_buffers: how many there must be.

    Returns:
        Length and number of nulls of each array; offset and length of each buffer.

    Raises:
        InvalidArgumentError: there are more of them or fewer, or the message is damaged.
    """
    try:
        arrays, buffers = batch.header.items(1, _WORDS_BYTES), batch.header.items(2, _WORDS_BYTES)
    except BrokenTableError as error:
        raise broken(batch.number) from error
    if (len(arrays), len(buffers)) != (_WORDS_BYTES * num_arrays, _WORDS_BYTES * num_buffers):
        message = (
            f"message {batch.number} of the Arrow stream: {len(arrays) // _WORDS_BYTES} arrays in "
            f"{len(buffers) // _WORDS_BYTES} buffers, expected {num_arrays} in {num_buffers}, as its schema says."
        )
        raise InvalidArgumentError(f"{message} Write it anew.")
    return struct.unpack(f"<{2 * num_arrays}q", arrays), struct.unpack(f"<{2 * num_buffers}q", buffers)


def broken(number: int) -> InvalidArgumentError:
    """Return the error of a message that says what cannot be."""
    return InvalidArgumentError(
        f"message {number} of the Arrow stream: damaged, or not of the format's version V4 or V5. Write it anew."
    )


def schema_message(columns: Sequence[tuple[str, int | None]]) -> bytes:
    """Return the message that a stream begins with.

    Args:
        columns: name of each, and the size of its lists; None where it holds numbers. All of float32, without nulls.
    """
    fields = [_field_slots(name, list_size) for name, list_size in columns]
    return _message(_SCHEMA, (Number(INT16, 0), fields), 0)


def batch_message(num_rows: int, arrays: Sequence[int], buffers: Sequence[tuple[int, int]], body_bytes: int) -> bytes:
    """Return the message of a record batch, which its body follows.

    Args:
        num_rows: of the batch.
        arrays: length of each array, none of which has nulls.
        buffers: offset and length of each buffer.
        body_bytes: length of the body.
    """
    nodes = b"".join(struct.pack("<qq", length, 0) for length in arrays)
    places = b"".join(struct.pack("<qq", *each) for each in buffers)
    header = (Number(INT64, num_rows), Items(nodes, len(arrays)), Items(places, len(buffers)))
    return _message(_BATCH, header, body_bytes)


def _metadata_bytes(data: bytes, position: int, number: int) -> int:
    """Return the length of the metadata of the message that begins here."""
    left = len(data) - position - _PREFIX.size
    mark, length = _PREFIX.unpack_from(data, position) if left >= 0 else (0, 0)
    if mark != _MARK:
        message = f"body: no Arrow stream: message {number} does not begin with the format's mark."
        if data.startswith(_FILE_MARK):
            message = "body: an Arrow or Feather file, expected an Arrow stream."
        raise InvalidArgumentError(f"{message} Write it with an IPC stream writer, such as pyarrow's ipc.new_stream.")
    _check_length(length, left, number)
    return int(length)


def _check_length(claimed: int, left: int, number: int) -> None:
    if not 0 <= claimed <= left:
        message = f"message {number} of the Arrow stream claims {claimed} bytes, of which {left} came."
        raise InvalidArgumentError(f"{message} Send the whole stream.")


def _field(field: Table) -> Field:
    name = field.items(0, 1)
    dtype = _numbers(field)
    if dtype is not None:
        return Field(name, dtype)
    kind, about, children = field.number(2, UINT8), field.table(3), list(field.tables(5, 2))
    if kind == _LIST and about is not None and len(children) == 1 and _is_plain(field):
        dtype, list_size = _numbers(children[0]), about.number(0, INT32)
        if dtype is not None and list_size >= 0:
            return Field(name, dtype, list_size)
    raise _no_numbers(field, kind)


def _no_numbers(field: Table, kind: int) -> InvalidArgumentError:
    what = _TYPES[kind] if kind < len(_TYPES) else _NESTED_TYPES.get(kind, "another")
    if field.table(4) is not None:
        what = "dictionary"
    elif not _is_plain(field):
        what = "extension"
    message = f"column '{shown(field.items(0, 1))}': of type {what}, expected numbers, or fixed-size lists of them."
    return InvalidArgumentError(f"{message} Convert it to float32.")


def shown(name: memoryview) -> str:
    """Return a column's name as an error says it."""
    return bytes(name[: 4 * _MAX_SHOWN]).decode("utf-8", "replace")[:_MAX_SHOWN]


def _numbers(field: Table) -> np.dtype[Any] | None:
    """Return the type of a field's numbers; None where it holds none, or not as such."""
    kind, about = field.number(2, UINT8), field.table(3)
    if about is None or not _is_plain(field):
        return None
    said = None
    if kind == _FLOAT:
        precision = about.number(0, INT16)
        said = _FLOATS[precision] if 0 <= precision < len(_FLOATS) else None
    elif kind == _INT:
        said = _INTS.get((about.number(0, INT32), about.number(1, UINT8)))
    return None if said is None else np.dtype(said)


def _is_plain(field: Table) -> bool:
    """Whether a field's values are what its type says: no keys of a dictionary, no parts of another type."""
    if field.table(4) is not None or field.count(6) > _MAX_PAIRS:
        return False
    return all(pair.items(0, 1) != _EXTENSION for pair in field.tables(6, _MAX_PAIRS))


def _field_slots(name: str, list_size: int | None) -> flat_tables.Slots:
    kind, about, children = _FLOAT, Number(INT16, 1), []
    if list_size is not None:
        kind, about, children = _LIST, Number(INT32, list_size), [_field_slots("item", None)]
    return (name.encode(), Number(UINT8, 0), Number(UINT8, kind), (about,), None, children)


def _message(kind: int, header: flat_tables.Slots, body_bytes: int) -> bytes:
    """Return mark, length and metadata."""
    metadata = flat_tables.write((Number(INT16, _V5), Number(UINT8, kind), header, Number(INT64, body_bytes)))
    return _PREFIX.pack(_MARK, len(metadata)) + metadata
