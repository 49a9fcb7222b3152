"""FlatBuffers tables: no offset leads out of the buffer, whatever it says."""

import contextlib
import struct

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.codecs import flat_tables
from service.codecs.flat_tables import INT16, INT32, INT64, UINT8, BrokenTableError, Items, Number, Table

# By the format: where the root is; its vtable (8 bytes long, table of 12, slot 0 at 4, slot 1 at 8); the table (the way
# back to the vtable, a number, how far ahead a text is); the text with its length.
PLAIN = struct.pack("<I4H2iII", 12, 8, 12, 4, 8, 8, -7, 4, 3) + b"abc\0"


def patched(place, number):
    """Return the plain buffer with another number in four bytes of it."""
    return PLAIN[:place] + struct.pack("<I", number) + PLAIN[place + 4 :]


def table_of(data):
    """Return the table of a buffer."""
    return Table.root(memoryview(data))


def test_table_gives_numbers_texts_and_defaults():
    """Slots that the writer left out, or does not know, have their default."""
    table = table_of(PLAIN)
    assert -7 == table.number(0, INT32)
    assert b"abc" == table.items(1, 1)
    assert (5, b"", None, 0, []) == (
        table.number(2, INT32, 5),
        table.items(2, 1),
        table.table(300),
        table.count(2),
        list(table.tables(2, 9)),
    )


@pytest.mark.parametrize(
    "data",
    [
        b"",
        PLAIN[:3],
        PLAIN[:15],
        patched(0, 0xFFFFFFFF),
        patched(0, 25),
        patched(12, 13),  # a vtable that begins before the buffer
        patched(12, 0xFFFFFFE0),  # and one behind it
    ],
)
def test_root_that_leaves_the_buffer_is_no_table(data):
    """There is a table, and its vtable, or an error."""
    with pytest.raises(BrokenTableError):
        table_of(data)


@pytest.mark.parametrize(
    "data", [patched(20, 0xFFFFFFFF), patched(20, 9), patched(24, 5), patched(24, 1 << 31), PLAIN[:24]]
)
def test_vector_that_leaves_the_buffer_is_refused(data):
    """Neither where a text begins nor how long it claims to be is believed."""
    with pytest.raises(BrokenTableError):
        table_of(data).items(1, 1)


def test_slot_that_leaves_the_buffer_is_refused():
    """A slot far behind its table is not read."""
    data = PLAIN[:8] + struct.pack("<H", 60000) + PLAIN[10:]
    with pytest.raises(BrokenTableError):
        table_of(data).number(0, INT32)


def test_items_are_counted_by_their_size():
    """A vector of so many items claims so many times their size."""
    with pytest.raises(BrokenTableError):
        table_of(PLAIN).items(1, 16)
    with pytest.raises(BrokenTableError):
        list(table_of(PLAIN).tables(1, 1))


def look(table, depth=0):
    """Ask a table for everything, and the tables below it."""
    for slot in range(8):
        for ask in (lambda s: table.number(s, INT64), lambda s: table.items(s, 16), lambda s: table.items(s, 1)):
            with contextlib.suppress(BrokenTableError):
                ask(slot)
        try:
            below = [table.table(slot), *table.tables(slot, 3)]
        except BrokenTableError:
            continue
        for each in below:
            if each is not None and depth < 2:
                look(each, depth + 1)


SCHEMA = pa.schema([("a", pa.float32()), ("x", pa.list_(pa.float32(), 3))], {"k": "v"}).serialize().to_pybytes()[8:]


@given(st.data())
def test_nothing_but_a_broken_table_is_ever_raised(data):
    """A schema with bytes of it changed, asked for everything in every way, is read or is broken."""
    body = bytearray(SCHEMA)
    for place, value in data.draw(st.lists(st.tuples(st.integers(0, len(body) - 1), st.integers(0, 255)), max_size=8)):
        body[place] = value
    try:
        table = table_of(bytes(body))
    except BrokenTableError:
        return
    look(table)


def test_what_is_written_stands_where_the_format_wants_it():
    """Each number at a multiple of its size, each table, text and vector where its slot says."""
    inner = (Number(UINT8, 200), Number(INT64, -(1 << 60)))
    words = struct.pack("<4q", 1, 2, 3, 4)
    data = flat_tables.write((Number(INT16, -2), None, b"ab", inner, Items(words, 2), [inner, (), inner]))
    assert 0 == len(data) % 8
    table = table_of(data)
    assert (-2, b"ab", None) == (table.number(0, INT16), table.items(2, 1), table.table(1))
    assert words == table.items(4, 16)
    assert 0 == data.index(words) % 8
    below = [table.table(3), *table.tables(5, 9)]
    assert [(200, -(1 << 60))] * 2 + [(0, 0)] + [(200, -(1 << 60))] == [
        (each.number(0, UINT8), each.number(1, INT64)) for each in below
    ]
    assert 3 == table.count(5)
    assert {0} == {place % 8 for place in range(len(data)) if data[place : place + 8] == INT64.pack(-(1 << 60))}
