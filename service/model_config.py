"""TensorFlow Serving's `--model_config_file`: which models are served, with which version policies and labels.

Above `protos` (the messages) and `repository` (names). Below: `plan`, which reads the file again when it changes.
"""

import dataclasses
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from service.policies import MOST_LATEST, PolicyKind, VersionPolicy
from service.protos import tensorflow_serving as protos
from service.repository import LABEL_NAME, MODEL_NAME

MAX_FILE_BYTES = 2**20
_MAX_SHOWN = 200
_TENSORFLOW = 1  # of the enum ModelType, which model_platform replaced


class ModelConfigError(ValueError):
    """A model config file that is not followed; the text says where and what was expected, and holds no path."""


@dataclasses.dataclass(frozen=True)
class ModelEntry:
    """What the file says of one model.

    Args:
        policy: its version policy; None: that of the settings.
        labels: label -> version.
    """

    policy: VersionPolicy | None
    labels: Mapping[str, int]


def read_file(path: Path) -> bytes:
    """Return the bytes of a model config file.

    A link is followed: the file is the operator's, and Kubernetes mounts such files as links.

    Raises:
        ModelConfigError: it cannot be read, is no regular file or larger than `MAX_FILE_BYTES`.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            if not stat.S_ISREG(
                os.fstat(descriptor).st_mode
            ):  # before a file object is made of it: of a folder none can
                message = "it is no regular file"
                raise ModelConfigError(message)
            with os.fdopen(descriptor, "rb", closefd=False) as file:
                data = file.read(MAX_FILE_BYTES + 1)
        finally:
            os.close(descriptor)
    except OSError as err:
        raise ModelConfigError(f"it cannot be read ({err.strerror})") from err
    if len(data) > MAX_FILE_BYTES:
        raise ModelConfigError(f"larger than {MAX_FILE_BYTES} bytes")
    return data


def parse_model_config(data: bytes, models_dir: Path) -> dict[str, ModelEntry]:
    """Return what a model config file says, by model.

    Followed: `name`, `base_path` (the model's own folder in the models folder, or none), `model_platform` (tensorflow),
    `model_version_policy`, `version_labels`. What asks for anything else is an error, so that nothing is left out
    silently.

    Args:
        data: the file, in protobuf's text form.
        models_dir: the models folder.

    Raises:
        ModelConfigError: it does not parse, or asks for what is not offered.
    """
    config = protos.ModelServerConfig()
    try:
        protos.parse_text(data.decode("utf-8"), config)
    except ValueError as err:
        raise ModelConfigError(f"not a ModelServerConfig in protobuf's text form: {str(err)[:_MAX_SHOWN]}") from err
    if config.HasField("custom_model_config") or not config.model_config_list.config:
        message = "expected `model_config_list { config { name: ... } }` with at least one model"
        raise ModelConfigError(message)
    entries: dict[str, ModelEntry] = {}
    for entry in config.model_config_list.config:
        if MODEL_NAME.fullmatch(entry.name) is None or entry.name in entries:
            raise ModelConfigError(f"name {entry.name[:_MAX_SHOWN]!a}: expected a model's name, each once")
        _check_kind(entry)
        _check_base_path(entry, models_dir)
        entries[entry.name] = ModelEntry(_read_policy(entry), _read_labels(entry))
    return entries


def _check_kind(entry: Any) -> None:
    """Refuse what is no TensorFlow model, and logging, which is not offered."""
    if entry.model_platform not in {"", "tensorflow"} or entry.model_type not in {0, _TENSORFLOW}:
        raise ModelConfigError(f"model {entry.name}: model_platform: expected tensorflow")
    if entry.HasField("logging_config"):
        raise ModelConfigError(f"model {entry.name}: logging_config: not offered. Leave it out; see --access-log")


def _check_base_path(entry: Any, models_dir: Path) -> None:
    """Refuse every folder but the model's own in the models folder."""
    if not entry.base_path:
        return
    asked = os.path.normpath(os.path.abspath(models_dir / entry.base_path))
    roots = {os.path.abspath(models_dir), os.path.realpath(models_dir)}
    if asked not in {os.path.join(root, entry.name) for root in roots}:
        message = f"model {entry.name}: base_path: expected the folder {entry.name} in the models folder, or none"
        raise ModelConfigError(message)


def _read_policy(entry: Any) -> VersionPolicy | None:
    if not entry.HasField("model_version_policy"):
        return None
    policy = entry.model_version_policy
    kind = policy.WhichOneof("policy_choice")
    if kind == "specific":
        versions = frozenset(policy.specific.versions)
        if not versions or min(versions) < 1:
            raise ModelConfigError(f"model {entry.name}: specific: expected `versions: N` at least once, N from 1")
        return VersionPolicy(PolicyKind.SPECIFIC, versions=versions)
    if kind == "all":
        return VersionPolicy(PolicyKind.ALL)
    number = max(1, policy.latest.num_versions)  # as TensorFlow Serving reads 0
    if number > MOST_LATEST:
        raise ModelConfigError(f"model {entry.name}: latest: expected num_versions up to {MOST_LATEST}")
    return VersionPolicy(PolicyKind.LATEST, num_versions=number)


def _read_labels(entry: Any) -> dict[str, int]:
    labels = dict(entry.version_labels)
    for label, version in labels.items():
        if LABEL_NAME.fullmatch(label) is None or version < 1:
            expected = "expected a label of letters, digits, _ . - and a version from 1"
            raise ModelConfigError(f"model {entry.name}: version_labels: {label[:64]!a}: {expected}")
    return labels
