"""What the operator wants of each model: the settings, and the model config file as it is now.

Above `model_config` and `settings`; the watcher asks it at every look at the models folder.
"""

import dataclasses
from collections.abc import Mapping

from service.model_config import ModelConfigError, ModelEntry, parse_model_config, read_file
from service.policies import VersionPolicy
from service.settings import SettingError, Settings

_EVERY_OTHER = ""


@dataclasses.dataclass(frozen=True)
class Wish:
    """What is wanted of one model.

    Args:
        policy: which of its versions.
        labels: what the model config file labels; the model's own labels file wins.
        is_listed: whether it is served at all: there is no model config file, or it names the model.
    """

    policy: VersionPolicy
    labels: Mapping[str, int] = dataclasses.field(default_factory=dict)
    is_listed: bool = True


class Plan:
    """The wishes for all models; `refresh` follows the file.

    Of three that say a policy the first that does is followed: the model config file, `--version-policy` for the model,
    `--version-policy` for every other (else the `--latest-versions` newest). A file that cannot be followed, in whole
    or in part, changes nothing.

    Args:
        settings: version_policy, latest_versions, model_config_file, models_dir.

    Raises:
        SettingError: the file cannot be followed now, at the start.

    Thread safety: for one thread at a time.
    """

    def __init__(self, settings: Settings) -> None:
        self._file = settings.model_config_file
        self._models_dir = settings.models_dir
        self._policies = {
            model: policy.resolved(settings.latest_versions)
            for model, policy in ((_EVERY_OTHER, VersionPolicy()), *settings.version_policy)
        }
        self._entries: Mapping[str, ModelEntry] | None = None
        self._data: bytes | None = None
        self.problem = ""
        """Why the file, as it is now, is not followed; empty while it is."""
        self.refresh()
        if self.problem:
            raise SettingError("--model-config-file / CONVEX_MODEL_CONFIG_FILE", str(self._file), self.problem)

    def refresh(self) -> bool:
        """Follow the file where it changed since; return whether other wishes may be the consequence."""
        if self._file is None:
            return False
        try:
            data = read_file(self._file)
            if data == self._data:  # the bytes themselves: times of files are too coarse to tell
                return False
            self._entries = parse_model_config(data, self._models_dir)
        except ModelConfigError as error:
            self._data = None
            self.problem = f"model config file: {error}"
            return False
        self._data = data
        self.problem = ""
        return True

    def listed(self) -> frozenset[str]:
        """Return the models that the file names; none where there is no file."""
        return frozenset(self._entries or ())

    def of(self, model: str) -> Wish:
        """Return what is wanted of a model."""
        policy = self._policies.get(model, self._policies[_EVERY_OTHER])
        if self._entries is None:
            return Wish(policy)
        entry = self._entries.get(model)
        return Wish(policy, is_listed=False) if entry is None else Wish(entry.policy or policy, entry.labels)
