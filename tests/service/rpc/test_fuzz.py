"""Whatever message comes in, Predict answers: a defect is never what a caller can cause."""

import contextlib
from types import SimpleNamespace

import grpc
import numpy as np
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from service.errors import ErrorCode
from service.metrics import Metrics
from service.protos import tensorflow_serving as protos
from service.rpc.interceptors import CallInterceptor
from service.rpc.prediction_service import PredictionService
from tests.service.quadratic_versions import DIM, make_service

SERVICE = make_service(max_request_rows=4)
SERVICE.publish("m", 1)
PREDICTION = PredictionService(SERVICE.scorer, SERVICE.registry, SERVICE.settings)


class Ended(Exception):
    """What `abort` raises."""


class Context:
    """A call in memory: keeps what it is ended with."""

    status: grpc.StatusCode | None = None

    def invocation_metadata(self):
        """Return no metadata."""
        return ()

    def time_remaining(self):
        """Return that there is no deadline."""

    def peer(self):
        """Return whence it comes."""
        return "ipv4:127.0.0.1:1"

    def add_callback(self, _callback):
        """Never end before the answer."""
        return True

    def send_initial_metadata(self, metadata):
        """Send nothing anywhere."""

    def code(self):
        """Return what the call is ended with so far."""
        return self.status

    def abort(self, code, _details):
        """End the call."""
        self.status = code
        raise Ended


def valid_request():
    """Return a good request of two rows."""
    message = protos.PredictRequest()
    message.model_spec.name = "m"
    tensor = message.inputs["x"]
    tensor.dtype = protos.DATA_TYPES["DT_FLOAT"]
    for size in (2, DIM):
        tensor.tensor_shape.dim.add(size=size)
    tensor.float_val.extend(np.arange(2.0 * DIM).tolist())
    return message.SerializeToString()


VALID = valid_request()
EDITS = st.lists(st.tuples(st.integers(0, len(VALID) - 1), st.integers(0, 255)), max_size=4)
ALLOWED = {None, *(grpc.StatusCode[code] for code in set(ErrorCode) - {ErrorCode.INTERNAL})}


def answer(data):
    """Return the status that the interceptor and the service give a message."""
    handler = grpc.unary_unary_rpc_method_handler(
        PREDICTION.predict, protos.PredictRequest.FromString, protos.PredictResponse.SerializeToString
    )
    wrapped = CallInterceptor(Metrics()).intercept_service(
        lambda _details: handler, SimpleNamespace(method="/s/Predict")
    )
    context = Context()
    with contextlib.suppress(Ended):
        wrapped.unary_unary(data, context)
    return context.status


def test_good_message_is_answered_and_a_defect_is_seen():
    """The message that is spoilt below is a good one, and a defect would not pass for the caller's fault."""
    assert answer(VALID) is None
    with SERVICE.registry.acquire("m") as live:
        live.engine.failure = RuntimeError()
    with capture_logs():
        assert answer(VALID) not in ALLOWED
    live.engine.failure = None


@given(EDITS)
def test_any_spoilt_message_is_the_callers_fault(edits):
    """A request with up to four bytes changed anywhere is answered or refused, never a defect."""
    data = bytearray(VALID)
    for place, value in edits:
        data[place] = value
    assert answer(bytes(data)) in ALLOWED


@given(
    st.integers(0, 140),
    st.lists(st.one_of(st.integers(-3, 5), st.integers(-(1 << 63), (1 << 63) - 1)), max_size=4),
    st.lists(st.floats(width=32), max_size=3 * DIM),
    st.binary(max_size=30),
    st.booleans(),
)
def test_any_tensor_is_the_callers_fault(dtype, shape, values, content, is_rankless):
    """Whatever type, shape and values a tensor claims, it is rows or it is refused."""
    message = protos.PredictRequest.FromString(VALID)
    tensor = message.inputs["x"]
    tensor.Clear()
    tensor.dtype = dtype
    tensor.tensor_shape.unknown_rank = is_rankless
    for size in shape:
        tensor.tensor_shape.dim.add(size=size)
    tensor.float_val.extend(values)
    tensor.tensor_content = content
    assert answer(message.SerializeToString()) in ALLOWED


@given(st.binary(max_size=100))
def test_any_bytes_are_the_callers_fault(data):
    """Arbitrary bytes are a message or INVALID_ARGUMENT."""
    try:
        protos.PredictRequest.FromString(data)
    except DecodeError:
        assert grpc.StatusCode.INVALID_ARGUMENT == answer(data)
    else:
        assert answer(data) in ALLOWED
