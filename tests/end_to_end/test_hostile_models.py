"""A folder full of hostile models beside good ones: all refused, nothing of theirs executed, the good ones unharmed."""

import json
import shutil
import urllib.request

from tests.end_to_end.server_process import ROOT
from tests.foreign.hostile import HOSTILE, WRITTEN, build_all

FILES = {"special-file", "file-missing", "file-unreadable"}
"""Rules of the repository, which looks at the files before anything reads them."""
SHIPPED = ROOT / "models" / "tumours" / "1"


def states(server):
    """Return model -> (state, reason) of each model's version 1."""
    models = json.loads(server.get("/models")[1])["models"]
    return {
        model["name"]: (version["state"], version["reason"])
        for model in models
        for version in model["versions"]
        if version["version"] == 1
    }


def test_server_refuses_every_hostile_model_and_serves_the_good_one(serve, wait_until, tmp_path):
    """Each ends refused with a reason, the shipped model goes on answering, and no file of theirs comes to be."""
    saved = build_all(tmp_path / "saved")
    models = tmp_path / "models"
    shutil.copytree(SHIPPED, models / "tumours" / "1")
    for name, folder in saved.items():
        (models / name).mkdir(parents=True)
        folder.rename(models / name / "1")
    server = serve(models, "--default-model", "tumours")
    wait_until(server.is_ready, 60)
    wait_until(lambda: {name for name, (state, _) in states(server).items() if state == "END"} >= set(HOSTILE), 60)
    for name, (state, reason) in states(server).items():
        assert ("AVAILABLE" if name == "tumours" else "END") == state, (name, reason)
        assert name == "tumours" or reason.split(":")[0] in HOSTILE[name][1] | FILES, (name, reason)
    body = json.dumps({"instances": [[1.0] * 30]}).encode()
    request = urllib.request.Request(
        f"http://{server.address('rest')}/score", body, {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=10) as response:
        assert 1 == len(json.load(response)["score"])
    assert not list(tmp_path.rglob(WRITTEN))
    assert 0 == server.terminate()
