"""What every call has: an id, a count, a status for whatever it raises."""

import threading

import grpc
import numpy as np
import pytest
from structlog.testing import capture_logs

from service import errors
from service.metrics import Metrics
from service.protos import tensorflow_serving as protos
from service.rpc import interceptors
from service.rpc.call_gate import CallGate
from service.rpc.server import create_server
from tests.service.quadratic_servers import serve
from tests.service.quadratic_versions import make_service
from tests.service.samples import total

METHOD = "/tensorflow.serving.PredictionService/Predict"
TIMEOUT_SECONDS = 10.0


@pytest.fixture
def service():
    """Return a service with one live version."""
    service = make_service()
    service.publish("m", 1)
    return service


@pytest.fixture
def channel(service):
    """Return a channel to the served service."""
    with serve(service) as channel:
        yield channel


def request(value=1.0):
    """Return a Predict request of one row."""
    message = protos.PredictRequest()
    message.model_spec.name = "m"
    tensor = message.inputs["x"]
    tensor.dtype = protos.DATA_TYPES["DT_FLOAT"]
    for size in (1, 3):
        tensor.tensor_shape.dim.add(size=size)
    tensor.tensor_content = np.full(3, value, np.float32).tobytes()
    return message.SerializeToString()


def refusal(channel, data=None, metadata=()):
    """Return the error that a call ends with."""
    with pytest.raises(grpc.RpcError) as error:
        channel.unary_unary(METHOD)(data or request(), timeout=TIMEOUT_SECONDS, metadata=metadata)
    return error.value


def test_request_id_is_echoed_or_made_on_success_and_on_error(channel):
    """The caller's id comes back as initial metadata, an unusable one is replaced, and an error has one too."""

    def id_of(call):
        return dict(call.initial_metadata())["x-request-id"]

    method = channel.unary_unary(METHOD)
    _, named = method.with_call(request(), timeout=TIMEOUT_SECONDS, metadata=(("x-request-id", "night-7"),))
    _, unusable = method.with_call(request(), timeout=TIMEOUT_SECONDS, metadata=(("x-request-id", "a b"),))
    assert ("night-7", 32) == (id_of(named), len(id_of(unusable)))
    assert "night-8" == id_of(refusal(channel, b"\xff", (("x-request-id", "night-8"),)))


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.InvalidArgumentError("m"), "INVALID_ARGUMENT"),
        (errors.PayloadTooLargeError("m"), "INVALID_ARGUMENT"),
        (errors.OutOfRangeError("m"), "OUT_OF_RANGE"),
        (errors.NotFoundError("m"), "NOT_FOUND"),
        (errors.FailedPreconditionError("m"), "FAILED_PRECONDITION"),
        (errors.UnavailableError("m"), "UNAVAILABLE"),
        (errors.UnimplementedError("m"), "UNIMPLEMENTED"),
    ],
)
def test_error_has_its_code_and_its_message(service, channel, error, code):
    """Each class of the error tree becomes the status of its code, with its own words."""
    with service.registry.acquire("m") as live:
        live.engine.failure = error
    received = refusal(channel)
    assert (code, "m") == (received.code().name, received.details())


def test_long_message_is_cut_as_tensorflow_serving_cuts_it(service, channel):
    """Words beyond 1024 characters are cut and marked."""
    with service.registry.acquire("m") as live:
        live.engine.failure = errors.NotFoundError("é" * 2000)
    assert "é" * 1024 + "...TRUNCATED" == refusal(channel).details()


@pytest.mark.parametrize(
    "failure", [RuntimeError("/secret/path weights=[0.1]"), errors.InternalError("/secret/path"), KeyError("x")]
)
def test_defect_tells_its_request_id_and_nothing_else(service, channel, failure):
    """What went wrong inside is in the log under the request id; the caller sees that id alone."""
    with service.registry.acquire("m") as live:
        live.engine.failure = failure
    with capture_logs() as logs:
        received = refusal(channel, metadata=(("x-request-id", "id-1"),))
    assert ("INTERNAL", "internal error, request_id=id-1") == (received.code().name, received.details())
    assert [("request failed", "id-1", repr(failure))] == [
        (line["event"], line["request_id"], repr(line["exc_info"])) for line in logs
    ]


def test_metrics_count_calls_rows_and_codes(service, channel, wait_until):
    """A success counts its rows under its model, a failure its code."""
    channel.unary_unary(METHOD)(request(), timeout=TIMEOUT_SECONDS)
    refusal(channel, request(1e30))
    refusal(channel, b"\xff")

    def counted(**labels):
        return total(service.metrics.render(), "convex_requests_total", protocol="grpc", **labels)

    wait_until(lambda: counted(code="INVALID_ARGUMENT", model="", version="") == 1)
    answered = {"model": "m", "version": "1", "signature": "serving_default"}
    assert (1, 1) == (counted(code="OK", **answered), counted(code="OUT_OF_RANGE", **answered))
    assert 1 == total(service.metrics.render(), "convex_rows_total", protocol="grpc", **answered)
    assert 0 == total(service.metrics.render(), "convex_requests_in_flight", protocol="grpc")


