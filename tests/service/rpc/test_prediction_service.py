"""Predict and GetModelMetadata: TensorFlow Serving's behaviour, its words, and bounded decoding."""

import grpc
import numpy as np
import pytest

from service.protos import tensorflow_serving as protos
from service.signature import FileSignature, Signature
from tests.service.quadratic_servers import serve
from tests.service.quadratic_versions import make_service

ROWS = np.array([[1.0, 2.0, 3.0], [-1.0, 0.5, -0.0]], dtype=np.float32)
FLOAT = protos.DATA_TYPES["DT_FLOAT"]
DOUBLE = protos.DATA_TYPES["DT_DOUBLE"]
TIMEOUT_SECONDS = 10.0


def make_full_service(**changes):
    """Return a service with versions 1 and 2 of the model m, a model that is still loading, and small limits."""
    service = make_service(max_request_rows=4, **changes)
    service.publish("m", 1)
    service.publish("m", 2)
    service.registry.set_labels("m", {"stable": 1})
    service.registry.begin("late", 1)
    service.registry.scanned()
    return service


@pytest.fixture
def service():
    """Return a service of this test's own."""
    return make_full_service()


@pytest.fixture
def own_channel(service):
    """Return a channel to this test's own service."""
    with serve(service) as channel:
        yield channel


@pytest.fixture(scope="module")
def channel():
    """Return a channel to a service that all tests of this module share; nobody changes it."""
    with serve(make_full_service(grpc_threads=1)) as channel:
        predict(channel, request())  # its one thread is there from now on
        yield channel


def call(channel, method, data, *, metadata=(), service="PredictionService"):
    """Send bytes; return what comes back, unparsed, and the call."""
    method = channel.unary_unary(f"/tensorflow.serving.{service}/{method}")
    return method.with_call(data, timeout=TIMEOUT_SECONDS, metadata=metadata)


def fill(tensor, rows=ROWS, dtype=FLOAT, shape=None, **fields):
    """Write a tensor: the rows as `tensor_content`, or the fields that are given."""
    tensor.dtype = dtype
    for size in np.shape(rows) if shape is None else shape:
        tensor.tensor_shape.dim.add(size=size)
    for name, values in (fields or {"tensor_content": np.asarray(rows).tobytes()}).items():
        if isinstance(values, bytes):
            setattr(tensor, name, values)
        else:
            getattr(tensor, name).extend(values)


def request(model="m", version=None, label=None, signature="", outputs=(), **tensor):
    """Return a Predict request."""
    message = protos.PredictRequest()
    message.model_spec.name = model
    message.model_spec.signature_name = signature
    if version is not None:
        message.model_spec.version.value = version
    if label is not None:
        message.model_spec.version_label = label
    message.output_filter.extend(outputs)
    fill(message.inputs["x"], **tensor)
    return message


def predict(channel, message):
    """Return the parsed answer of Predict."""
    return protos.PredictResponse.FromString(call(channel, "Predict", message.SerializeToString())[0])


def refusal(channel, data, method="Predict", **options):
    """Return code and words of the status that a call ends with."""
    with pytest.raises(grpc.RpcError) as error:
        call(channel, method, data if isinstance(data, bytes) else data.SerializeToString(), **options)
    return error.value.code().name, error.value.details()


def test_predict_answers_both_outputs_and_names_who_answered(channel):
    """The default signature answers score and gradient in value fields, and echoes model, version and signature."""
    answer = predict(channel, request())
    assert {"score", "gradient"} == set(answer.outputs)
    assert [14.0, 1.25] == list(answer.outputs["score"].float_val)
    assert (2 * ROWS).ravel().tolist() == list(answer.outputs["gradient"].float_val)
    assert [2, 3] == [dimension.size for dimension in answer.outputs["gradient"].tensor_shape.dim]
    assert b"" == answer.outputs["score"].tensor_content
    spec = answer.model_spec
    assert ("m", 2, "serving_default") == (spec.name, spec.version.value, spec.signature_name)


