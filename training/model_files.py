"""The small files of a model's folder: read without waiting or following links, written so that a power cut is no harm.

Below `label_moves` and `publish`; above the service's repository. No TensorFlow.
"""

import errno
import os
import stat
from pathlib import Path

from service.manifest import Manifest, VersionRefusedError
from service.repository import VersionFolder, check_identity, read_manifest


def sync_folder(folder: Path) -> None:
    """Sync a folder, so that the names in it survive a crash of the machine."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_synced(path: Path, data: bytes) -> None:
    """Write a file and sync it; its name is safe once its folder is synced too."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def read_plain(path: Path) -> bytes:
    """Return the bytes of a plain file.

    Raises:
        OSError: it cannot be read, or is a link, a FIFO or a device, which nobody waits for.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "not a plain file", str(path))
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            return file.read()
    finally:
        os.close(descriptor)


def own_manifest(folder: VersionFolder) -> Manifest | None:
    """Return the manifest of a version of ours, or None where it has none that was written for this very folder."""
    try:
        found = read_manifest(folder.path)
        if found is not None:
            check_identity(found, folder.model, folder.version)
    except (OSError, VersionRefusedError):
        return None
    return found
