"""Columns of an Arrow stream: found by name or by place, nulls told by their place in the request."""

import numpy as np
import pyarrow as pa
import pytest

from service.codecs import arrow
from service.errors import InvalidArgumentError
from service.signature import Signature
from tests.service.codecs.arrow_streams import columns, lists, patched, stream

NAMED = Signature("m", 1, 3, ("radius", "texture", "area"))
NAMELESS = Signature("m", 1, 3, made_elsewhere=True)
WITH_CONTEXT = Signature("m", 1, 1, ("load",), context_dim=2, context_features=("age", "sex"))
UNNAMED_CONTEXT = Signature("m", 1, 1, ("load",), context_dim=2)
CALLED_X = Signature("m", 1, 1, ("x",))
ROWS = np.float32([[1, 2, 3], [4, 5, 6]])


def decode(body, signature=NAMED):
    """Return the rows of a stream."""
    return arrow.decode_rows(body, signature, 100)


@pytest.mark.parametrize("signature", [NAMED, NAMELESS, WITH_CONTEXT, UNNAMED_CONTEXT])
def test_lists_hold_whole_rows_of_every_model(signature):
    """A list is a row: x, and behind it the context where the model takes one."""
    np.testing.assert_array_equal(ROWS, decode(stream(lists(ROWS)), signature), strict=True)


@pytest.mark.parametrize(
    ("signature", "names", "expected"),
    [
        (NAMED, ["area", "radius", "texture"], [[2, 3, 1], [5, 6, 4]]),
        (NAMELESS, ["area", "radius", "area"], [[1, 2, 3], [4, 5, 6]]),
        (WITH_CONTEXT, ["sex", "load", "age"], [[2, 3, 1], [5, 6, 4]]),
        (UNNAMED_CONTEXT, ["sex", "load", "age"], [[1, 2, 3], [4, 5, 6]]),
    ],
)
def test_columns_are_found_by_name_or_stand_in_their_place(signature, names, expected):
    """Where all numbers of a row have names, order is free; else names say nothing."""
    np.testing.assert_array_equal(np.float32(expected), decode(stream(columns(ROWS, names)), signature), strict=True)


def test_feature_that_is_called_x_is_a_column_of_numbers():
    """Whether `x` holds rows or numbers is said by its type."""
    rows = np.float32([[1], [2]])
    for batch in (lists(rows), columns(rows, ["x"])):
        np.testing.assert_array_equal(rows, decode(stream(batch), CALLED_X), strict=True)


def test_metadata_of_a_schema_changes_nothing():
    """What pandas and others note beside the columns is passed over."""
    batch = columns(ROWS, NAMED.features)
    noted = [field.with_metadata({"unit": "mm", "PARQUET:field_id": "1"}) for field in batch.schema]
    schema = pa.schema(noted, {"pandas": '{"index_columns": []}' * 1000})
    body = stream(pa.RecordBatch.from_arrays(batch.columns, schema=schema))
    np.testing.assert_array_equal(ROWS, decode(body), strict=True)