@pytest.mark.parametrize(
    ("options", "version", "outputs"),
    [
        ({"signature": "serving_default"}, 2, {"score", "gradient"}),
        ({"signature": "score"}, 2, {"score"}),
        ({"signature": "score", "outputs": ["score"]}, 2, {"score"}),
        ({"outputs": ["gradient"]}, 2, {"gradient"}),
        ({"outputs": ["gradient", "score"]}, 2, {"score", "gradient"}),
        ({"version": 1}, 1, {"score", "gradient"}),
        ({"label": "stable"}, 1, {"score", "gradient"}),
    ],
)
def test_predict_follows_version_label_signature_and_filter(channel, options, version, outputs):
    """What the request names is what answers; the echo holds the number even where a label was sent."""
    answer = predict(channel, request(**options))
    assert version == answer.model_spec.version.value
    assert "version" == answer.model_spec.WhichOneof("version_choice")
    assert options.get("signature", "serving_default") == answer.model_spec.signature_name
    assert outputs == set(answer.outputs)


def test_predict_does_no_gradient_work_when_the_filter_leaves_it_out(service, own_channel):
    """The engine is asked for the score alone, by filter and by signature."""
    with service.registry.acquire("m") as live:
        predict(own_channel, request(outputs=["score"]))
        predict(own_channel, request(signature="score"))
        assert [(2, ("score",)), (2, ("score",))] == live.engine.calls


@pytest.mark.parametrize(
    "tensor",
    [
        {"float_val": ROWS.ravel()},
        {"tensor_content": ROWS.tobytes()},
        {"dtype": DOUBLE, "double_val": ROWS.astype(float).ravel()},
        {"dtype": DOUBLE, "tensor_content": ROWS.astype(np.float64).tobytes()},
    ],
    ids=["float_val", "tensor_content", "double_val", "double content"],
)
def test_predict_takes_every_encoding_of_the_same_rows(channel, tensor):
    """Values or content, float or double: the same rows get the same answer."""
    assert predict(channel, request()) == predict(channel, request(**tensor))


def test_predict_answers_in_tensor_content_when_set_so():
    """`--tensor-content` moves the outputs from the value fields into bytes."""
    service = make_service(tensor_content=True)
    service.publish("m", 2)
    with serve(service) as channel:
        answer = predict(channel, request())
    assert np.float32([14.0, 1.25]).tobytes() == answer.outputs["score"].tensor_content
    assert (2 * ROWS).tobytes() == answer.outputs["gradient"].tensor_content
    assert 0 == len(answer.outputs["score"].float_val)


def test_predict_answers_empty_outputs_when_there_are_no_rows(channel):
    """Zero rows of the right width are answered with zero scores and zero gradients."""
    answer = predict(channel, request(rows=np.empty((0, 3), np.float32)))
    assert [0] == [dimension.size for dimension in answer.outputs["score"].tensor_shape.dim]
    assert [0, 3] == [dimension.size for dimension in answer.outputs["gradient"].tensor_shape.dim]


def test_unproved_version_says_so_in_the_initial_metadata(service, own_channel):
    """A version without a proof is marked on every answer; a proved one is not."""
    service.publish("loose", 1, proved=False)
    marks = [
        dict(call(own_channel, "Predict", request(model).SerializeToString())[1].initial_metadata()).get("x-convexity")
        for model in ("loose", "m")
    ]
    assert ["unproved", None] == marks


def without_model_spec():
    """Return a Predict request without a model_spec."""
    message = request()
    message.ClearField("model_spec")
    return message


def with_inputs(*names):
    """Return a Predict request whose inputs have these names."""
    message = request()
    message.inputs.clear()
    for name in names:
        fill(message.inputs[name])
    return message


SIGNALLING = b"\1\0\0\0\0\0\xf0\x7f" + bytes(16)  # a NaN that may not be cast without a word
LATEST = "Servable not found for request: Latest"
SPECIFIC = "Servable not found for request: Specific"
INVALID = "INVALID_ARGUMENT"
SENT_EXTRA = (
    "input size does not match signature: 2!=1 len({x,y}) != len({x}). Sent extra: {y}. Missing but required: {}."
)


