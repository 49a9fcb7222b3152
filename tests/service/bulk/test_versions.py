"""Which version a bulk job gets: the one that a server would serve, or the one that is named."""

import json
import shutil
from pathlib import Path

import pytest

from service import manifest
from service.bulk.failure import BulkError
from service.bulk.versions import Wanted, opened
from service.errors import VersionRefusedError
from service.loading.process import LoadingProcess

SHIPPED = Path(__file__).parents[3] / "models" / "tumours" / "1"


@pytest.fixture(scope="module")
def process():
    """Return one process that loads for all tests: each of its own would import TensorFlow."""
    found = LoadingProcess()
    found.start()
    yield found
    found.close()


@pytest.fixture(scope="module")
def models_dir(tmp_path_factory):
    """Return a folder with versions 1 and 3 of `tumours`, a damaged 2 and 4, and a label."""
    root = tmp_path_factory.mktemp("models")
    for version in (1, 2, 3, 4):
        folder = root / "tumours" / str(version)
        shutil.copytree(SHIPPED, folder)
        document = json.loads((folder / "manifest.json").read_text())
        del document["manifest_sha256"]
        (folder / "manifest.json").write_bytes(manifest.seal(document | {"version": version}))
        if version in (2, 4):
            (folder / "saved_model.pb").write_bytes(b"damaged")
    (root / "tumours" / "labels.json").write_text('{"stable": 1}')
    return root


def test_newest_version_that_loads_is_taken_and_the_others_are_told(models_dir, process):
    """A refused version is passed over with its reason, as a server does."""
    told = []
    with opened(Wanted(models_dir), "auto", told.append, process) as live:
        assert ("tumours", 3) == (live.signature.model, live.signature.version)
        assert "program" == live.engine.name
    (line,) = told
    assert line.startswith("version 4 is passed over: file-hash: saved_model.pb")


@pytest.mark.parametrize("wanted", [{"version": 1}, {"label": "stable"}])
def test_named_version_is_taken(models_dir, process, wanted):
    """A number or a label names one version."""
    with opened(Wanted(models_dir, "tumours", **wanted), "program", lambda _line: None, process) as live:
        assert 1 == live.signature.version


def test_named_version_that_is_damaged_is_refused(models_dir, process):
    """No other version answers for the one that was named."""
    with (
        pytest.raises(VersionRefusedError, match="file-hash"),
        opened(Wanted(models_dir, "tumours", 2), "auto", lambda _line: None, process),
    ):
        pass


@pytest.mark.parametrize(
    ("wanted", "why"),
    [
        ({"model": "tumour"}, "received 'tumour', expected a model of the folder: it has tumours"),
        ({"model": "tumours", "version": 9}, "tumours: expected version 9 in the folder, there is none"),
        ({"model": "tumours", "label": "old"}, "received 'old', expected a label of tumours: it has stable"),
    ],
)
def test_unknown_model_version_or_label_is_told_with_what_there_is(models_dir, process, wanted, why):
    """What is not there is named beside what is."""
    with pytest.raises(BulkError, match=why), opened(Wanted(models_dir, **wanted), "auto", lambda _line: None, process):
        pass