def test_caller_that_went_away_is_no_defect(service, channel, wait_until):
    """A call cancelled while it computes is counted as CANCELLED, and nothing is logged as failed."""
    entered, gate = threading.Event(), threading.Event()
    with service.registry.acquire("m") as live:
        run = live.engine.run

    def held_up(rows, outputs):
        entered.set()
        gate.wait(TIMEOUT_SECONDS)
        return run(rows, outputs)

    live.engine.run = held_up
    with capture_logs() as logs:
        call = channel.unary_unary(METHOD).future(request())
        assert entered.wait(TIMEOUT_SECONDS)
        call.cancel()
        # Let go only when the server has heard of it: the answer would be in time otherwise.
        wait_until(call.cancelled)
        channel.unary_unary("/tensorflow.serving.ModelService/GetModelStatus").future(b"").exception(TIMEOUT_SECONDS)
        gate.set()
        wait_until(lambda: total(service.metrics.render(), "convex_requests_total", code="CANCELLED", model="m") == 1)
    assert [] == logs


def test_call_is_told_with_version_signature_rows_sizes_and_times(service, wait_until):
    """Everything that the metrics and the access log need is there: the sizes are those of the messages."""
    told = []
    service.metrics = Metrics(told.append)
    data = request()
    with serve(service) as channel:
        answer = channel.unary_unary(METHOD)(data, timeout=TIMEOUT_SECONDS, metadata=(("x-request-id", "night-7"),))
        wait_until(lambda: told)
    (answered,) = told
    assert ("grpc", "OK", None, "Predict", METHOD, "night-7", "127.0.0.1") == (
        answered.protocol,
        answered.code,
        answered.status,
        answered.method,
        answered.path,
        answered.request_id,
        answered.peer,
    )
    assert ("m", 1, "serving_default", 1) == (
        answered.model,
        answered.version,
        answered.signature,
        answered.num_rows,
    )
    assert (len(data), len(answer)) == (answered.bytes_in, answered.bytes_out)
    assert 0.0 < answered.compute_seconds < answered.seconds < TIMEOUT_SECONDS


@pytest.mark.parametrize(
    ("spec", "code", "version", "signature"),
    [
        ({"name": "m", "signature_name": "score"}, "OK", 1, "score"),
        ({"name": "m", "signature_name": "secret"}, "FAILED_PRECONDITION", 1, ""),
        ({"name": "m", "version": {"value": 9}}, "NOT_FOUND", None, ""),
        ({"name": "other"}, "NOT_FOUND", None, ""),
    ],
)
def test_signature_is_the_one_that_the_call_names_where_there_is_one(
    service, wait_until, spec, code, version, signature
):
    """A name that no signature has is never told, and a call without a version has none."""
    told = []
    service.metrics = Metrics(told.append)
    message = protos.PredictRequest.FromString(request())
    message.model_spec.Clear()
    message.MergeFrom(protos.PredictRequest(model_spec=spec))
    with serve(service) as channel:
        channel.unary_unary(METHOD).future(message.SerializeToString(), timeout=TIMEOUT_SECONDS).exception()
        wait_until(lambda: told)
    assert [(code, spec["name"], version, signature)] == [
        (answered.code, answered.model, answered.version, answered.signature) for answered in told
    ]


def test_call_at_a_closed_gate_has_an_id_and_is_counted(service, wait_until):
    """What is refused because the server is about to end is told like every other call."""
    told = []
    metrics = Metrics(told.append)
    gate = CallGate()
    gate.close()
    server = create_server(service.scorer, service.registry, metrics, service.settings, gate)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            received = refusal(channel, metadata=(("x-request-id", "night-7"),))
            assert "night-7" == dict(received.initial_metadata())["x-request-id"]
            assert grpc.StatusCode.UNAVAILABLE is received.code()
            wait_until(lambda: told)
    finally:
        server.stop(None).wait(TIMEOUT_SECONDS)
    assert [("UNAVAILABLE", errors.Refusal.DRAINING)] == [(answered.code, answered.refusal) for answered in told]


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        ("ipv4:10.1.2.3:4711", "10.1.2.3"),
        ("ipv6:%5B::1%5D:4711", "::1"),
        ("ipv6:[fe80::1]:1", "fe80::1"),
        ("unix:", "unix"),
    ],
)
def test_peer_is_told_by_its_address_alone(peer, address):
    """The form of gRPC becomes the form that HTTP has."""
    assert address == interceptors._address(peer)