@pytest.mark.parametrize(
    ("message", "code", "words"),
    [
        (without_model_spec(), INVALID, "Missing ModelSpec"),
        (request(""), INVALID, "ModelSpec has no name specified."),
        (request("n"), "NOT_FOUND", f"{LATEST}(n)"),
        (request("late"), "NOT_FOUND", f"{LATEST}(late)"),
        (request("late", 1), "NOT_FOUND", f"{SPECIFIC}(late, 1)"),
        (request("x" * 5000), "NOT_FOUND", f"{LATEST}({'x' * 40})"),
        (request("m", 7), "NOT_FOUND", f"{SPECIFIC}(m, 7)"),
        (request("m", 0), "NOT_FOUND", f"{SPECIFIC}(m, 0)"),
        (request("m", -1), "NOT_FOUND", f"{SPECIFIC}(m, -1)"),
        (request("m", (1 << 63) - 1), "NOT_FOUND", f"{SPECIFIC}(m, 9223372036854775807)"),
        (request(label="nightly"), INVALID, "Unrecognized servable version label: nightly"),
        (request(label=""), INVALID, "Unrecognized servable version label: "),
        (request(signature="s"), "FAILED_PRECONDITION", 'Serving signature key "s" not found.'),
        (request(signature="regress"), "UNIMPLEMENTED", "Predict with the signature 'regress' is not offered."),
        (
            with_inputs(),
            INVALID,
            "input size does not match signature: 0!=1 len({}) != len({x}). Sent extra: {}. Missing but required: {x}.",
        ),
        (
            with_inputs("x", "y"),
            INVALID,
            SENT_EXTRA,
        ),
        (with_inputs("X"), INVALID, "Signature input alias: x not found in request and no default value provided"),
        (
            request(outputs=["y"]),
            INVALID,
            "output tensor alias not found in signature: y Outputs expected to be in the set {gradient,score}.",
        ),
        (
            request(outputs=["gradient"], signature="score"),
            INVALID,
            "output tensor alias not found in signature: gradient Outputs expected to be in the set {score}.",
        ),
        (request(outputs=["score", "score"]), INVALID, "duplicate output tensor alias: score"),
        (request(rows=np.zeros((2, 4), np.float32)), INVALID, "inputs: expected shape [n, 3] for model m version 2"),
        (request(rows=np.zeros(3, np.float32)), INVALID, "received [3]"),
        (request(rows=np.zeros((5, 3), np.float32)), INVALID, "received 5 instances, at most 4"),
        (request(rows=np.float32([[0, 0, 0], [0, np.nan, 0]])), INVALID, "inputs[1][1] is NaN"),
        (request(rows=np.float32([[0, -np.inf, 0]])), INVALID, "inputs[0][1] is infinite"),
        (request(shape=(1, 3), dtype=DOUBLE, tensor_content=SIGNALLING), INVALID, "inputs[0][0] is NaN"),
        (request(outputs=["score"] * 40_000), INVALID, "too large beside its tensors' values: more than 4096 fields"),
        (request(shape=(1, 3), dtype=DOUBLE, double_val=[0, 0, 1e39]), INVALID, "inputs[0][2] is infinite in float32"),
        (request(rows=np.float32([[0, 0, 0], [0, 0, 1e30]])), "OUT_OF_RANGE", "inputs[1]: score or gradient leaves"),
        (request(tensor_content=b"\0" * 23), INVALID, "tensor parsing error: x: tensor_content holds 23 bytes"),
        (request(float_val=[1.0, 2.0]), INVALID, "tensor parsing error: x: received 2 values"),
        (request(float_val=[1.0] * 6, tensor_content=b"\0" * 24), INVALID, "tensor parsing error: x: received both"),
        (request(shape=(-2, 3), float_val=[1.0] * 6), INVALID, "tensor parsing error: x: dimension 0 is -2"),
        (request(shape=(1 << 40, 3), float_val=[1.0]), INVALID, "tensor parsing error: x: dimension 0 is"),
        (request(shape=(1_000_000, 30), float_val=[1.0]), INVALID, "tensor parsing error: x: received 1 values"),
        (request(shape=(2, 1, 3), float_val=[1.0] * 6), INVALID, "tensor parsing error: x: received 3 dimensions"),
        (request(dtype=7, string_val=[b"a"] * 6), INVALID, "tensor parsing error: x: received type DT_STRING"),
        (request(dtype=3, int_val=[1] * 6), INVALID, "tensor parsing error: x: received type DT_INT32"),
        (request(dtype=999, float_val=[1.0] * 6), INVALID, "tensor parsing error: x: received type 999"),
        (b"\xff\xff\xff", INVALID, "the message does not parse"),
        (b"\x0a\x03\x0a\x01\xff", INVALID, "the message does not parse"),  # a model name that is not UTF-8
        (b"", INVALID, "Missing ModelSpec"),
    ],
)
def test_bad_request_ends_in_the_status_of_the_contract(channel, message, code, words):
    """Every bad input gets its code and located words, TensorFlow Serving's where it has some, and never INTERNAL."""
    received, details = refusal(channel, message)
    assert code == received
    assert words in details
    assert 300 > len(details)


