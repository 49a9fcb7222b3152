"""`POST /score`: bodies, targets, outputs, headers, and every error that a caller can cause."""

import gzip
import io
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import orjson
import pyarrow as pa
import pytest

from service.codecs import json
from service.rest import wsgi
from service.rest.app import create_app
from service.rest.request import Head, Request
from tests.service.quadratic_versions import make_service
from tests.service.samples import total

ROWS = np.array([[1.0, 2.0, 3.0], [-1.0, 0.5, -0.0]], dtype=np.float32)
BODY = b'{"instances": [[1, 2, 3], [-1, 0.5, -0.0]]}'
OCTETS = "application/octet-stream"
NPY = "application/x-npy"
CSV = "text/csv"
ARROW = "application/vnd.apache.arrow.stream"


def npy(array):
    """Return an array as NumPy writes it."""
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def arrow(rows):
    """Return rows as pyarrow writes a stream of lists."""
    column = pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(rows).ravel()), rows.shape[1])
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, pa.schema([("x", column.type)])) as writer:
        writer.write_batch(pa.record_batch([column], names=["x"]))
    return sink.getvalue().to_pybytes()


@pytest.fixture
def service():
    """Return a service with versions 1 and 2 of the model m, both live, labels on them, and small limits."""
    service = make_service(max_request_rows=4, max_body_bytes=1 << 20)
    service.publish("m", 1)
    service.publish("m", 2)
    service.registry.set_labels("m", {"stable": 1, "canary": 2})
    service.registry.scanned()
    return service


@pytest.fixture
def client(service):
    """Return a client of the application."""
    return create_app(service.scorer, service.registry, service.metrics, service.settings).test_client()


def score(client, body=BODY, path="/models/m/score", **headers):
    """Post a body; `Content_Type="..."` is the header of that name."""
    return client.post(path, data=body, headers={name.replace("_", "-"): value for name, value in headers.items()})


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Content_Type": "application/json"},
        {"Content_Type": "application/json; charset=UTF-8"},
        {"Content_Type": "application/x-www-form-urlencoded"},
        {"Content_Type": "Application/JSON", "Content_Encoding": "identity"},
    ],
)
def test_json_is_answered_whatever_curl_says_it_is(client, headers):
    """JSON without a type, with its own, and with the one of a plain `curl -d` gets score and gradient."""
    response = score(client, path="/score", **headers)
    assert 200 == response.status_code
    assert "application/json" == response.content_type
    assert "2" == response.headers["X-Model-Version"]
    assert "X-Convexity" not in response.headers
    expected = {
        "model": "m",
        "version": 2,
        "score": [14.0, 1.25],
        "gradient": [[2.0, 4.0, 6.0], [-2.0, 1.0, -0.0]],
    }
    assert expected == response.json


def test_octets_are_answered_with_octets_when_accepted(client):
    """Float32 in, a table of float32 out: score, then gradient, row by row."""
    response = score(client, ROWS.tobytes(), Content_Type=OCTETS, Accept=OCTETS)
    expected = np.hstack([np.float32([[14.0], [1.25]]), 2 * ROWS])
    assert (200, OCTETS) == (response.status_code, response.content_type)
    assert expected.tobytes() == response.data


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        (OCTETS, OCTETS),
        ("application/json;q=0.5, application/octet-stream", OCTETS),
        ("application/*", "application/json"),
        ("*/*", "application/json"),
        ("text/html", "application/json"),
        ("", "application/json"),
        ("application/octet-stream;q=0", "application/json"),
        (NPY, NPY),
        ("application/x-npy, application/octet-stream;q=0.9", NPY),
        ("application/json, application/x-npy", "application/json"),
        ("text/csv", CSV),
        ("text/*", CSV),
        (ARROW, ARROW),
        ("Application/Vnd.Apache.Arrow.Stream; q=0.8, application/json;q=0.7", ARROW),
        (f"{ARROW};q=0, */*;q=0.1", "application/json"),
    ],
)
def test_answer_has_the_type_that_the_caller_accepts_best(client, accept, expected):
    """`Accept` chooses among the types that are offered; JSON where it chooses none."""
    assert expected == score(client, Accept=accept).content_type


