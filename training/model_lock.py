"""The locks of a model's folder: one job at a time, one writer of labels, and nothing to tidy after one that died.

Below `publish`, which works under them. Standard library only.
"""

import contextlib
import dataclasses
import errno
import fcntl
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path

LOCK_NAME = ".lock"
_ATTEMPTS = 100
_LONGEST_WAIT_SECONDS = 10.0
_PAUSE_SECONDS = 0.01
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF}
"""What `flock` answers on a file system that has none, such as NFS without its lock daemon."""
_NO_FILE = {errno.ELOOP, errno.EISDIR, errno.ENXIO, errno.ENODEV}


class LockHeldError(Exception):
    """Another job holds the model's lock (exit code 4)."""


class PublishError(Exception):
    """The models folder cannot be written (exit code 1): disk full, read-only, not ours. Nothing was published."""


@dataclasses.dataclass(frozen=True)
class HeldLock:
    """A lock that this job holds.

    Args:
        path: the lock file.
        descriptor: of the lock file. No child process inherits it, so the lock ends with the job, however that ends.
        exclusive: False where the file system has no locks: another job may be at work in the folder.
    """

    path: Path
    descriptor: int
    exclusive: bool

    def release(self) -> None:
        """Remove the lock file, and the folder if nothing is in it, then let go.

        Where others may be at work both stay: one of them may be about to stage something.
        """
        try:
            if self.exclusive and _is_named(self.descriptor, self.path):
                with contextlib.suppress(OSError):
                    self.path.unlink()
                    self.path.parent.rmdir()
        finally:
            os.close(self.descriptor)


def acquire(folder: Path) -> HeldLock:
    """Make a model's folder and hold its lock.

    An advisory `flock` on `<folder>/.lock`: the system releases it when the job dies, so that a dead job's lock is
    there to be taken. The file is removed on release; so after `flock` the file is compared with the one of that name,
    and tried again where they differ.

    Raises:
        BlockingIOError: another job holds it.
        PublishError: a link stands where the folder should be, or the lock is no plain file.
        OSError: the folder or the file cannot be made.
    """
    try:
        return _acquire(folder)
    except BaseException:
        with contextlib.suppress(OSError):
            folder.rmdir()  # if it was made just now: a server would list a model without versions
        raise


@contextlib.contextmanager
def label_lock(folder: Path, timeout_seconds: float = _LONGEST_WAIT_SECONDS) -> Iterator[bool]:
    """Keep every other writer of a model's labels, and every remover of its versions, out while the block runs.

    An advisory `flock` on the model's folder itself, as the service's `label` command holds it from reading the labels
    to replacing them: a version is not removed while it is being labelled, and of two changes none is lost.

    Yields:
        Whether it is held: False on a file system without locks.

    Raises:
        TimeoutError: another one held it all the time.
        OSError: the folder cannot be opened.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        deadline = time.monotonic() + timeout_seconds
        while True:
            try:
                held = _lock(descriptor)
                break
            except BlockingIOError as err:
                if time.monotonic() >= deadline:
                    message = f"another command has been changing the labels for {timeout_seconds:g} s"
                    raise TimeoutError(errno.ETIMEDOUT, message) from err
                time.sleep(_PAUSE_SECONDS)
        yield held
    finally:
        os.close(descriptor)


def _acquire(folder: Path) -> HeldLock:
    path = folder / LOCK_NAME
    for _ in range(_ATTEMPTS):
        folder.mkdir(parents=True, exist_ok=True)
        if folder.is_symlink():
            message = f"{folder}: expected a folder, received a symbolic link. Name the folder that it leads to."
            raise PublishError(message)
        try:
            descriptor = _open(path)
        except FileNotFoundError:
            continue
        try:
            exclusive = _lock(descriptor)
            if _is_named(descriptor, path):
                return HeldLock(path, descriptor, exclusive)
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
    raise BlockingIOError(errno.EWOULDBLOCK, "the lock file changes all the time")


def _open(path: Path) -> int:
    """Return a descriptor of the lock file, which is made if it is not there; never waits, follows no link.

    For writing, since NFS locks only what is; for reading where the file is another user's.
    """
    flags = os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        try:
            descriptor = os.open(path, flags | os.O_RDWR, 0o644)
        except PermissionError:
            descriptor = os.open(path, flags | os.O_RDONLY, 0o644)
    except OSError as err:
        if err.errno in _NO_FILE:
            raise _no_plain_file(path) from err
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise _no_plain_file(path)
    return descriptor


def _lock(descriptor: int) -> bool:
    """Lock and return True; False where the file system has no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as err:
        if err.errno in _NO_LOCKS:
            return False
        raise
    return True


def _is_named(descriptor: int, path: Path) -> bool:
    """Whether a file still has its name."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.lstat(path))
    except FileNotFoundError:
        return False


def _no_plain_file(path: Path) -> PublishError:
    return PublishError(f"{path}: expected a plain file as the lock, received a link, a folder or a FIFO. Remove it.")
