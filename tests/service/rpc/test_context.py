"""Predict and GetModelMetadata of a model with a context: two inputs, `x` and `context`."""

import grpc
import numpy as np
import pytest

from service.protos import tensorflow_serving as protos
from tests.service.context_versions import CONTEXT, GRADIENT, SCORE, X, publish
from tests.service.quadratic_servers import serve
from tests.service.quadratic_versions import make_service

FLOAT = protos.DATA_TYPES["DT_FLOAT"]
SERVICE = "/tensorflow.serving.PredictionService/"


@pytest.fixture(scope="module")
def channel():
    """Return a channel to a service of one model with a context and of one without."""
    service = make_service(grpc_threads=1)
    publish(service)
    service.publish("plain", 1)
    service.registry.scanned()
    with serve(service) as channel:
        predict(channel, "gated", x=X, context=CONTEXT)  # its threads are there from now on
        yield channel


def predict(channel, model, **inputs):
    """Return the answer to a Predict call."""
    request = protos.PredictRequest()
    request.model_spec.name = model
    for name, rows in inputs.items():
        request.inputs[name].dtype = FLOAT
        for size in rows.shape:
            request.inputs[name].tensor_shape.dim.add(size=size)
        request.inputs[name].tensor_content = np.ascontiguousarray(rows, "<f4").tobytes()
    call = channel.unary_unary(f"{SERVICE}Predict")
    return protos.PredictResponse.FromString(call(request.SerializeToString(), timeout=10))


def refusal(channel, model, **inputs):
    """Return the code and the words of a refused Predict call."""
    with pytest.raises(grpc.RpcError) as caught:
        predict(channel, model, **inputs)
    return caught.value.code(), caught.value.details()


def test_two_inputs_are_answered_by_score_and_gradient_by_x(channel):
    """`x` [2, 3] and `context` [2, 2] give `score` [2] and `gradient` [2, 3]."""
    answer = predict(channel, "gated", x=X, context=CONTEXT)
    assert SCORE == list(answer.outputs["score"].float_val)
    assert np.ravel(GRADIENT).tolist() == list(answer.outputs["gradient"].float_val)
    assert [2, 3] == [dim.size for dim in answer.outputs["gradient"].tensor_shape.dim]


def test_request_without_the_context_is_told_that_it_is_missing(channel):
    """TensorFlow Serving's words name the input that is required."""
    expected = (
        "input size does not match signature: 1!=2 len({x}) != len({context,x}). Sent extra: {}. "
        "Missing but required: {context}."
    )
    assert (grpc.StatusCode.INVALID_ARGUMENT, expected) == refusal(channel, "gated", x=X)


def test_context_is_refused_by_a_model_that_takes_none(channel):
    """A second input is named as extra."""
    code, words = refusal(channel, "plain", x=X, context=CONTEXT)
    assert grpc.StatusCode.INVALID_ARGUMENT == code
    assert "Sent extra: {context}" in words


def test_context_of_other_rows_or_width_is_refused(channel):
    """One context for each row, as wide as the model takes it."""
    code = grpc.StatusCode.INVALID_ARGUMENT
    few = "context: received 1 for 2 x. Send one context for each instance."
    wide = "context: expected shape [n, 2] for model gated version 1, received [2, 3]. Send 2 numbers each."
    assert (code, few) == refusal(channel, "gated", x=X, context=CONTEXT[:1])
    assert (code, wide) == refusal(channel, "gated", x=X, context=X)


def test_metadata_names_both_inputs_with_their_shapes(channel):
    """GetModelMetadata tells x [-1, 3] and context [-1, 2] for Predict's signatures, and examples for regress."""
    request = protos.GetModelMetadataRequest(metadata_field=["signature_def"])
    request.model_spec.name = "gated"
    call = channel.unary_unary(f"{SERVICE}GetModelMetadata")
    response = protos.GetModelMetadataResponse.FromString(call(request.SerializeToString(), timeout=10))
    definitions = protos.SignatureDefMap()
    response.metadata["signature_def"].Unpack(definitions)
    shapes = {
        signature: {name: [dim.size for dim in tensor.tensor_shape.dim] for name, tensor in definition.inputs.items()}
        for signature, definition in definitions.signature_def.items()
    }
    both = {"x": [-1, 3], "context": [-1, 2]}
    assert {"serving_default": both, "score": both, "regress": {"inputs": [-1]}} == shapes
    gradient = definitions.signature_def["serving_default"].outputs["gradient"]
    assert [-1, 3] == [dim.size for dim in gradient.tensor_shape.dim]
