"""The way of a staged folder into the models folder: one job at a time, all or nothing.

Below `pipeline`, `retrain` and `rollback`; above `model_lock` and `label_moves`; reads labels and manifests through
`service.repository` and `service.manifest`. No TensorFlow, so that it can be read, tested and trusted without.

A crash at any instant leaves no new version or a whole one: everything is written and synced under a name that no
server reads (`.staging-<uuid>`), the manifest last; one rename makes it a version; the parent is synced after.
"""

import contextlib
import errno
import os
import re
import shutil
import signal
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from service import manifest
from service.manifest import VersionRefusedError
from service.repository import Repository, VersionFolder
from training import label_moves
from training.model_files import own_manifest, sync_folder, write_synced
from training.model_lock import LOCK_NAME as LOCK_NAME
from training.model_lock import LockHeldError as LockHeldError  # exported: what a caller of `lock` meets
from training.model_lock import PublishError as PublishError
from training.model_lock import acquire, label_lock

STAGING_PREFIX = ".staging-"
OLD_SECONDS = 86_400.0
"""Age at which a leftover is taken for dead where there are no locks; a live writer writes for seconds."""

_LABELS_PREFIX = ".labels-"
_ATTEMPTS = 100
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_NUMBER = re.compile(r"[0-9]{1,19}", re.ASCII)
_TAKEN = {errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR, errno.EISDIR}

FileTable = Mapping[str, Mapping[str, int | str]]
"""The manifest's `files`: relative POSIX path to `bytes` and `sha256`."""


class ModelFolder:
    """The folder of one model, while this job holds its lock. Made by `lock`.

    Args:
        repository: the models folder.
        model: name of the model.
        exclusive: False where the file system has no locks, so that another job may be at work in the folder.
    """

    def __init__(self, repository: Repository, model: str, *, exclusive: bool = True) -> None:
        """Remember where; `lock` has made the folder."""
        self.repository = repository
        self.model = model
        self.path = repository.root / model
        self.exclusive = exclusive

    def versions(self) -> list[VersionFolder]:
        """Return the versions on disk, ascending."""
        return self.repository.versions(self.model)

    @contextlib.contextmanager
    def staging(self) -> Iterator[Path]:
        """Give an empty folder to stage a version in; on the way out it is removed, unless it was published.

        Raises:
            PublishError: the folder cannot be made, or an OSError came out of the block (disk full).
        """
        folder = self.path / f"{STAGING_PREFIX}{uuid.uuid4()}"
        try:
            folder.mkdir(parents=True)
            yield folder
        except OSError as err:
            raise _cannot_write(folder.parent, err) from err
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def publish(self, staged: Path, document_for: Callable[[int, FileTable], Mapping[str, Any]]) -> VersionFolder:
        """Make the staged folder the next version and return it.

        The number is one more than the largest number in the folder, whatever bears it, or in the labels: no clock
        has a part in it. The steps: sync every file and folder, write and sync the manifest, rename, sync the parent.
        Call it within `uninterrupted`.

        Args:
            staged: folder from `staging`, without a manifest.
            document_for: makes the manifest's document (without hash) from the version's number and its files.

        Raises:
            PublishError: the folder cannot be written. Nothing was published; what cannot be synced after the rename
                is taken back.
            VersionRefusedError: the document is no manifest (a defect of the caller). Nothing was published.
        """
        try:
            files = _sync_tree(staged)
            for _ in range(_ATTEMPTS):
                version = self._next_version()
                self._write_manifest(staged, manifest.seal(document_for(version, files)))
                target = self.path / str(version)
                try:
                    _rename_to_free_name(staged, target)
                except OSError as err:
                    if err.errno not in _TAKEN:
                        raise
                    continue  # a job that does not know the lock took the number: take the next one
                self._keep(target, staged)
                return VersionFolder(self.model, version, target)
        except OSError as err:
            raise _cannot_write(self.path, err) from err
        message = f"{self.path}: {_ATTEMPTS} version numbers were taken one after the other. Stop the other writer."
        raise PublishError(message)

    def prune(self, keep: int) -> list[int]:
        """Remove the oldest versions of ours so that `keep` remain, and return their numbers.

        Never removed: a labelled version (nor any while `labels.json` cannot be read), a version without a manifest
        of ours, and one that cannot be removed. A version disappears by one rename, synced before its files go.

        Args:
            keep: how many versions stay at least, 1 or more.
        """
        removed: list[int] = []
        try:
            ours = [folder for folder in self.versions() if own_manifest(folder) is not None]
        except OSError:
            return removed
        for folder in ours[: max(len(ours) - max(keep, 1), 0)]:
            trash = self.path / f"{STAGING_PREFIX}{uuid.uuid4()}"
            try:
                with label_lock(self.path):
                    if folder.version in self.repository.labels(self.model).values():
                        continue
                    folder.path.rename(trash)
            except VersionRefusedError:
                break
            except OSError:
                continue
            removed.append(folder.version)
            with contextlib.suppress(OSError):
                sync_folder(self.path)  # else a power cut could bring half of it back
                shutil.rmtree(trash, ignore_errors=True)
        return removed

    def sweep(self) -> int:
        """Remove what killed jobs left behind and return how much; what cannot be removed stays.

        Under the lock all that was staged is of dead jobs, and under that of the labels so is every half of a labels
        file. On a file system without locks they go when they are a day old, by its own clock.

        Raises:
            OSError: the folder cannot be written.
        """
        now = self._write_time()
        count = self._remove(STAGING_PREFIX, now, exclusive=self.exclusive)
        with contextlib.suppress(TimeoutError), label_lock(self.path) as held:
            count += self._remove(_LABELS_PREFIX, now, exclusive=held)
        return count

    def _remove(self, prefix: str, now: float, *, exclusive: bool) -> int:
        """Remove what has a prefix, the young only if nobody else can be at work on it, and return how much."""
        count = 0
        for path in sorted(self.path.glob(f"{prefix}*")):
            with contextlib.suppress(OSError):
                if not exclusive and now - path.lstat().st_mtime < OLD_SECONDS:
                    continue
                if path.is_symlink() or not path.is_dir():
                    path.unlink()
                else:
                    shutil.rmtree(path, ignore_errors=True)
                count += not os.path.lexists(path)
        return count

    def _write_time(self) -> float:
        """Return the file system's time, by a folder made and removed: who cannot write learns it before the work."""
        probe = self.path / f"{STAGING_PREFIX}{uuid.uuid4()}"
        probe.mkdir()
        try:
            return probe.stat().st_mtime
        finally:
            probe.rmdir()

    def _keep(self, target: Path, staged: Path) -> None:
        """Sync the parent after the rename; where that fails, take the version back: it might not outlive a crash.

        Raises:
            OSError: it cannot be synced, and nothing was published.
            PublishError: it cannot be taken back either.
        """
        try:
            sync_folder(self.path)
        except OSError as err:
            try:
                target.rename(staged)
            except OSError:
                words = os.strerror(err.errno or errno.EIO)
                message = f"{target}: published and whole, but not safe from a power cut: {words}. Look at the disk."
                raise PublishError(message) from err
            raise

    def _next_version(self) -> int:
        """Return one more than the largest version that any entry of the folder or any label names.

        A label that outlived its version would else mean another one of the same number.
        """
        numbers = [int(name) for name in os.listdir(self.path) if _NUMBER.fullmatch(name)]
        with contextlib.suppress(VersionRefusedError, OSError):
            numbers.extend(self.repository.labels(self.model).values())
        version = max((number for number in numbers if number <= manifest.MAX_VERSION), default=0) + 1
        if version > manifest.MAX_VERSION:
            message = f"{self.path}: no version number is left below 2^63. Remove the largest folder or label."
            raise PublishError(message)
        return version

    def _write_manifest(self, staged: Path, data: bytes) -> None:
        """Write the manifest and sync it and its folder; what was sealed is parsed first."""
        manifest.parse(data)
        write_synced(staged / manifest.FILE_NAME, data)
        sync_folder(staged)


