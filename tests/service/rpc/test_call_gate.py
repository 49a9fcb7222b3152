"""The gate for new calls: open, closed, and quiet."""

from concurrent import futures
from types import SimpleNamespace

import pytest

from service.errors import Refusal, UnavailableError
from service.rpc import call_gate
from service.rpc.call_gate import CallGate

PREDICT = SimpleNamespace(method="/tensorflow.serving.PredictionService/Predict")
CHECK = SimpleNamespace(method="/grpc.health.v1.Health/Check")


def test_open_gate_lets_calls_through():
    """Before the close the service's own handler answers."""
    assert "handler" == CallGate().intercept_service(lambda _: "handler", PREDICT)


def test_closed_gate_refuses_calls_and_lets_health_through():
    """After the close a call is UNAVAILABLE, which clients try elsewhere; a health check is still answered."""
    gate = CallGate()
    gate.close()
    gate.release()
    refusal = gate.intercept_service(lambda _: "handler", PREDICT)
    with pytest.raises(UnavailableError) as caught:
        refusal.unary_unary(b"", None)
    assert Refusal.DRAINING is caught.value.refusal
    assert "handler" == gate.intercept_service(lambda _: "handler", CHECK)


def test_gate_is_quiet_when_no_call_came_lately():
    """Quiet at once before any call and again some time after the last; health checks do not count."""
    now = [100.0]
    gate = CallGate(clock=lambda: now[0])
    assert gate.wait_until_quiet(0.05, 0.0) is True
    gate.intercept_service(lambda _: "handler", PREDICT)
    assert gate.wait_until_quiet(0.05, 0.0) is False
    now[0] += 0.05
    gate.intercept_service(lambda _: "handler", CHECK)
    assert gate.wait_until_quiet(0.05, 0.0) is True


def test_gate_waits_for_quiet():
    """With the real clock the wait ends by itself after the last call."""
    gate = CallGate()
    gate.intercept_service(lambda _: "handler", PREDICT)
    assert gate.wait_until_quiet(0.02, 10.0) is True


def test_closed_gate_holds_refusals_back_until_the_server_is_stopped(monkeypatch):
    """A client that would try again at once waits for its answer meanwhile, on a thread that is no other call's."""
    monkeypatch.setattr(call_gate, "HELD_SECONDS", 20.0)
    gate = CallGate()
    gate.close()
    refuse = gate.intercept_service(lambda _: "handler", PREDICT).unary_unary
    refusal = refuse.experimental_thread_pool.submit(refuse, b"", None)
    assert not futures.wait([refusal], 0.05).done
    gate.release()
    assert UnavailableError is type(refusal.exception(20))


def test_call_that_arrived_before_the_stop_is_refused_after_it():
    """A released gate still takes a call, which gRPC hands over late; without it gRPC's own thread would die."""
    gate = CallGate()
    gate.close()
    gate.release()
    refuse = gate.intercept_service(lambda _: "handler", PREDICT).unary_unary
    refusal = refuse.experimental_thread_pool.submit(refuse, b"", None)
    assert UnavailableError is type(refusal.exception(20))
    gate.end()
    with pytest.raises(RuntimeError, match="after shutdown"):
        refuse.experimental_thread_pool.submit(refuse, b"", None)