def test_npy_is_answered_with_npy_when_accepted(client):
    """A `.npy` body of either order and float type gets the table of float32 columns that NumPy reads."""
    expected = np.hstack([np.float32([[14.0], [1.25]]), 2 * ROWS])
    for rows in (ROWS, np.asfortranarray(ROWS), ROWS.astype(np.float64)):
        response = score(client, npy(rows), Content_Type=NPY, Accept=NPY)
        assert (200, NPY) == (response.status_code, response.content_type)
        answer = np.load(io.BytesIO(response.data), allow_pickle=False)
        np.testing.assert_array_equal(expected, answer, strict=True)
    alone = score(client, npy(ROWS), path="/score?outputs=score", Content_Type=NPY, Accept=NPY)
    assert [[14.0], [1.25]] == np.load(io.BytesIO(alone.data)).tolist()
    assert (0, 4) == np.load(io.BytesIO(score(client, npy(ROWS[:0]), Content_Type=NPY, Accept=NPY).data)).shape


@pytest.mark.parametrize("kind", [CSV, "text/csv; charset=utf-8", "TEXT/CSV; header=present"])
def test_csv_is_answered_with_csv_when_accepted(client, kind):
    """Rows by name in another order get a header and a line of score and gradient each."""
    response = score(client, b"area,radius,texture\n3,1,2\n-0.0,-1,0.5\n", Content_Type=kind, Accept=CSV)
    assert (200, CSV) == (response.status_code, response.content_type)
    expected = "score,gradient_radius,gradient_texture,gradient_area\n14.0,2.0,4.0,6.0\n1.25,-2.0,1.0,-0.0\n"
    assert expected == response.text
    late = score(client, b"radius,texture,area\n1,2,3\n4,,6\n", Content_Type=kind)
    assert (400, "INVALID_ARGUMENT") == (late.status_code, late.json["error"]["code"])
    assert "line 3, column 2: expected a number, it is empty." == late.json["error"]["message"]
    assert 415 == score(client, b"1,2,3\n", Content_Type="text/csv; charset=utf-16").status_code


@pytest.mark.parametrize("kind", [ARROW, "Application/Vnd.Apache.Arrow.Stream", f"{ARROW}; charset=binary"])
def test_arrow_is_answered_with_arrow_when_accepted(client, kind):
    """A stream gets a stream with the columns that are asked for; a damaged one is refused."""
    for num_rows in (2, 0):
        response = score(client, arrow(ROWS[:num_rows]), Content_Type=kind, Accept=ARROW)
        assert (200, ARROW) == (response.status_code, response.content_type)
        table = pa.ipc.open_stream(response.data).read_all()
        expected = {"score": [14.0, 1.25][:num_rows], "gradient": (2 * ROWS[:num_rows]).tolist()}
        assert expected == table.to_pydict()
    alone = score(client, arrow(ROWS), path="/score?outputs=gradient", Content_Type=kind, Accept=ARROW)
    assert ["gradient"] == pa.ipc.open_stream(alone.data).read_all().column_names
    damaged = arrow(ROWS).replace(np.int64([2, 0, 6, 0]).tobytes(), np.int64([2, 1, 6, 0]).tobytes())
    late = score(client, damaged, Content_Type=kind)
    assert (400, "INVALID_ARGUMENT") == (late.status_code, late.json["error"]["code"])
    assert "message 1 of the Arrow stream: damaged" in late.json["error"]["message"]
    assert 413 == score(client, arrow(np.ones((5, 3), np.float32)), Content_Type=kind).status_code


@pytest.mark.parametrize("encoding", ["gzip", "GZIP", "x-gzip"])
@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (BODY, "application/json"),
        (ROWS.tobytes(), OCTETS),
        (npy(ROWS), NPY),
        (b"1,2,3\n-1,.5,-0\n", CSV),
        (arrow(ROWS), ARROW),
    ],
    ids=["json", "raw", "npy", "csv", "arrow"],
)
def test_compressed_body_is_answered_as_the_body_itself(client, body, kind, encoding):
    """Gzip around any of the body forms changes nothing of the answer."""
    plain = score(client, body, Content_Type=kind)
    assert 200 == plain.status_code
    assert plain.data == score(client, gzip.compress(body), Content_Type=kind, Content_Encoding=encoding).data