@contextlib.contextmanager
def lock(models_dir: Path, model: str) -> Iterator[ModelFolder]:
    """Hold the lock of one model, with its folder made, swept of what killed jobs left, and their work finished.

    An advisory `flock` on `<models_dir>/<model>/.lock`: the system releases it when the job dies, however it dies. On
    a file system without locks two jobs at once get numbers of their own, and neither removes what the other stages.

    Raises:
        LockHeldError: another job holds it.
        PublishError: the folder cannot be made or written.
    """
    repository = Repository(models_dir)
    path = models_dir / model
    try:
        held = acquire(path)
    except BlockingIOError as err:
        message = f"another job holds the lock of model {model} ({path / LOCK_NAME}). Wait until it has ended."
        raise LockHeldError(message) from err
    except OSError as err:
        raise _cannot_write(path, err) from err
    try:
        folder = ModelFolder(repository, model, exclusive=held.exclusive)
        try:
            folder.sweep()
        except OSError as err:
            raise _cannot_write(path, err) from err
        with contextlib.suppress(OSError, VersionRefusedError):  # labels that cannot be read now: the next job tries
            label_moves.finish(repository, model)
        yield folder
    finally:
        held.release()


@contextlib.contextmanager
def uninterrupted() -> Iterator[list[int]]:
    """Hold back SIGINT and SIGTERM while the block runs, and give the list of those that came.

    For the way from the rename to the end of a job: what is being published is published whole, and a job that says
    it was interrupted never has published. Handlers are exchanged rather than masked: other threads would take a
    masked signal. Outside the main thread: nothing.
    """
    came: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield came
        return
    previous = {number: signal.signal(number, lambda got, _: came.append(got)) for number in _SIGNALS}
    try:
        yield came
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _rename_to_free_name(source: Path, target: Path) -> None:
    """Rename a folder to a name that nothing bears: rename(2) alone would replace an empty folder silently."""
    if os.path.lexists(target):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
    source.rename(target)


def _sync_tree(folder: Path) -> dict[str, dict[str, int | str]]:
    """Sync every file and folder below and return the table of files; empty folders are removed."""
    files: dict[str, dict[str, int | str]] = {}
    for place, _, names in os.walk(folder, topdown=False):
        for name in sorted(names):
            path = Path(place, name)
            with path.open("rb") as file:
                data = file.read()
                os.fsync(file.fileno())
            entry: dict[str, int | str] = {"bytes": len(data), "sha256": manifest.sha256_hex(data)}
            files[path.relative_to(folder).as_posix()] = entry
        if place != str(folder) and not os.listdir(place):
            os.rmdir(place)
            continue
        sync_folder(Path(place))
    return files


def _cannot_write(folder: Path, err: OSError) -> PublishError:
    """Return the sentence for an error of the operating system."""
    words = os.strerror(err.errno) if err.errno else str(err)
    advice = {
        errno.ENOSPC: "Free some space",
        errno.EDQUOT: "Free some space",
        errno.EFBIG: "Raise the limit of the file size",
        errno.EROFS: "Mount it writable",
        errno.EACCES: "Let this user write there",
        errno.EPERM: "Let this user write there",
    }.get(err.errno or 0, "Look at the folder")
    return PublishError(f"{folder}: cannot be written: {words}. Nothing was published. {advice} and run it again.")
