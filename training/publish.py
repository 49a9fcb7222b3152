"""The way of a staged folder into the models folder: one job at a time, all or nothing.

Below `pipeline` and `retrain`; reads labels and manifests through `service.repository` and `service.manifest`.
Standard library only, so that it can be read, tested and trusted without TensorFlow.

A crash at any instant leaves no new version or a whole one: everything is written and synced under a name that no
server reads (`.staging-<uuid>`), the manifest last; one rename makes it a version; the parent is synced after.
"""

import contextlib
import errno
import fcntl
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
from service.repository import Repository, VersionFolder, check_identity

LOCK_NAME = ".lock"
STAGING_PREFIX = ".staging-"
_ATTEMPTS = 100
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_NUMBER = re.compile(r"[0-9]{1,19}", re.ASCII)
_TAKEN = {errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR, errno.EISDIR}

FileTable = Mapping[str, Mapping[str, int | str]]
"""The manifest's `files`: relative POSIX path to `bytes` and `sha256`."""


class LockHeldError(Exception):
    """Another job holds the model's lock (exit code 4)."""


class PublishError(Exception):
    """The models folder cannot be written (exit code 1): disk full, read-only, not ours. Nothing was published."""


class ModelFolder:
    """The folder of one model, while this job holds its lock. Made by `lock`.

    Args:
        repository: the models folder.
        model: name of the model.
    """

    def __init__(self, repository: Repository, model: str) -> None:
        """Remember where; `lock` has made the folder."""
        self.repository = repository
        self.model = model
        self.path = repository.root / model

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
            folder.mkdir()
            yield folder
        except OSError as err:
            raise _cannot_write(folder.parent, err) from err
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def publish(self, staged: Path, document_for: Callable[[int, FileTable], Mapping[str, Any]]) -> VersionFolder:
        """Make the staged folder the next version and return it.

        The number is one more than the largest number in the folder, whatever bears it. The steps: sync every file
        and folder, write and sync the manifest, rename, sync the parent. Call it within `uninterrupted`.

        Args:
            staged: folder from `staging`, without a manifest.
            document_for: makes the manifest's document (without hash) from the version's number and its files.

        Raises:
            PublishError: the folder cannot be written. Nothing was published.
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
                _sync_folder(self.path)
                return VersionFolder(self.model, version, target)
        except OSError as err:
            raise _cannot_write(self.path, err) from err
        message = f"{self.path}: {_ATTEMPTS} version numbers were taken one after the other. Stop the other writer."
        raise PublishError(message)

    def prune(self, keep: int) -> list[int]:
        """Remove the oldest versions of ours so that `keep` remain, and return their numbers.

        Never removed: a labelled version (nor any while `labels.json` does not parse), a version without a manifest
        of ours, and one that cannot be removed. A version disappears by one rename before its files go.

        Args:
            keep: how many versions stay at least, 1 or more.
        """
        try:
            labelled = set(self.repository.labels(self.model).values())
        except VersionRefusedError:
            return []
        ours = [folder for folder in self.versions() if _is_ours(folder)]
        removed = []
        for folder in ours[: max(len(ours) - max(keep, 1), 0)]:
            if folder.version in labelled:
                continue
            trash = self.path / f"{STAGING_PREFIX}{uuid.uuid4()}"
            with contextlib.suppress(OSError):
                folder.path.rename(trash)
                removed.append(folder.version)
                shutil.rmtree(trash, ignore_errors=True)
        return removed

    def sweep(self) -> int:
        """Remove what killed jobs left behind and return how many; safe because this job holds the lock."""
        count = 0
        for path in sorted(self.path.glob(f"{STAGING_PREFIX}*")):
            if path.is_symlink() or not path.is_dir():
                path.unlink(missing_ok=True)
            else:
                shutil.rmtree(path, ignore_errors=True)
            count += not os.path.lexists(path)
        return count

    def _next_version(self) -> int:
        """Return one more than the largest number that any entry of the folder bears."""
        numbers = [int(name) for name in os.listdir(self.path) if _NUMBER.fullmatch(name)]
        version = max(numbers, default=0) + 1
        if version > manifest.MAX_VERSION:
            raise PublishError(f"{self.path}: no version number is left below 2^63. Remove the largest folder.")
        return version

    def _write_manifest(self, staged: Path, data: bytes) -> None:
        """Write the manifest and sync it and its folder; what was sealed is parsed first."""
        manifest.parse(data)
        with (staged / manifest.FILE_NAME).open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        _sync_folder(staged)


@contextlib.contextmanager
def lock(models_dir: Path, model: str) -> Iterator[ModelFolder]:
    """Hold the lock of one model, with its folder made and swept of what killed jobs left.

    An advisory `flock` on `<models_dir>/<model>/.lock`: the system releases it when the job dies, however it dies.
    The file is removed on release, and the folder with it if nothing was published; so after `flock` the file is
    compared with the one of that name, and tried again where they differ.

    Raises:
        LockHeldError: another job holds it.
        PublishError: the folder cannot be made or written.
    """
    folder = ModelFolder(Repository(models_dir), model)
    try:
        descriptor = _acquire(folder.path)
    except BlockingIOError as err:
        message = f"another job holds the lock of model {model} ({folder.path / LOCK_NAME}). Wait until it has ended."
        raise LockHeldError(message) from err
    except OSError as err:
        raise _cannot_write(folder.path, err) from err
    try:
        folder.sweep()
        yield folder
    finally:
        with contextlib.suppress(OSError):
            (folder.path / LOCK_NAME).unlink()
            folder.path.rmdir()
        os.close(descriptor)


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


def _acquire(folder: Path) -> int:
    """Return a descriptor of the lock file with the lock held; raises BlockingIOError where it is held elsewhere."""
    for _ in range(_ATTEMPTS):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            flags = os.O_RDONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(folder / LOCK_NAME, flags, 0o644)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), os.lstat(folder / LOCK_NAME)):
                    return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
    raise BlockingIOError(errno.EWOULDBLOCK, "the lock file changes all the time")


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
        _sync_folder(Path(place))
    return files


def _sync_folder(folder: Path) -> None:
    """Sync a folder, so that the names in it survive a crash of the machine."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _is_ours(folder: VersionFolder) -> bool:
    """Say whether a version has a manifest of ours, written for this very folder."""
    try:
        data = (folder.path / manifest.FILE_NAME).read_bytes()
        check_identity(manifest.parse(data), folder.model, folder.version)
    except (OSError, VersionRefusedError):
        return False
    return not folder.path.is_symlink()


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
