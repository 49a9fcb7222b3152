"""A sabotaged version beside a running server: refused by the proof, while the older one goes on answering."""

import shutil

import numpy as np

from tests.contract.version_surgery import constrained_keys, flipped, read_tensors, reseal, write_tensors
from tests.end_to_end.clients import GrpcClient, RestClient
from tests.end_to_end.server_process import ROOT

SHIPPED = ROOT / "models" / "tumours" / "1"


def test_server_keeps_the_old_version_when_a_newer_one_has_a_negated_weight(serve, wait_until, tmp_path):
    """With every hash rewritten to match, version 2 ends refused by the sign rule, and version 1 loses no request."""
    models = tmp_path / "models"
    shutil.copytree(SHIPPED, models / "tumours" / "1")
    server = serve(models, "--default-model", "tumours")
    wait_until(server.is_ready, 60)
    rows = np.loadtxt(ROOT / "training" / "examples" / "tumours.csv", delimiter=",", skiprows=1, max_rows=2)
    rows = rows[:, :30].astype(np.float32)
    clients = [RestClient(server.address("rest"), rows, "tumours", raw=True, pause_seconds=0.01)]
    clients.append(GrpcClient(server.address("grpc"), rows, "tumours", pause_seconds=0.01))
    for client in clients:
        client.start()
    try:
        staged = shutil.copytree(SHIPPED, tmp_path / "staged")
        tensors = read_tensors(staged)
        name, key = next(iter(constrained_keys(tensors).items()))
        place = tuple(int(i) for i in np.argwhere(tensors[key] != 0)[0])
        write_tensors(staged, flipped(tensors, key, place))
        reseal(staged, version=2)
        staged.rename(models / "tumours" / "2")
        wait_until(lambda: server.versions("tumours").get(2, ("",))[0] == "END", 30)
        asked = len(clients[0].answers)
        wait_until(lambda: len(clients[0].answers) > asked + 5, 30)
    finally:
        for client in clients:
            client.stopping.set()
        for client in clients:
            client.join(30)
    state, reason = server.versions("tumours")[2]
    assert "END" == state
    assert "nonneg-matmul" in reason
    assert name in reason
    for client in clients:
        assert [1] == client.seen()
        assert [] == [*client.failures, *client.refusals]
    assert 0 == server.terminate()
