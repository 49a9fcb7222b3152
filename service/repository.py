"""What is on disk: models, versions, labels and the bytes of a version, read without following a link.

Above `manifest`; `loader` reads versions through it, `watcher` polls it, and training publishes into what it reads.
Nothing here says whether a version is good: only that its files are the ones that were published.
"""

import dataclasses
import errno
import itertools
import json
import os
import re
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import structlog

from service import manifest
from service.errors import VersionRefusedError
from service.manifest import Manifest

MODEL_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)
"""What a model's folder may be called; match with `fullmatch`."""

VERSION_NAME = re.compile(r"[1-9][0-9]{0,18}", re.ASCII)
"""What a version's folder may be called; match with `fullmatch`, and see `version_number` for the int64 bound."""

LABEL_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}", re.ASCII)
LABELS_FILE = "labels.json"
UNFINISHED = frozenset({"probe.npz", "model.keras", "report.json"})
"""Files that only our publisher writes: a folder with one of them and no manifest is not finished."""

MAX_FILES = 4096
MAX_DEPTH = 16
MAX_LABELS_BYTES = 64 * 2**10
MAX_VERSION_BYTES = 2 * 2**30
_MAX_WARNINGS = 1000
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@dataclasses.dataclass(frozen=True)
class VersionFolder:
    """Where a version lies.

    Args:
        model: name of the model's folder.
        version: number that the folder's name says.
        path: the folder.
    """

    model: str
    version: int
    path: Path


@dataclasses.dataclass(frozen=True)
class VersionFiles:
    """The bytes of a version, hashed and held: what was checked is what is loaded.

    Args:
        manifest: the manifest, or None for a SavedModel made elsewhere.
        contents: relative POSIX path to bytes, `manifest.json` excluded.
    """

    manifest: Manifest | None
    contents: Mapping[str, bytes]


def version_number(name: str) -> int | None:
    """Return the version that a folder's name says, or None: no leading zero, and within int64."""
    if VERSION_NAME.fullmatch(name) is None or int(name) > manifest.MAX_VERSION:
        return None
    return int(name)


class Repository:
    """The models folder.

    The root itself may be a link (the operator names it); below it no link is followed.

    Thread safety: reading methods may be called from several threads; a name may then be warned of twice.

    Args:
        root: the models folder; it may be missing or empty.
    """

    def __init__(self, root: Path) -> None:
        """Remember the root; nothing is read yet."""
        self.root = root
        self._warned: set[str] = set()
        self._log = structlog.get_logger()

    def models(self) -> list[str]:
        """Return the names of the models, sorted; none where the root is missing.

        Raises:
            OSError: the root is there and cannot be read.
        """
        names = []
        for name, mode in _entries(self.root, nofollow=False):
            if MODEL_NAME.fullmatch(name) and stat.S_ISDIR(mode):
                names.append(name)
            elif not name.startswith("."):
                self._warn(name, "not a folder with a model's name")
        return sorted(names)

    def versions(self, model: str) -> list[VersionFolder]:
        """Return the versions of `model`, ascending; none where the model is missing or is no folder.

        A link with a version's name is returned too, so that reading it says why it is refused.
        """
        if MODEL_NAME.fullmatch(model) is None:
            return []
        found = []
        for name, mode in _entries(self.root / model, nofollow=True):
            version = version_number(name)
            if version is not None and (stat.S_ISDIR(mode) or stat.S_ISLNK(mode)):
                found.append(VersionFolder(model, version, self.root / model / name))
            elif name != LABELS_FILE and not name.startswith("."):
                self._warn(f"{model}/{name}", "not a folder with a version's name")
        return sorted(found, key=lambda folder: folder.version)

    def labels(self, model: str) -> dict[str, int]:
        """Return the labels of `model`; none where it has no `labels.json`.

        Raises:
            VersionRefusedError: rule `labels-schema`: the file is no object of label names and versions.
        """
        try:
            folder = os.open(self.root / model, _FOLDER)
        except (FileNotFoundError, NotADirectoryError):
            return {}
        try:
            data = _read_file(folder, LABELS_FILE, LABELS_FILE, MAX_LABELS_BYTES)
        except VersionRefusedError as err:
            if err.rule == "file-missing":
                return {}
            raise VersionRefusedError("labels-schema", err.reason) from err
        finally:
            os.close(folder)
        return _parse_labels(data)

    def fingerprint(self, folder: VersionFolder) -> tuple[object, ...]:
        """Return what changes when a file of `folder` does: names, kinds, sizes, times and inodes.

        Equal twice means stable. Empty where the folder is gone. Opens no file and follows no link.
        """
        try:
            descriptor = os.open(folder.path, _FOLDER)
        except OSError:
            return ()
        try:
            entries = itertools.islice(_walk(descriptor), MAX_FILES)
            walked = [(name, info.st_mode, info.st_size, info.st_mtime_ns, info.st_ino) for name, info in entries]
        except (OSError, VersionRefusedError):
            return ("unreadable",)
        finally:
            os.close(descriptor)
        return tuple(walked)

    def _warn(self, name: str, why: str) -> None:
        """Log an ignored name, once."""
        if name not in self._warned and len(self._warned) < _MAX_WARNINGS:
            self._warned.add(name)
            self._log.warning("ignored in the models folder", name=ascii(name[:200]), why=why)


