"""The shipped model's served numbers against an independent float64 computation, and the same row on every way in."""

import csv
import json
import shutil
import subprocess
import sys
import urllib.request

import grpc
import numpy as np
import pytest
from tensorflow_serving.apis import predict_pb2, prediction_service_pb2_grpc

from tests.contract.version_surgery import read_tensors, variable_keys
from tests.end_to_end.server_process import ROOT
from tests.oracle import icnn

SHIPPED = ROOT / "models" / "tumours" / "1"
DATA = ROOT / "training" / "examples" / "tumours.csv"


def checkpoint():
    """Return the shipped version's numbers, float64, from the variables of its SavedModel."""
    tensors = read_tensors(SHIPPED)
    keys = {name.partition("/")[2]: key for name, key in variable_keys(tensors).items()}
    numbers = {name: tensors[key].astype(np.float64) for name, key in keys.items()}
    config = json.loads((SHIPPED / "manifest.json").read_text())["config"]["network"]
    layers = [f"hidden_{index}" for index in range(1, len(config["hidden"]))] + ["output"]
    return icnn.Checkpoint(
        mean=numbers["standardization/mean"],
        scale=numbers["standardization/scale"],
        first=(numbers["first/kernel"], numbers["first/bias"]),
        constrained=tuple(
            (numbers[f"{layer}/kernel"], numbers[f"{layer}/passthrough"], numbers[f"{layer}/bias"]) for layer in layers
        ),
        activation=config["activation"],
        quadratic=2 * float(np.float32(0.5 * config["quadratic"])),
        target=(0.0, 1.0),
    )


def texts():
    """Return the data file's header and its rows of features, as they stand in the file."""
    with DATA.open(newline="") as file:
        header, *lines = list(csv.reader(file))
    target = header.index("malignant")
    return [line[:target] + line[target + 1 :] for line in lines]


@pytest.fixture(scope="module")
def rows():
    """Return float32 [1000, 30]: the data, and more rows drawn around it."""
    data = np.array(texts(), np.float64)
    generator = np.random.default_rng(11)
    more = data[generator.integers(0, len(data), 1000 - len(data))]
    more = more + 2 * data.std(axis=0) * generator.standard_normal(more.shape)
    return np.concatenate([data, more]).astype(np.float32)


@pytest.fixture(scope="module")
def expected(rows):
    """Return score and gradient of the rows in float64."""
    network = checkpoint()
    return icnn.score(network, rows), icnn.central_differences(network, rows)


@pytest.fixture
def server_of(serve, wait_until, shipped_server):
    """Return a function that returns a server of the shipped models whose rows this engine computes."""

    def start(engine):
        if engine == "program":
            return shipped_server
        server = serve(ROOT / "models", "--default-model", "tumours", "--engine", engine)
        wait_until(server.is_ready, 60)
        return server

    return start


@pytest.mark.parametrize("engine", ["program", "tensorflow"])
def test_served_numbers_equal_the_float64_oracle_when_a_thousand_rows_are_sent(server_of, rows, expected, engine):
    """Scores lie within 1e-6 S of a float64 forward pass, gradients within 1e-4 G of its central differences."""
    server = server_of(engine)
    headers = {"Content-Type": "application/octet-stream", "Accept": "application/octet-stream"}
    request = urllib.request.Request(f"http://{server.address('rest')}/score", rows.tobytes(), headers)
    with urllib.request.urlopen(request, timeout=30) as response:
        served = np.frombuffer(response.read(), "<f4").reshape(len(rows), 31).astype(np.float64)
    score, gradient = expected
    assert np.abs(served[:, 0] - score).max() <= 1e-6 * np.abs(score).max()
    assert np.abs(served[:, 1:] - gradient).max() <= 1e-4 * np.abs(gradient).max()


def test_raw_row_of_the_file_gives_the_same_bits_by_curl_by_evaluate_by_the_stock_stub_and_in_bulk(
    shipped_server, run_training, tmp_path
):
    """A row as it stands in the CSV file: `curl -d`, `evaluate`, the stock stub and `score` agree in every bit."""
    server = shipped_server
    curl = shutil.which("curl")
    lines = texts()[:5]
    body = '{"instances": [' + ", ".join(f"[{', '.join(line)}]" for line in lines) + "]}"
    if curl:
        url = f"http://{server.address('rest')}/score"
        answer = subprocess.run([curl, "-sS", url, "-d", body], capture_output=True, check=True, timeout=30).stdout
    else:  # what `curl -d` sends
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        request = urllib.request.Request(f"http://{server.address('rest')}/score", body.encode(), headers)
        with urllib.request.urlopen(request, timeout=30) as response:
            answer = response.read()
    by_rest = json.loads(answer)

    request = predict_pb2.PredictRequest()
    request.model_spec.name = "tumours"
    request.inputs["x"].dtype = 1
    request.inputs["x"].float_val.extend(float(text) for line in lines for text in line)
    for size in (len(lines), 30):
        request.inputs["x"].tensor_shape.dim.add(size=size)
    with grpc.insecure_channel(server.address("grpc")) as channel:
        by_grpc = prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict(request, timeout=30)
    assert 1 == by_grpc.model_spec.version.value

    scores = tmp_path / "scores.csv"
    assert 0 == run_training("evaluate", SHIPPED, "--data", DATA, "--scores", scores)
    with scores.open(newline="") as file:
        evaluated = list(csv.DictReader(file))[: len(lines)]
    features = list(evaluated[0])[-30:]

    in_bulk = tmp_path / "bulk.csv"
    words = ["--models-dir", ROOT / "models", "--model", "tumours", "--gradient", "--input", DATA, "--output", in_bulk]
    subprocess.run([sys.executable, "-m", "service", "score", *words], cwd=ROOT, check=True, timeout=60)
    with in_bulk.open(newline="") as file:
        bulk = list(csv.DictReader(file))
    assert texts() == [list(row.values())[:30] for row in bulk]

    for kind, of_rest, of_grpc, of_evaluate, of_bulk in (
        (
            "score",
            by_rest["score"],
            by_grpc.outputs["score"].float_val,
            [row["score"] for row in evaluated],
            [row["score"] for row in bulk[:5]],
        ),
        (
            "gradient",
            np.ravel(by_rest["gradient"]),
            by_grpc.outputs["gradient"].float_val,
            [row[name] for row in evaluated for name in features],
            [value for row in bulk[:5] for name, value in row.items() if name.startswith("gradient_")],
        ),
    ):
        expected = np.array(of_grpc, np.float32).tobytes()
        assert expected == np.array(of_rest, np.float32).tobytes(), kind
        for others in (of_evaluate, of_bulk):
            assert expected == np.array(others, np.float64).astype(np.float32).tobytes(), kind
