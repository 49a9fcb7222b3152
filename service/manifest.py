"""The manifest of a version: its schema, its canonical JSON and its hashes.

Below `repository`, which compares the files of a folder with it; `training.publish` writes it last. Above
`manifest_formats`, which brings older formats to the one whose schema is here.
Standard library only: nothing here needs TensorFlow, NumPy or a network.
"""

import dataclasses
import datetime
import hashlib
import json
import re
import sys
import unicodedata
from collections.abc import Callable, Mapping
from typing import Any

from service.errors import VersionRefusedError as VersionRefusedError  # exported: training may not see `errors`
from service.manifest_formats import FORMAT_VERSION as FORMAT_VERSION  # exported: training writes it
from service.manifest_formats import migrate

FILE_NAME = "manifest.json"
"""The manifest's own name: the one file of a version that `files` does not list."""

MAX_MANIFEST_BYTES = 16 * 2**20
"""A manifest larger than this is refused before it is decoded."""

MAX_VERSION = 2**63 - 1
"""Versions are int64 on the TensorFlow Serving protocols."""

MAX_METRICS_DEPTH = 32
"""Levels of objects and lists under `metrics`, which the server's own JSON must be able to show."""

TASKS = ("classification", "regression", "transport", "density")
OUTPUTS = ("score", "gradient", "support")
CONTEXT = "context"

RUN_ID = re.compile(r"[A-Za-z0-9_.:-]{1,128}", re.ASCII)
"""What `run_id` may be; match with `fullmatch`."""

_HASH_KEY = "manifest_sha256"
_KEYS = frozenset(
    {
        "format_version", "model", "version", "created", "task", "parent", "rolled_back_to", "input", "outputs",
        "threshold", "certificate", "metrics", "data", "config", "packages", "cpu", "files", _HASH_KEY,
    }
)  # fmt: skip
_OPTIONAL_KEYS = frozenset({"run_id"})


@dataclasses.dataclass(frozen=True)
class FileEntry:
    """What the manifest says about one file.

    Args:
        bytes: size of the file.
        sha256: hash of its content, 64 lower-case hexadecimal digits.
    """

    bytes: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class Manifest:
    """A manifest that passed the schema and its own hash.

    Args:
        model: model name.
        version: version number, 1 to 2^63 - 1.
        created: UTC time of the export, `2026-11-20T03:00:12Z`.
        task: one of `TASKS`.
        parent: the version this one was warm-started from or gated against, or None.
        rolled_back_to: the version whose files this one repeats, or None.
        dim: number of features of a row.
        features: their names in column order, or empty.
        outputs: names of the outputs, `score` first.
        threshold: score above which a row is outside the acceptance region (label 1), or None.
        certificate: what the trainer proved; the server proves again.
        metrics: held-out metrics.
        data: facts of the training data (file name, rows, hash).
        config: the TOML, verbatim.
        packages: versions of the packages that trained it.
        cpu: processor it was trained on; weights repeat bit for bit only on the same one.
        files: every file of the folder but the manifest, by relative POSIX path.
        document: the whole parsed JSON, in the newest format.
        context_dim: number of features of the context that stands beside each row; 0 without one.
        context_features: their names in column order, or empty.
        format_version: the format that the file is written in.
        run_id: what the run that published it called itself in its log, or None.
    """

    model: str
    version: int
    created: str
    task: str
    parent: int | None
    rolled_back_to: int | None
    dim: int
    features: tuple[str, ...]
    outputs: tuple[str, ...]
    threshold: float | None
    certificate: Mapping[str, Any]
    metrics: Mapping[str, Any]
    data: Mapping[str, Any]
    config: Mapping[str, Any]
    packages: Mapping[str, Any]
    cpu: str
    files: Mapping[str, FileEntry]
    document: Mapping[str, Any]
    context_dim: int = 0
    context_features: tuple[str, ...] = ()
    format_version: int = FORMAT_VERSION
    run_id: str | None = None


