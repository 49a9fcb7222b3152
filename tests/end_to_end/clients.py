"""Clients that ask in a closed loop on either protocol and keep every answer's version and bits."""

import http.client
import json
import threading

import grpc
import numpy as np

from service.protos import tensorflow_serving as protos

_PREDICT = "/tensorflow.serving.PredictionService/Predict"


def predict_request(model, rows):
    """Return a Predict request for rows [n, dim]."""
    request = protos.PredictRequest(model_spec={"name": model})
    tensor = request.inputs["x"]
    tensor.dtype = 1
    for size in rows.shape:
        tensor.tensor_shape.dim.add(size=size)
    tensor.tensor_content = rows.astype("<f4").tobytes()
    return request


def predict(channel):
    """Return the method Predict of a channel."""
    return channel.unary_unary(_PREDICT, protos.PredictRequest.SerializeToString, protos.PredictResponse.FromString)


def read_response(response, rows):
    """Return version, score and gradient of a Predict response."""
    outputs = {name: np.array(tensor.float_val, np.float32) for name, tensor in response.outputs.items()}
    return response.model_spec.version.value, outputs["score"], outputs["gradient"].reshape(rows.shape)


class Client(threading.Thread):
    """Asks until told to stop, or until the server says that it is about to end.

    Args:
        rows: float32 [n, dim] to send each time.
        model: the model's name.
        pause_seconds: to wait between an answer and the next request.
    """

    def __init__(self, rows, model, *, pause_seconds=0.0):
        super().__init__(name=type(self).__name__)
        self.pause_seconds = pause_seconds
        self.rows = rows
        self.model = model
        self.answers = []
        self.failures = []
        self.refusals = []
        self.stopping = threading.Event()

    def run(self):
        """Ask in a closed loop."""
        while not self.stopping.is_set():
            try:
                self.answers.append(self.ask())
                self.stopping.wait(self.pause_seconds)
            except Exception as error:  # noqa: BLE001  (whatever went wrong is what the test looks at)
                self.failures.append(repr(error))
                self.stopping.set()
        self.close()

    def seen(self):
        """Return the versions that answered, in order, each run of equal ones once."""
        versions = [version for version, _, _ in list(self.answers)]
        return [version for before, version in zip([None, *versions], versions, strict=False) if version != before]


class RestClient(Client):
    """REST over one kept-alive connection; the answer as JSON or as raw float32."""

    def __init__(self, address, rows, model, *, raw, **options):
        super().__init__(rows, model, **options)
        host, _, port = address.rpartition(":")
        self.connection = http.client.HTTPConnection(host, int(port), timeout=20)
        self.raw = raw

    def ask(self):
        """Send one request; after an answer that closes the connection, stop."""
        kind = "application/octet-stream"
        headers = {"Content-Type": kind, "Accept": kind} if self.raw else {}
        body = self.rows.tobytes() if self.raw else json.dumps({"instances": self.rows.astype(float).tolist()})
        self.connection.request("POST", f"/models/{self.model}/score", body, headers)
        response = self.connection.getresponse()
        data = response.read()
        if response.status != 200:
            raise RuntimeError(f"{response.status}: {data[:200]!r}")
        if response.headers["Connection"] == "close":
            self.stopping.set()
        version = int(response.headers["X-Model-Version"])
        if self.raw:
            columns = np.frombuffer(data, "<f4").reshape(len(self.rows), -1)
            return version, columns[:, 0], columns[:, 1:]
        document = json.loads(data)
        assert version == document["version"]
        return version, np.float32(document["score"]), np.float32(document["gradient"])

    def close(self):
        """Close the connection."""
        self.connection.close()


class GrpcClient(Client):
    """Predict over one channel; UNAVAILABLE is a refusal, not a failure: the request was never accepted."""

    def __init__(self, address, rows, model, **options):
        super().__init__(rows, model, **options)
        self.channel = grpc.insecure_channel(address, options=[("grpc.max_receive_message_length", -1)])
        self.predict = predict(self.channel)
        self.request = predict_request(model, rows)

    def run(self):
        """Ask in a closed loop, until refused."""
        while not self.stopping.is_set():
            try:
                self.answers.append(self.ask())
                self.stopping.wait(self.pause_seconds)
            except grpc.RpcError as error:
                (self.refusals if error.code() is grpc.StatusCode.UNAVAILABLE else self.failures).append(repr(error))
                self.stopping.set()
        self.close()

    def close(self):
        """Close the channel."""
        self.channel.close()

    def ask(self):
        """Send one request."""
        return read_response(self.predict(self.request, timeout=20), self.rows)
