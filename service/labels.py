"""Changing a model's labels: one writer at a time, the file replaced in one step.

Above: `__main__`, and the nightly job's rollback and prune. Below: `repository`, which reads the file; the watcher
follows it.
"""

import contextlib
import fcntl
import json
import os
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path

from service.repository import LABELS_FILE, Repository

_STAGED_PREFIX = ".labels-"
_LONGEST_WAIT_SECONDS = 10.0
_PAUSE_SECONDS = 0.01


class MissingVersionError(ValueError):
    """A label was to mean a version that is not in the model's folder; the text names both and what is there."""


@contextlib.contextmanager
def label_lock(model_folder: Path, timeout_seconds: float = _LONGEST_WAIT_SECONDS) -> Iterator[None]:
    """Keep every other writer of a model's labels, and every remover of its versions, out while the block runs.

    Who reads the labels in order to act on them (to change some, to remove versions without one) holds it from the
    reading to the deed. An advisory `flock` on the model's folder itself: there is no file that could be left behind,
    and the system releases it when the holder dies. It is not the lock of a job: a label may be moved while a job runs.

    Args:
        model_folder: `models/<model>`.
        timeout_seconds: longest wait for another holder.

    Raises:
        TimeoutError: another one held it all the time.
        OSError: the folder cannot be opened.
    """
    folder = os.open(model_folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        deadline = time.monotonic() + timeout_seconds
        while not _try_lock(folder):
            if time.monotonic() >= deadline:
                message = f"another command has been changing the labels for {timeout_seconds:g} s"
                raise TimeoutError(message)
            time.sleep(_PAUSE_SECONDS)
        yield
    finally:
        os.close(folder)


def change_labels(model_folder: Path, changes: Mapping[str, int | None]) -> dict[str, int]:
    """Let labels mean other versions, whatever else is changed at the same time, and return all of them.

    Args:
        model_folder: `models/<model>`.
        changes: label -> version, or None to remove it; labels that are not named stay as they are.

    Raises:
        MissingVersionError: a version is not in the folder; nothing was changed.
        VersionRefusedError: the present file does not parse; it is left as it is.
        OSError: the folder cannot be read or written, or is locked all the time; the file is as it was.
    """
    with label_lock(model_folder):
        repository = Repository(model_folder.parent)
        labels = repository.labels(model_folder.name)
        versions = {folder.version for folder in repository.versions(model_folder.name)}
        for label, version in changes.items():
            labels.pop(label, None)
            if version is not None:
                if version not in versions:
                    there = ", ".join(map(str, sorted(versions))) or "none"
                    raise MissingVersionError(f"{label}={version}: there is no version {version}. Versions: {there}.")
                labels[label] = version
        write_labels(model_folder, labels)
    return labels


def write_labels(model_folder: Path, labels: Mapping[str, int]) -> None:
    """Replace `labels.json` of a model in one step: a reader sees the old file or the new one, never a part.

    Call it within `label_lock`, with labels that were read there. What writers that were killed left is removed.

    Args:
        model_folder: `models/<model>`.
        labels: label -> version; none at all removes nothing but leaves an empty object.

    Raises:
        OSError: the folder cannot be written; the old file is then untouched.
    """
    data = (json.dumps(dict(labels), sort_keys=True) + "\n").encode()
    for leftover in model_folder.glob(f"{_STAGED_PREFIX}*"):
        leftover.unlink(missing_ok=True)
    staged = model_folder / f"{_STAGED_PREFIX}{uuid.uuid4().hex}"
    try:
        with staged.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        staged.replace(model_folder / LABELS_FILE)
    finally:
        staged.unlink(missing_ok=True)
    folder = os.open(model_folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _try_lock(folder: int) -> bool:
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
