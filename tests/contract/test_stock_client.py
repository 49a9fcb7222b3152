"""An unmodified TensorFlow Serving client: the stock stubs and messages against our server, in one process."""

import io

import grpc
import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from service.rest.app import create_app
from tests.service.quadratic_servers import serve
from tests.service.quadratic_versions import make_service

DIM = 30
ARROW = "application/vnd.apache.arrow.stream"
TIMEOUT_SECONDS = 10.0


@pytest.fixture(scope="module")
def service():
    """Return a service with versions 1 and 2 of the model m; nobody changes it."""
    service = make_service(grpc_threads=1)
    service.publish("m", 1, dim=DIM, features=())
    service.publish("m", 2, dim=DIM, features=())
    service.registry.set_labels("m", {"stable": 1})
    service.registry.scanned()
    return service


@pytest.fixture(scope="module")
def channel(service):
    """Return a channel to the served service."""
    with serve(service) as channel:
        # Its one thread is there from now on.
        predict(prediction_service_pb2_grpc.PredictionServiceStub(channel), tf.make_tensor_proto(make_rows()))
        yield channel


@pytest.fixture(scope="module")
def stub(channel):
    """Return the stock stub of PredictionService."""
    return prediction_service_pb2_grpc.PredictionServiceStub(channel)


def make_rows(seed=7, num_rows=64):
    """Return rows of every size that float32 has, minus zero and denormals too."""
    generator = np.random.default_rng(seed)
    rows = generator.standard_normal((num_rows, DIM)) * 10.0 ** generator.integers(-20, 18, (num_rows, DIM))
    rows = rows.astype(np.float32)
    rows[0, :4] = [-0.0, 1e-45, 7.038531e-26, 16777217]
    return rows


def predict(stub, tensor, **spec):
    """Send one tensor as the stock client does and return the whole answer."""
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "m"
    for name, value in spec.items():
        if name == "version":
            request.model_spec.version.value = value
        else:
            setattr(request.model_spec, name, value)
    request.inputs["x"].CopyFrom(tensor)
    return stub.Predict(request, timeout=TIMEOUT_SECONDS)


def test_client_gets_score_and_gradient_from_make_tensor_proto_to_make_ndarray(stub):
    """What every tutorial does works: make_tensor_proto in, `float_val` or make_ndarray out."""
    rows = np.float32([[1.0] * DIM, [0.5] * DIM])
    answer = predict(stub, tf.make_tensor_proto(rows))
    assert [DIM * 1.0, DIM * 0.25] == list(answer.outputs["score"].float_val)
    np.testing.assert_array_equal(2 * rows, tf.make_ndarray(answer.outputs["gradient"]))
    assert (2, "serving_default") == (answer.model_spec.version.value, answer.model_spec.signature_name)


@pytest.mark.parametrize(
    ("spec", "version", "outputs"),
    [
        ({"version": 1}, 1, {"score", "gradient"}),
        ({"version_label": "stable"}, 1, {"score", "gradient"}),
        ({"signature_name": "score"}, 2, {"score"}),
        ({"signature_name": "serving_default"}, 2, {"score", "gradient"}),
    ],
)
def test_client_chooses_version_label_and_signature(stub, spec, version, outputs):
    """The whole ModelSpec means what it means to TensorFlow Serving."""
    answer = predict(stub, tf.make_tensor_proto(np.ones((1, DIM), np.float32)), **spec)
    assert (version, outputs) == (answer.model_spec.version.value, set(answer.outputs))


@pytest.mark.parametrize(
    "value",
    [np.full((5, DIM), 3.0, np.float32), np.full((5, DIM), 3.0), tf.zeros((0, DIM)), tf.ones((1, DIM), tf.float64)],
    ids=["splat", "splat of doubles", "no rows", "one row of doubles"],
)
def test_client_may_send_whatever_make_tensor_proto_makes(stub, value):
    """make_tensor_proto shortens equal values to one; such tensors, doubles and empty ones are rows."""
    answer = predict(stub, tf.make_tensor_proto(value))
    np.testing.assert_array_equal(2 * np.float32(value), tf.make_ndarray(answer.outputs["gradient"]))


def test_client_reads_the_signatures(stub):
    """GetModelMetadata unpacks into the stock SignatureDefMap."""
    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    request.model_spec.name = "m"
    answer = stub.GetModelMetadata(request, timeout=TIMEOUT_SECONDS)
    signatures = get_model_metadata_pb2.SignatureDefMap()
    assert answer.metadata["signature_def"].Unpack(signatures)
    assert {"serving_default", "score", "regress"} == set(signatures.signature_def)
    x = signatures.signature_def["serving_default"].inputs["x"]
    assert (tf.float32.as_datatype_enum, [None, DIM]) == (x.dtype, tf.TensorShape(x.tensor_shape).as_list())


