"""The gRPC server: services, interceptor, limits. Not started and on no port yet.

Above: `worker`, which binds, starts and stops it. Below: the services and `health`.
"""

import grpc

from service.metrics import Metrics
from service.registry import Registry
from service.rpc.call_gate import CallGate
from service.rpc.call_threads import CallThreads
from service.rpc.health import HealthService
from service.rpc.interceptors import CallInterceptor
from service.rpc.model_service import ModelService
from service.rpc.prediction_service import PredictionService
from service.scorer import Scorer
from service.settings import Settings

_MAX_METADATA_BYTES = 16 << 10
_MAX_STREAMS = 128  # of one connection at once; a client's further calls wait on its own side
_MIN_PING_INTERVAL_MS = 10_000
_MAX_PING_STRIKES = 2
_IDLE_MS = 300_000  # a connection without a call for so long is closed; its client opens another one by itself
_HANDSHAKE_MS = 20_000
_KEEPALIVE_MS = 60_000  # so often the peer of a quiet connection is asked whether it is still there
_KEEPALIVE_TIMEOUT_MS = 20_000


def create_server(
    scorer: Scorer,
    registry: Registry,
    metrics: Metrics,
    settings: Settings,
    gate: CallGate | None = None,
    *,
    shares_port: bool = False,
) -> grpc.Server:
    """Return the server with every service that is offered; the caller binds a port, starts it and stops it.

    Who closes the gate before the stop spares callers a CANCELLED. Where the port is shared, other processes answer on
    it too: the system deals connections out among them.

    Threads are bounded by `settings.grpc_threads`, calls that wait for one by `settings.max_waiting_requests` and by
    their deadlines: one more is RESOURCE_EXHAUSTED at once. Health has its own threads and is counted in neither:
    gRPC's `maximum_concurrent_rpcs`, which would refuse it too, is not used. Connections have no greatest age: idle
    ones and those of peers that vanished are closed, and a busy one costs no more the longer it lives.
    """
    server = grpc.server(
        CallThreads(
            settings.grpc_threads,
            settings.max_waiting_requests,
            settings.request_timeout_seconds,
            settings.client_timeout_seconds,
        ),
        interceptors=[CallInterceptor(metrics, settings.request_timeout_seconds), gate or CallGate()],
        options=[
            ("grpc.max_receive_message_length", settings.max_message_bytes),  # of the expanded message
            ("grpc.max_send_message_length", settings.max_message_bytes),
            ("grpc.max_metadata_size", _MAX_METADATA_BYTES),
            ("grpc.absolute_max_metadata_size", _MAX_METADATA_BYTES),  # else above the other by chance
            ("grpc.max_concurrent_streams", _MAX_STREAMS),
            ("grpc.max_connection_idle_ms", _IDLE_MS),
            ("grpc.server_handshake_timeout_ms", _HANDSHAKE_MS),
            ("grpc.keepalive_time_ms", _KEEPALIVE_MS),
            ("grpc.keepalive_timeout_ms", _KEEPALIVE_TIMEOUT_MS),
            ("grpc.http2.min_recv_ping_interval_without_data_ms", _MIN_PING_INTERVAL_MS),
            ("grpc.http2.max_ping_strikes", _MAX_PING_STRIKES),
            ("grpc.so_reuseport", int(shares_port)),  # else a second server would share the port silently
        ],
    )
    server.add_generic_rpc_handlers(
        (
            PredictionService(scorer, registry, settings).handlers(),
            ModelService(registry).handlers(),
            HealthService(registry, settings).handlers(),
        )
    )
    return server