def test_large_bodies_are_read_one_at_a_time_and_small_ones_beside_them():
    """While a large document is read, another one waits until its deadline; what does not grow waits for nothing."""
    service = make_service()
    service.publish("m", 1)
    client = create_app(service.scorer, service.registry, service.metrics, service.settings).test_client()
    large = orjson.dumps({"instances": np.zeros((30_000, 3)).tolist()})
    assert 200 == score(client, large).status_code
    reading, done = threading.Event(), threading.Event()

    def read_slowly(instances, signature, **_):
        reading.set()
        assert done.wait(20)
        return np.zeros((len(instances), signature.dim))

    with ThreadPoolExecutor(1) as pool, pytest.MonkeyPatch.context() as patch:
        patch.setattr(json, "decode_rows", read_slowly)
        first = pool.submit(lambda: score(client, large).status_code)
        assert reading.wait(20)
        late = [
            score(client, body, X_Request_Timeout="0.05", **headers)
            for body, headers in ((large, {}), (gzip.compress(large), {"Content_Encoding": "gzip"}))
        ]
        beside = score(client, np.zeros((60_000, 3), np.float32).tobytes(), Content_Type=OCTETS).status_code
        done.set()
        assert 200 == first.result(20)
    assert [(504, "DEADLINE_EXCEEDED")] * 2 == [(one.status_code, one.json["error"]["code"]) for one in late]
    assert 200 == beside
    assert 200 == score(client, large, X_Request_Timeout="20").status_code
    service.registry.close()


def test_large_body_that_is_refused_gives_its_turn_back(client):
    """After every way in which a large document ends, the next one is read."""
    large = b'{"instances": [[1, 2, 3]]' + b" " * (1 << 19) + b"}"
    wrong = large.replace(b"3", b"x")
    for body, path, status in (
        (wrong, "/score", 400),
        (large, "/score?version=7", 404),
        (large, "/models/n/score", 404),
    ):
        assert status == score(client, body, path).status_code
        assert 200 == score(client, large, X_Request_Timeout="5").status_code


def test_both_bodies_and_both_answers_hold_the_same_bits(client):
    """The same float32 rows by JSON and by octets get the same float32 answers by JSON and by octets."""
    rows = np.float32([[0.1, -1e-45, 3.3e18], [7.038531e-26, 16777217, -0.0], [1 / 3, 2e-38, 1e-20]])
    printed = orjson.dumps({"instances": rows}, option=orjson.OPT_SERIALIZE_NUMPY)
    tables = []
    text = b"".join(
        b",".join(repr(number).encode() for number in row) + b"\r\n" for row in orjson.loads(printed)["instances"]
    )
    for body, kind in ((printed, "application/json"), (rows.tobytes(), OCTETS), (text, CSV)):
        answer = score(client, body, Content_Type=kind).json
        tables.append(np.column_stack([answer["score"], answer["gradient"]]).astype(np.float32).tobytes())
        tables.append(score(client, body, Content_Type=kind, Accept=OCTETS).data)
        lines = score(client, body, Content_Type=kind, Accept=CSV).data.splitlines()[1:]
        tables.append(np.loadtxt(lines, np.float64, delimiter=",").astype(np.float32).tobytes())
    assert 1 == len(set(tables))
    assert 4 * 4 * 3 == len(tables[0])


@pytest.mark.parametrize(
    ("path", "fields", "version"),
    [
        ("/score", {}, 2),
        ("/score?version=1", {}, 1),
        ("/score", {"version": 1}, 1),
        ("/score?version=1", {"version": 1}, 1),
        ("/models/m/score?label=stable", {}, 1),
        ("/models/m/score", {"label": "stable"}, 1),
        ("/models/m/score?label=canary", {"label": "canary"}, 2),
    ],
)
def test_version_is_the_one_that_body_or_query_names(client, path, fields, version):
    """Version and label may stand in the body, in the query or, in agreement, in both; else the newest answers."""
    response = score(client, orjson.dumps({"instances": [[1, 2, 3]], **fields}), path)
    assert (200, version) == (response.status_code, response.json["version"])
    assert str(version) == response.headers["X-Model-Version"]


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/score?outputs=score", {}),
        ("/score", {"outputs": ["score"]}),
        ("/score?outputs=score", {"outputs": ["score"]}),
    ],
)
def test_outputs_are_those_that_body_or_query_name(client, path, fields):
    """Score alone is answered without a gradient."""
    response = score(client, orjson.dumps({"instances": [[1, 2, 3]], **fields}), path)
    assert ["model", "version", "score"] == list(response.json)
    assert (
        400
        == score(client, orjson.dumps({"instances": [], "outputs": ["gradient"]}), "/score?outputs=score").status_code
    )


