"""Errors as answers: wrong paths and verbs, every class's status, and defects that tell nothing."""

import gc
import io
import json
import weakref

import pytest
from structlog.testing import capture_logs

from service import errors
from service.rest.app import create_app
from service.rest.failures import STATUSES, refusal
from tests.service.quadratic_versions import make_service
from tests.service.samples import total

BODY = b'{"instances": [[1, 2, 3]]}'


@pytest.fixture
def service():
    """Return a service with one live version."""
    service = make_service()
    service.publish("m", 1)
    return service


@pytest.fixture
def client(service):
    """Return a client of the application."""
    return create_app(service.scorer, service.registry, service.metrics, service.settings).test_client()


@pytest.mark.parametrize("path", ["/nothing", "/v1/models/m", "/v2", "/openapi.json", "/docs", "/static/x", "/score/"])
@pytest.mark.parametrize("verb", ["GET", "POST", "DELETE"])
def test_unknown_path_is_not_found_in_the_native_form(client, path, verb):
    """A path that is not offered is 404, whatever the verb."""
    response = client.open(path, method=verb)
    assert (404, "NOT_FOUND") == (response.status_code, response.json["error"]["code"])
    assert "X-Request-ID" in response.headers


@pytest.mark.parametrize(
    ("verb", "path", "allowed"),
    [
        ("GET", "/score", "POST"),
        ("PUT", "/score", "POST"),
        ("OPTIONS", "/score", "POST"),
        ("DELETE", "/models/m/score", "POST"),
        ("POST", "/models", "GET, HEAD"),
        ("POST", "/healthz", "GET, HEAD"),
        ("PATCH", "/metrics", "GET, HEAD"),
        ("BREW" * 100, "/score", "POST"),
    ],
)
def test_wrong_verb_is_refused_with_the_allowed_ones(client, verb, path, allowed):
    """A path that exists answers 405 with `Allow` to any other verb."""
    response = client.open(path, method=verb)
    assert (405, allowed) == (response.status_code, response.headers["Allow"])
    assert f"expected {allowed}" in response.json["error"]["message"]
    assert 100 > len(response.json["error"]["message"])


def test_every_code_has_an_http_status():
    """No code is without a status; those that the caller causes are below 500."""
    assert set(errors.ErrorCode) == set(STATUSES)
    ours = {code for code, status in STATUSES.items() if status >= 500}
    assert {"UNIMPLEMENTED", "UNAVAILABLE", "INTERNAL", "DEADLINE_EXCEEDED"} == ours


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (errors.InvalidArgumentError("m"), 400, "INVALID_ARGUMENT"),
        (errors.PayloadTooLargeError("m"), 413, "INVALID_ARGUMENT"),
        (errors.UnsupportedMediaTypeError("m"), 415, "INVALID_ARGUMENT"),
        (errors.OutOfRangeError("m"), 400, "OUT_OF_RANGE"),
        (errors.NotFoundError("m"), 404, "NOT_FOUND"),
        (errors.FailedPreconditionError("m"), 400, "FAILED_PRECONDITION"),
        (errors.UnavailableError("m"), 503, "UNAVAILABLE"),
        (errors.DeadlineExceededError("m"), 504, "DEADLINE_EXCEEDED"),
        (errors.ResourceExhaustedError("m"), 429, "RESOURCE_EXHAUSTED"),
        (errors.UnimplementedError("m"), 501, "UNIMPLEMENTED"),
    ],
)
def test_error_has_its_status_and_its_message(service, client, error, status, code):
    """Each class of the error tree becomes its HTTP status and its code, with its own words."""
    with service.registry.acquire("m") as live:
        live.engine.failure = error
    response = client.post("/score", data=BODY)
    assert (status, code, "m") == (
        response.status_code,
        response.json["error"]["code"],
        response.json["error"]["message"],
    )


@pytest.mark.parametrize(
    "failure", [RuntimeError("/secret/path weights=[0.1]"), errors.InternalError("/secret/path"), KeyError("x")]
)
def test_defect_tells_its_request_id_and_nothing_else(service, client, failure):
    """What went wrong inside is in the log under the request id; the caller sees that id alone."""
    with service.registry.acquire("m") as live:
        live.engine.failure = failure
    with capture_logs() as logs:
        response = client.post("/score", data=BODY, headers={"X-Request-ID": "id-1"})
    assert 500 == response.status_code
    expected = {"code": "INTERNAL", "message": "internal error, request_id=id-1", "request_id": "id-1"}
    assert {"error": expected} == response.json
    assert [("request failed", "id-1", repr(failure))] == [
        (line["event"], line["request_id"], repr(line["exc_info"])) for line in logs
    ]
    assert 1 == total(service.metrics.render(), "convex_requests_total", code="INTERNAL", model="m")


def test_defect_of_one_request_leaves_the_next_one_alone(service, client):
    """After a failure the version is still lent, and still answers."""
    with service.registry.acquire("m") as live:
        live.engine.failure = RuntimeError("once")
    with capture_logs():
        client.post("/score", data=BODY)
    live.engine.failure = None
    assert 200 == client.post("/score", data=BODY).status_code


class Input(io.BytesIO):
    """A body that can be watched."""


def circle():
    """Keep an error in a frame that it passed; what the frame holds besides is watched."""
    held = Input()
    try:
        raise errors.InvalidArgumentError("m")
    except errors.InvalidArgumentError as error:
        kept = [error]
    return weakref.ref(held), kept[0].args


@pytest.mark.parametrize("body", [b"{", b"[" * 100_000, b'{"instances": [[1, 2]]}', b'{"instances": [["x"]]}'])
def test_refused_body_is_free_once_it_has_its_answer(service, body):
    """No circle of an error, its traceback and its frames holds a body until the garbage collector comes."""
    app = create_app(service.scorer, service.registry, service.metrics, service.settings)
    statuses, gone = [], []
    gc.collect()
    gc.disable()
    try:
        for _ in range(2):  # what the first request makes for ever may hold circles of its own
            received = Input(body)
            environ = {"REQUEST_METHOD": "POST", "PATH_INFO": "/score", "wsgi.input": received}
            environ["CONTENT_LENGTH"] = str(len(body))
            b"".join(app(environ, lambda status, _headers: statuses.append(status)))
            watched = weakref.ref(received)
            del received, environ
            gone.append(watched() is None)
        assert circle()[0]() is not None  # so it would be
    finally:
        gc.enable()
    assert (["400 "] * 2, [True, True]) == ([status[:4] for status in statuses], gone)


@pytest.mark.parametrize(
    ("error", "status", "expected", "retry_after"),
    [
        (errors.InvalidArgumentError("m"), 431, 431, []),
        (errors.PayloadTooLargeError("m"), None, 413, []),
        (errors.ResourceExhaustedError("m", 2.2), None, 429, [("Retry-After", "3")]),
        (
            errors.ResourceExhaustedError("m", 0.0, refusal=errors.Refusal.CONNECTION_LIMIT),
            503,
            503,
            [("Retry-After", "1")],
        ),
        (errors.InternalError("secret"), None, 500, []),
    ],
)
def test_refusal_needs_no_application_and_has_the_form_of_every_error(error, status, expected, retry_after):
    """What the HTTP server refuses by itself is answered with the same headers and body, outside any request."""
    message = "internal error, request_id=id-1" if expected == 500 else "m"
    headers = [("Content-Type", "application/json"), ("X-Request-ID", "id-1"), *retry_after]
    body = {"error": {"code": error.code, "message": message, "request_id": "id-1"}}
    number, received, data = refusal(error, "id-1", status)
    assert (expected, headers, body) == (number, received, json.loads(data))