def check_identity(found: Manifest, model: str, version: int) -> None:
    """Check that a manifest belongs to the folder it lies in.

    Raises:
        VersionRefusedError: rule `manifest-identity`.
    """
    if (found.model, found.version) != (model, version):
        reason = (
            f"manifest.json says model {found.model[:64]} version {found.version}, the folder says model {model} "
            f"version {version}. Publish the version under its own name; a copy needs a manifest of its own."
        )
        raise VersionRefusedError("manifest-identity", reason)


def materialize(files: Mapping[str, bytes], folder: Path) -> None:
    """Write `files` (relative path -> bytes) below `folder`."""
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def read_version(path: Path, *, max_bytes: int = MAX_VERSION_BYTES) -> VersionFiles:
    """Return all files of a version as bytes, checked against its manifest where it has one.

    The folder is opened once and everything is read by directory descriptor without following links, so a folder
    that is exchanged meanwhile cannot mix. The bytes that were hashed are the bytes returned.

    Args:
        path: the version's folder.
        max_bytes: largest size of all files together.

    Raises:
        VersionRefusedError: rule `symlink`, `hard-link`, `special-file` (device, FIFO, socket), `file-name`,
            `size-limit` (bytes, files, depth), `file-missing`, `file-unlisted`, `file-hash` (size or hash),
            `file-unreadable`, `manifest-missing` (a folder of ours, unfinished) or one of `manifest.parse`.
    """
    try:
        folder = os.open(path, _FOLDER)
    except OSError as err:
        raise _unreadable("the version's folder", err) from err
    try:
        sizes = _check_entries(folder, max_bytes)
        if manifest.FILE_NAME in sizes:
            return _read_listed(folder, sizes)
        unfinished = sorted(UNFINISHED & sizes.keys())
        if unfinished:
            reason = f"{unfinished[0]} is there and manifest.json is not: the version is unfinished. Publish it again."
            raise VersionRefusedError("manifest-missing", reason)
        contents = {}
        for name in sizes:
            contents[name] = _read_at(folder, name, max_bytes)
            max_bytes -= len(contents[name])
        return VersionFiles(None, contents)
    except OSError as err:
        raise _unreadable("the version's folder", err) from err
    finally:
        os.close(folder)


def _entries(path: Path, *, nofollow: bool) -> Iterator[tuple[str, int]]:
    """Yield name and mode (of the entry itself, not of what it points to) in a folder; none where it is missing."""
    flags = _FOLDER if nofollow else _FOLDER & ~os.O_NOFOLLOW
    try:
        folder = os.open(path, flags)
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as err:
        if err.errno == errno.ELOOP:
            return
        raise
    try:
        for name in os.listdir(folder):
            try:
                yield name, os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode
            except FileNotFoundError:
                continue
    finally:
        os.close(folder)


def _walk(folder: int, prefix: str = "") -> Iterator[tuple[str, os.stat_result]]:
    """Yield relative path and lstat of everything below a descriptor, sorted; folders before what they hold."""
    if prefix.count("/") >= MAX_DEPTH:
        raise VersionRefusedError("size-limit", f"{prefix[:200]}: folders deeper than {MAX_DEPTH}.")
    for count, name in enumerate(sorted(os.listdir(folder))):
        if count >= MAX_FILES:
            raise VersionRefusedError("size-limit", f"more than {MAX_FILES} files in one folder.")
        info = os.stat(name, dir_fd=folder, follow_symlinks=False)
        yield prefix + name, info
        if stat.S_ISDIR(info.st_mode):
            inner = os.open(name, _FOLDER, dir_fd=folder)
            try:
                yield from _walk(inner, f"{prefix}{name}/")
            finally:
                os.close(inner)


def _check_entries(folder: int, max_bytes: int) -> dict[str, int]:
    """Return path and size of every regular file; refuse every other kind, bad names and too much of anything."""
    sizes: dict[str, int] = {}
    for count, (name, info) in enumerate(_walk(folder)):
        if name != manifest.FILE_NAME and not manifest.is_file_path(name):
            reason = f"{name[:200]!a}: not a name for a file of a version. Remove it."
            raise VersionRefusedError("file-name", reason)
        if count >= MAX_FILES:
            raise VersionRefusedError("size-limit", f"more than {MAX_FILES} files.")
        if not stat.S_ISDIR(info.st_mode):
            _check_kind(name, info)
            sizes[name] = info.st_size
    if sum(sizes.values()) > max_bytes:
        reason = f"{sum(sizes.values())} bytes in all, expected at most {max_bytes}."
        raise VersionRefusedError("size-limit", reason)
    return sizes