def test_splat_of_a_few_bytes_is_answered_or_refused_by_its_expanded_size():
    """One value for a small shape is rows; a message as small for a large one is refused before it is expanded."""
    service = make_service(max_request_rows=1 << 31)
    service.publish("m", 1)
    with serve(service) as channel:
        answer = predict(channel, request(shape=(4, 3), float_val=[2.0]))
        assert [6.0] * 4 == list(answer.outputs["score"].float_val)
        bomb = request(shape=((1 << 31) - 1, 3), float_val=[2.0])
        assert 60 > len(bomb.SerializeToString())
        assert "INVALID_ARGUMENT" == refusal(channel, bomb)[0]


def test_metadata_is_a_signature_definition_map(channel):
    """GetModelMetadata packs a real SignatureDefMap of three signatures, and echoes name and version alone."""
    message = protos.GetModelMetadataRequest(metadata_field=["signature_def"])
    message.model_spec.name = "m"
    data, _ = call(channel, "GetModelMetadata", message.SerializeToString())
    answer = protos.GetModelMetadataResponse.FromString(data)
    spec = answer.model_spec
    assert ("m", 2, "") == (spec.name, spec.version.value, spec.signature_name)
    packed = answer.metadata["signature_def"]
    assert "type.googleapis.com/tensorflow.serving.SignatureDefMap" == packed.type_url
    definitions = protos.SignatureDefMap.FromString(packed.value).signature_def
    found = {
        name: (
            definition.method_name,
            {alias: shape_of(tensor) for alias, tensor in definition.inputs.items()},
            {alias: shape_of(tensor) for alias, tensor in definition.outputs.items()},
        )
        for name, definition in definitions.items()
    }
    row = (FLOAT, [-1, 3])
    number = (FLOAT, [-1])
    assert {
        "serving_default": ("tensorflow/serving/predict", {"x": row}, {"score": number, "gradient": row}),
        "score": ("tensorflow/serving/predict", {"x": row}, {"score": number}),
        "regress": (
            "tensorflow/serving/regress",
            {"inputs": (protos.DATA_TYPES["DT_STRING"], [-1])},
            {"outputs": number},
        ),
    } == found


def shape_of(tensor):
    """Return the type and the shape of a TensorInfo."""
    return tensor.dtype, [dimension.size for dimension in tensor.tensor_shape.dim]


@pytest.mark.parametrize(
    ("model", "fields", "code", "words"),
    [
        ("m", [], INVALID, "GetModelMetadataRequest must specify at least one metadata_field"),
        ("m", ["x"], INVALID, "Metadata field x is not supported"),
        ("m", ["signature_def", "y" * 5000], INVALID, f"Metadata field {'y' * 40} is not supported"),
        ("n", ["signature_def"], "NOT_FOUND", f"{LATEST}(n)"),
        ("late", ["signature_def"], "NOT_FOUND", f"{LATEST}(late)"),
        ("", ["signature_def"], INVALID, "ModelSpec has no name specified."),
    ],
)
def test_metadata_is_refused_in_the_words_of_tensorflow_serving(channel, model, fields, code, words):
    """Missing and unknown fields and models are refused as TensorFlow Serving does."""
    message = protos.GetModelMetadataRequest(metadata_field=fields)
    message.model_spec.name = model
    assert (code, words) == refusal(channel, message, "GetModelMetadata")


@pytest.mark.parametrize("method", ["Classify", "Regress", "MultiInference", "Nothing"])
def test_method_that_is_not_offered_is_unimplemented(channel, method):
    """Every other method says so, whatever it is sent."""
    assert "UNIMPLEMENTED" == refusal(channel, b"\xff", method)[0]


