"""Deadlines, cancellation and a full queue over gRPC: the status of the contract, and nothing is computed."""

import grpc
import pytest

from service.protos import tensorflow_serving as protos
from tests.service.quadratic_servers import serve
from tests.service.quadratic_versions import make_service
from tests.service.samples import total

SECONDS = 20.0


@pytest.fixture
def service():
    """Return a service with one live version, whose engine is held, and room for 4 rows."""
    service = make_service(max_queue_rows=4, request_timeout_seconds=SECONDS)
    live = service.publish("m", 1)
    live.engine.gate.clear()
    return service


@pytest.fixture
def engine(service):
    """Return the engine; it is let go at the end."""
    with service.registry.acquire("m") as live:
        engine = live.engine
    yield engine
    engine.gate.set()


@pytest.fixture
def predict(service, engine):
    """Return `predict(number, timeout)`, which begins a call of one row [number, 0, 0]."""
    with serve(service) as channel:
        method = channel.unary_unary(
            "/tensorflow.serving.PredictionService/Predict",
            protos.PredictRequest.SerializeToString,
            protos.PredictResponse.FromString,
        )

        def begin(number, timeout=SECONDS):
            shape = {"dim": [{"size": 1}, {"size": 3}]}
            tensor = protos.TensorProto(dtype=1, tensor_shape=shape, float_val=[number, 0, 0])
            request = protos.PredictRequest(model_spec={"name": "m"}, inputs={"x": tensor})
            return method.future(request, timeout=timeout)

        yield begin
        engine.gate.set()


@pytest.fixture
def waiting(service):
    """Return how many rows wait or are computed."""
    statistics = service.metrics.batch_statistics("m", 1, ("score", "gradient"))
    return lambda: statistics.waiting_rows


def test_call_whose_deadline_passes_in_the_queue_is_not_computed(engine, predict, waiting, wait_until):
    """The caller reads DEADLINE_EXCEEDED, its row leaves the queue, and the engine never sees it."""
    first = predict(1)
    wait_until(lambda: engine.calls)
    late = predict(2, timeout=0.2)
    assert grpc.StatusCode.DEADLINE_EXCEEDED is late.exception(SECONDS).code()
    wait_until(lambda: waiting() == 1)
    last = predict(3)
    wait_until(lambda: waiting() == 2)
    engine.gate.set()
    assert [0.5, 4.5] == [call.result(SECONDS).outputs["score"].float_val[0] for call in (first, last)]
    assert [1, 3] == [row[0] for row in engine.rows]


def test_call_that_is_cancelled_in_the_queue_is_not_computed(service, engine, predict, waiting, wait_until):
    """Its row leaves the queue while the engine is still held, and is counted as dropped."""
    first = predict(1)
    wait_until(lambda: engine.calls)
    gone = predict(2)
    wait_until(lambda: waiting() == 2)
    gone.cancel()
    wait_until(lambda: waiting() == 1)
    engine.gate.set()
    assert 0.5 == first.result(SECONDS).outputs["score"].float_val[0]
    assert [1] == [row[0] for row in engine.rows]
    wait_until(lambda: total(service.metrics.render(), "convex_requests_total", code="CANCELLED", model="m") == 1)
    dropped = {"model": "m", "version": "1", "outputs": "score,gradient", "reason": "cancelled"}
    assert 1 == total(service.metrics.render(), "convex_dropped_rows_total", **dropped)


def test_call_that_finds_the_queue_full_is_refused_at_once(engine, predict, waiting, wait_until):
    """RESOURCE_EXHAUSTED while the engine is held, with the pause that gRPC's own retries obey."""
    calls = [predict(1)]
    wait_until(lambda: engine.calls)
    for number in (2, 3, 4):
        calls.append(predict(number))
        wait_until(lambda number=number: waiting() == number)
    refused = predict(5).exception(SECONDS)
    assert (grpc.StatusCode.RESOURCE_EXHAUSTED, "the queue is full: 4 rows (48 bytes) wait") == (
        refused.code(),
        refused.details().partition(",")[0],
    )
    assert 1 <= int(dict(refused.trailing_metadata())["grpc-retry-pushback-ms"])
    engine.gate.set()
    assert [0.5, 2.0, 4.5, 8.0] == [call.result(SECONDS).outputs["score"].float_val[0] for call in calls]


def test_call_without_a_deadline_has_the_servers(wait_until):
    """A server that gives a millisecond answers DEADLINE_EXCEEDED to who sets no deadline and has to wait."""
    service = make_service(request_timeout_seconds=0.001)
    engine = service.publish("m", 1).engine
    engine.gate.clear()
    with serve(service) as channel:
        method = channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
        tensor = protos.TensorProto(dtype=1, tensor_shape={"dim": [{"size": 1}, {"size": 3}]}, float_val=[1, 0, 0])
        request = protos.PredictRequest(model_spec={"name": "m"}, inputs={"x": tensor}).SerializeToString()
        try:
            first = method.future(request, timeout=SECONDS)
            wait_until(lambda: engine.calls)
            assert grpc.StatusCode.DEADLINE_EXCEEDED is method.future(request).exception(SECONDS).code()
        finally:
            engine.gate.set()
        first.result(SECONDS)
    assert 1 == len(engine.calls)
