"""The native JSON form: strict in, exact out."""

import json as stdlib_json

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from service.codecs import json
from service.errors import InvalidArgumentError
from service.signature import Signature

MAX_ROWS = 100
SIGNATURE = Signature("m", 3, dim=3, features=("radius", "texture", "area"))
NAMELESS = Signature("m", 3, dim=3)
FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)
ROWS = hnp.arrays(np.float32, st.tuples(st.integers(1, 4), st.just(3)), elements=FINITE)

# The one float32 whose shortest decimal a reader that goes through float64 rounds to its neighbour.
TIE = np.array([0x15AE43FD], dtype=np.uint32).view(np.float32)


def decode(body: bytes, signature: Signature = SIGNATURE) -> np.ndarray:
    """Return the rows of a whole body."""
    return json.decode_both(json.decode_request(body, MAX_ROWS), signature)


def bits(array: np.ndarray) -> list[int]:
    """Return float32 values as the integers that have the same bits."""
    return np.ascontiguousarray(array, dtype=np.float32).view(np.uint32).ravel().tolist()


@given(ROWS)
def test_decode_returns_the_same_float32_when_rows_are_printed_short_or_long(rows):
    """Rows printed as shortest float32 decimals and as the decimals of the doubles arrive with every bit."""
    short = orjson.dumps({"instances": rows}, option=orjson.OPT_SERIALIZE_NUMPY)
    long = orjson.dumps({"instances": rows.tolist()})
    assert bits(rows) == bits(decode(short)) == bits(decode(long))


@given(ROWS)
def test_encode_answer_reads_back_to_the_same_float32_by_any_json_reader(rows):
    """What is printed reads back to the same bits, minus zero and denormals too, by two parsers."""
    body = json.encode_answer(SIGNATURE, {"score": rows[:, 0], "gradient": rows})
    for document in (orjson.loads(body), stdlib_json.loads(body)):
        assert ("m", 3) == (document["model"], document["version"])
        assert bits(rows[:, 0]) == bits(np.array(document["score"], dtype=np.float64))
        assert bits(rows) == bits(np.array(document["gradient"], dtype=np.float64))


@pytest.mark.parametrize("sign", [1, -1])
def test_tie_keeps_its_bits_when_it_is_sent_and_when_it_is_answered(sign):
    """The one float32 that a shortest decimal loses on its way through float64 survives both ways."""
    rows = np.repeat(np.float32(sign) * TIE, 3).reshape(1, 3)
    shortest = b'{"instances": [[%s]]}' % b", ".join([str(sign * 7.038531e-26).encode()] * 3)
    answer = orjson.loads(json.encode_answer(SIGNATURE, {"gradient": rows}))
    assert bits(rows) == bits(decode(shortest))
    assert bits(rows) == bits(np.array(answer["gradient"], dtype=np.float64))
    assert bits(rows) != bits(np.full((1, 3), sign * 7.038531e-26))  # what a plain cast would have made of it


def test_encode_answer_prints_the_shortest_decimals():
    """A float32 is printed with the digits it needs, not with those of a double."""
    score = np.array([-0.0, 0.1, 1e-45, 3.4028235e38, 16777216.0], dtype=np.float32)
    expected = b'{"model":"m","version":3,"score":[-0.0,0.1,1e-45,3.4028235e+38,16777216.0]}'
    assert expected == json.encode_answer(SIGNATURE, {"score": score})


def test_encode_answer_prints_empty_lists_when_there_are_no_rows():
    """No instances in, empty outputs out."""
    outputs = {"score": np.empty(0, np.float32), "gradient": np.empty((0, 3), np.float32)}
    assert b'{"model":"m","version":3,"score":[],"gradient":[]}' == json.encode_answer(SIGNATURE, outputs)
    assert (0, 3) == decode(b'{"instances": []}').shape


def test_decode_takes_instances_by_feature_name_in_any_order():
    """An object is put into the order of the model's features, beside lists or alone."""
    body = b'{"instances": [{"area": 3, "radius": 1, "texture": 2.5}, [4, 5, 6]]}'
    assert [[1.0, 2.5, 3.0], [4.0, 5.0, 6.0]] == decode(body).tolist()


