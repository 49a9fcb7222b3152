"""The bytes of one version, checked against its manifest and held: what was checked is what is loaded.

Above `plain_files` and `manifest`; `loader` and training read versions through it, by way of `repository`.
"""

import dataclasses
import os
import stat
from collections.abc import Mapping
from pathlib import Path

from service import manifest, plain_files
from service.errors import VersionRefusedError
from service.manifest import Manifest
from service.plain_files import check_kind, open_folder, read_below, refusal_of

UNFINISHED = frozenset({"probe.npz", "model.keras", "report.json"})
"""Files that only our publisher writes: a folder with one of them and no manifest is not finished."""

MAX_VERSION_BYTES = 2 * 2**30

_THE_FOLDER = "the version's folder"


@dataclasses.dataclass(frozen=True)
class VersionFiles:
    """The bytes of a version, hashed and held: what was checked is what is loaded.

    Args:
        manifest: the manifest, or None for a SavedModel made elsewhere.
        contents: relative POSIX path to bytes, `manifest.json` excluded.
    """

    manifest: Manifest | None
    contents: Mapping[str, bytes]


def check_identity(found: Manifest, model: str, version: int) -> None:
    """Check that a manifest belongs to the folder it lies in.

    Raises:
        VersionRefusedError: rule `manifest-identity`.
    """
    if (found.model, found.version) != (model, version):
        reason = (
            f"manifest.json says model {found.model[:64]!a} version {found.version}, the folder says model {model} "
            f"version {version}. Publish the version under its own name; a copy needs a manifest of its own."
        )
        raise VersionRefusedError("manifest-identity", reason)


def materialize(files: Mapping[str, bytes], folder: Path) -> None:
    """Write `files` (relative path -> bytes) below `folder`."""
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def read_manifest(path: Path) -> Manifest | None:
    """Return the manifest of a version, or None where the folder has none; no other file is looked at.

    For questions that the manifest alone answers. It is whole, and nothing else is known to be.

    Args:
        path: the version's folder.

    Raises:
        VersionRefusedError: as `read_version`, for the folder and the manifest alone.
    """
    folder = _open(path, in_models_folder=False)
    try:
        return manifest.parse(read_below(folder, manifest.FILE_NAME, manifest.MAX_MANIFEST_BYTES))
    except VersionRefusedError as err:
        if err.rule == "file-missing":
            return None
        raise
    finally:
        os.close(folder)


def read_version(path: Path, *, max_bytes: int = MAX_VERSION_BYTES, in_models_folder: bool = False) -> VersionFiles:
    """Return all files of a version as bytes, checked against its manifest where it has one.

    The folder is opened once and everything is read by directory descriptor without following links, so a folder
    that is exchanged meanwhile cannot mix. The bytes that were hashed are the bytes returned.

    Args:
        path: the version's folder.
        max_bytes: largest size of all files together.
        in_models_folder: whether the folder above is a model's, of a `Repository`: it must be no link either.

    Raises:
        VersionRefusedError: rule `symlink`, `hard-link`, `special-file` (device, FIFO, socket), `file-name`,
            `size-limit` (bytes, files, depth), `file-missing`, `file-unlisted`, `file-hash` (size or hash),
            `file-unreadable`, `manifest-missing` (a folder of ours, unfinished) or one of `manifest.parse`.
    """
    folder = _open(path, in_models_folder=in_models_folder)
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
            contents[name] = read_below(folder, name, max_bytes)
            max_bytes -= len(contents[name])
        return VersionFiles(None, contents)
    except OSError as err:
        raise refusal_of(_THE_FOLDER, err) from err
    finally:
        os.close(folder)


def _open(path: Path, *, in_models_folder: bool) -> int:
    """Return a descriptor of a version's folder."""
    try:
        if not in_models_folder:
            return open_folder(path)
        above = open_folder(path.parent)
        try:
            return open_folder(path.name, within=above)
        finally:
            os.close(above)
    except OSError as err:
        raise refusal_of(_THE_FOLDER, err) from err


def _check_entries(folder: int, max_bytes: int) -> dict[str, int]:
    """Return path and size of every regular file; refuse every other kind, bad names and too much of anything."""
    sizes: dict[str, int] = {}
    for count, (name, info) in enumerate(plain_files.walk(folder)):
        if name != manifest.FILE_NAME and not manifest.is_file_path(name):
            reason = f"{name[:200]!a}: not a name for a file of a version. Remove it."
            raise VersionRefusedError("file-name", reason)
        if count >= plain_files.MAX_FILES:
            raise VersionRefusedError("size-limit", f"more than {plain_files.MAX_FILES} files.")
        if not stat.S_ISDIR(info.st_mode):
            check_kind(name, info)
            sizes[name] = info.st_size
    if sum(sizes.values()) > max_bytes:
        reason = f"{sum(sizes.values())} bytes in all, expected at most {max_bytes}."
        raise VersionRefusedError("size-limit", reason)
    return sizes


def _read_listed(folder: int, sizes: Mapping[str, int]) -> VersionFiles:
    """Return the files that the manifest lists, each with that size and hash, and no other."""
    found = manifest.parse(read_below(folder, manifest.FILE_NAME, manifest.MAX_MANIFEST_BYTES))
    for name in sorted(found.files.keys() - sizes.keys()):
        raise VersionRefusedError("file-missing", f"{name}: in manifest.json and not in the folder. Publish it again.")
    for name in sorted(sizes.keys() - found.files.keys() - {manifest.FILE_NAME}):
        raise VersionRefusedError("file-unlisted", f"{name}: in the folder and not in manifest.json. Remove it.")
    for name, entry in found.files.items():
        if sizes[name] != entry.bytes:
            reason = f"{name}: {sizes[name]} bytes, manifest.json says {entry.bytes}. Publish it again."
            raise VersionRefusedError("file-hash", reason)
    contents = {}
    for name, entry in found.files.items():
        contents[name] = read_below(folder, name, entry.bytes)
        if manifest.sha256_hex(contents[name]) != entry.sha256:
            reason = f"{name}: its SHA-256 is not the one in manifest.json. Publish it again."
            raise VersionRefusedError("file-hash", reason)
    return VersionFiles(found, contents)
