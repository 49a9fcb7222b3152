"""The server's limits and its end."""

import threading

import grpc
import numpy as np
import pytest

from service.protos import tensorflow_serving as protos
from service.rpc.server import create_server
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
