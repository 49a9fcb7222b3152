"""Small files: no link is followed, no FIFO waited for, and a manifest must belong to its folder."""

import os

import pytest

from service.repository import VersionFolder
from tests.training.small_versions import publish_one
from training import model_files


@pytest.mark.timeout(20)
@pytest.mark.parametrize("kind", ["link", "fifo", "folder"])
def test_read_plain_refuses_what_is_no_plain_file(tmp_path, kind):
    """A link, a FIFO and a folder are errors of the system, at once."""
    path = tmp_path / "name"
    (tmp_path / "file").write_bytes(b"")
    {"link": lambda: path.symlink_to(tmp_path / "file"), "fifo": lambda: os.mkfifo(path), "folder": path.mkdir}[kind]()
    with pytest.raises(OSError, match=str(path)):
        model_files.read_plain(path)


def test_write_synced_writes_what_read_plain_reads(tmp_path):
    """The bytes come back."""
    model_files.write_synced(tmp_path / "name", b"bytes")
    assert b"bytes" == model_files.read_plain(tmp_path / "name")


def test_own_manifest_belongs_to_its_folder_alone(tmp_path):
    """A version's manifest is read; a copy under another number, a link and a folder without one have none."""
    found = publish_one(tmp_path)
    (tmp_path / "m" / "2").mkdir()
    (tmp_path / "m" / "2" / "manifest.json").write_bytes((found.path / "manifest.json").read_bytes())
    (tmp_path / "m" / "3").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "1").symlink_to(found.path)
    assert 1 == model_files.own_manifest(found).version
    for folder in (
        VersionFolder("m", 2, tmp_path / "m" / "2"),
        VersionFolder("m", 3, tmp_path / "m" / "3"),
        VersionFolder("m", 1, tmp_path / "other" / "1"),
    ):
        assert model_files.own_manifest(folder) is None
