"""The gRPC server around a service of closed-form versions, on a free port of the loopback interface."""

import contextlib
from collections.abc import Iterator

import grpc

from service.rpc.server import create_server
from tests.service.quadratic_versions import Service

STOP_SECONDS = 5.0


@contextlib.contextmanager
def serve(service: Service) -> Iterator[grpc.Channel]:
    """Serve until the block ends; yields a channel."""
    server = create_server(service.scorer, service.registry, service.metrics, service.settings)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    try:
        with grpc.insecure_channel(f"127.0.0.1:{port}", options) as channel:
            yield channel  # it connects at the first call, and is closed at once where nobody watches its state
    finally:
        server.stop(None).wait(STOP_SECONDS)
        service.registry.close()
