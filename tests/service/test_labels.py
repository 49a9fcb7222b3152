"""Writing labels: what is written is read back, a failure leaves the old file, and writers do not lose each other's."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from service.labels import MissingVersionError, change_labels, label_lock, write_labels
from service.repository import Repository

NUM_WRITERS, NUM_CHANGES = 4, 25


@pytest.fixture
def model_folder(tmp_path):
    """Return the folder of a model `m` with versions 1 to 4."""
    for version in (1, 2, 3, 4):
        (tmp_path / "m" / str(version)).mkdir(parents=True)
    return tmp_path / "m"


def hidden_and_labels(folder):
    """Return the entries of a model's folder that are no versions."""
    return sorted(name for name in os.listdir(folder) if not name.isdigit())


def test_write_labels_is_read_back_by_the_repository(model_folder):
    """The repository reads what was written, the second file replaces the first, and nothing else is left behind."""
    write_labels(model_folder, {"stable": 3, "canary": 4})
    assert {"stable": 3, "canary": 4} == Repository(model_folder.parent).labels("m")
    write_labels(model_folder, {"stable": 4})
    assert {"stable": 4} == Repository(model_folder.parent).labels("m")
    assert ["labels.json"] == hidden_and_labels(model_folder)


def test_write_labels_leaves_the_old_file_when_the_disk_fails(model_folder, monkeypatch):
    """An error before the rename keeps the old labels and removes the staged file."""
    write_labels(model_folder, {"stable": 3})

    def fail(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space left"):
        write_labels(model_folder, {"stable": 4})
    assert {"stable": 3} == Repository(model_folder.parent).labels("m")
    assert ["labels.json"] == hidden_and_labels(model_folder)


def test_write_labels_removes_what_a_killed_writer_left(model_folder):
    """A staged file of a writer that was killed is gone after the next change."""
    (model_folder / ".labels-0123").write_text('{"sta')
    change_labels(model_folder, {"stable": 4})
    assert ["labels.json"] == hidden_and_labels(model_folder)


def test_change_labels_keeps_sets_and_removes(model_folder):
    """Labels that are not named stay, named ones are set, None removes, and removing what is not there is no error."""
    assert {"stable": 3, "canary": 4} == change_labels(model_folder, {"stable": 3, "canary": 4})
    assert {"stable": 1} == change_labels(model_folder, {"stable": 1, "canary": None, "nobody": None})
    assert {"stable": 1} == Repository(model_folder.parent).labels("m")


def test_change_labels_changes_nothing_when_one_version_is_missing(model_folder):
    """One version that is not in the folder refuses all changes, and the text says what is there."""
    change_labels(model_folder, {"stable": 3})
    with pytest.raises(MissingVersionError) as caught:
        change_labels(model_folder, {"stable": 1, "canary": 9})
    assert "canary=9: there is no version 9. Versions: 1, 2, 3, 4." == str(caught.value)
    assert {"stable": 3} == Repository(model_folder.parent).labels("m")


def change_many(folder, writer, barrier):
    """Give `NUM_CHANGES` labels of one's own, each to a version in turn."""
    barrier.wait(30)
    for number in range(NUM_CHANGES):
        change_labels(folder, {f"w{writer}-{number}": 1 + number % 4})


def test_change_labels_loses_nothing_when_writers_run_at_once(model_folder):
    """Four writers (of open files each its own, as processes are) that set 25 labels each at once leave all hundred."""
    barrier = threading.Barrier(NUM_WRITERS)
    with ThreadPoolExecutor(NUM_WRITERS) as pool:
        done = [pool.submit(change_many, model_folder, writer, barrier) for writer in range(NUM_WRITERS)]
    assert [None] * NUM_WRITERS == [writer.result() for writer in done]
    expected = {f"w{writer}-{n}": 1 + n % 4 for writer in range(NUM_WRITERS) for n in range(NUM_CHANGES)}
    assert expected == Repository(model_folder.parent).labels("m")


def test_label_lock_is_waited_for_and_then_given_up(model_folder):
    """While one holds the lock another waits no longer than it was told; once it is free it is had at once."""
    with label_lock(model_folder), pytest.raises(TimeoutError, match="changing the labels for 0 s"):
        label_lock(model_folder, 0.0).__enter__()
    with label_lock(model_folder, 0.0):
        pass


def test_change_labels_waits_for_the_holder_of_the_lock(model_folder):
    """A change that comes while the lock is held is made once it is released, on what the holder wrote."""
    with label_lock(model_folder):
        change = threading.Thread(target=change_labels, args=(model_folder, {"canary": 4}))
        change.start()
        write_labels(model_folder, {"stable": 3})
    change.join(20)
    assert {"stable": 3, "canary": 4} == Repository(model_folder.parent).labels("m")
