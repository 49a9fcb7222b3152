"""The night as it runs: the job publishes beside a busy server, which takes the new version up without a failure."""

import csv
import random
import shutil
import subprocess
import sys

import numpy as np
import pytest

from service import model_version
from tests.end_to_end.clients import GrpcClient, RestClient
from tests.end_to_end.server_process import ROOT
from training import pipeline
from training.config import load_config

DATA = ROOT / "training" / "examples" / "tumours.csv"

CONFIG = """
[model]
name = "night"
task = "classification"
[data]
file = "tonight.csv"
target = "malignant"
salt = "night"
[network]
hidden = [16, 16]
quadratic = 1e-3
[trainer]
steps = 600
batch = 128
seed = 3
[gate]
metric = "roc_auc"
tolerance = 0.02
min_rows = 50
max_score_drift = 1.0
[publish]
models_dir = "models"
keep = 3
wait_available = "{server}"
"""


def write_data(folder, count, *, shuffled=False):
    """Write the header and the first `count` rows of the data, in an order that mixes the classes."""
    with DATA.open(newline="") as file:
        header, *lines = list(csv.reader(file))
    random.Random(1).shuffle(lines)  # noqa: S311  (an order, not a secret)
    lines = lines[:count]
    if shuffled:
        target = header.index("malignant")
        labels = [line[target] for line in lines]
        random.Random(2).shuffle(labels)  # noqa: S311
        for line, label in zip(lines, labels, strict=True):
            line[target] = label
    with (folder / "tonight.csv").open("w", newline="") as file:
        csv.writer(file).writerows([header, *lines])


def write_config(folder, server=""):
    """Write the job's configuration; `server` is the address to wait for."""
    (folder / "config.toml").write_text(CONFIG.format(server=server))


def retrain(folder):
    """Run the nightly job to its end, as a process; return the exit code and what it said."""
    result = subprocess.run(
        [sys.executable, "-m", "training", "retrain", str(folder / "config.toml")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    return result.returncode, result.stdout + result.stderr


@pytest.fixture(scope="module")
def first_night(tmp_path_factory):
    """Return a folder with a job and version 1, trained on 400 rows."""
    folder = tmp_path_factory.mktemp("night")
    write_config(folder)
    write_data(folder, 400)
    pipeline.train(load_config(folder / "config.toml"))
    return folder


@pytest.fixture
def night(first_night, tmp_path):
    """Return a copy of the first night, to go on from."""
    return shutil.copytree(first_night, tmp_path / "night")


def tree(folder):
    """Return every file below a folder with its bytes."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_server_answers_with_the_new_version_when_the_nightly_job_publishes_under_load(night, serve, wait_until):
    """Eight clients on both protocols see versions 1 and 2 and no failure; every answer is the named version's bits."""
    server = serve(night / "models", "--default-model", "night")
    wait_until(server.is_ready, 60)
    rows = np.loadtxt(DATA, delimiter=",", skiprows=1, max_rows=3)[:, :30].astype(np.float32)
    rest, rpc = server.address("rest"), server.address("grpc")
    clients = [RestClient(rest, rows, "night", raw=number % 2 == 0, pause_seconds=0.05) for number in range(4)]
    clients += [GrpcClient(rpc, rows, "night", pause_seconds=0.05) for _ in range(4)]
    for client in clients:
        client.start()
    try:
        write_data(night, 569)
        write_config(night, f"http://{rest}")
        code, said = retrain(night)
        assert 0 == code, said
        assert "AVAILABLE" == server.versions("night")[2][0]
        wait_until(lambda: all(2 in client.seen() for client in clients), 30)
    finally:
        for client in clients:
            client.stopping.set()
        for client in clients:
            client.join(30)
    assert [] == [failure for client in clients for failure in (*client.failures, *client.refusals)]
    live = {version: model_version.load(night / "models" / "night" / str(version)) for version in (1, 2)}
    expected = {version: live[version].score_and_gradient(rows) for version in live}
    assert expected[1][0].tobytes() != expected[2][0].tobytes()
    for client in clients:
        assert [1, 2] == client.seen()
        for version, score, gradient in client.answers:
            assert expected[version][0].tobytes() == score.tobytes()
            assert expected[version][1].tobytes() == gradient.tobytes()
    manifests = [live[version].loaded.manifest for version in (1, 2)]
    assert [400, 569] == [manifest.data["rows"] for manifest in manifests]
    assert [None, 1] == [manifest.parent for manifest in manifests]
    assert 0 == server.terminate()


def test_nothing_changes_when_the_labels_of_the_night_were_shuffled(night, run_training, capsys):
    """A challenger trained on shuffled labels is refused with exit 3; no file of the model is touched."""
    before = tree(night / "models" / "night")
    write_data(night, 569, shuffled=True)
    assert 3 == run_training("retrain", night / "config.toml")
    assert "roc_auc" in capsys.readouterr().err
    assert before == tree(night / "models" / "night")