def sha256_hex(data: bytes) -> str:
    """Return the SHA-256 of `data` as 64 lower-case hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def canonical_json(document: Mapping[str, Any]) -> bytes:
    """Return the one JSON text of `document`: sorted keys, no spaces, UTF-8, one newline at the end.

    Raises:
        ValueError: NaN, infinity, or text that UTF-8 cannot hold.
        TypeError: a value that JSON does not have.
    """
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8") + b"\n"


def seal(document: Mapping[str, Any]) -> bytes:
    """Return the bytes of `manifest.json`: `document` with `manifest_sha256` over the canonical JSON of the rest.

    The schema is not checked here; `parse` does, and a publisher parses what it sealed before it writes.
    """
    rest = {key: value for key, value in document.items() if key != _HASH_KEY}
    return canonical_json({**rest, _HASH_KEY: sha256_hex(canonical_json(rest))})


def is_file_path(name: str) -> bool:
    """Say whether `name` may be a key of `files`: relative, POSIX, printable, no `.` or `..`, not the manifest."""
    if not 0 < len(name) <= 1024 or name == FILE_NAME or "\\" in name or not name.isprintable():
        return False
    return all(part not in {"", ".", ".."} and len(part.encode()) <= 255 for part in name.split("/"))


def parse(data: bytes) -> Manifest:
    """Return the manifest in `data`, which may be of an older format: the hash is that of the bytes as they are.

    Strict: exactly the known fields, each of its type; a field given twice or unknown to its format is refused (a
    reader that skips what it does not know would serve a version whose meaning it does not know). The bytes must be
    the canonical ones, so that no two texts are the same manifest. `certificate`, `metrics`, `data`, `config` and
    `packages` are objects whose inside is free; that of `metrics`, which the server shows, within what every JSON
    reader takes (`MAX_METRICS_DEPTH`, integers of 64 bits). `run_id` may be left out.

    Raises:
        VersionRefusedError: rule `manifest-schema` (not JSON, not the schema, not canonical), `manifest-hash`
            (`manifest_sha256` is not that of the rest) or `manifest-version` (a format that is not read here).
    """
    written = _decode(data)
    if canonical_json(written) != data:
        reason = "manifest.json: not the canonical JSON (sorted keys, no spaces). Publish the version again."
        raise VersionRefusedError("manifest-schema", reason)
    if seal(written) != data:
        reason = "manifest.json: manifest_sha256 is not the hash of the rest as canonical JSON. Publish it again."
        raise VersionRefusedError("manifest-hash", reason)
    format_version, document = migrate(written)
    for name in sorted((_KEYS ^ document.keys()) - _OPTIONAL_KEYS):
        expected = f"a field of format {FORMAT_VERSION}" if name in document else "a value"
        raise _schema(name, expected, document.get(name, "nothing"))
    return _build(document, format_version)


def _decode(data: bytes) -> dict[str, Any]:
    """Return the JSON object in `data`, refusing duplicate keys, NaN, bad UTF-8 and bombs."""
    if len(data) > MAX_MANIFEST_BYTES:
        reason = f"manifest.json: {len(data)} bytes, expected at most {MAX_MANIFEST_BYTES}."
        raise VersionRefusedError("manifest-schema", reason)
    try:
        document = json.loads(data.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant)
        canonical_json({"document": document})
    except (ValueError, RecursionError) as err:
        what = "too deep" if isinstance(err, RecursionError) else str(err)[:200]
        reason = f"manifest.json: not one strict JSON object ({what}). Publish the version again."
        raise VersionRefusedError("manifest-schema", reason) from err
    if not isinstance(document, dict):
        raise VersionRefusedError("manifest-schema", "manifest.json: expected a JSON object.")
    return document


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return `pairs` as a dictionary; a key given twice is an error."""
    document = dict(pairs)
    if len(document) != len(pairs):
        message = "a key is given twice"
        raise ValueError(message)
    return document


def _no_constant(name: str) -> None:
    """Refuse NaN and the infinities, which JSON does not have."""
    message = f"{name} is not JSON"
    raise ValueError(message)


def _schema(field: str, expected: str, found: object) -> VersionRefusedError:
    """Return the refusal of one field."""
    reason = f"manifest.json: {_plain(field)}: expected {expected}, received {_plain(str(found))}. Publish it again."
    return VersionRefusedError("manifest-schema", reason)


def _plain(text: str) -> str:
    """Return the beginning of a text of the file as a log or a terminal may have it."""
    return text[:80] if text[:80].isprintable() else ascii(text[:80])


def _is_version(value: object) -> bool:
    return type(value) is int and 1 <= value <= MAX_VERSION


def _is_text(value: object) -> bool:
    return isinstance(value, str) and value != ""


def _is_time(value: object) -> bool:
    if not isinstance(value, str) or len(value) != 20:
        return False
    try:
        datetime.datetime.strptime(value, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=datetime.UTC)
    except ValueError:
        return False
    return True


def _is_names(value: object) -> bool:
    return isinstance(value, list) and all(_is_text(name) for name in value) and len(set(value)) == len(value)


def _is_input(value: object) -> bool:
    """Whether a value describes x, and where it has the field `context`, which most have not, that too."""
    if isinstance(value, dict) and "context" in value:
        context = value["context"]
        rest = {key: inner for key, inner in value.items() if key != "context"}
        return _is_tensor(rest) and _is_tensor(context) and context["name"] == CONTEXT != rest["name"]
    return _is_tensor(value)