def test_instances_by_feature_name_get_the_answer_of_their_row(client):
    """An object by feature name is its row."""
    named = b'{"instances": [{"area": 3, "texture": 2, "radius": 1}, [-1, 0.5, -0.0]]}'
    assert score(client).data == score(client, named).data


@pytest.mark.parametrize(("body", "kind"), [(b'{"instances": []}', "application/json"), (b"", OCTETS)])
def test_no_rows_get_empty_outputs_and_success(client, body, kind):
    """Zero rows are a request like any other."""
    response = score(client, body, Content_Type=kind)
    assert (200, [], []) == (response.status_code, response.json["score"], response.json["gradient"])


def test_unproved_version_says_so_on_every_answer(service, client):
    """A version without a proof is marked, whatever the form of the answer."""
    service.publish("loose", 1, proved=False)
    for accept in ("application/json", OCTETS):
        assert "unproved" == score(client, path="/models/loose/score", Accept=accept).headers["X-Convexity"]


def test_request_id_is_echoed_or_made_on_success_and_on_error(client):
    """The caller's id comes back as header and, in an error, in the body."""
    assert "night-7" == score(client, X_Request_ID="night-7").headers["X-Request-ID"]
    refused = score(client, b"{", X_Request_ID="night-8")
    assert ("night-8", "night-8") == (refused.headers["X-Request-ID"], refused.json["error"]["request_id"])
    assert 32 == len(score(client, X_Request_ID="x" * 100).headers["X-Request-ID"])


INVALID = (400, "INVALID_ARGUMENT")
NOT_FOUND = (404, "NOT_FOUND")
TOO_LARGE = (413, "INVALID_ARGUMENT")
UNSUPPORTED = (415, "INVALID_ARGUMENT")

DEEP = b'{"instances": ' + b"[" * 250_000 + b"]" * 250_000 + b"}"
LONG = b'{"instances": [[1, 2, ' + b"9" * 5000 + b"]]}"
TOO_MANY = orjson.dumps({"instances": [[1, 2, 3]] * 5})


