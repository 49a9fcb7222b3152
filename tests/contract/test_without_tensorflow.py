"""`--engine program`: a serving process that lives a whole life without TensorFlow, and what it weighs."""

import json
import os
import shutil
import time
import urllib.request
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pytest

from tests.contract.version_surgery import reseal
from tests.end_to_end.clients import GrpcClient, RestClient
from tests.end_to_end.server_process import ROOT, ServerProcess

SECONDS = 60.0
MOST_BYTES = 200 << 20
DIMS = {"tumours": 30, "colours": 3}


@pytest.fixture
def models_dir(tmp_path):
    """Return a folder with the shipped models."""
    return Path(shutil.copytree(ROOT / "models", tmp_path / "models"))


@pytest.fixture
def server(models_dir, wait_until):
    """Serve the folder by the program engine, ready."""
    server = ServerProcess(models_dir, "--engine", "program", "--poll-interval-seconds", 0.1)
    try:
        wait_until(server.is_ready, SECONDS)
        yield server
    finally:
        server.kill()


def publish(models_dir, model, version, *, spoil=None, is_foreign=False):
    """Put a copy of a shipped version there whole."""
    staged = models_dir / model / ".staging-1"
    shutil.copytree(ROOT / "models" / model.removesuffix("-elsewhere") / "1", staged)
    if is_foreign:
        for path in staged.iterdir():
            if path.name not in {"saved_model.pb", "variables", "fingerprint.pb"}:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
    else:
        reseal(staged, version=version)
    if spoil is not None:
        path = staged / spoil
        path.write_bytes(path.read_bytes()[:-1])
    os.rename(staged, models_dir / model / str(version))


def mapped(process):
    """Return the libraries in a process' memory."""
    return {Path(item.path).name for item in psutil.Process(process).memory_maps()}


def has_tensorflow(process):
    """Whether a library of TensorFlow's is in a process' memory."""
    return any("tensorflow" in name or name == "_pywrap_tfe.so" for name in mapped(process))


def has_pyarrow(process):
    """Whether pyarrow's library is in a process' memory."""
    return any(name.startswith("libarrow.") for name in mapped(process))


def ask_by_arrow(server, model, rows):
    """Return the scores of rows that go and come as Arrow streams."""
    column = pa.FixedSizeListArray.from_arrays(pa.array(rows.ravel()), rows.shape[1])
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, pa.schema([("x", column.type)])) as writer:
        writer.write_batch(pa.record_batch([column], names=["x"]))
    headers = dict.fromkeys(["Content-Type", "Accept"], "application/vnd.apache.arrow.stream")
    url = f"http://{server.address('rest')}/models/{model}/score"
    with urllib.request.urlopen(urllib.request.Request(url, sink.getvalue().to_pybytes(), headers)) as answer:
        return pa.ipc.open_stream(answer.read()).read_all()["score"].to_numpy()


def ask(server, model, rows):
    """Ask on both protocols and return the versions that answered, equal bit for bit."""
    versions, answers = [], []
    for client in (
        RestClient(server.address("rest"), rows, model, raw=True),
        RestClient(server.address("rest"), rows, model, raw=False),
        GrpcClient(server.address("grpc"), rows, model),
    ):
        version, *answer = client.ask()
        client.close()
        versions.append(version)
        answers.append(answer)
    for answer in answers[1:]:
        for expected, received in zip(answers[0], answer, strict=True):
            np.testing.assert_array_equal(expected, received)
    return set(versions)


def test_serving_process_never_holds_tensorflow_and_stays_small(server, models_dir, wait_until, record_property):
    """Start, answers, swap, refusal, a foreign model, a failed load, traffic: no TensorFlow, no pyarrow, 200 MB."""
    rng = np.random.default_rng(3)
    rows = {model: rng.standard_normal((8, dim)).astype(np.float32) for model, dim in DIMS.items()}
    for model in DIMS:
        assert {1} == ask(server, model, rows[model])
    publish(models_dir, "tumours", 2)
    wait_until(lambda: ask(server, "tumours", rows["tumours"]) == {2}, SECONDS)
    publish(models_dir, "tumours", 3, spoil="saved_model.pb")
    wait_until(lambda: server.versions("tumours").get(3, ("",))[0] == "END", SECONDS)
    (models_dir / "colours-elsewhere").mkdir()
    publish(models_dir, "colours-elsewhere", 1, is_foreign=True)
    wait_until(lambda: server.versions("colours-elsewhere").get(1, ("",))[0] == "AVAILABLE", SECONDS)
    (loading,) = psutil.Process(server.process.pid).children()
    assert has_tensorflow(loading.pid)  # the same look finds it where it is
    loading.kill()
    publish(models_dir, "tumours", 4)
    wait_until(lambda: ask(server, "tumours", rows["tumours"]) == {4}, SECONDS)
    for path in ("/", "/models", "/metrics", "/healthz"):
        assert 200 == server.get(path)[0], path
    many = rng.standard_normal((4096, DIMS["tumours"])).astype(np.float32)
    for _ in range(8):
        assert {4} == ask(server, "tumours", many)
    assert (4096,) == ask_by_arrow(server, "tumours", many).shape
    assert not has_tensorflow(server.process.pid)
    assert not has_pyarrow(server.process.pid)
    assert has_pyarrow(os.getpid())
    resident = psutil.Process(server.process.pid).memory_info().rss
    record_property("resident_mib", resident >> 20)
    assert resident <= MOST_BYTES
    described = json.loads(server.get("/models")[1])["models"]
    assert {"program"} == {item["engine"] for model in described for item in model["versions"] if item["engine"]}
    assert 0 == server.terminate()


@pytest.mark.chaos
@pytest.mark.timeout(300)
def test_server_is_ready_within_two_seconds_after_the_work_of_the_loader(models_dir, wait_until, record_property):
    """From the start of the process to `/readyz`: what the loads took, TensorFlow's import too, and two seconds."""
    beyond = []
    for _ in range(5):
        started = time.monotonic()
        server = ServerProcess(models_dir, "--engine", "program")
        try:
            wait_until(server.is_ready, SECONDS)
            ready = time.monotonic() - started
            wait_until(lambda server=server: len(server.events("version available")) == len(DIMS))
            beyond.append(ready - max(line["seconds"] for line in server.events("version available")))
        finally:
            server.kill()
    record_property("seconds_beyond_loads", [round(each, 3) for each in beyond])
    assert max(beyond) <= 2.0