def test_client_reads_the_status(channel):
    """GetModelStatus speaks the stock enum, newest version first."""
    stub = model_service_pb2_grpc.ModelServiceStub(channel)
    request = get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.name = "m"
    answer = stub.GetModelStatus(request, timeout=TIMEOUT_SECONDS)
    available = get_model_status_pb2.ModelVersionStatus.AVAILABLE
    assert [(2, available), (1, available)] == [
        (status.version, status.state) for status in answer.model_version_status
    ]


@pytest.mark.parametrize("method", ["Classify", "Regress", "MultiInference"])
def test_client_is_told_what_is_not_offered(stub, method):
    """The other methods of the stub end in UNIMPLEMENTED."""
    request = {"Classify": "classification", "Regress": "regression", "MultiInference": "inference"}[method]
    module = __import__(f"tensorflow_serving.apis.{request}_pb2", fromlist=["_"])
    message = {"Classify": "ClassificationRequest", "Regress": "RegressionRequest"}.get(method, f"{method}Request")
    with pytest.raises(grpc.RpcError) as error:
        getattr(stub, method)(getattr(module, message)(), timeout=TIMEOUT_SECONDS)
    assert grpc.StatusCode.UNIMPLEMENTED == error.value.code()


def bodies(rows):
    """Return rows in every form of a table: name -> type, body."""
    file = io.BytesIO()
    np.save(file, rows)
    lists = pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), DIM)
    streams = []
    for batch in (
        pa.record_batch([lists], names=["x"]),
        pa.record_batch([pa.array(column) for column in rows.T.copy()], names=[f"c{i}" for i in range(DIM)]),
    ):
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, batch.schema) as writer:
            writer.write_batch(batch)
        streams.append(sink.getvalue().to_pybytes())
    text = "".join(",".join(map(str, row)) + "\n" for row in rows.tolist())
    return {
        "npy": ("application/x-npy", file.getvalue()),
        "csv": ("text/csv", text.encode()),
        "lists": (ARROW, streams[0]),
        "columns": (ARROW, streams[1]),
    }


def read(kind, data):
    """Return an answer in one of these forms as a table: score, then the gradient."""
    if kind == ARROW:
        table = pa.ipc.open_stream(data).read_all()
        gradient = table["gradient"].combine_chunks().flatten().to_numpy().reshape(-1, DIM)
        return np.column_stack([table["score"].to_numpy(), gradient])
    if kind == "text/csv":
        return np.loadtxt(io.BytesIO(data), np.float32, delimiter=",", skiprows=1)
    return np.load(io.BytesIO(data))


def test_same_rows_get_the_same_bits_by_every_protocol_and_body(service, stub):
    """JSON, octets, .npy, CSV, Arrow, gRPC values and gRPC content carry the same float32 in, and the same back."""
    rows = make_rows()
    http = create_app(service.scorer, service.registry, service.metrics, service.settings).test_client()
    octets = {"Content-Type": "application/octet-stream", "Accept": "application/octet-stream"}
    as_octets = np.frombuffer(http.post("/score", data=rows.tobytes(), headers=octets).data, "<f4").reshape(-1, DIM + 1)

    answers = {"octets": (as_octets[:, 0], as_octets[:, 1:])}
    for form, printed in (
        ("shortest", [[float(str(value)) for value in row] for row in rows]),
        ("doubles", rows.tolist()),
    ):
        answer = http.post("/score", json={"instances": printed}).json
        answers[form] = (np.float32(answer["score"]), np.float32(answer["gradient"]))
    for form, (kind, body) in bodies(rows).items():
        answer = http.post("/score", data=body, content_type=kind).json
        answers[form] = (np.float32(answer["score"]), np.float32(answer["gradient"]))
        data = http.post("/score", data=body, content_type=kind, headers={"Accept": kind}).data
        table = read(kind, data)
        answers[f"{form} both ways"] = (table[:, 0], np.ascontiguousarray(table[:, 1:]))
    values = tf.make_tensor_proto(rows)
    values.float_val.extend(np.frombuffer(values.tensor_content, "<f4").tolist())
    values.tensor_content = b""
    for form, tensor in (("content", tf.make_tensor_proto(rows)), ("values", values)):
        outputs = predict(stub, tensor).outputs
        answers[form] = (tf.make_ndarray(outputs["score"]), tf.make_ndarray(outputs["gradient"]))

    assert 13 == len(answers)
    assert 1 == len({score.tobytes() for score, _ in answers.values()})
    assert {(2 * rows).tobytes()} == {gradient.tobytes() for _, gradient in answers.values()}
