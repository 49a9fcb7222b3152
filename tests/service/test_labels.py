"""Writing labels: what is written is read back, and a failure leaves the old file."""

import os

import pytest

from service.labels import write_labels
from service.repository import Repository


def test_write_labels_is_read_back_by_the_repository(tmp_path):
    """The repository reads what was written, the second file replaces the first, and nothing else is left behind."""
    (tmp_path / "m").mkdir()
    write_labels(tmp_path / "m", {"stable": 3, "canary": 4})
    assert {"stable": 3, "canary": 4} == Repository(tmp_path).labels("m")
    write_labels(tmp_path / "m", {"stable": 4})
    assert {"stable": 4} == Repository(tmp_path).labels("m")
    assert ["labels.json"] == os.listdir(tmp_path / "m")


def test_write_labels_leaves_the_old_file_when_the_disk_fails(tmp_path, monkeypatch):
    """An error before the rename keeps the old labels and removes the staged file."""
    (tmp_path / "m").mkdir()
    write_labels(tmp_path / "m", {"stable": 3})

    def fail(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        write_labels(tmp_path / "m", {"stable": 4})
    assert {"stable": 3} == Repository(tmp_path).labels("m")
    assert ["labels.json"] == os.listdir(tmp_path / "m")
