"""What is told of every REST answer: its id, what is counted, what the access log gets."""

import threading

import orjson
import pytest
from structlog.testing import capture_logs

from service.metrics import Metrics
from service.rest.app import METRICS, create_app
from tests.service.quadratic_versions import make_service
from tests.service.samples import total

OCTETS = "application/octet-stream"


@pytest.fixture
def told():
    """Return the list that each answered request is put into."""
    return []


@pytest.fixture
def service(told):
    """Return a service with one live version."""
    service = make_service()
    service.metrics = Metrics(told.append)
    service.publish("m", 3)
    yield service
    service.registry.close()


@pytest.fixture
def app(service):
    """Return the application."""
    return create_app(service.scorer, service.registry, service.metrics, service.settings)


@pytest.fixture
def client(app):
    """Return a client of the application."""
    return app.test_client()


def body(**fields):
    """Return a JSON body of two rows."""
    return orjson.dumps({"instances": [[1, 2, 3], [0, 0, 1]], **fields})


def test_answer_is_told_with_version_rows_sizes_and_times(client, told):
    """Everything that the metrics and the access log need is there, and nothing of the query or the body."""
    data = body(outputs=["score"])
    response = client.post("/models/m/score?version=3", data=data, headers={"X-Request-ID": "night-7"})
    (answered,) = told
    assert ("rest", "OK", 200, "POST", "/models/m/score", "night-7", "127.0.0.1") == (
        answered.protocol,
        answered.code,
        answered.status,
        answered.method,
        answered.path,
        answered.request_id,
        answered.peer,
    )
    assert ("m", 3, "score", 2) == (answered.model, answered.version, answered.signature, answered.num_rows)
    assert (len(data), len(response.data)) == (answered.bytes_in, answered.bytes_out)
    assert 0.0 == answered.queue_seconds
    assert 0.0 < answered.compute_seconds < answered.seconds < 20.0
    assert answered.refusal is None


@pytest.mark.parametrize(
    ("fields", "query", "signature"),
    [
        ({}, "", "serving_default"),
        ({"outputs": ["gradient"]}, "", "serving_default"),
        ({"outputs": ["score", "gradient"]}, "", "serving_default"),
        ({"outputs": ["score"]}, "", "score"),
        ({}, "?outputs=score", "score"),
        ({"outputs": ["secret"]}, "", "serving_default"),
    ],
)
def test_signature_is_that_of_the_outputs_that_are_asked(client, told, fields, query, signature):
    """Two names, whatever a caller asks for."""
    client.post("/score" + query, data=body(**fields))
    assert [signature] == [answered.signature for answered in told]


@pytest.mark.parametrize(
    ("verb", "path", "code", "model"),
    [
        ("POST", "/models/m/score?version=9", "NOT_FOUND", "m"),
        ("POST", "/score?label=none", "INVALID_ARGUMENT", "m"),
        ("POST", "/models/other/score", "NOT_FOUND", "other"),
        ("GET", "/models/m/score", "INVALID_ARGUMENT", ""),
        ("GET", "/models", "OK", ""),
        ("POST", "/nothing", "NOT_FOUND", ""),
    ],
)
def test_request_without_a_version_is_told_with_the_model_that_it_names(client, told, verb, path, code, model):
    """Where no version was found there is none, and no signature; the model is the one that was asked for scores."""
    client.open(path, method=verb, data=body())
    assert [(code, model, None, "", 0)] == [
        (answered.code, answered.model, answered.version, answered.signature, answered.num_rows) for answered in told
    ]


def test_every_answer_has_a_request_id_that_the_log_has_too(client, service, told):
    """Success, error, defect, probe and page: the id of the answer is the one that is told."""
    with service.registry.acquire("m") as live:
        live.engine.failure = RuntimeError("once")
    with capture_logs():
        answers = [client.post("/score", data=body())]
    live.engine.failure = None
    answers += [client.post("/score", data=data) for data in (body(), b"{")]
    answers += [client.get(path) for path in ("/healthz", "/readyz", "/metrics", "/", "/nothing")]
    ids = [answer.headers["X-Request-ID"] for answer in answers]
    assert ids == [answered.request_id for answered in told]
    assert 8 == len(set(ids))
    assert {200, 400, 404, 500, 503} == {answer.status_code for answer in answers}


def test_request_is_in_flight_while_it_is_answered_and_no_longer(client, service):
    """The gauge is one inside a request, also in one that ends in a defect, and none afterwards."""
    seen = []

    def look(_rows, _outputs):
        seen.append(total(service.metrics.render(), "convex_requests_in_flight", protocol="rest"))
        raise RuntimeError

    with service.registry.acquire("m") as live:
        live.engine.run = look
    with capture_logs():
        assert 500 == client.post("/score", data=body()).status_code
    assert ([1.0], 0.0) == (seen, total(service.metrics.render(), "convex_requests_in_flight", protocol="rest"))


def test_server_finds_the_metrics_beside_the_application(app, service):
    """What the HTTP server refuses by itself is counted in the same place."""
    assert app.extensions[METRICS] is service.metrics


@pytest.mark.parametrize("path", ["/metrics", "/monitoring/prometheus/metrics"])
def test_both_paths_show_what_is_live_at_the_scrape(client, service, path):
    """States, newest version and labels are the registry's of this moment."""
    service.registry.set_labels("m", {"stable": 3})
    service.publish("m", 4)
    text = client.get(path).data
    assert (4, 3) == (total(text, "convex_newest_version", model="m"), total(text, "convex_label_version", model="m"))
    assert 2 == total(text, "convex_version_state", state="AVAILABLE")
    assert 0 == total(text, "convex_log_lines_dropped_total")
    client.post("/score", data=body())
    is_theirs = path.startswith("/monitoring")
    assert is_theirs == (total(client.get(path).data, ":tensorflow:serving:request_count") == 1)


def test_page_is_read_while_versions_come_and_go(client, service, wait_until):
    """No scrape fails while a version is published and its forerunner retired, and each shows one newest version."""
    newest = []
    stop = threading.Event()

    def read():
        while not stop.is_set():
            response = client.application.test_client().get("/metrics")
            newest.append((response.status_code, total(response.data, "convex_newest_version", model="m")))

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for version in range(4, 60):
        service.publish("m", version)
        client.post("/score", data=body())
        assert service.registry.retire("m", version - 1, 10.0)
        service.registry.sweep()
        if version % 10 == 0:  # the readers may be slower than the versions
            num_read = len(newest)
            wait_until(lambda num_read=num_read: len(newest) > num_read + 2)
    stop.set()
    for reader in readers:
        reader.join()
    assert {200} == {status for status, _ in newest}
    assert {number for _, number in newest} <= {float(version) for version in range(3, 60)}
    assert len({number for _, number in newest}) > 2
