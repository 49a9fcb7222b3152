"""What is on disk: models, versions and labels, read without following a link.

Above `version_files`, whose names are here too for training's sake; `watcher` polls it, `loader` reads versions, and
training publishes into what it reads. Nothing here says whether a version is good: only that its files are the ones
that were published.
"""

import dataclasses
import errno
import itertools
import json
import os
import re
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import structlog

from service import manifest, plain_files
from service.errors import VersionRefusedError
from service.plain_files import open_folder, read_below
from service.version_files import VersionFiles as VersionFiles  # these five: training may not see `version_files`
from service.version_files import check_identity as check_identity
from service.version_files import materialize as materialize
from service.version_files import read_manifest as read_manifest
from service.version_files import read_version as read_version

MODEL_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)
"""What a model's folder may be called; match with `fullmatch`."""

VERSION_NAME = re.compile(r"[1-9][0-9]{0,18}", re.ASCII)
"""What a version's folder may be called; match with `fullmatch`, and see `version_number` for the int64 bound."""

LABEL_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}", re.ASCII)
LABELS_FILE = "labels.json"

MAX_LABELS_BYTES = 64 * 2**10
MAX_LISTED = 65536
"""Most entries of the models folder, and of a model's folder; one more and nothing in it is looked at."""

_MAX_WARNINGS = 1000
_NO_FOLDER = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})


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


def version_number(name: str) -> int | None:
    """Return the version that a folder's name says, or None: no leading zero, and within int64."""
    if VERSION_NAME.fullmatch(name) is None or int(name) > manifest.MAX_VERSION:
        return None
    return int(name)


class Repository:
    """The models folder.

    The root itself may be a link (the operator names it); below it no link is followed. With `follow_model_links` one
    is, for who switches all files of a model at once (a Kubernetes ConfigMap, `current -> releases/7`): a link in the
    place of a model's folder, to a folder that lies below the root itself.

    Thread safety: reading methods may be called from several threads; a name may then be told of twice.

    Args:
        root: the models folder; it may be missing or empty.
        follow_model_links: whether a model's folder may be a link that stays below the root.
        tell: is told each name that is ignored, and why, once; by default a warning is logged.
    """

    def __init__(
        self, root: Path, *, follow_model_links: bool = False, tell: Callable[[str, str], None] | None = None
    ) -> None:
        """Remember the root; nothing is read yet."""
        self.root = root
        self._follows = follow_model_links
        self._warned: set[str] = set()
        self._log = structlog.get_logger()
        self._tell = tell or self._log_ignored

    def models(self) -> list[str]:
        """Return the names of the models, sorted; none where the root is missing.

        Raises:
            OSError: the root is there and cannot be read, or has more than `MAX_LISTED` entries.
        """
        names = []
        for name, mode in _listed(self.root, may_be_link=True):
            if MODEL_NAME.fullmatch(name) and (stat.S_ISDIR(mode) or self._leads_within(name, mode)):
                names.append(name)
            elif not name.startswith("."):
                self._warn(name, "not a folder with a model's name")
        return sorted(names)

    def versions(self, model: str) -> list[VersionFolder]:
        """Return the versions of `model`, ascending; none where the model is missing or is no folder.

        A link with a version's name is returned too, so that reading it says why it is refused.

        Raises:
            OSError: the folder is there and cannot be read, or has more than `MAX_LISTED` entries.
        """
        if MODEL_NAME.fullmatch(model) is None:
            return []
        path = self._model_folder(model)
        found = []
        for name, mode in _listed(path):
            version = version_number(name)
            if version is not None and (stat.S_ISDIR(mode) or stat.S_ISLNK(mode)):
                found.append(VersionFolder(model, version, path / name))
            elif name != LABELS_FILE and not name.startswith("."):
                self._warn(f"{model}/{name}", "not a folder with a version's name")
        return sorted(found, key=lambda folder: folder.version)

    def labels(self, model: str) -> dict[str, int]:
        """Return the labels of `model`; none where it has no `labels.json`.

        Raises:
            VersionRefusedError: rule `labels-schema`: the file is no object of label names and versions, or no file.
        OSError: the folder is there and cannot be read.
        """
        try:
            folder = open_folder(self._model_folder(model))
        except OSError as err:
            if err.errno in _NO_FOLDER:
                return {}
            raise
        try:
            data = read_below(folder, LABELS_FILE, MAX_LABELS_BYTES)
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
            descriptor = open_folder(folder.path)
        except OSError:
            return ()
        try:
            entries = itertools.islice(plain_files.walk(descriptor), plain_files.MAX_FILES)
            walked = [(name, info.st_mode, info.st_size, info.st_mtime_ns, info.st_ino) for name, info in entries]
        except (OSError, VersionRefusedError):
            return ("unreadable",)
        finally:
            os.close(descriptor)
        return tuple(walked)

    def _model_folder(self, model: str) -> Path:
        """Return the folder of a model: where a link leads that may be followed, else the name below the root."""
        path = self.root / model
        if not (self._follows and path.is_symlink()):
            return path
        try:
            root, target = self.root.resolve(strict=True), path.resolve(strict=True)
        except (OSError, RuntimeError):  # it leads nowhere, or round and round
            return path
        return target if target != root and target.is_relative_to(root) else path

    def _leads_within(self, name: str, mode: int) -> bool:
        """Whether a model's name is a link that may be followed."""
        return stat.S_ISLNK(mode) and not self._model_folder(name).is_symlink()

    def _warn(self, name: str, why: str) -> None:
        """Tell of an ignored name, once."""
        if name not in self._warned and len(self._warned) < _MAX_WARNINGS:
            self._warned.add(name)
            self._tell(ascii(name[:200]), why)

    def _log_ignored(self, name: str, why: str) -> None:
        self._log.warning("ignored in the models folder", name=name, why=why)


def _listed(path: Path, *, may_be_link: bool = False) -> Iterator[tuple[str, int]]:
    """Yield name and mode (of the entry itself, not of what it points to) in a folder; none where there is none."""
    try:
        folder = open_folder(path, may_be_link=may_be_link)
    except OSError as err:
        if err.errno in _NO_FOLDER:
            return
        raise
    try:
        for name, info in plain_files.entries(folder, MAX_LISTED):
            yield name, info.st_mode
    except VersionRefusedError as err:
        raise OSError(errno.EFBIG, err.reason) from err
    finally:
        os.close(folder)


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