STRANGE = Signature(
    "strange",
    1,
    3,
    made_elsewhere=True,
    file_signatures=(
        FileSignature(
            "serving_default", "row", "float64", "potential", "float64", is_column=True, gradient_dtype="float64"
        ),
        FileSignature("serve", "row", "float32", "out"),
        FileSignature("parse", "examples", "string", "out", gradient_dtype=""),
    ),
)


@pytest.fixture(scope="module")
def strange_channel():
    """Return a channel to a service of a version that was made elsewhere, with names and types of its own."""
    service = make_service(grpc_threads=1)
    service.publish("strange", 1, signature=STRANGE)
    with serve(service) as channel:
        predict(channel, strange_request())  # its one thread is there from now on
        yield channel


def strange_request(name="row", signature="", outputs=(), **tensor):
    """Return a Predict request in the names of the file."""
    message = request("strange", signature=signature, outputs=outputs, **tensor)
    if name != "x":
        message.inputs[name].CopyFrom(message.inputs["x"])
        del message.inputs["x"]
    return message


def values(tensor):
    """Return type, shape and values of a tensor."""
    field = tensor.double_val if tensor.dtype == DOUBLE else tensor.float_val
    return tensor.dtype, [dimension.size for dimension in tensor.tensor_shape.dim], list(field)


def test_predict_keeps_the_names_and_types_of_a_file_made_elsewhere_and_adds_the_gradient(strange_channel):
    """The default signature answers a column of doubles under the file's name, and the gradient beside it."""
    wide = {"rows": ROWS.astype(np.float64), "dtype": DOUBLE}
    answer = predict(strange_channel, strange_request(**wide))
    assert {"potential", "gradient"} == set(answer.outputs)
    assert (DOUBLE, [2, 1], [7.0, 0.625]) == values(answer.outputs["potential"])
    assert (DOUBLE, [2, 3], ROWS.ravel().tolist()) == values(answer.outputs["gradient"])
    other = predict(strange_channel, strange_request(signature="serve", outputs=["out"]))
    assert {"out": (FLOAT, [2], [7.0, 0.625])} == {name: values(tensor) for name, tensor in other.outputs.items()}


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        ({"name": "x"}, INVALID, "Signature input alias: row not found in request"),
        (
            {"outputs": ["score"]},
            INVALID,
            "output tensor alias not found in signature: score Outputs expected to be in",
        ),
        ({"signature": "score"}, "FAILED_PRECONDITION", 'Serving signature key "score" not found.'),
        ({"signature": "parse"}, "UNIMPLEMENTED", "'parse' is not offered. Use 'serving_default' or 'serve'."),
    ],
)
def test_predict_knows_no_name_that_the_file_made_elsewhere_does_not_have(strange_channel, options, code, words):
    """Our own names, and a signature over serialized examples, are refused in TensorFlow Serving's words."""
    found = refusal(strange_channel, strange_request(**options))
    assert code == found[0]
    assert words in found[1]


def test_metadata_describes_the_signatures_of_a_file_made_elsewhere(strange_channel):
    """GetModelMetadata tells the file's names, types and shapes, and the gradient that is added."""
    message = protos.GetModelMetadataRequest(metadata_field=["signature_def"])
    message.model_spec.name = "strange"
    data = call(strange_channel, "GetModelMetadata", message.SerializeToString())[0]
    packed = protos.GetModelMetadataResponse.FromString(data).metadata["signature_def"]
    definitions = protos.SignatureDefMap.FromString(packed.value).signature_def
    told = {
        (name, key): (tensor.dtype, [dimension.size for dimension in tensor.tensor_shape.dim])
        for name, definition in definitions.items()
        for key, tensor in (*definition.inputs.items(), *definition.outputs.items())
    }
    assert {
        ("serving_default", "row"): (DOUBLE, [-1, 3]),
        ("serving_default", "potential"): (DOUBLE, [-1, 1]),
        ("serving_default", "gradient"): (DOUBLE, [-1, 3]),
        ("serve", "row"): (FLOAT, [-1, 3]),
        ("serve", "out"): (FLOAT, [-1]),
        ("serve", "gradient"): (FLOAT, [-1, 3]),
        ("parse", "examples"): (protos.DATA_TYPES["DT_STRING"], [-1]),
        ("parse", "out"): (FLOAT, [-1]),
    } == told