FLOATS = pa.array([1.0, 2.0], pa.float32())
DICTIONARY = pa.array([1.5, 2.5], pa.float32()).dictionary_encode()
EXTENSION = pa.ExtensionArray.from_storage(pa.bool8(), pa.array([0, 1], pa.int8()))
TENSOR = pa.FixedShapeTensorArray.from_numpy_ndarray(ROWS)
ODD = {
    "text": (pa.array(["1", "2"]), "of type utf8, expected numbers"),
    "bool": (pa.array([True, False]), "of type bool"),
    "null": (pa.array([None, None]), "of type null"),
    "decimal": (pa.array([1, 2], pa.decimal128(5, 2)), "of type decimal"),
    "day": (pa.array([1, 2], pa.date32()), "of type date"),
    "seconds": (pa.array([1, 2], pa.duration("s")), "of type another"),
    "list": (pa.array([[1.0], [2.0]], pa.list_(pa.float32())), "of type list"),
    "view": (pa.array(["1", "2"], pa.string_view()), "of type another"),
    "struct": (pa.array([{"a": 1}, {"a": 2}]), "of type struct"),
    "union": (pa.UnionArray.from_sparse(pa.array([0, 0], pa.int8()), [pa.array([1, 2])]), "of type union"),
    "map": (pa.array([[("a", 1)], []], pa.map_(pa.string(), pa.int64())), "of type map"),
    "runs": (pa.RunEndEncodedArray.from_arrays(pa.array([2], pa.int32()), pa.array([1.0])), "of type another"),
    "keys": (DICTIONARY, "of type dictionary"),
    "extension": (EXTENSION, "of type extension"),
    "tensor": (TENSOR, "of type extension"),
    "lists of lists": (pa.FixedSizeListArray.from_arrays(pa.FixedSizeListArray.from_arrays(FLOATS, 1), 1), "lists of"),
    "lists of text": (pa.FixedSizeListArray.from_arrays(pa.array(["a", "b"]), 1), "lists of others than numbers"),
    "lists of keys": (pa.FixedSizeListArray.from_arrays(DICTIONARY, 1), "lists of others than numbers"),
}


@pytest.mark.parametrize(("array", "found"), ODD.values(), ids=ODD)
def test_type_that_holds_no_plain_numbers_is_refused_by_its_column(array, found):
    """Whatever is no integer and no float is told by the column's name and what to do."""
    body = stream(pa.record_batch([FLOATS, array, FLOATS], names=list(NAMED.features)))
    with pytest.raises(InvalidArgumentError) as error:
        decode(body)
    assert found in error.value.message
    assert error.value.message.startswith("column 'texture': ")
    assert error.value.message.endswith("Convert it to float32.")


@pytest.mark.parametrize(
    ("signature", "batch", "found"),
    [
        (NAMED, columns(ROWS, ["radius", "texture", "aera"]), "unknown column 'aera'. Did you mean 'area'?"),
        (NAMED, columns(ROWS[:, :2], ["radius", "texture"]), "the column 'area' is missing. Send all 3 columns."),
        (NAMED, columns(ROWS, ["radius", "texture", "radius"]), "the column 'radius' is there twice"),
        (NAMED, columns(ROWS[:, [0, 1, 2, 0]], ["area", "radius", "texture", "id"]), "unknown column 'id'"),
        (NAMED, columns(ROWS, ["x", "texture", "area"]), "unknown column 'x'"),
        (NAMED, columns(ROWS[:, :0], []), "the column 'radius' is missing"),
        (NAMED, columns(ROWS[:, :1], ["n" * 100]), f"unknown column '{'n' * 40}'. Known: radius"),
        (NAMELESS, columns(ROWS[:, :2], "ab"), "received 2 columns, expected 3 for model m version 1"),
        (NAMELESS, columns(ROWS[:, [0, 1, 2, 0, 1]], "abcde"), "received more than 3 columns, expected 3"),
        (NAMED, lists(ROWS, "rows"), "the column 'rows' is none of the model's. Send one column 'x' of lists"),
        (NAMED, lists(ROWS[:, :2]), "lists of 2 numbers, expected 3 for model m version 1. Send whole rows."),
        (NAMED, lists(np.ones((3, 4))), "lists of 4 numbers, expected 3"),
        (WITH_CONTEXT, lists(ROWS[:, :1]), "expected 3 for model m version 1: 1 of x, then 2 of the context."),
        (NAMED, pa.record_batch([FLOATS, *lists(ROWS).columns], names=["radius", "x"]), "the column 'radius' is none"),
        (NAMED, pa.record_batch(lists(ROWS).columns * 2, names=["x", "x"]), "the column 'x' is none"),
    ],
)
def test_columns_that_are_not_the_models_are_refused_by_name(signature, batch, found):
    """Unknown, missing, doubled columns and lists of another size: told with what the model has."""
    with pytest.raises(InvalidArgumentError) as error:
        decode(stream(batch), signature)
    assert found in error.value.message
    assert 250 > len(error.value.message)


