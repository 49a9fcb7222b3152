"""Threads for calls with a bounded wait: who has no room is refused beside, while the others are held."""

import threading
import time
import types

import grpc
import pytest

from service.errors import ResourceExhaustedError
from service.protos import tensorflow_serving as protos
from service.rpc.call_threads import CallThreads, raise_if_refused
from service.rpc.server import create_server
from tests.chaos.raw_http2 import Http2Client
from tests.service.quadratic_servers import serve
from tests.service.quadratic_versions import make_service

SECONDS = 20.0


def answer():
    """Return what a call returns, unless it is refused."""
    raise_if_refused()
    return "answered"


@pytest.fixture
def gate():
    """Return an event that holds the calls."""
    return threading.Event()


@pytest.fixture
def threads(gate):
    """Return one thread for which one call may wait."""
    threads = CallThreads(1, 1, 30.0)
    yield threads
    gate.set()
    threads.shutdown()


def test_call_that_is_one_too_many_is_refused_while_the_others_are_held(threads, gate):
    """One runs, one waits, the third is told at once; afterwards there is room again, for both kinds of thread."""
    held = threads.submit(gate.wait, SECONDS)
    waits = threads.submit(answer)
    for _ in range(3):
        with pytest.raises(ResourceExhaustedError, match="too many requests"):
            threads.submit(answer).result(SECONDS)
    assert not waits.done()
    gate.set()
    assert (True, "answered") == (held.result(SECONDS), waits.result(SECONDS))
    assert "answered" == threads.submit(answer).result(SECONDS)


class Event:
    """What gRPC hands over with a call: its deadline, so many seconds from now by the wall clock, and its end."""

    def __init__(self, seconds=3600.0):
        self.call_details = types.SimpleNamespace(deadline=time.time() + seconds)
        self.call = self
        self.ended = threading.Event()

    def cancel(self):
        """End the call."""
        self.ended.set()


def test_call_is_refused_when_what_waits_takes_longer_than_it_has(gate):
    """Behind two calls of a second each, who has one second is refused, and who has an hour is not."""
    threads = CallThreads(1, 10, 30.0)
    threads._crowd.seconds_per_request = 1.0
    try:
        held = [threads.submit(gate.wait, SECONDS), threads.submit(gate.wait, SECONDS)]
        refused = threads.submit(lambda _event: answer(), Event(1.0))
        with pytest.raises(ResourceExhaustedError, match="what waits will take about 2 s"):
            refused.result(SECONDS)
        patient = [threads.submit(lambda _event: answer(), Event(seconds)) for seconds in (3600.0, 1e10)]
        gate.set()
        assert [True, True] == [future.result(SECONDS) for future in held]
        assert ["answered", "answered"] == [future.result(SECONDS) for future in patient]
    finally:
        gate.set()
        threads.shutdown()


def test_call_whose_message_does_not_come_is_ended_for_one_that_waits(wait_until):
    """A thread that waits for a message is freed when another call comes, one that computes as long is left alone."""
    threads = CallThreads(2, 10, 30.0, message_seconds=0.05)
    silent, computed = Event(), Event()
    gate = threading.Event()

    def compute(_event):
        raise_if_refused()
        return gate.wait(SECONDS)

    try:
        silence = threads.submit(lambda event: event.ended.wait(SECONDS), silent)
        computing = threads.submit(compute, computed)
        wait_until(lambda: [silent] == list(threads._silent))
        since = threads._silent[silent]
        wait_until(lambda: time.monotonic() > since + 0.05)
        assert not silence.done()
        assert "answered" == threads.submit(lambda _event: answer(), Event()).result(SECONDS)
        assert silence.result(SECONDS)
        assert not computed.ended.is_set()
        gate.set()
        assert computing.result(SECONDS)
        assert {} == threads._silent
    finally:
        gate.set()
        silent.ended.set()
        threads.shutdown()


def test_calls_of_heads_alone_do_not_keep_a_thread_for_ever(wait_until):
    """Over gRPC: a head without a message holds the one thread; when its time is over, the next call is answered."""
    service = make_service(grpc_threads=1, client_timeout_seconds=0.05)
    service.publish("m", 1)
    server = create_server(service.scorer, service.registry, service.metrics, service.settings)
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    threads = server._state.thread_pool
    try:
        with Http2Client(address) as client, grpc.insecure_channel(address) as channel:
            client.send(client.open("/tensorflow.serving.PredictionService/Predict"))
            since = next(iter(wait_until(lambda: list(threads._silent.values()))))
            wait_until(lambda: time.monotonic() > since + 0.05)
            predict = channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
            with pytest.raises(grpc.RpcError) as caught:
                predict(b"", timeout=SECONDS)
            assert grpc.StatusCode.INVALID_ARGUMENT is caught.value.code()
    finally:
        assert server.stop(None).wait(SECONDS)
        service.registry.close()


def test_server_refuses_calls_beyond_its_bound_and_answers_the_others(wait_until):
    """Over gRPC: one computed, one waiting, the third is RESOURCE_EXHAUSTED with a time to come again."""
    service = make_service(grpc_threads=1, max_waiting_requests=1)
    service.publish("m", 1)
    request = protos.PredictRequest(model_spec={"name": "m"})
    request.inputs["x"].CopyFrom(
        protos.TensorProto(dtype=1, tensor_shape={"dim": [{"size": 1}, {"size": 3}]}, float_val=[1, 2, 3])
    )
    with service.registry.acquire("m") as live:
        engine = live.engine
    with serve(service) as channel:
        predict = channel.unary_unary(
            "/tensorflow.serving.PredictionService/Predict",
            protos.PredictRequest.SerializeToString,
            protos.PredictResponse.FromString,
        )
        engine.gate.clear()
        try:
            kept = [predict.future(request, timeout=SECONDS)]
            wait_until(lambda: engine.calls)
            kept.append(predict.future(request, timeout=SECONDS))
            refused = predict.future(request, timeout=SECONDS)
            wait_until(lambda: any(call.done() for call in (kept[1], refused)))
            early, late = (refused, kept[1]) if refused.done() else (kept[1], refused)
            assert grpc.StatusCode.RESOURCE_EXHAUSTED is early.code()
            assert "grpc-retry-pushback-ms" in dict(early.trailing_metadata())
        finally:
            engine.gate.set()
        assert [7.0] == list(late.result(SECONDS).outputs["score"].float_val)
        assert [7.0] == list(kept[0].result(SECONDS).outputs["score"].float_val)