@pytest.mark.parametrize(
    ("body", "path", "headers", "expected", "found"),
    [
        (
            b'{"instances": [[1, 2]]}',
            "/score",
            {},
            INVALID,
            "expected shape [n, 3] for model m version 2",
        ),
        (
            b'{"instances": [[1, 2, 3], [1, 2]]}',
            "/score",
            {},
            INVALID,
            "instances[1]: expected 3 numbers",
        ),
        (b'{"instances": [["1", 2, 3]]}', "/score", {}, INVALID, "instances[0][0]: expected a number"),
        (b'{"instances": [[true, 2, 3]]}', "/score", {}, INVALID, "received a boolean"),
        (b'{"instances": [[null, 2, 3]]}', "/score", {}, INVALID, "received null"),
        (b'{"instances": [[NaN, 2, 3]]}', "/score", {}, INVALID, "body: not JSON"),
        (b'{"instances": [[Infinity, 2, 3]]}', "/score", {}, INVALID, "body: not JSON"),
        (b'{"instances": [[1, 2, 1e39]]}', "/score", {}, INVALID, "instances[0][2] is infinite"),
        (b'{"instances": [[1, 2, 1e400]]}', "/score", {}, INVALID, "body: not JSON"),
        (b'{"instances": [[1, 2, 3], [1, 2, 1e30]]}', "/score", {}, (400, "OUT_OF_RANGE"), "instances[1]: score or"),
        (DEEP, "/score", {}, INVALID, "depth limit"),
        (LONG, "/score", {}, INVALID, "number is infinity"),
        (b'{"instances": [["\xff"]]}', "/score", {}, INVALID, "not valid UTF-8"),
        (b'{"instances": [["\\ud800"]]}', "/score", {}, INVALID, "surrogate"),
        (b"", "/score", {}, INVALID, "empty document"),
        (b"hello", "/score", {}, INVALID, "body: not JSON"),
        (b'{"instances": [[1, 2, 3]], "verison": 1}', "/score", {}, INVALID, "mean 'version'?"),
        (b'{"instances": [[1, 2, 3]], "outputs": ["scores"]}', "/score", {}, INVALID, "'scores'"),
        (BODY, "/score?outputs=score,score", {}, INVALID, "named twice"),
        (BODY, "/score?outputs=hessian", {}, INVALID, "unknown output 'hessian'"),
        (BODY, "/score?output=score", {}, INVALID, "Did you mean 'outputs'?"),
        (BODY, "/score?version=x", {}, INVALID, "version: expected a whole number"),
        (BODY, "/score?version=9223372036854775808", {}, INVALID, "version: expected a whole number"),
        (BODY, "/score?version=1&version=2", {}, INVALID, "given twice"),
        (BODY, "/score?version=1&label=stable", {}, INVALID, "version and label"),
        (b'{"instances": [], "version": 1}', "/score?version=2", {}, INVALID, "contradict"),
        (b'{"instances": [], "version": 1}', "/score?label=stable", {}, INVALID, "version and label"),
        (BODY, "/score?label=nightly", {}, INVALID, "no label 'nightly'"),
        (BODY, "/score?version=7", {}, NOT_FOUND, "version 7 of model m is not served"),
        (BODY, "/models/n/score", {}, NOT_FOUND, "no model 'n'"),
        (BODY, "/models/..%2f..%2fetc/score", {}, NOT_FOUND, ""),
        (BODY, "/models/%00/score", {}, NOT_FOUND, "no model"),
        (BODY, "/models/m/score/", {}, NOT_FOUND, "no such path"),
        (BODY, "//score", {}, NOT_FOUND, "no such path"),
        (BODY, "/v1/models/m:predict", {}, NOT_FOUND, "no such path"),
        (TOO_MANY, "/score", {}, TOO_LARGE, "received 5 instances, at most 4"),
        (b" " * (1 << 20) + BODY, "/score", {}, TOO_LARGE, "larger than 1048576 bytes"),
        (np.zeros(4, np.float32).tobytes(), "/score", {"Content_Type": OCTETS}, INVALID, "of 12 bytes"),
        (
            np.float32([1, np.nan, 3]).tobytes(),
            "/score",
            {"Content_Type": OCTETS},
            INVALID,
            "[0][1] is NaN",
        ),
        (np.float32([np.inf, 2, 3]).tobytes(), "/score", {"Content_Type": OCTETS}, INVALID, "infinite"),
        (np.zeros(15, np.float32).tobytes(), "/score", {"Content_Type": OCTETS}, TOO_LARGE, "at most 4"),
        (BODY, "/score", {"Content_Type": "text/plain"}, UNSUPPORTED, "received 'text/plain'"),
        (BODY, "/score", {"Content_Type": "text/tab-separated-values"}, UNSUPPORTED, "expected application/json"),
        (BODY, "/score", {"Content_Type": NPY}, INVALID, "not .npy"),
        (
            npy(np.zeros((2, 4))),
            "/score",
            {"Content_Type": NPY},
            INVALID,
            "expected shape [n, 3] for model m version 2",
        ),
        (npy(np.zeros(3)), "/score", {"Content_Type": NPY}, INVALID, "received [3]"),
        (npy(np.zeros((5, 3))), "/score", {"Content_Type": NPY}, TOO_LARGE, "received 5 instances, at most 4"),
        (npy(np.float64([[0, 1e39, 0]])), "/score", {"Content_Type": NPY}, INVALID, "[0][1] is infinite in float32"),
        (npy(np.int64([[0, 1, 0]])), "/score", {"Content_Type": NPY}, INVALID, "of type '<i8'"),
        (BODY, "/score", {"Content_Type": "multipart/form-data"}, UNSUPPORTED, "Content-Type"),
        (BODY, "/score", {"Content_Type": "application/json; charset=utf-16"}, UNSUPPORTED, "UTF-8"),
        (BODY, "/score", {"Content_Encoding": "gzip"}, INVALID, "not gzip"),
        (b"", "/score", {"Content_Encoding": "gzip"}, INVALID, "0 bytes are no whole gzip member"),
        (gzip.compress(b" " * (1 << 20) + BODY), "/score", {"Content_Encoding": "gzip"}, TOO_LARGE, "when expanded"),
        (gzip.compress(BODY), "/score", {"Content_Encoding": "gzip, gzip"}, UNSUPPORTED, "expected gzip or none"),
        (gzip.compress(BODY), "/score", {"Content_Encoding": "deflate"}, UNSUPPORTED, "received 'deflate'"),
        (BODY, "/score", {"Content_Encoding": "identity, br"}, UNSUPPORTED, "Content-Encoding"),
    ],
)
def test_bad_request_is_answered_in_the_form_of_the_contract(client, body, path, headers, expected, found):
    """Every bad input gets its status, its code and a located sentence in the one error form, never a 5xx."""
    response = score(client, body, path, **headers)
    assert expected == (response.status_code, response.json["error"]["code"])
    assert found in response.json["error"]["message"]
    assert {"code", "message", "request_id"} == set(response.json["error"])
    assert response.headers["X-Request-ID"] == response.json["error"]["request_id"]
    assert 300 > len(response.json["error"]["message"])


