"""`grpc.health.v1`: true at every moment, for Check and for Watch."""

import threading

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from service.rpc.health import HealthService
from tests.service.quadratic_servers import serve
from tests.service.quadratic_versions import make_service

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVICE_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
TIMEOUT_SECONDS = 10.0


@pytest.fixture
def service():
    """Return a service that requires the model m and has seen nothing yet."""
    return make_service(require_models=("m",), grpc_threads=1)


@pytest.fixture
def stub(service):
    """Return the stock stub of a served service."""
    with serve(service) as channel:
        yield health_pb2_grpc.HealthStub(channel)


def check(stub, name=""):
    """Return the status that Check gives, or the code it ends with."""
    try:
        return stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=TIMEOUT_SECONDS).status
    except grpc.RpcError as error:
        return error.code()


def watch(stub, name=""):
    """Return the stream of statuses."""
    return stub.Watch(health_pb2.HealthCheckRequest(service=name), timeout=TIMEOUT_SECONDS)


def test_check_follows_the_registry_from_start_to_drain(service, stub):
    """Each model and the whole are SERVING exactly as long as they can answer."""
    assert (NOT_SERVING, grpc.StatusCode.NOT_FOUND) == (check(stub), check(stub, "m"))
    service.registry.scanned()
    service.publish("other", 1)
    assert (NOT_SERVING, SERVING) == (check(stub), check(stub, "other"))
    service.registry.begin("m", 1)
    assert (NOT_SERVING, NOT_SERVING) == (check(stub), check(stub, "m"))
    service.registry.refuse("m", 1, "nonneg-matmul", "no")
    assert NOT_SERVING == check(stub, "m")
    service.publish("m", 2)
    assert (SERVING, SERVING) == (check(stub), check(stub, "m"))
    service.registry.start_draining()
    assert (NOT_SERVING, NOT_SERVING, NOT_SERVING) == (check(stub), check(stub, "m"), check(stub, "other"))


def test_watch_tells_every_change_and_ends_with_the_server(service, stub):
    """A watcher hears unknown, not serving, serving and, when the server is about to end, not serving and the end."""
    whole, model = watch(stub), watch(stub, "m")
    assert (NOT_SERVING, SERVICE_UNKNOWN) == (next(whole).status, next(model).status)
    service.registry.begin("m", 1)
    assert NOT_SERVING == next(model).status
    service.registry.refuse("m", 1, "nonneg-matmul", "no")
    service.publish("m", 2)
    assert SERVING == next(model).status
    service.registry.scanned()
    assert SERVING == next(whole).status
    service.registry.start_draining()
    assert [NOT_SERVING] == [response.status for response in whole]
    assert [NOT_SERVING] == [response.status for response in model]


def test_watchers_leave_the_threads_of_requests_alone(service, stub):
    """With one thread for requests and many watchers, a Check is answered and each watcher hears of the change."""
    service.registry.scanned()
    watchers = [watch(stub) for _ in range(20)]
    assert {NOT_SERVING} == {next(watcher).status for watcher in watchers}
    service.publish("m", 1)
    assert SERVING == check(stub)
    assert {SERVING} == {next(watcher).status for watcher in watchers}
    for watcher in watchers:
        watcher.cancel()


def test_change_never_waits_for_a_watcher_that_does_not_read(service):
    """Telling the registry's change touches no network: a watcher stuck in its send holds up nobody."""
    health = HealthService(service.registry, service.settings)
    stuck, entered = threading.Event(), threading.Event()

    class Context:
        """A call whose end nobody sees."""

        def add_callback(self, _callback):
            return True

        def is_active(self):
            return True

    def read_one_and_stop_reading():
        stream = health.watch(b"", Context())
        next(stream)
        entered.set()
        stuck.wait(TIMEOUT_SECONDS)
        stream.close()

    watcher = threading.Thread(target=read_one_and_stop_reading)
    watcher.start()
    assert entered.wait(TIMEOUT_SECONDS)
    service.publish("m", 1)
    service.registry.scanned()
    assert SERVING == health.check(health_pb2.HealthCheckRequest(), Context()).status
    stuck.set()
    watcher.join(TIMEOUT_SECONDS)
    assert not watcher.is_alive()


def test_watcher_beyond_the_limit_is_refused_until_another_one_leaves(service):
    """The number of watchers is bounded, and a place is free again when its watcher is gone."""
    health = HealthService(service.registry, service.settings, max_watchers=1)

    class Context:
        """A call that notes how it was ended."""

        def __init__(self):
            self.code = None

        def add_callback(self, _callback):
            return True

        def is_active(self):
            return True

        def abort(self, code, _details):
            self.code = code
            raise RuntimeError

    first, second = health.watch(b"", Context()), Context()
    next(first)
    with pytest.raises(RuntimeError):
        next(health.watch(b"", second))
    assert grpc.StatusCode.RESOURCE_EXHAUSTED == second.code
    first.close()
    assert NOT_SERVING == next(health.watch(b"", Context())).status


@pytest.mark.parametrize("method", ["Check", "Watch"])
def test_message_that_does_not_parse_is_the_callers_fault(service, method):
    """Bytes that are no request end in INVALID_ARGUMENT, not in gRPC's own INTERNAL."""
    with serve(service) as channel:
        call = channel.unary_stream(f"/grpc.health.v1.Health/{method}")(b"\xff", timeout=TIMEOUT_SECONDS)
        with pytest.raises(grpc.RpcError) as error:
            next(call)
        assert "INVALID_ARGUMENT" == error.value.code().name
