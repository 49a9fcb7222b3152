"""The server's limits and its end."""

import struct
import threading

import grpc
import numpy as np
import pytest

from service.protos import tensorflow_serving as protos
from service.rpc.server import create_server
from tests.chaos.raw_http2 import ACK, SETTINGS, Http2Client
from tests.service.quadratic_servers import serve
from tests.service.quadratic_versions import make_service

METHOD = "/tensorflow.serving.PredictionService/Predict"
TIMEOUT_SECONDS = 20.0


def request(num_rows, dim=3):
    """Return a Predict request of rows of ones."""
    message = protos.PredictRequest()
    message.model_spec.name = "m"
    tensor = message.inputs["x"]
    tensor.dtype = protos.DATA_TYPES["DT_FLOAT"]
    for size in (num_rows, dim):
        tensor.tensor_shape.dim.add(size=size)
    tensor.tensor_content = np.ones((num_rows, dim), np.float32).tobytes()
    return message.SerializeToString()


def test_message_of_many_mebibytes_is_answered_by_default():
    """Neither the 4 MiB of gRPC's defaults bind the request, nor the answer."""
    service = make_service()
    service.publish("m", 1, dim=400, features=())
    with serve(service) as channel:
        data = request(4000, dim=400)
        assert (6 << 20) < len(data)
        answer = protos.PredictResponse.FromString(channel.unary_unary(METHOD)(data, timeout=TIMEOUT_SECONDS))
    assert [200.0] * 4000 == list(answer.outputs["score"].float_val)


def test_message_over_the_limit_is_resource_exhausted():
    """A message larger than `--max-message-bytes` is refused without being parsed."""
    service = make_service(max_message_bytes=2048)
    live = service.publish("m", 1)
    with serve(service) as channel, pytest.raises(grpc.RpcError) as error:
        channel.unary_unary(METHOD)(request(200), timeout=TIMEOUT_SECONDS)
    assert "RESOURCE_EXHAUSTED" == error.value.code().name
    assert [] == live.engine.calls


def refusal(channel, data, **options):
    """Return the status that a Predict of these bytes ends with."""
    with pytest.raises(grpc.RpcError) as error:
        channel.unary_unary(METHOD)(data, timeout=TIMEOUT_SECONDS, **options)
    return error.value


def test_compressed_message_is_bounded_by_its_expanded_size():
    """64 MiB of zeros, sent as some 64 KiB, are refused at the limit of what they expand to; a small one is read."""
    service = make_service(max_message_bytes=1 << 20)
    live = service.publish("m", 1)
    with serve(service) as channel:
        error = refusal(channel, bytes(64 << 20), compression=grpc.Compression.Gzip)
        assert "RESOURCE_EXHAUSTED" == error.code().name
        assert [] == live.engine.calls
        channel.unary_unary(METHOD)(request(200), timeout=TIMEOUT_SECONDS, compression=grpc.Compression.Gzip)
        assert [200] == [num_rows for num_rows, _ in live.engine.calls]


@pytest.mark.parametrize(("num_bytes", "is_answered"), [(12 << 10, True), (18 << 10, False), (64 << 10, False)])
def test_metadata_is_bounded(num_bytes, is_answered):
    """16 KiB of metadata is the limit, for all alike: gRPC's default refuses by chance what is a little above it."""
    service = make_service()
    service.publish("m", 1)
    with serve(service) as channel:
        for _ in range(5):
            metadata = (("x-much", "y" * num_bytes),)
            if is_answered:
                assert channel.unary_unary(METHOD)(request(1), timeout=TIMEOUT_SECONDS, metadata=metadata)
            else:
                assert "RESOURCE_EXHAUSTED" == refusal(channel, request(1), metadata=metadata).code().name


def test_connection_announces_how_many_streams_it_takes():
    """128 streams at once, by the server's own settings (RFC 9113, 6.5.2); no more are opened by a sound client."""
    service = make_service()
    server = create_server(service.scorer, service.registry, service.metrics, service.settings)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    settings = {}
    with Http2Client(f"127.0.0.1:{port}") as client:
        while not settings:
            for kind, flags, _, payload in client.receive(TIMEOUT_SECONDS) or ():
                if kind == SETTINGS and not flags & ACK:
                    settings = dict(struct.iter_unpack(">HI", payload))
    server.stop(None).wait(TIMEOUT_SECONDS)
    assert 128 == settings[3]
    assert 16 << 10 == settings[6]


def test_health_is_answered_while_every_call_is_refused(wait_until):
    """With one thread that is held and no room beside it, Predict is refused and Check is answered."""
    service = make_service(grpc_threads=1, max_waiting_requests=0)
    live = service.publish("m", 1)
    service.registry.scanned()
    live.engine.gate.clear()
    with serve(service) as channel:
        try:
            held = channel.unary_unary(METHOD).future(request(1), timeout=TIMEOUT_SECONDS)
            wait_until(lambda: live.engine.calls)
            check = channel.unary_unary("/grpc.health.v1.Health/Check")
            for _ in range(20):
                assert "RESOURCE_EXHAUSTED" == refusal(channel, request(1)).code().name
                assert b"\x08\x01" == check(b"", timeout=TIMEOUT_SECONDS)
        finally:
            live.engine.gate.set()
        held.result(TIMEOUT_SECONDS)


def test_reflection_is_not_offered():
    """Nobody can list services and messages."""
    service = make_service()
    with serve(service) as channel:
        for name in ("grpc.reflection.v1alpha.ServerReflection", "grpc.reflection.v1.ServerReflection"):
            with pytest.raises(grpc.RpcError) as error:
                channel.unary_unary(f"/{name}/ServerReflectionInfo")(b"", timeout=TIMEOUT_SECONDS)
            assert "UNIMPLEMENTED" == error.value.code().name


def test_port_is_not_shared_with_a_second_server():
    """A port in use is refused, where gRPC's default would let two servers share it silently."""
    service = make_service()
    first, second = (
        create_server(service.scorer, service.registry, service.metrics, service.settings) for _ in range(2)
    )
    port = first.add_insecure_port("127.0.0.1:0")
    first.start()
    with pytest.raises(RuntimeError):
        second.add_insecure_port(f"127.0.0.1:{port}")
    first.stop(None).wait(TIMEOUT_SECONDS)
    second.stop(None).wait(TIMEOUT_SECONDS)


def test_accepted_call_is_finished_when_the_server_stops():
    """A graceful stop answers what was accepted; a watcher of health does not hold it up."""
    service = make_service()
    live = service.publish("m", 1)
    entered, gate = threading.Event(), threading.Event()
    run = live.engine.run

    def held_up(rows, outputs):
        entered.set()
        gate.wait(TIMEOUT_SECONDS)
        return run(rows, outputs)

    live.engine.run = held_up
    server = create_server(service.scorer, service.registry, service.metrics, service.settings)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        watcher = channel.unary_stream("/grpc.health.v1.Health/Watch")(b"", timeout=TIMEOUT_SECONDS)
        next(watcher)
        call = channel.unary_unary(METHOD).future(request(1))
        assert entered.wait(TIMEOUT_SECONDS)
        service.registry.start_draining()
        stopped = server.stop(TIMEOUT_SECONDS)
        assert not stopped.is_set()
        gate.set()
        assert b"" != call.result(TIMEOUT_SECONDS)
        assert stopped.wait(TIMEOUT_SECONDS / 2)