def test_default_model_is_asked_for_when_there_are_several(service, client):
    """With two models and no default, `POST /score` says which names there are; a named model goes on answering."""
    service.publish("other", 1)
    refused = score(client, path="/score")
    assert (400, "FAILED_PRECONDITION") == (refused.status_code, refused.json["error"]["code"])
    assert "m, other" in refused.json["error"]["message"]
    assert 200 == score(client, path="/models/other/score").status_code


def test_model_without_an_available_version_is_unavailable(service, client):
    """A model that is still loading is 503, and so is a server without any model."""
    service.registry.begin("late", 1)
    refused = score(client, path="/models/late/score")
    assert (503, "UNAVAILABLE") == (refused.status_code, refused.json["error"]["code"])
    empty = make_service()
    bare = create_app(empty.scorer, empty.registry, empty.metrics, empty.settings).test_client()
    refused = score(bare, path="/score")
    assert (503, "UNAVAILABLE") == (refused.status_code, refused.json["error"]["code"])


def test_client_data_is_never_repeated_beyond_forty_characters(client):
    """Whatever place of the request holds a long text, the answer shows at most forty characters of it."""
    secret = "s3cret" * 100
    long = secret[:41]
    answers = [
        score(client, orjson.dumps({"instances": [[secret, 2, 3]]})),
        score(client, orjson.dumps({secret: 1})),
        score(client, orjson.dumps({"instances": [{secret: 1}]})),
        score(client, orjson.dumps({"instances": [], "outputs": [secret]})),
        score(client, orjson.dumps({"instances": [], "label": secret})),
        score(client, secret.encode()),
        score(client, path=f"/score?version={secret}"),
        score(client, path=f"/score?{secret}=1"),
        score(client, path=f"/models/{secret}/score"),
        score(client, path=f"/{secret}"),
        score(client, Content_Type=f"text/{secret}"),
        score(client, Content_Encoding=secret),
    ]
    assert 12 == sum(answer.status_code in {400, 404, 415} for answer in answers)
    assert [] == [answer.data for answer in answers if long in answer.text]


def test_metrics_count_requests_rows_and_codes_of_known_models_only(service, client):
    """A success counts its rows under its model; a name that a caller made up makes no label."""
    score(client)
    score(client, b'{"instances": [[1, 2, 1e30]]}')
    score(client, path="/models/invented/score")
    text = service.metrics.render()
    answered = {"model": "m", "version": "2", "signature": "serving_default", "protocol": "rest"}
    assert 1 == total(text, "convex_requests_total", code="OK", **answered)
    assert 1 == total(text, "convex_requests_total", code="OUT_OF_RANGE", **answered)
    assert 1 == total(text, "convex_requests_total", code="NOT_FOUND", model="", version="", protocol="rest")
    assert 2 == total(text, "convex_rows_total", **answered)
    assert b"invented" not in text


@pytest.mark.parametrize(("path", "status"), [("/score", 200), ("/nothing", 404)])
def test_request_that_was_given_up_is_not_counted_again(service, path, status):
    """The server answered and counted it while its thread hung: what the thread says in the end is nobody's."""
    app = create_app(service.scorer, service.registry, service.metrics, service.settings)
    service.registry.set_labels("m", {})
    head = Head("POST", path.encode(), "1.1", [(b"host", b"x")], keep_alive=True, length=len(BODY))
    for is_given_up in (False, True):
        request = Request(head, True, BODY, len(BODY), is_complete=True, is_given_up=is_given_up)
        answer = wsgi.call(app, request, wsgi.Place("127.0.0.1", 8501, "10.0.0.9"), time.monotonic())
        assert f"{status}" == answer.status[:3]
        assert 1 == total(service.metrics.render(), "convex_requests_total")
        assert 0 == total(service.metrics.render(), "convex_requests_in_flight")
