"""`.npy` bodies: what NumPy writes comes back bit for bit, and nothing is believed that the bytes do not bear out."""

import io
import pickle
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from service.codecs import npy
from service.errors import InvalidArgumentError

ROWS = np.float32([[1.0, 2.0, 3.0], [-1.0, 0.5, -0.0]])
ARRAYS = st.one_of(
    hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=2, min_side=0, max_side=5)) for dtype in ("<f4", "<f8")
)


def saved(array, version=None):
    """Return an array as NumPy writes it."""
    file = io.BytesIO()
    np.lib.format.write_array(file, array, version=version)
    return file.getvalue()


def headed(head, data=b"\0" * 24, version=1):
    """Return a body with a head of one's own."""
    size = len(head).to_bytes(2 if version == 1 else 4, "little")
    return b"\x93NUMPY" + bytes([version, 0]) + size + head + data


@given(ARRAYS, st.sampled_from([(1, 0), (2, 0), (3, 0)]), st.booleans())
@pytest.mark.filterwarnings("ignore:Stored array in format:UserWarning")
def test_decode_rows_returns_every_bit_of_what_numpy_wrote(array, version, is_fortran):
    """Both float types, both orders, all three versions of the format and every shape up to a table."""
    array = np.asfortranarray(array) if is_fortran else array
    rows = npy.decode_rows(saved(array, version))
    assert (array.dtype, array.shape, array.tobytes()) == (rows.dtype, rows.shape, rows.tobytes())


@pytest.mark.parametrize(
    "head",
    [
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }",
        b"{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3)}\n",
        b'{"shape":(2,3),"fortran_order":False,"descr":"<f4"}',
        b"{ 'fortran_order' : False , 'shape' : ( 2 , 3 , ) , 'descr' : '<f4' , }    \n",
    ],
)
def test_decode_rows_takes_heads_that_other_writers_write(head):
    """Order, quotes, spaces and the last comma are free, as NumPy has it."""
    body = headed(head, ROWS.tobytes())
    np.testing.assert_array_equal(np.load(io.BytesIO(body)), npy.decode_rows(body), strict=True)
    np.testing.assert_array_equal(ROWS, npy.decode_rows(body), strict=True)


def head(descr="'<f4'", fortran="False", shape="(2, 3)"):
    """Return a head's text."""
    return f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, }}".encode()