def test_decode_request_returns_every_field():
    """Fields are read with their types; the last of two equal keys wins."""
    body = (
        b'{"version": 1, "instances": [[1]], "outputs": ["score"], "label": "stable", "version": 9223372036854775807}'
    )
    expected = json.ScoreRequest([[1]], outputs=("score",), version=(1 << 63) - 1, label="stable")
    assert expected == json.decode_request(body, MAX_ROWS)
    assert json.ScoreRequest([], has_numbers_alone=True) == json.decode_request(b'{"instances": []}', MAX_ROWS)


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (b"", "body: not JSON"),
        (b"hello", "body: not JSON"),
        (b'{"instances": [[1, 2, 3]]} x', "body: not JSON: unexpected content"),
        (b'{"instances": [[1, 2, 3]]}\0', "body: not JSON"),
        (b'{"instances": [[1, 2, NaN]]}', "body: not JSON"),
        (b'{"instances": [[1, 2, Infinity]]}', "body: not JSON"),
        (b'{"instances": [[1, 2, -Infinity]]}', "body: not JSON"),
        (b'{"instances": [[1, 2, 1e400]]}', "body: not JSON: number is infinity"),
        (b'{"instances": [[1, 2, ' + b"9" * 5000 + b"]]}", "body: not JSON: number is infinity"),
        (b'{"instances": [["\xff\xfe"]]}', "body: not JSON: str is not valid UTF-8"),
        (b'{"instances": [["\\ud800"]]}', "body: not JSON: no low surrogate"),
        (b'\xef\xbb\xbf{"instances": []}', "body: not JSON: UTF-8 byte order mark"),
        ('{"instances": []}'.encode("utf-16"), "body: not JSON"),
        (b"[" * 250_000, "depth limit"),
        (b'{"instances": ' + b"[" * 900 + b"]" * 900 + b"}", "instances[0][0]: expected a number, received a list"),
        (b"[[1, 2, 3]]", "body: expected a JSON object, received a list"),
        (b"true", "body: expected a JSON object, received a boolean"),
        (b"null", "body: expected a JSON object, received null"),
        (b'{"instnaces": [[1, 2, 3]]}', "body: unknown field 'instnaces'. Did you mean 'instances'?"),
        (b'{"outputs": ["score"]}', "body: the field 'instances' is missing"),
        (b'{"instances": {"radius": 1}}', "instances: expected a list of instances, received an object"),
        (b'{"instances": "1,2,3"}', "instances: expected a list of instances, received a string"),
        (b'{"instances": null}', "instances: expected a list of instances, received null"),
        (b'{"instances": [1, 2, 3]}', "instances[0]: expected a list of 3 numbers or an object by feature name"),
        (b'{"instances": [[1, 2, 3], null]}', "instances[1]: expected a list of 3 numbers"),
        (b'{"instances": [[1, 2, 3], [1, 2]]}', "instances[1]: expected 3 numbers, received 2"),
        (b'{"instances": [[1, 2, 3], [1, 2, 3], []]}', "instances[2]: expected 3 numbers, received 0"),
        (b'{"instances": [[1, 2, true]]}', "instances[0][2]: expected a number, received a boolean"),
        (b'{"instances": [[1, 2, 3], [1, false, 3]]}', "instances[1][1]: expected a number, received a boolean"),
        (b'{"instances": [[1, "2", 3]]}', "instances[0][1]: expected a number, received a string"),
        (b'{"instances": [[null, 2, 3]]}', "instances[0][0]: expected a number, received null"),
        (b'{"instances": [[[1], [2], [3]]]}', "instances[0][0]: expected a number, received a list"),
        (b'{"instances": [[{}, 2, 3]]}', "instances[0][0]: expected a number, received an object"),
        (b'{"instances": [{"radius": 1, "texture": 2}]}', "instances[0]: the feature 'area' is missing"),
        (
            b'{"instances": [{"radius": 1, "texture": 2, "aera": 3}]}',
            "instances[0]: unknown feature 'aera'. Did you mean 'area'?",
        ),
        (
            b'{"instances": [[1, 2, 3], {"radius": 1, "texture": 2, "area": 3, "x": 4}]}',
            "instances[1]: unknown feature 'x'",
        ),
        (b'{"instances": [{"radius": "1", "texture": 2, "area": 3}]}', "instances[0][0]: expected a number"),
        (b'{"instances": [], "version": true}', "version: expected a whole number from 1 to 9223372036854775807"),
        (b'{"instances": [], "version": 0}', "version: expected a whole number"),
        (b'{"instances": [], "version": 1.0}', "version: expected a whole number"),
        (b'{"instances": [], "version": 9223372036854775808}', "version: expected a whole number"),
        (b'{"instances": [], "version": "3"}', "version: expected a whole number"),
        (b'{"instances": [], "version": null}', "version: expected a whole number"),
        (b'{"instances": [], "label": 3}', "label: expected a string, received a number"),
        (b'{"instances": [], "outputs": "score"}', "outputs: expected a list of output names, received a string"),
        (b'{"instances": [], "outputs": ["score", 1]}', "outputs[1]: expected the name of an output"),
    ],
)
def test_bad_body_is_refused_with_its_place(body, found):
    """Every malformed body is an InvalidArgumentError that says where and what, in little more than a line."""
    with pytest.raises(InvalidArgumentError) as refusal:
        decode(body)
    assert found in refusal.value.message
    assert len(refusal.value.message) < 250


