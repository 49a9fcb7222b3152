"""Labels that move while clients ask by them: nobody fails, and nobody goes back."""

import http.client
import json
import shutil

import numpy as np
import pytest

from service.labels import change_labels, write_labels
from service.settings import Settings
from service.worker import Worker
from tests.chaos.checking_clients import CheckingClient, Pace
from tests.end_to_end.clients import GrpcClient
from tests.service.fake_versions import make_version

MODEL, LABEL, NEWEST = "m", "stable", 1_000_000
ROWS = np.float32([[1.0, 2.0, 3.0], [-4.0, 0.5, 0.25]])
NUM_CLIENTS = 4
MOVE_SECONDS = 20.0


def expected(version):
    """Return score and gradient of `ROWS` by a version: sum(x) + version, in closed form."""
    return np.float32(ROWS.astype(float).sum(axis=1) + version), np.ones_like(ROWS)


class LabelOverRest:
    """Asks one connection for the labelled version."""

    def __init__(self, address):
        host, _, port = address.rpartition(":")
        self.connection = http.client.HTTPConnection(host, int(port), timeout=20)
        self.body = json.dumps({"instances": ROWS.tolist(), "label": LABEL})

    def ask(self):
        """Send one request."""
        self.connection.request("POST", f"/models/{MODEL}/score", self.body)
        response = self.connection.getresponse()
        document = json.loads(response.read())
        if response.status != 200:
            raise RuntimeError(document["error"]["message"])
        return document["version"], np.float32(document["score"]), np.float32(document["gradient"])

    def close(self):
        """Close the connection."""
        self.connection.close()


class LabelOverGrpc(GrpcClient):
    """Asks one channel for the labelled version."""

    def __init__(self, address):
        super().__init__(address, ROWS, MODEL)
        self.request.model_spec.version_label = LABEL


def add_version(models_dir, version):
    """Put a version's folder there whole, for a load that makes the version of its number."""
    staging = models_dir / MODEL / ".staging"
    staging.mkdir(parents=True)
    (staging / "manifest.json").touch()
    staging.rename(models_dir / MODEL / str(version))


def move_label(models_dir, version):
    """Publish a version and let the label mean it, the one or the other first; delete the version before the last."""
    steps = [lambda: add_version(models_dir, version), lambda: write_labels(models_dir / MODEL, {LABEL: version})]
    for step in steps if version % 2 == 0 else reversed(steps):
        step()
    if version > 2:
        shutil.rmtree(models_dir / MODEL / str(version - 2))


@pytest.fixture
def worker(tmp_path, wait_until):
    """Return a worker over a models folder with a newest version that no label means, and version 1, labelled."""
    settings = Settings(models_dir=tmp_path, rest_port=0, grpc_port=0, poll_interval_seconds=0.05)
    worker = Worker(settings, load=lambda folder: make_version(folder.model, folder.version))
    for version in (1, NEWEST):
        add_version(tmp_path, version)
    change_labels(tmp_path / MODEL, {LABEL: 1})
    worker.start()
    wait_until(lambda: worker.registry.labels(MODEL) == {LABEL: 1})
    yield worker
    worker.stop(5.0)


@pytest.mark.parametrize("num_moves", [20, pytest.param(1000, marks=[pytest.mark.chaos, pytest.mark.timeout(3600)])])
def test_no_request_fails_or_goes_back_when_its_label_moves(num_moves, worker, tmp_path, wait_until, report):
    """Four clients on both protocols ask by a label that moves on and on, past spoilt labels files: 0 faults."""
    folder = tmp_path / MODEL
    askers = [LabelOverRest(worker.addresses.rest) for _ in range(NUM_CLIENTS // 2)]
    askers += [LabelOverGrpc(worker.addresses.grpc) for _ in range(NUM_CLIENTS - len(askers))]
    clients = [CheckingClient(asker.ask, asker.close, expected, Pace(0.002)) for asker in askers]
    for client in clients:
        client.start()

    def wait_for(version):
        wait_until(lambda: all(version in client.versions[-1:] or client.faults for client in clients), MOVE_SECONDS)

    wait_for(1)
    for version in range(2, num_moves + 2):
        if version % 3 == 0:  # what a killed editor leaves
            (folder / "labels.json").write_text('{"stable": ')
            wait_until(lambda: worker.registry.models()[0].label_problem != "", MOVE_SECONDS)
        move_label(tmp_path, version)
        wait_for(version)
    for client in clients:
        client.stopping.set()
    for client in clients:
        client.join(30)
    assert [] == [fault for client in clients for fault in client.faults]
    assert [list(range(1, num_moves + 2))] * NUM_CLIENTS == [client.versions for client in clients]
    assert {LABEL: num_moves + 1} == worker.registry.labels(MODEL)
    report(moves=num_moves, answers=sum(client.num_answers for client in clients), faults=0)
