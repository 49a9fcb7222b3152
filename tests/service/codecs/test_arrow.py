"""Arrow bodies: what pyarrow writes comes back bit for bit, and nothing is believed that the bytes do not bear out."""

import tracemalloc

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from service.codecs import arrow
from service.errors import InvalidArgumentError, PayloadTooLargeError
from service.signature import Signature
from tests.service.codecs.arrow_streams import columns, lists, patched, places, read, stream

NAMES = ("radius", "texture", "größe")
NAMED = Signature("m", 1, 3, NAMES)
NAMELESS = Signature("m", 1, 3, made_elsewhere=True)
ROWS = np.float32([[1.0, 2.0, 3.0], [-1.0, 0.5, -0.0], [3e38, 1e-45, 7.038531e-26]])
TABLES = hnp.arrays("<f4", st.tuples(st.integers(0, 6), st.just(3)))
MAX_ROWS = 100


def decode(body, signature=NAMED, max_rows=MAX_ROWS):
    """Return the rows of a stream."""
    return arrow.decode_rows(body, signature, max_rows)


@given(st.lists(TABLES, max_size=4), st.permutations(range(3)), st.sampled_from(["list", "names", "places"]))
def test_decode_rows_returns_every_bit_of_what_pyarrow_wrote(tables, order, form):
    """Lists or columns, by name in any order or by place, in any number of batches, empty ones too."""
    schema = {"list": lists, "names": lambda rows: columns(rows[:, order], [NAMES[i] for i in order])}
    make = schema.get(form, lambda rows: columns(rows, "abc"))
    body = stream(*map(make, tables), schema=make(ROWS).schema)
    rows = decode(body, NAMELESS if form == "places" else NAMED)
    expected = np.concatenate([ROWS[:0], *tables])
    assert (expected.dtype, expected.shape, expected.tobytes()) == (rows.dtype, rows.shape, rows.tobytes())


def test_lists_of_float32_in_one_batch_are_a_view_of_the_body():
    """What lies in the body as the engine wants it is not copied."""
    body = stream(lists(ROWS))
    rows = decode(body)
    assert np.shares_memory(np.frombuffer(body, np.uint8), rows)
    assert rows.flags.c_contiguous
    assert rows.flags.aligned


def test_numbers_that_are_not_at_a_multiple_of_four_bytes_are_copied():
    """A writer that does not align its buffers costs a copy and no more."""
    body = stream(lists(ROWS))
    (place,) = places(body, 0, 0, 0, 0, 0, 36)
    start = body.index(ROWS.tobytes())
    moved = patched(body, (0, 0, 0, 0, 0, 36), (0, 0, 0, 0, 1, 36))
    moved = moved[:start] + b"\0" + ROWS.tobytes() + moved[start + 37 :]
    rows = decode(moved)
    assert place < start
    assert ROWS.tobytes() == rows.tobytes()
    assert rows.flags.aligned


