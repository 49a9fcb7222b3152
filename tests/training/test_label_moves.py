"""Labels follow a rollback, whenever the job that began it was killed, and no label of anybody else's moves."""

import json
import os

import pytest

from service.manifest import VersionRefusedError
from service.repository import Repository
from tests.training.small_versions import document, publish_one
from training import label_moves, publish


def publish_rollback(models_dir, parent, to):
    """Publish a version of `m` that says it replaces `parent` with the files of `to`."""
    return publish_one(
        models_dir, document_for=lambda *args: {**document(*args), "parent": parent, "rolled_back_to": to}
    )


@pytest.fixture
def half_done(tmp_path):
    """Return a models folder in which version 3, a rollback from 2 to 1, is published and its labels have not moved."""
    for _ in range(2):
        publish_one(tmp_path)
    label_moves.write(tmp_path / "m", {"stable": 2, "canary": 2, "old": 1})
    publish_rollback(tmp_path, 2, 1)
    label_moves.announce(tmp_path / "m", 2)
    return tmp_path


def names(models_dir):
    """Return what lies in the model's folder."""
    return set(os.listdir(models_dir / "m"))


def test_finish_moves_exactly_the_labels_of_the_replaced_version(half_done):
    """Both labels of version 2 mean 3 afterwards, that of version 1 stays, and nothing is left of the announcement."""
    assert {"stable": 3, "canary": 3} == label_moves.finish(Repository(half_done), "m")
    assert {"stable": 3, "canary": 3, "old": 1} == Repository(half_done).labels("m")
    assert {"1", "2", "3", "labels.json"} == names(half_done)


def test_finish_moves_nothing_when_nothing_was_announced(half_done):
    """An operator who labels the replaced version again, on purpose, keeps that."""
    label_moves.finish(Repository(half_done), "m")
    label_moves.write(half_done / "m", {"canary": 2})
    assert {} == label_moves.finish(Repository(half_done), "m")
    assert {"canary": 2} == Repository(half_done).labels("m")


def test_next_job_finishes_what_a_killed_one_began(half_done):
    """Whoever takes the lock next moves the labels, the nightly job too, and takes the next number."""
    assert 4 == publish_one(half_done).version
    assert {"stable": 3, "canary": 3, "old": 1} == Repository(half_done).labels("m")
    assert {"1", "2", "3", "4", "labels.json"} == names(half_done)


def test_next_job_moves_nothing_when_the_killed_one_published_nothing(tmp_path):
    """Announced and not published: the labels stay, the announcement goes, and the next version is no rollback."""
    for _ in range(2):
        publish_one(tmp_path)
    label_moves.write(tmp_path / "m", {"stable": 2})
    label_moves.announce(tmp_path / "m", 2)
    publish_one(tmp_path)
    assert {"stable": 2} == Repository(tmp_path).labels("m")
    assert {"1", "2", "3", "labels.json"} == names(tmp_path)


def test_next_job_goes_on_and_tries_again_when_the_labels_do_not_parse(half_done):
    """A labels file that somebody broke meanwhile stops no night; once it is mended the labels move."""
    (half_done / "m" / "labels.json").write_text("{")
    with pytest.raises(VersionRefusedError):
        label_moves.finish(Repository(half_done), "m")
    assert 4 == publish_one(half_done).version
    assert label_moves.MARKER in names(half_done)
    (half_done / "m" / "labels.json").write_text('{"stable": 2}')
    with publish.lock(half_done, "m"):
        assert {"stable": 3} == Repository(half_done).labels("m")
    assert label_moves.MARKER not in names(half_done)


@pytest.mark.parametrize("content", [b"", b"x", b"2.5"])
def test_finish_forgets_half_an_announcement(half_done, content):
    """A job that was killed while it announced had published nothing."""
    (half_done / "m" / label_moves.MARKER).write_bytes(content)
    assert {} == label_moves.finish(Repository(half_done), "m")
    assert label_moves.MARKER not in names(half_done)


def test_write_leaves_the_old_labels_when_the_disk_is_full(half_done, monkeypatch):
    """The old file is untouched and nothing lies beside it."""
    before = json.loads((half_done / "m" / "labels.json").read_text())

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space"):
        label_moves.write(half_done / "m", {"stable": 9})
    assert before == Repository(half_done).labels("m")
    assert [] == [name for name in names(half_done) if name.startswith(publish.STAGING_PREFIX)]