def _check_kind(name: str, info: os.stat_result) -> None:
    """Refuse what is not a regular file of its own."""
    if stat.S_ISLNK(info.st_mode):
        raise VersionRefusedError("symlink", f"{name}: a symbolic link, expected a file. Copy what it points to.")
    if not stat.S_ISREG(info.st_mode):
        kind = "a folder" if stat.S_ISDIR(info.st_mode) else "a device, FIFO or socket"
        raise VersionRefusedError("special-file", f"{name}: {kind}, expected a file. Remove it.")
    if info.st_nlink > 1:
        reason = f"{name}: {info.st_nlink} hard links, expected 1: another name could change it. Copy it."
        raise VersionRefusedError("hard-link", reason)


def _read_listed(folder: int, sizes: Mapping[str, int]) -> VersionFiles:
    """Return the files that the manifest lists, each with that size and hash, and no other."""
    found = manifest.parse(_read_at(folder, manifest.FILE_NAME, manifest.MAX_MANIFEST_BYTES))
    for name in sorted(found.files.keys() - sizes.keys()):
        raise VersionRefusedError("file-missing", f"{name}: in manifest.json and not in the folder. Publish it again.")
    for name in sorted(sizes.keys() - found.files.keys() - {manifest.FILE_NAME}):
        raise VersionRefusedError("file-unlisted", f"{name}: in the folder and not in manifest.json. Remove it.")
    contents = {}
    for name, entry in found.files.items():
        if sizes[name] != entry.bytes:
            reason = f"{name}: {sizes[name]} bytes, manifest.json says {entry.bytes}. Publish it again."
            raise VersionRefusedError("file-hash", reason)
        contents[name] = _read_at(folder, name, entry.bytes)
        if manifest.sha256_hex(contents[name]) != entry.sha256:
            reason = f"{name}: its SHA-256 is not the one in manifest.json. Publish it again."
            raise VersionRefusedError("file-hash", reason)
    return VersionFiles(found, contents)


def _read_at(folder: int, name: str, limit: int) -> bytes:
    """Return the bytes of a file by relative path, opening each folder on the way without following links."""
    *parents, last = name.split("/")
    opened: list[int] = []
    try:
        for parent in parents:
            opened.append(os.open(parent, _FOLDER, dir_fd=opened[-1] if opened else folder))
        return _read_file(opened[-1] if opened else folder, last, name, limit)
    except OSError as err:
        raise _unreadable(name, err) from err
    finally:
        for descriptor in reversed(opened):
            os.close(descriptor)


def _read_file(folder: int, last: str, name: str, limit: int) -> bytes:
    """Return the bytes of one regular file, checked again after it was opened."""
    try:
        descriptor = os.open(last, _FILE, dir_fd=folder)
    except OSError as err:
        raise _unreadable(name, err) from err
    try:
        _check_kind(name, os.fstat(descriptor))  # before a file object is made of it: of a folder none can be
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            data = file.read(limit + 1)
    finally:
        os.close(descriptor)
    if len(data) > limit:
        raise VersionRefusedError("size-limit", f"{name}: larger than {limit} bytes.")
    return data


def _unreadable(name: str, err: OSError) -> VersionRefusedError:
    """Return the refusal that fits an error of the operating system; it never holds a path of this machine."""
    if err.errno == errno.ENOENT:
        return VersionRefusedError("file-missing", f"{name}: not there. Publish the version again.")
    if err.errno in {errno.ELOOP, errno.ENOTDIR}:
        return VersionRefusedError("symlink", f"{name}: a symbolic link or no folder. Copy what it points to.")
    if err.errno == errno.ENXIO:
        return VersionRefusedError("special-file", f"{name}: a device or socket, expected a file. Remove it.")
    words = os.strerror(err.errno or 0)
    return VersionRefusedError("file-unreadable", f"{name}: {words}. Let the server's user read it.")


def _parse_labels(data: bytes) -> dict[str, int]:
    """Return the labels in `data`, strict."""
    try:
        document: Any = json.loads(data.decode("utf-8"), object_pairs_hook=_unique_labels)
    except (ValueError, RecursionError) as err:
        raise VersionRefusedError("labels-schema", "labels.json: not one strict JSON object of labels.") from err
    if not isinstance(document, dict):
        raise VersionRefusedError("labels-schema", "labels.json: expected an object of label names and versions.")
    for label, version in document.items():
        good = type(version) is int and 1 <= version <= manifest.MAX_VERSION
        if LABEL_NAME.fullmatch(label) is None or not good:
            reason = f"labels.json: {label[:64]!a}: expected a label of letters, digits, _ . - and a version."
            raise VersionRefusedError("labels-schema", reason)
    return document


def _unique_labels(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return `pairs` as a dictionary; a label given twice is an error."""
    if len(dict(pairs)) != len(pairs):
        message = "a label is given twice"
        raise ValueError(message)
    return dict(pairs)