@pytest.mark.parametrize("kind", ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"])
@pytest.mark.parametrize("make", [lists, lambda rows, kind: columns(rows, NAMES, kind)], ids=["list", "columns"])
def test_integers_of_every_size_become_the_nearest_float32(kind, make):
    """The largest and the smallest number of each type, and what is beyond 24 bits, are rounded once."""
    limits = np.iinfo(kind)
    numbers = np.array([[limits.max, limits.min, 1], [limits.max // 3, 7, limits.max // 2]], kind)
    body = stream(make(numbers, kind=kind))
    np.testing.assert_array_equal(numbers.astype(np.float32), decode(body), strict=True)


@pytest.mark.parametrize("kind", ["float16", "float64"])
def test_floats_of_other_sizes_become_the_nearest_float32(kind):
    """Half and double precision are taken; what float32 has not is infinite, and refused by its place later."""
    numbers = np.array([[0.1, -2.5, 6e4]], kind)
    np.testing.assert_array_equal(numbers.astype(np.float32), decode(stream(columns(numbers, NAMES))), strict=True)
    rows = decode(stream(columns([[1, 2, 3], [4, 1e39, np.nan]], NAMES)))
    with pytest.raises(InvalidArgumentError, match=r"instances\[1\]\[1\] is infinite in float32"):
        NAMED.validate(rows)


def test_columns_of_different_types_may_stand_side_by_side():
    """Each column has a type of its own."""
    arrays = [pa.array([1, 2], "int8"), pa.array([0.1, 0.2], "float64"), pa.array([3, 4], "float16")]
    rows = decode(stream(pa.record_batch(arrays, names=list(NAMES))))
    np.testing.assert_array_equal(np.float32([[1, 0.1, 3], [2, 0.2, 4]]), rows, strict=True)


@pytest.mark.parametrize("make", [lists, lambda rows: columns(rows, NAMES)], ids=["list", "columns"])
def test_no_rows_are_a_table_of_no_rows(make):
    """A schema alone, with or without the mark of the end, and batches of no rows."""
    alone = stream(schema=make(ROWS).schema)
    bodies = [alone, alone[:-8], stream(make(ROWS[:0])), stream(*[make(ROWS[:0])] * 3)]
    assert [(0, 3)] * 4 == [decode(body).shape for body in bodies]
    assert [np.dtype(np.float32)] * 4 == [decode(body).dtype for body in bodies]


def test_stream_without_the_mark_of_its_end_is_whole():
    """The format lets a writer end by ending."""
    assert ROWS.tobytes() == decode(stream(lists(ROWS), lists(ROWS))[:-8])[:3].tobytes()


def test_part_of_a_longer_array_is_that_part():
    """A slice, which pyarrow writes cut to size, and the older version of the format are read alike."""
    batch = lists(np.vstack([ROWS, ROWS * 0.5])).slice(2, 3)
    expected = np.vstack([ROWS[2:], ROWS[:2] * np.float32(0.5)])
    for version in (pa.ipc.MetadataVersion.V4, pa.ipc.MetadataVersion.V5):
        assert expected.tobytes() == decode(stream(batch, metadata_version=version)).tobytes()


def test_more_rows_or_batches_than_a_request_may_have_are_told_to_be_split():
    """As many as the limit are read; one more is 413, before its rows are looked at."""
    batch = columns(ROWS[:1], NAMES)
    assert (100, 3) == decode(stream(*[batch] * 100)).shape
    for body in (stream(*[batch] * 101), stream(lists(np.ones((101, 3))))):
        with pytest.raises(PayloadTooLargeError, match="more than 100 rows"):
            decode(body)
    empty = columns(ROWS[:0], NAMES)
    assert (1, 3) == decode(stream(*[empty] * 1023, batch)).shape
    with pytest.raises(PayloadTooLargeError, match="more than 1024 record batches"):
        decode(stream(*[empty] * 1025))


BODY, BY_NAME = stream(lists(ROWS)), stream(columns(ROWS, NAMES))
BATCH = (3, 0, 9, 0)  # length and nulls of the lists and of their numbers
SPACE = (0, 0, 0, 0, 0, 36)  # offset and length of the three buffers
COLUMNS = (3, 0, 3, 0, 3, 0)
FILE = pa.BufferOutputStream()
with pa.ipc.new_file(FILE, lists(ROWS).schema) as file:
    file.write_batch(lists(ROWS))
SECOND = BODY.index(b"\xff\xff\xff\xff", 1)  # where the second message begins

LAYOUT = [number for start in (0, 16, 32) for number in (start, 0, start, 12)]
LATER = [number for start in (8, 24, 40) for number in (0, 0, start, 12)]
EARLIER = [number for start in (-8, 8, 24) for number in (0, 0, start, 12)]
SHORTER = [number for start in (0, 16, 32) for number in (0, 0, start, 8)]

DAMAGED = "message 1 of the Arrow stream: damaged"
REFUSED = {
    "empty": (b"", "does not begin with a schema"),
    "end alone": (BODY[-8:], "does not begin with a schema"),
    "JSON": (b'{"instances": [[1, 2, 3]]}', "message 0 does not begin with the format's mark"),
    "zeros": (bytes(64), "message 0 does not begin with the format's mark"),
    "Parquet": (b"PAR1" + bytes(60), "message 0 does not begin with the format's mark"),
    "file": (FILE.getvalue().to_pybytes(), "an Arrow or Feather file, expected an Arrow stream"),
    "batch first": (BODY[SECOND:], "does not begin with a schema"),
    "schema twice": (BODY[:SECOND] * 2, "message 1 of the Arrow stream: no record batch"),
    "one byte": (BODY[:1], "message 0 does not begin"),
    "mark alone": (BODY[:4], "message 0 does not begin"),
    "cut in the schema": (BODY[: SECOND - 1], "message 0 of the Arrow stream claims"),
    "cut in the batch": (BODY[:-9], "message 1 of the Arrow stream claims 40 bytes, of which 39 came"),
    "cut in the end": (BODY[:-3], "message 2 does not begin"),
    "one more byte": (BODY + b"\0", "1 bytes behind the end of the Arrow stream"),
    "two streams": (BODY + BODY, "behind the end of the Arrow stream"),
    "schema of 2 GiB": (BODY[:4] + b"\xff\xff\xff\x7f" + BODY[8:], "claims 2147483647 bytes"),
    "schema of -1": (BODY[:4] + b"\xff\xff\xff\xff" + BODY[8:], "claims -1 bytes"),
    "body of 2^40": (patched(BODY, (40,), (1 << 40,)), "claims 1099511627776 bytes"),
    "body of -1": (patched(BODY, (40,), (-1,)), DAMAGED),
    "2^62 rows": (BODY.replace(b"\3" + bytes(7), (1 << 62).to_bytes(8, "little")), "4611686018427387904 rows of 12"),
    "-3 rows": (BODY.replace(b"\3" + bytes(7), b"\xfd" + b"\xff" * 7), DAMAGED),
    "no rows": (BODY.replace(b"\3" + bytes(7), bytes(8), 1), DAMAGED),
    "more rows than lists": (patched(BODY, BATCH, (2, 0, 9, 0)), DAMAGED),
    "more lists than numbers": (patched(BODY, BATCH, (3, 0, 6, 0)), DAMAGED),
    "numbers beside the lists": (patched(BODY, BATCH, (3, 0, 1 << 40, 0)), DAMAGED),
    "nulls without bits": (patched(BODY, BATCH, (3, 1, 9, 0)), DAMAGED),
    "-1 nulls": (patched(BODY, BATCH, (3, 0, 9, -1)), DAMAGED),
    "bits outside": (patched(BODY, SPACE, (40, 1, 0, 0, 0, 36)), DAMAGED),
    "bits before": (patched(BODY, SPACE, (-8, 1, 0, 0, 0, 36)), DAMAGED),
    "too few bits": (patched(BODY, SPACE, (0, 0, 0, 1, 0, 36)), DAMAGED),
    "numbers outside": (patched(BODY, SPACE, (0, 0, 0, 0, 8, 36)), DAMAGED),
    "numbers far outside": (patched(BODY, SPACE, (0, 0, 0, 0, (1 << 63) - 8, 36)), DAMAGED),
    "numbers before": (patched(BODY, SPACE, (0, 0, 0, 0, -8, 36)), DAMAGED),
    "fewer numbers": (patched(BODY, SPACE, (0, 0, 0, 0, 0, 32)), DAMAGED),
    "length of -1": (patched(BODY, SPACE, (0, 0, 0, 0, 0, -1)), DAMAGED),
    "length of 2^63 - 1": (patched(BODY, SPACE, (0, 0, 0, 0, 0, (1 << 63) - 1)), DAMAGED),
    "columns outside": (patched(BY_NAME, LAYOUT, LATER), DAMAGED),
    "columns before": (patched(BY_NAME, LAYOUT, EARLIER), DAMAGED),
    "columns too short": (patched(BY_NAME, LAYOUT, SHORTER), DAMAGED),
    "column of more rows": (patched(BY_NAME, COLUMNS, (3, 0, 4, 0, 3, 0)), DAMAGED),
    "column with nulls": (patched(BY_NAME, COLUMNS, (3, 0, 3, 2, 3, 0)), DAMAGED),
    "zstd": (stream(lists(np.zeros((9, 3), "f4")), compression="zstd"), "compressed buffers, expected plain ones"),
    "lz4": (stream(columns(ROWS, NAMES), compression="lz4"), "Write it without compression"),
}


@pytest.mark.parametrize(("body", "found"), REFUSED.values(), ids=REFUSED)
def test_decode_rows_refuses_what_is_no_table_of_numbers(body, found):
    """Every other body is refused in words that tell what is wrong, at the cost of a sentence."""
    tracemalloc.start()
    try:
        with pytest.raises(InvalidArgumentError) as error:
            decode(body)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found in error.value.message
    assert not isinstance(error.value, PayloadTooLargeError)
    assert 250 > len(error.value.message)
    assert 1 << 17 > peak


def test_columns_cannot_all_claim_the_same_bytes():
    """Rows are not more than the body can hold, though each of two hundred columns points at the same numbers."""
    names = [f"x{position}" for position in range(200)]
    wide = Signature("m", 1, 200, tuple(names))
    body = stream(columns(np.ones((1000, 200), np.float32), names))
    start = body.index(np.ones(1000, np.float32).tobytes())
    layout = [number for position in range(200) for number in (4000 * position, 0, 4000 * position, 4000)]
    shared = patched(body, layout, [0, 0, 0, 4000] * 200)
    short = patched(shared, (800_000,), (4000,))[: start + 4000]
    assert (1000, 200) == decode(shared, wide, 1000).shape
    with pytest.raises(InvalidArgumentError, match="claims 1000 rows of 800 bytes, its body has 4000"):
        decode(short, wide, 1000)


SOURCES = {
    "list": stream(lists(ROWS), lists(ROWS[:2])),
    "columns": stream(columns(ROWS, NAMES)),
    "doubles": stream(columns(ROWS.astype(np.float64), NAMES)),
    "bits": stream(pa.record_batch([pa.array([1, None, 3], "int16")] * 3, names=list(NAMES))),
}


@given(st.data(), st.sampled_from(sorted(SOURCES)))
def test_decode_rows_reads_nothing_that_pyarrow_reads_otherwise(data, source):
    """With up to three bytes changed anywhere, what both read is the same; what pyarrow checks beyond it is free."""
    body = bytearray(SOURCES[source])
    for place, value in data.draw(st.lists(st.tuples(st.integers(0, len(body) - 1), st.integers(0, 255)), max_size=3)):
        body[place] = value
    try:
        rows = decode(bytes(body))
    except InvalidArgumentError:
        return
    try:
        table = read(bytes(body))
    except (pa.ArrowException, OSError, IndexError, UnicodeDecodeError):
        return
    if table.column_names == ["x"]:
        expected = table["x"].combine_chunks().flatten().to_numpy().reshape(-1, 3)
    else:
        expected = np.column_stack([table[name].to_numpy() for name in NAMES])
    with np.errstate(over="ignore", invalid="ignore"):
        expected = expected.astype(np.float32)
    assert (expected.shape, expected.tobytes()) == (rows.shape, rows.tobytes())


@given(st.integers(0, 300), st.binary(max_size=60), st.integers(0, 60))
def test_decode_rows_raises_nothing_else_and_takes_no_memory(start, bytes_put_in, num_cut):
    """Whatever is put in the place of whatever, the only error is the caller's, and nothing large is allocated."""
    body = BY_NAME[:start] + bytes_put_in + BY_NAME[start + num_cut :]
    tracemalloc.start()
    try:
        decode(body)
    except InvalidArgumentError:
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert 1 << 17 > peak


def test_encode_answer_is_the_table_that_pyarrow_reads():
    """Columns in the order of the wire, float32 without nulls, the gradient as lists, for any number of rows."""
    outputs = {"support": np.float32([1, 0.5]), "gradient": ROWS[:2], "score": np.float32([7, -0.0])}
    kind = pa.list_(pa.field("item", pa.float32(), nullable=False), 3)
    fields = [("score", pa.float32()), ("gradient", kind), ("support", pa.float32())]
    schema = pa.schema([pa.field(name, kind, nullable=False) for name, kind in fields])
    for num_rows in (2, 1, 0):
        table = read(arrow.encode_answer({name: values[:num_rows] for name, values in outputs.items()}))
        assert schema.equals(table.schema, check_metadata=True)
        for name, values in outputs.items():
            column = table[name].combine_chunks()
            numbers = column.flatten() if name == "gradient" else column
            assert values[:num_rows].tobytes() == numbers.to_numpy().tobytes()
    alone = read(arrow.encode_answer({"gradient": ROWS}))
    assert (["gradient"], ROWS.tolist()) == (alone.column_names, alone["gradient"].to_pylist())


@given(hnp.arrays("<f4", st.tuples(st.integers(0, 40), st.integers(1, 5))))
def test_answer_is_read_back_bit_for_bit(gradient):
    """Answers of every size and shape keep their bits, those of numbers that are none too."""
    table = read(arrow.encode_answer({"score": gradient[:, 0], "gradient": gradient}))
    assert gradient.tobytes() == table["gradient"].combine_chunks().flatten().to_numpy().tobytes()
    assert gradient[:, 0].tobytes() == table["score"].to_numpy().tobytes()
