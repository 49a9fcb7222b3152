"""Regular files and folders, opened without following a link and without waiting for anybody.

Below `version_files` and `repository`, which know what the files mean. The folder may be anybody's: what is no plain
file of its own is refused before it is opened, for to open a FIFO waits and to open a device may act.
"""

import errno
import os
import stat
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from service.errors import VersionRefusedError

MAX_FILES = 4096
"""Most entries of a folder, and of all below it, that are looked at."""

MAX_DEPTH = 16

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def open_folder(path: Path | str, *, within: int | None = None, may_be_link: bool = False) -> int:
    """Return a descriptor of a folder.

    Args:
        path: the folder; only its last part is not followed.
        within: descriptor of the folder that a relative path starts from.
        may_be_link: whether a link to a folder will do: for what the operator named.

    Raises:
        OSError: it is missing, no folder (ENOTDIR, also for a link) or may not be opened.
    """
    return os.open(path, _FOLDER & ~os.O_NOFOLLOW if may_be_link else _FOLDER, dir_fd=within)


def entries(folder: int, limit: int = MAX_FILES) -> Iterator[tuple[str, os.stat_result]]:
    """Yield name and lstat of what is in a folder, sorted by name; what vanishes meanwhile is left out.

    Raises:
        VersionRefusedError: rule `size-limit`, before anything is looked at: there are more than `limit`.
    """
    with os.scandir(folder) as found:
        names = [entry.name for entry in islice(found, limit + 1)]
    if len(names) > limit:
        raise VersionRefusedError("size-limit", f"more than {limit} files in one folder. Remove what is not needed.")
    for name in sorted(names):
        try:
            yield name, os.stat(name, dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError:
            continue


def walk(folder: int, prefix: str = "") -> Iterator[tuple[str, os.stat_result]]:
    """Yield relative path and lstat of everything below a folder, sorted; folders before what they hold.

    Raises:
        VersionRefusedError: rule `size-limit`: too many entries in one folder, or too deep.
        OSError: a folder cannot be read, or is another thing now.
    """
    if prefix.count("/") >= MAX_DEPTH:
        raise VersionRefusedError("size-limit", f"{prefix[:200]!a}: folders deeper than {MAX_DEPTH}.")
    for name, info in entries(folder):
        yield prefix + name, info
        if stat.S_ISDIR(info.st_mode):
            inner = open_folder(name, within=folder)
            try:
                yield from walk(inner, f"{prefix}{name}/")
            finally:
                os.close(inner)


def check_kind(name: str, info: os.stat_result) -> None:
    """Refuse what is not a regular file of its own.

    Raises:
        VersionRefusedError: rule `symlink`, `special-file` (folder, device, FIFO, socket) or `hard-link`.
    """
    if stat.S_ISLNK(info.st_mode):
        raise VersionRefusedError("symlink", f"{name}: a symbolic link, expected a file. Copy what it points to.")
    if not stat.S_ISREG(info.st_mode):
        kind = "a folder" if stat.S_ISDIR(info.st_mode) else "a device, FIFO or socket"
        raise VersionRefusedError("special-file", f"{name}: {kind}, expected a file. Remove it.")
    if info.st_nlink > 1:
        reason = f"{name}: {info.st_nlink} hard links, expected 1: another name could change it. Copy it."
        raise VersionRefusedError("hard-link", reason)


def read_below(folder: int, name: str, limit: int) -> bytes:
    """Return the bytes of a file by its path below a folder, each folder on the way opened without following links.

    Args:
        folder: descriptor.
        name: relative POSIX path.
        limit: largest size in bytes.

    Raises:
        VersionRefusedError: rules of `check_kind`, `size-limit`, and those of `refusal_of`.
    """
    *parents, last = name.split("/")
    opened: list[int] = []
    try:
        for parent in parents:
            opened.append(open_folder(parent, within=opened[-1] if opened else folder))
        return _read(opened[-1] if opened else folder, last, name, limit)
    except OSError as err:
        raise refusal_of(name, err) from err
    finally:
        for descriptor in reversed(opened):
            os.close(descriptor)


def _read(folder: int, last: str, name: str, limit: int) -> bytes:
    """Return the bytes of one regular file: its kind is checked before it is opened, and again of what was opened."""
    check_kind(name, os.stat(last, dir_fd=folder, follow_symlinks=False))
    descriptor = os.open(last, _FILE, dir_fd=folder)
    try:
        check_kind(name, os.fstat(descriptor))  # before a file object is made of it: of a folder none can be
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            data = file.read(limit + 1)
    finally:
        os.close(descriptor)
    if len(data) > limit:
        raise VersionRefusedError("size-limit", f"{name}: larger than {limit} bytes.")
    return data


def refusal_of(name: str, err: OSError) -> VersionRefusedError:
    """Return the refusal that fits an error of the operating system; it never holds a path of this machine.

    Rule `file-missing`, `symlink` (or no folder), `special-file` or, for whatever else the disk says, which may pass,
    `file-unreadable`.
    """
    if err.errno == errno.ENOENT:
        return VersionRefusedError("file-missing", f"{name}: not there. Publish the version again.")
    if err.errno in {errno.ELOOP, errno.ENOTDIR}:
        return VersionRefusedError("symlink", f"{name}: a symbolic link or no folder. Copy what it points to.")
    if err.errno == errno.ENXIO:
        return VersionRefusedError("special-file", f"{name}: a device or socket, expected a file. Remove it.")
    words = os.strerror(err.errno or 0)
    return VersionRefusedError("file-unreadable", f"{name}: {words}. Let the server's user read it.")