def test_name_that_is_no_text_is_unknown():
    """Bytes that are not UTF-8 are no column's name."""
    body = stream(columns(ROWS, NAMED.features)).replace(b"texture", b"te\xff\xfeure")
    with pytest.raises(InvalidArgumentError, match="unknown column 'te\ufffd\ufffdure'"):
        decode(body)


def with_nulls(rows, missing):
    """Return rows as columns, with nulls where `missing` has (row, column)."""
    cells = [
        [None if (r, c) in missing else value for r, value in enumerate(column)] for c, column in enumerate(rows.T)
    ]
    return pa.record_batch([pa.array(column, pa.float32()) for column in cells], names=["age", "load", "sex"])


def null_lists(lists_of_numbers):
    """Return lists, some of which or of whose numbers are None, as a record batch."""
    return pa.record_batch([pa.array(lists_of_numbers, pa.list_(pa.float32(), 3))], names=["x"])


@pytest.mark.parametrize(
    ("batches", "found"),
    [
        ([with_nulls(ROWS, {(1, 1)})], "instances[1][0]: expected a number, received null."),
        ([with_nulls(ROWS, {(0, 2)})], "context[0][1]: expected a number, received null."),
        ([with_nulls(ROWS, {(1, 0)})], "context[1][0]: expected a number, received null."),
        ([with_nulls(ROWS, set()), with_nulls(ROWS, {(0, 1)})], "instances[2][0]: expected a number, received null."),
        ([with_nulls(np.ones((20, 3)), {(17, 1), (18, 1)})], "instances[17][0]: expected a number, received null."),
        ([null_lists([[1, 2, 3], None])], "instances[1]: expected a list of numbers, received null."),
        ([null_lists([[1, 2, 3], [4, 5, None]])], "context[1][1]: expected a number, received null."),
        ([null_lists([[1, 2, 3]]), null_lists([[None, 2, 3]])], "instances[1][0]: expected a number, received null."),
        ([null_lists([[1, 2, 3]] * 9), null_lists([None])], "instances[9]: expected a list of numbers, received null."),
    ],
)
def test_null_is_refused_by_its_place_in_the_request(batches, found):
    """The row is counted over all batches, the column as the model has it, x and context apart."""
    with pytest.raises(InvalidArgumentError) as error:
        decode(stream(*batches), WITH_CONTEXT)
    assert found == error.value.message


def test_bits_that_say_that_all_is_there_change_nothing():
    """Some writers send the bits even where nothing is missing; those behind the last cell mean nothing."""
    bits = pa.py_buffer(b"\x03")
    arrays = [pa.Array.from_buffers(pa.float32(), 2, [bits, pa.py_buffer(column.tobytes())], 1) for column in ROWS.T]
    body = stream(pa.record_batch(arrays, names=list(NAMED.features)))
    with pytest.raises(InvalidArgumentError, match="message 1 of the Arrow stream: damaged"):
        decode(body)  # as it stands it claims a null that the bits have not
    honest = body.replace(np.int64([2, 1]).tobytes(), np.int64([2, 0]).tobytes())
    assert honest != body
    np.testing.assert_array_equal(ROWS, decode(honest), strict=True)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2), (0, 0, 0), (0, 2, 2)])
def test_columns_may_lie_in_any_order_in_the_body(order):
    """Each column's numbers are those that its own offset leads to."""
    body = stream(columns(ROWS, NAMED.features))
    layout = [number for position in (0, 1, 2) for number in (8 * position, 0, 8 * position, 8)]
    moved = patched(body, layout, [number for position in order for number in (0, 0, 8 * position, 8)])
    np.testing.assert_array_equal(ROWS[:, order], decode(moved), strict=True)
