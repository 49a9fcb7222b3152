"""Tables of the FlatBuffers format: read where they lie, no offset believed that leaves the buffer, and written.

A table is a row of slots, found through a list of places (its vtable); a slot holds a number, or how far ahead another
table, a vector or a text begins. The format's own library follows whatever offset stands there and knows no end of the
buffer. Above: `arrow_messages`. Below: nothing.
"""

import dataclasses
import struct
from collections.abc import Iterator, Sequence
from typing import TypeAlias, Union

INT8 = struct.Struct("<b")
UINT8 = struct.Struct("<B")
INT16 = struct.Struct("<h")
INT32 = struct.Struct("<i")
INT64 = struct.Struct("<q")
_UINT16 = struct.Struct("<H")
_UINT32 = struct.Struct("<I")
_HEAD_BYTES = 4  # of a vtable, its size and the table's; of a table, the way to its vtable
_ALIGNMENT = 8


class BrokenTableError(ValueError):
    """An offset or a length leaves the buffer: its bytes are no such tables."""


class Table:
    """A table in a buffer; nothing is copied, and nothing is looked at but the slots that are asked for.

    Args:
        data: the buffer.
        position: where the table begins.

    Raises:
        BrokenTableError: no table can be there; likewise all methods, for what leaves the buffer.
    """

    __slots__ = ("_data", "_position", "_vtable", "_vtable_bytes")

    def __init__(self, data: memoryview, position: int) -> None:
        self._data = data
        self._position = position
        self._vtable = position - _read(INT32, data, position)
        self._vtable_bytes = _read(_UINT16, data, self._vtable)

    @classmethod
    def root(cls, data: memoryview) -> "Table":
        """Return the table that a buffer is about."""
        return cls(data, _read(_UINT32, data, 0))

    def number(self, slot: int, kind: struct.Struct, default: int = 0) -> int:
        """Return the number in a slot, or its default where the writer left it out."""
        place = self._place(slot)
        return default if place is None else _read(kind, self._data, place)

    def table(self, slot: int) -> "Table | None":
        """Return the table that a slot leads to, or None."""
        place = self._place(slot)
        return None if place is None else Table(self._data, self._ahead(place))

    def tables(self, slot: int, most: int) -> "Iterator[Table]":
        """Yield the tables of a vector, the first `most` of them."""
        start, count = self._vector(slot, _UINT32.size)
        for place in range(start, start + _UINT32.size * min(count, most), _UINT32.size):
            yield Table(self._data, self._ahead(place))

    def count(self, slot: int) -> int:
        """Return how many tables a vector holds."""
        return self._vector(slot, _UINT32.size)[1]

    def items(self, slot: int, item_bytes: int) -> memoryview:
        """Return the items of a vector, which lie side by side; of a text (one byte each) its bytes."""
        start, count = self._vector(slot, item_bytes)
        return self._data[start : start + count * item_bytes]

    def _vector(self, slot: int, item_bytes: int) -> tuple[int, int]:
        """Return where the items of a vector begin, and how many they are; none where there is no vector."""
        place = self._place(slot)
        if place is None:
            return 0, 0
        head = self._ahead(place)
        start, count = head + _UINT32.size, _read(_UINT32, self._data, head)
        if count * item_bytes > len(self._data) - start:
            raise BrokenTableError
        return start, count

    def _place(self, slot: int) -> int | None:
        """Return where a slot lies, or None where the writer left it out."""
        entry = _HEAD_BYTES + _UINT16.size * slot
        if entry + _UINT16.size > self._vtable_bytes:
            return None
        ahead = _read(_UINT16, self._data, self._vtable + entry)
        return self._position + ahead if ahead else None

    def _ahead(self, place: int) -> int:
        return place + _read(_UINT32, self._data, place)


def _read(kind: struct.Struct, data: memoryview, position: int) -> int:
    if not 0 <= position <= len(data) - kind.size:  # a negative one would count from the end
        raise BrokenTableError
    number: int = kind.unpack_from(data, position)[0]
    return number


@dataclasses.dataclass(frozen=True)
class Number:
    """A number to write, of a kind such as `INT32`."""

    kind: struct.Struct
    value: int


@dataclasses.dataclass(frozen=True)
class Items:
    """A vector to write: items of eight bytes and more, side by side."""

    data: bytes
    count: int


Slots: TypeAlias = Sequence[Union[Number, bytes, Items, "Slots", "list[Slots]", None]]
"""A table to write (a tuple): for each slot a number, a text, a vector, a table, or None to leave it out."""


def write(root: Slots) -> bytes:
    """Return a buffer of a table and all that its slots lead to; every number at a multiple of its size."""
    writer = _Writer()
    _UINT32.pack_into(writer.data, 0, writer.table(root))
    writer.pad(_ALIGNMENT)
    return bytes(writer.data)


class _Writer:
    """Appends tables, each before those that it leads to, for offsets may only lead ahead."""

    def __init__(self) -> None:
        self.data = bytearray(_UINT32.size)

    def pad(self, alignment: int, ahead: int = 0) -> None:
        """Append zeros until what comes `ahead` bytes later stands at a multiple of the alignment."""
        self.data += bytes(-(len(self.data) + ahead) % alignment)

    def table(self, slots: Slots) -> int:
        """Append a table and all below it; return where it begins."""
        places, size = [], _HEAD_BYTES
        for slot in slots:
            width = slot.kind.size if isinstance(slot, Number) else _UINT32.size
            place = size + -size % width
            places.append(0 if slot is None else place)
            size = size if slot is None else place + width
        vtable_bytes = _HEAD_BYTES + _UINT16.size * len(places)
        self.pad(_ALIGNMENT, vtable_bytes)
        start = len(self.data) + vtable_bytes
        self.data += struct.pack(f"<{2 + len(places)}H", vtable_bytes, size, *places)
        self.data += INT32.pack(vtable_bytes) + bytes(size - _HEAD_BYTES)
        for slot, place in zip(slots, places, strict=True):
            if isinstance(slot, Number):
                slot.kind.pack_into(self.data, start + place, slot.value)
            elif slot is not None:
                self._lead(start + place, slot)
        return start

    def _lead(self, place: int, slot: "bytes | Items | Slots | list[Slots]") -> None:
        """Append what a slot leads to, and note the way there."""
        if isinstance(slot, bytes):
            target = self._vector(slot + b"\0", len(slot), 1)
        elif isinstance(slot, Items):
            target = self._vector(slot.data, slot.count, _ALIGNMENT)
        elif isinstance(slot, list):
            target = self._vector(bytes(_UINT32.size * len(slot)), len(slot), 1)
            for index, each in enumerate(slot):
                self._lead(target + _UINT32.size * (1 + index), each)
        else:
            target = self.table(slot)
        _UINT32.pack_into(self.data, place, target - place)

    def _vector(self, items: bytes, count: int, alignment: int) -> int:
        self.pad(_UINT32.size)
        self.pad(alignment, _UINT32.size)
        start = len(self.data)
        self.data += _UINT32.pack(count) + items
        return start