def _is_tensor(value: object) -> bool:
    if not isinstance(value, dict) or value.keys() != {"name", "dtype", "dim", "features"}:
        return False
    dim, features = value["dim"], value["features"]
    if type(dim) is not int or dim < 1 or not _is_text(value["name"]) or value["dtype"] != "float32":
        return False
    return _is_names(features) and len(features) in {0, dim}


def _is_outputs(value: object) -> bool:
    return isinstance(value, list) and value != [] and value == [name for name in OUTPUTS if name in value]


def _is_threshold(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value is None
    return abs(value) <= sys.float_info.max


def _is_metrics(value: object) -> bool:
    return isinstance(value, dict) and _is_showable(value, MAX_METRICS_DEPTH)


def _is_showable(value: object, depth: int) -> bool:
    if isinstance(value, dict | list):
        inside = value.values() if isinstance(value, dict) else value
        return depth > 0 and all(_is_showable(inner, depth - 1) for inner in inside)
    return not isinstance(value, int) or -MAX_VERSION - 1 <= value <= MAX_VERSION


def _is_entry(value: object) -> bool:
    if not isinstance(value, dict) or value.keys() != {"bytes", "sha256"}:
        return False
    size, digest = value["bytes"], value["sha256"]
    if type(size) is not int or size < 0 or not isinstance(digest, str):
        return False
    return len(digest) == 64 and set(digest) <= set("0123456789abcdef")


def _is_files(value: object) -> bool:
    if not isinstance(value, dict) or not value:
        return False
    if not all(is_file_path(name) and _is_entry(entry) for name, entry in value.items()):
        return False
    # Two names that are one to a file system which knows no case, or writes letters in another way.
    return len({unicodedata.normalize("NFKC", name).casefold() for name in value}) == len(value)


def _is_run_id(value: object) -> bool:
    return isinstance(value, str) and RUN_ID.fullmatch(value) is not None


_RULES: Mapping[str, tuple[str, Callable[[object], bool]]] = {
    "model": ("a model name", _is_text),
    "version": ("a whole number from 1 to 2^63 - 1", _is_version),
    "created": ("a UTC time such as 2026-11-20T03:00:12Z", _is_time),
    "task": (f"one of {', '.join(TASKS)}", lambda value: value in TASKS),
    "parent": ("a version or null", lambda value: value is None or _is_version(value)),
    "rolled_back_to": ("a version or null", lambda value: value is None or _is_version(value)),
    "input": ("name, dtype float32, dim and no or dim distinct features, and the same of a context", _is_input),
    "outputs": (f"score, then some of {', '.join(OUTPUTS[1:])} in this order", _is_outputs),
    "threshold": ("a finite number or null", _is_threshold),
    "certificate": ("an object", lambda value: isinstance(value, dict)),
    "metrics": (f"an object of {MAX_METRICS_DEPTH} levels at most and integers of 64 bits", _is_metrics),
    "data": ("an object", lambda value: isinstance(value, dict)),
    "config": ("an object", lambda value: isinstance(value, dict)),
    "packages": ("an object", lambda value: isinstance(value, dict)),
    "cpu": ("a text", lambda value: isinstance(value, str)),
    "files": ("relative paths, distinct in any case, each with bytes and sha256", _is_files),
    "run_id": ("1 to 128 letters, digits, _ . : or -", _is_run_id),
}


def _build(document: Mapping[str, Any], format_version: int) -> Manifest:
    """Return the manifest of a document whose fields are the known ones, checking each."""
    for field, (expected, holds) in _RULES.items():
        if field in document and not holds(document[field]):
            raise _schema(field, expected, document[field])
    if "score" not in document["outputs"]:
        raise _schema("outputs", "score first", document["outputs"])
    context = document["input"].get("context", {"dim": 0, "features": []})
    return Manifest(
        model=document["model"],
        version=document["version"],
        created=document["created"],
        task=document["task"],
        parent=document["parent"],
        rolled_back_to=document["rolled_back_to"],
        dim=document["input"]["dim"],
        features=tuple(document["input"]["features"]),
        outputs=tuple(document["outputs"]),
        threshold=None if document["threshold"] is None else float(document["threshold"]),
        certificate=document["certificate"],
        metrics=document["metrics"],
        data=document["data"],
        config=document["config"],
        packages=document["packages"],
        cpu=document["cpu"],
        files={name: FileEntry(entry["bytes"], entry["sha256"]) for name, entry in document["files"].items()},
        document=document,
        context_dim=context["dim"],
        context_features=tuple(context["features"]),
        format_version=format_version,
        run_id=document.get("run_id"),
    )
