"""Says what rows an Arrow stream means: by pyarrow where it reads the stream, and else by the plainest of readers.

pyarrow refuses a stream for damage in a place that nobody needs; such a one may be answered. The plain reader checks
nothing: it takes whatever stands where the format's numbers lead.
"""

import struct

import numpy as np
import pyarrow as pa

_FLOATS = ("<f2", "<f4", "<f8")


def arrow_rows(body, features):
    """Return float32 [n, dim], and whether the stream is as pyarrow itself writes it: may not be refused.

    Raises:
        ValueError: it means no rows.
    """
    try:
        table, is_usual = _read(body)
    except (pa.ArrowException, OSError, IndexError, UnicodeDecodeError):
        return _plain_rows(body, features), False
    columns = [table["x"].combine_chunks()] if table.column_names == ["x"] else []
    if not (columns and pa.types.is_fixed_size_list(columns[0].type) and columns[0].type.list_size == len(features)):
        if sorted(table.column_names) != sorted(features):
            raise ValueError(table.column_names)
        columns = [table[name].combine_chunks() for name in features]
    flat = [column.flatten() if pa.types.is_fixed_size_list(column.type) else column for column in columns]
    if any(column.null_count for column in [*columns, *flat]):
        raise ValueError("null")
    if not all(pa.types.is_integer(each.type) or pa.types.is_floating(each.type) for each in flat):
        raise ValueError("no numbers")
    with np.errstate(over="ignore", invalid="ignore"):
        numbers = [each.to_numpy().astype(np.float32) for each in flat]
    return numbers[0].reshape(-1, len(features)) if len(columns) == 1 else np.column_stack(numbers), is_usual


def _read(body):
    with pa.ipc.open_stream(body) as reader:
        table = reader.read_all()
    table.validate(full=True)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return table, sink.getvalue().to_pybytes() == body


def _plain_rows(body, features):
    """Return the rows of a stream that pyarrow refuses."""
    try:
        (schema, _), *batches = _messages(body)
        fields = [_field(field) for field in schema.tables(1)]
        batches = [_columns(header, data, fields) for header, data in batches if header.words(1)]
    except (struct.error, IndexError, OverflowError) as error:
        raise ValueError from error
    names = [field[0] for field in fields]
    wanted = [b"x"] if names == [b"x"] else [name.encode() for name in features]
    if sorted(wanted) != sorted(names):
        raise ValueError(names)
    with np.errstate(over="ignore", invalid="ignore"):
        parts = [np.column_stack([batch[names.index(name)].astype(np.float32) for name in wanted]) for batch in batches]
    return np.concatenate([np.empty((0, len(features)), np.float32), *[p.reshape(-1, len(features)) for p in parts]])


class _Slots:
    """A table of a message."""

    def __init__(self, data, start):
        self.data, self.start = data, start
        self.places = start - self.get("i", start)

    def get(self, kind, place):
        """Return a number."""
        return struct.unpack_from("<" + kind, self.data, place)[0]

    def place(self, slot):
        """Return where a slot lies, or None."""
        ahead = self.get("H", self.places + 4 + 2 * slot) if 4 + 2 * slot < self.get("H", self.places) else 0
        return self.start + ahead if ahead else None

    def number(self, slot, kind):
        """Return the number in a slot."""
        place = self.place(slot)
        return 0 if place is None else self.get(kind, place)

    def ahead(self, place):
        """Return where a place leads."""
        return place + self.get("I", place)

    def table(self, slot):
        """Return the table that a slot leads to."""
        return _Slots(self.data, self.ahead(self.place(slot) or 0))

    def tables(self, slot):
        """Return the tables of a vector."""
        place = self.place(slot)
        start = None if place is None else self.ahead(place)
        count = 0 if start is None else min(self.get("I", start), 100)
        return [_Slots(self.data, self.ahead(start + 4 + 4 * each)) for each in range(count)]

    def words(self, slot):
        """Return the pairs of a vector."""
        place = self.place(slot)
        start = None if place is None else self.ahead(place)
        count = 0 if start is None else min(self.get("I", start), 100)
        return [struct.unpack_from("<qq", self.data, start + 4 + 16 * each) for each in range(count)]

    def text(self, slot):
        """Return the bytes of a text."""
        start = self.ahead(self.place(slot) or 0)
        return self.data[start + 4 : start + 4 + self.get("I", start)]


def _messages(body):
    position, found = 0, []
    while position < len(body):
        _, length = struct.unpack_from("<Ii", body, position)
        if length == 0:
            break
        metadata = body[position + 8 : position + 8 + length]
        message = _Slots(metadata, struct.unpack_from("<I", metadata)[0])
        start, size = position + 8 + length, message.number(3, "q")
        found.append((message.table(2), body[start : start + size]))
        position = start + size
    return found


def _field(field):
    """Return name, type of the numbers, how many each value has, and the number of buffers."""
    name = field.text(0) if field.place(0) else b""
    if field.number(2, "B") == 16:
        return name, _number_type(field.tables(5)[0]), field.table(3).number(0, "i"), 3
    return name, _number_type(field), 1, 2


def _number_type(field):
    kind, about = field.number(2, "B"), field.table(3)
    if kind == 3:
        return np.dtype(_FLOATS[about.number(0, "h") % 3])
    if kind != 2 or about.number(0, "i") not in (8, 16, 32, 64):
        raise ValueError(kind)
    return np.dtype(f"<{'iu'[not about.number(1, 'B')]}{about.number(0, 'i') // 8}")


def _columns(header, data, fields):
    num_rows, buffers, columns = header.number(0, "q"), header.words(2), []
    for _, dtype, width, num_buffers in fields:
        offset, _ = buffers[num_buffers - 1]
        columns.append(np.frombuffer(data, dtype, num_rows * width, offset).reshape(-1, width))
        buffers = buffers[num_buffers:]
    return columns