def test_object_is_refused_when_the_model_has_no_feature_names():
    """Without feature names an object has no order, and the caller is told to send a list."""
    with pytest.raises(InvalidArgumentError, match=r"instances\[0\]: received an object, but model m version 3 has no"):
        decode(b'{"instances": [{"radius": 1}]}', NAMELESS)


def test_rows_of_one_wrong_width_are_left_to_the_signature():
    """Instances that agree with each other are an array; what it means for the model is said by `validate`."""
    rows = decode(b'{"instances": [[1, 2], [3, 4]]}')
    assert (2, 2) == rows.shape
    with pytest.raises(InvalidArgumentError, match=r"instances: expected shape \[n, 3\] for model m version 3"):
        SIGNATURE.validate(rows)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"instances": [[1, 2.5, -3e-2]]}', True),
        (b'{"version": 1, "instances": [[1]], "outputs": ["score", "gradient"]}', True),
        (b'{"label": "stable", "instances": [], "context": [[1]]}', True),
        (b'{"instances": [[[1]], [[]], [{}]]}', True),  # nor are these numbers, but no text, boolean or null
        (b'{"instances": [[1, "2", 3]]}', False),
        (b'{"instances": [[1, "", 3]]}', False),
        (b'{"instances": [[1, true, 3]]}', False),
        (b'{"instances": [[1, false, 3]]}', False),
        (b'{"instances": [[1, null, 3]]}', False),
        (b'{"instances": [{"a": 1}]}', False),
        (b'{"context": [["1"]], "instances": [[1]]}', False),
        (b'{"label": "null", "instances": [[1]]}', True),
        (b'{"label": "null", "instances": [[null]]}', False),
        (b'{"label": "a\\"b", "instances": [[1]]}', False),
        (b'{"label": "\\u0066", "instances": [[false]]}', False),
        (b'{"instances": [["1"]], "instances": [[1]]}', False),
        (b'{"instan\\u0063es": [[1]]}', False),
    ],
)
def test_request_of_numbers_alone_is_told_by_its_bytes(body, expected):
    """It is said only where no text, boolean or null can stand among the numbers, however the document is written."""
    assert expected is json.decode_request(body, MAX_ROWS).has_numbers_alone


@given(
    st.lists(
        st.lists(
            st.one_of(FINITE, st.integers(-9, 9), st.sampled_from(["", "1", True, False, None, [], [1.0], {}])),
            min_size=3,
            max_size=3,
        ),
        max_size=3,
    ),
    st.sampled_from([{}, {"outputs": ["score"]}, {"label": "true"}, {"version": 2, "label": "a"}]),
)
def test_rows_are_the_same_whether_their_kinds_are_known_or_looked_at(instances, fields):
    """What is left out of the look changes no row and no sentence of an error."""
    request = json.decode_request(orjson.dumps({**fields, "instances": instances}), MAX_ROWS)
    found = []
    for decode_them in (
        lambda: json.decode_both(request, SIGNATURE),
        lambda: json.decode_rows(request.instances, SIGNATURE),
    ):
        try:
            found.append(decode_them().tolist())
        except InvalidArgumentError as error:
            found.append(error.message)
    assert found[0] == found[1]


@pytest.mark.parametrize("number", ["1e39", "-1e39", "18446744073709551616", "1e308"])
def test_number_beyond_float32_is_decoded_and_then_refused_or_kept(number):
    """A JSON number is a float64 first; `validate` alone decides whether it fits float32."""
    rows = decode(f'{{"instances": [[0, 0, {number}]]}}'.encode())
    assert float(number) == rows[0, 2]
    if abs(rows[0, 2]) > 3.5e38:
        with pytest.raises(InvalidArgumentError, match=r"instances\[0\]\[2\] is infinite in float32"):
            SIGNATURE.validate(rows)


def test_unknown_name_is_shown_with_at_most_forty_of_its_characters():
    """A message never repeats more than forty characters of what the caller sent, nor a long list of ours."""
    with pytest.raises(InvalidArgumentError) as refusal:
        decode(orjson.dumps({"x" * 5000: 1}))
    assert "x" * 40 in refusal.value.message
    assert "x" * 41 not in refusal.value.message
    assert json.unknown_name("q", [f"f{i}" for i in range(100)]).endswith("f9, ....")
