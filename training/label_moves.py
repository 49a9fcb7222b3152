"""Moving labels from one version to the one that replaces it, so that no kill in between leaves them behind.

Below `publish`, whose lock is held meanwhile; over `model_lock`, `model_files` and the service's repository.

A rollback says first, in a file that no server reads, which version it replaces; then it publishes; then it moves the
labels. A job that was killed in between has its move finished by the next one, whichever that is.
"""

import contextlib
import json
import uuid
from collections.abc import Mapping
from pathlib import Path

from service.repository import LABELS_FILE, Repository, VersionFolder
from training.model_files import own_manifest, read_plain, sync_folder, write_synced
from training.model_lock import label_lock

MARKER = ".rollback"
"""The file that says which version is being replaced."""


def announce(folder: Path, replaced: int) -> None:
    """Say that a version is about to be replaced, and its labels to be moved; it is on disk afterwards.

    Raises:
        OSError: it cannot be written; nothing of it is left then.
    """
    try:
        write_synced(folder / MARKER, f"{replaced}\n".encode())
        sync_folder(folder)
    except BaseException:
        with contextlib.suppress(OSError):
            withdraw(folder)
        raise


def withdraw(folder: Path) -> None:
    """Take back what was announced: nothing was published."""
    (folder / MARKER).unlink(missing_ok=True)


def finish(repository: Repository, model: str) -> dict[str, int]:
    """Move the labels of what an announced rollback replaced to what it published; return those that moved.

    Does nothing where none was announced, or where it came to nothing before it published.

    Raises:
        VersionRefusedError: `labels.json` does not parse; the announcement stays.
        OSError: the labels cannot be written, or not synced once they are; the announcement stays.
    """
    folder = repository.root / model
    replaced = _announced(folder / MARKER)
    if replaced is None:
        return {}
    moved: dict[str, int] = {}
    newer = [version for version in repository.versions(model) if version.version > replaced]
    if newer and _replaces(newer[0], replaced):
        with label_lock(folder):
            labels = repository.labels(model)
            moved = {label: newer[0].version for label, version in labels.items() if version == replaced}
            if moved:
                write(folder, {**labels, **moved})
    withdraw(folder)
    return moved


def write(folder: Path, labels: Mapping[str, int]) -> None:
    """Replace a model's `labels.json` in one step; what a kill leaves of it is swept by the next job.

    Call it within `label_lock`, with labels that were read there.

    Raises:
        OSError: it cannot be written; the old file is untouched, but where only the last sync failed.
    """
    staged = folder / f".staging-{uuid.uuid4()}"
    try:
        write_synced(staged, (json.dumps(dict(labels), sort_keys=True) + "\n").encode())
        staged.replace(folder / LABELS_FILE)
    finally:
        staged.unlink(missing_ok=True)
    sync_folder(folder)


def _announced(marker: Path) -> int | None:
    """Return the version that is to be replaced; None where nothing was announced, or only half (which is removed)."""
    try:
        return int(read_plain(marker))
    except FileNotFoundError:
        return None
    except ValueError:
        marker.unlink()
        return None


def _replaces(folder: VersionFolder, replaced: int) -> bool:
    """Whether a version is a rollback that took the place of another."""
    found = own_manifest(folder)
    return found is not None and found.rolled_back_to is not None and found.parent == replaced
