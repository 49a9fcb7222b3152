"""GetModelStatus: states newest first, one version, labels, and TensorFlow Serving's words."""

import grpc
import pytest

from service.protos import tensorflow_serving as protos
from tests.service.quadratic_servers import serve
from tests.service.quadratic_versions import make_service

METHOD = "/tensorflow.serving.ModelService/GetModelStatus"


@pytest.fixture(scope="module")
def channel():
    """Return a channel to a service with a live, a labelled, a loading and a refused version; nobody changes it."""
    service = make_service(grpc_threads=1)
    service.publish("m", 3)
    service.publish("m", 4)
    service.registry.set_labels("m", {"stable": 3})
    service.registry.begin("m", 5)
    service.registry.refuse("m", 5, "nonneg-matmul", "a weight of -0.03")
    service.registry.begin("m", 6)
    with serve(service) as channel:
        channel.unary_unary(METHOD)(request(), timeout=10.0)  # its one thread is there from now on
        yield channel


def request(model="m", version=None, label=None):
    """Return a GetModelStatus request."""
    message = protos.GetModelStatusRequest()
    message.model_spec.name = model
    if version is not None:
        message.model_spec.version.value = version
    if label is not None:
        message.model_spec.version_label = label
    return message.SerializeToString()


def statuses(channel, data):
    """Return version, state, code and message of each status."""
    answer = protos.GetModelStatusResponse.FromString(channel.unary_unary(METHOD)(data, timeout=10.0))
    return [
        (status.version, status.state, status.status.error_code, status.status.error_message)
        for status in answer.model_version_status
    ]


REFUSED = (5, 50, 9, "nonneg-matmul: a weight of -0.03")


def test_status_tells_every_version_newest_first(channel):
    """Loading, refused with rule and reason, and available versions, in descending order."""
    assert [(6, 20, 0, ""), REFUSED, (4, 30, 0, ""), (3, 30, 0, "")] == statuses(channel, request())


@pytest.mark.parametrize(
    ("options", "expected"),
    [({"version": 5}, [REFUSED]), ({"version": 4}, [(4, 30, 0, "")]), ({"label": "stable"}, [(3, 30, 0, "")])],
)
def test_status_tells_one_version_when_one_is_named(channel, options, expected):
    """A version or a label chooses; TensorFlow Serving would ignore the label."""
    assert expected == statuses(channel, request(**options))


@pytest.mark.parametrize(
    ("data", "code", "words"),
    [
        (b"", "INVALID_ARGUMENT", "Missing ModelSpec"),
        (request(""), "NOT_FOUND", "Could not find any versions of model "),
        (request("n"), "NOT_FOUND", "Could not find any versions of model n"),
        (request("n" * 5000), "NOT_FOUND", f"Could not find any versions of model {'n' * 40}"),
        (request(version=9), "NOT_FOUND", "Could not find version 9 of model m"),
        (request(version=-9), "NOT_FOUND", "Could not find version -9 of model m"),
        (request(label="x"), "INVALID_ARGUMENT", "Unrecognized servable version label: x"),
        (b"\xff", "INVALID_ARGUMENT", "the message does not parse. Send the protobuf message of this method."),
    ],
)
def test_status_is_refused_in_the_words_of_tensorflow_serving(channel, data, code, words):
    """What is not there, and what does not parse, is refused as TensorFlow Serving does."""
    with pytest.raises(grpc.RpcError) as error:
        statuses(channel, data)
    assert (code, words) == (error.value.code().name, error.value.details())


def test_reload_is_unimplemented_whatever_it_is_sent(channel):
    """No request can name a path to load."""
    with pytest.raises(grpc.RpcError) as error:
        channel.unary_unary(METHOD.replace("GetModelStatus", "HandleReloadConfigRequest"))(b"\xff", timeout=10.0)
    assert "UNIMPLEMENTED" == error.value.code().name