REFUSED = {
    "empty": (b"", "does not begin with the format's mark"),
    "mark alone": (b"\x93NUMPY\1\0", "does not begin with the format's mark"),
    "other mark": (b"\x93NUMPZ\1\0\0\0\0\0", "does not begin with the format's mark"),
    "zip": (b"PK\3\4" + b"\0" * 40, "does not begin with the format's mark"),
    "version 0": (headed(head(), version=0), "a version from 1.0 to 3.0"),
    "version 4": (headed(head(), version=4), "a version from 1.0 to 3.0"),
    "version 1.1": (b"\x93NUMPY\1\1" + headed(head())[8:], "a version from 1.0 to 3.0"),
    "head cut off": (headed(head())[:30], "expected at most 4096 and as many as came"),
    "head of 4 GiB": (b"\x93NUMPY\2\0\xff\xff\xff\xff" + head(), "the .npy head claims 4294967295 bytes"),
    "head of 64 KiB": (headed(head() + b" " * 65000), "the .npy head claims"),
    "no length": (b"\x93NUMPY\2\0\1", "the .npy head"),
    "data cut off": (saved(ROWS)[:-1], "holds 23 bytes behind its head, expected 24"),
    "data too long": (saved(ROWS) + b"\0", "holds 25 bytes behind its head, expected 24"),
    "double of floats": (headed(head("'<f8'")), "holds 24 bytes behind its head, expected 48"),
    "object": (saved(np.array([[1.5, "x"]], dtype=object)), "of type '|O', expected '<f4' or '<f8'"),
    "pickle": (pickle.dumps(ROWS), "does not begin"),
    "void": (headed(head("'|V0'", shape="(1000000000, 3)"), b""), "of type '|V0'"),
    "text": (saved(np.array([["a", "b"]])), "of type '<U1'"),
    "half": (saved(ROWS.astype(np.float16)), "of type '<f2'"),
    "integers": (saved(ROWS.astype(np.int64)), "of type '<i8'"),
    "complex": (saved(ROWS.astype(np.complex64)), "of type '<c8'"),
    "big-endian": (saved(ROWS.astype(">f4")), "of type '>f4'"),
    "native": (headed(head("'f4'")), "of type 'f4'"),
    "structured": (saved(np.zeros(2, [("a", "<f4"), ("b", "<f8")])), "not that of an array of plain numbers"),
    "subarray": (headed(head("('<f4', (3,))", shape="(2,)")), "not that of an array of plain numbers"),
    "2^40 x 2^40": (headed(head(shape="(1099511627776, 1099511627776)")), "of shape (1099511627776, 1099511627776)"),
    "2^40 x 0": (headed(head(shape="(1099511627776, 0)"), b""), "of shape"),
    "2^31 - 1 rows": (headed(head(shape="(2147483647, 3)")), "expected 25769803764 for shape"),
    "number of 200 digits": (headed(head(shape="(" + "9" * 180 + ", 3)")), "of shape (9999"),
    "negative": (headed(head(shape="(-2, 3)")), "not that of an array of plain numbers"),
    "cube": (headed(head(shape="(2, 1, 3)")), "of shape (2, 1, 3), expected (n, dim)"),
    "no comma": (headed(head(shape="(2 3)")), "of shape (2 3)"),
    "leading zero": (headed(head(shape="(02, 3)")), "of shape (02, 3)"),
    "float size": (headed(head(shape="(2.0, 3)")), "not that of an array of plain numbers"),
    "list": (headed(head(shape="[2, 3]")), "not that of an array of plain numbers"),
    "order 0": (headed(head(fortran="0")), "not that of an array of plain numbers"),
    "no shape": (headed(b"{'descr': '<f4', 'fortran_order': False}"), "not that of an array of plain numbers"),
    "twice": (headed(head()[:-1] + b"'descr': '<f8'}"), "not that of an array of plain numbers"),
    "one more": (headed(head()[:-1] + b"'x': 1}"), "not that of an array of plain numbers"),
    "code": (headed(b"__import__('os').system('true')"), "not that of an array of plain numbers"),
    "deep": (headed(b"(" * 2000), "not that of an array of plain numbers"),
    "signs": (headed(b"-" * 4000 + b"1"), "not that of an array of plain numbers"),
    "zeros": (headed(b"\0" * 100), "not that of an array of plain numbers"),
    "entries": (headed(b"{" + b"'descr': '<f4', " * 12 + b"}"), "not that of an array of plain numbers"),
}


@pytest.mark.parametrize(("body", "found"), REFUSED.values(), ids=REFUSED)
def test_decode_rows_refuses_what_is_no_table_of_floats(body, found):
    """Every other file is refused in words that tell what is wrong, and no more than 40 characters of it."""
    with pytest.raises(InvalidArgumentError) as error:
        npy.decode_rows(body)
    assert found in error.value.message
    assert 250 > len(error.value.message)


@given(st.data())
def test_decode_rows_accepts_nothing_that_numpy_reads_otherwise(data):
    """With up to three bytes changed anywhere, a body is refused, or is the very array that NumPy reads from it."""
    body = bytearray(saved(ROWS))
    for place, value in data.draw(st.lists(st.tuples(st.integers(0, len(body) - 1), st.integers(0, 255)), max_size=3)):
        body[place] = value
    try:
        rows = npy.decode_rows(bytes(body))
    except InvalidArgumentError:
        return
    expected = np.load(io.BytesIO(bytes(body)), allow_pickle=False)
    assert (expected.shape, expected.dtype, expected.tobytes()) == (rows.shape, rows.dtype, rows.tobytes())


@pytest.mark.parametrize("name", ["2^31 - 1 rows", "void", "head of 4 GiB", "2^40 x 2^40", "deep"])
def test_decode_rows_takes_no_memory_for_what_a_head_claims(name):
    """A head that claims gigabytes is refused at the cost of a sentence."""
    tracemalloc.start()
    try:
        with pytest.raises(InvalidArgumentError):
            npy.decode_rows(REFUSED[name][0])
        assert 1 << 16 > tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_encode_answer_is_the_table_that_numpy_reads():
    """Score first, then the gradient's columns; float32, C order, two dimensions whatever was asked."""
    outputs = {"gradient": ROWS, "score": np.float32([7, 8])}
    expected = np.float32([[7, 1, 2, 3], [8, -1, 0.5, -0.0]])
    answer = npy.encode_answer(outputs)
    assert b"\x93NUMPY\1\0" == answer[:8]
    np.testing.assert_array_equal(expected, np.load(io.BytesIO(answer)), strict=True)
    np.testing.assert_array_equal(expected, npy.decode_rows(answer), strict=True)
    assert (2, 1) == npy.decode_rows(npy.encode_answer({"score": outputs["score"]})).shape
