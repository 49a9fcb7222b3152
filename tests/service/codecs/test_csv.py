"""CSV bodies: what a spreadsheet writes is read, by name or by place, and every fault is told by its line."""

import csv as text
import io
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.codecs import csv
from service.errors import InvalidArgumentError, PayloadTooLargeError
from service.signature import Signature

NAMED = Signature("m", 1, 3, ("radius", "texture", "area, worst"))
NAMELESS = Signature("m", 1, 3, made_elsewhere=True)
WITH_CONTEXT = Signature("m", 1, 1, ("x",), context_dim=2, context_features=("age", "sex"))
FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)


def decode(body, signature=NAMED, max_rows=100):
    """Return the rows of a text."""
    return csv.decode_rows(body.encode(), signature, max_rows)


@pytest.mark.parametrize(
    "body",
    [
        "1,2,3\n4,5,6\n",
        "1,2,3\r\n4,5,6",
        "\ufeff1,2,3\n4,5,6\n",
        ' 1 ,"2",3\n\n4,5e0,6.0\n',
        'radius,texture,"area, worst"\n1,2,3\n4,5,6\n',
        '"area, worst", texture ,radius\n3,2,1\n6,5,4\n',
    ],
)
def test_decode_rows_reads_rows_by_place_or_by_name(body):
    """Line ends, quotes, blanks, a byte-order mark and a header in any order do not change the rows."""
    np.testing.assert_array_equal([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], decode(body), strict=True)


def test_decode_rows_puts_the_context_behind_x():
    """Columns of the context are found by their names too."""
    rows = decode("sex,x,age\n2,0.5,59\n", WITH_CONTEXT)
    np.testing.assert_array_equal([[0.5, 59.0, 2.0]], rows, strict=True)


def test_header_of_a_model_without_names_says_nothing():
    """Where a model has no names a header is passed over."""
    np.testing.assert_array_equal([[1.0, 2.0, 3.0]], decode("a,b,c\n1,2,3\n", NAMELESS), strict=True)


@pytest.mark.parametrize("body", ["", "\n\n", 'radius,texture,"area, worst"\n'])
def test_body_without_rows_has_none(body):
    """No lines, or a header alone, are a table of no rows."""
    assert (0, 3) == decode(body).shape


@given(st.lists(st.tuples(FLOATS, FLOATS, FLOATS), max_size=8))
def test_every_float32_comes_back_bit_for_bit_from_its_shortest_decimal(rows):
    """What `encode_answer` prints of float32 is read back, here, as the same float32."""
    gradient = np.array(rows, np.float32).reshape(-1, 3)
    printed = csv.encode_answer(NAMED, {"gradient": gradient})
    renamed = printed.replace(b"gradient_", b"")
    read = csv.decode_rows(renamed, NAMED, 100).astype(np.float32)
    assert gradient.tobytes() == read.tobytes()


def test_encode_answer_is_what_a_reader_of_csv_expects():
    """A header, then a line for each row, in the order of the wire; names with commas are quoted."""
    outputs = {
        "score": np.array([0.1, 3e38], np.float32),
        "gradient": np.array([[1, 2, 3], [-0.0, 1e-45, 7.038531e-26]], np.float32),
        "support": np.array([1, 0.5], np.float32),
    }
    outputs["gradient"][1, 2] = np.uint32(0x15AE43FD).view(np.float32)
    header, *lines = text.reader(io.StringIO(csv.encode_answer(NAMED, outputs).decode(), newline=""))
    assert ["score", "gradient_radius", "gradient_texture", "gradient_area, worst", "support"] == header
    expected = np.column_stack(list(outputs.values()))
    assert expected.tobytes() == np.array(lines, np.float64).astype(np.float32).tobytes()
    assert b"score\n" == csv.encode_answer(NAMED, {"score": np.empty(0, np.float32)})
    assert b"gradient_x0,gradient_x1,gradient_x2\n" == csv.encode_answer(NAMELESS, {"gradient": np.empty((0, 3))})


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ("1,2,3\n4,5\n", "line 2: received 2 cells, expected 3"),
        ("1,2,3\n4,,6\n", "line 2, column 2: expected a number, it is empty"),
        ("1,2,3\n4,many,6\n", "line 2, column 2: expected a number, received 'many'"),
        ("1,2,3\n1_0,2,3\n", "line 2, column 1: expected a number, received '1_0'"),
        ("radius,texture,area\n1,2,3\n", r"line 1: unknown column 'area'\. .*Known: radius"),
        ("radius,texture\n1,2\n", "line 1: the column 'area, worst' is missing"),
        ("radius,texture,radius\n1,2,3\n", "line 1: the column 'radius' is there twice"),
        ('1,2,"3\n', "line 1 is not CSV"),
        ('1,2,"3"4\n', "line 1 is not CSV"),
        ("1;2;3\n", "line 1: unknown column '1;2;3'"),
        ("1" * 200_000, "a line of 65728 characters or more"),
        ("1," * 200_000, "a line of 65728 characters or more"),
        (f'"{"1" * 40_000}\n{"1" * 60_000}\n{"1" * 60_000}",2,3', "line .* is not CSV"),
    ],
)
def test_decode_rows_tells_a_fault_by_its_line(body, why):
    """Ragged lines, words, columns that are not the model's, and quotes that do not close are the caller's error."""
    with pytest.raises(InvalidArgumentError, match=why):
        decode(body)


@pytest.mark.parametrize("body", [b"\xff\xfe1\x00,", b"1,2,3\n4,\xe9,6\n", b"1,2,3\n\x80", b"\xef", b"\xef\xbb"])
def test_decode_rows_refuses_what_is_not_utf_8(body):
    """Another encoding is told, and nothing is guessed."""
    with pytest.raises(InvalidArgumentError, match="not UTF-8"):
        csv.decode_rows(body, NAMED, 100)


def test_decode_rows_stops_at_the_most_rows_of_a_request():
    """One row more than the limit is refused, with or without a header; as many as the limit are read."""
    for head in ("", 'radius,texture,"area, worst"\n'):
        assert (100, 3) == decode(head + "1,2,3\n" * 100).shape
        with pytest.raises(PayloadTooLargeError, match="more than 100 rows"):
            decode(head + "1,2,3\n" * 101)


def test_nan_and_infinity_are_left_to_the_check_of_rows():
    """Words that mean numbers which no row may hold become those numbers, which `validate` names by their place."""
    rows = decode("nan,inf,-1e39\n")
    assert [True, True, False] == (~np.isfinite(rows[0])).tolist()
    with pytest.raises(InvalidArgumentError, match=r"instances\[0\]\[0\] is NaN"):
        NAMED.validate(rows)


@pytest.mark.parametrize("body", [b"1,2,3\n" * 500_000, b"1," * 1_500_000, b'"' * 3_000_000, b"\n" * 3_000_000])
def test_memory_stays_a_few_times_the_body(body):
    """Three megabytes of anything take at most nine times as much."""
    tracemalloc.start()
    try:
        csv.decode_rows(body, NAMED, 1_000_000)
    except InvalidArgumentError:
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert 27e6 > peak
