"""The lives of one model's versions and the labels that mean them: what the registry keeps under its lock.

Above: `registry`, which alone uses these. Below: `lifecycle` (states) and `model_version`. Pure.
"""

import dataclasses
from collections.abc import Mapping

from service.lifecycle import ModelStatus, VersionState, VersionStatus, check_transition
from service.model_version import ModelVersion


class Life:
    """One life of one version: its status, the live object, and the number of requests that hold it."""

    def __init__(self, model: str, version: int) -> None:
        self.status = VersionStatus(model, version, VersionState.START)
        self.live: ModelVersion | None = None
        self.num_leases = 0

    def move(self, state: VersionState, *, reason: str = "", rule: str = "") -> None:
        """Go on to a state; raises ValueError where no life leads there."""
        check_transition(self.status.state, state)
        self.status = dataclasses.replace(self.status, state=state, reason=reason, rule=rule)


class LiveModel:
    """The versions of one model, their labels, and what is told of its policy.

    Thread safety: none of its own; the registry's lock is held.
    """

    def __init__(self) -> None:
        self.lives: dict[int, Life] = {}
        self.labels: dict[str, int] = {}
        self.label_problem = ""
        self.policy = ""
        self.policy_problem = ""

    def live_versions(self) -> list[int]:
        """Return the versions that answer, ascending."""
        return sorted(version for version, life in self.lives.items() if life.status.state is VersionState.AVAILABLE)

    def versions_newest_first(self) -> list[VersionStatus]:
        """Return the status of every version."""
        return [self.lives[version].status for version in sorted(self.lives, reverse=True)]

    def set_labels(self, labels: Mapping[str, int], problem: str) -> None:
        """Let labels mean versions as far as these are available: see `Registry.set_labels`."""
        live = self.live_versions()
        late = sorted(label for label, version in labels.items() if version not in live)
        moved = {label: version for label, version in labels.items() if version in live}
        kept = {label: self.labels[label] for label in late if label in self.labels}
        self.labels = {**moved, **kept}
        waits = ", ".join(f"{label}={labels[label]}" for label in late)
        self.label_problem = problem or (f"version not available: {waits}" if late else "")

    def describe(self, name: str, *, is_default: bool) -> ModelStatus:
        """Return what is told of the model."""
        newest = next((self.lives[version].live for version in reversed(self.live_versions())), None)
        return ModelStatus(
            name=name,
            default=is_default,
            dim=None if newest is None else newest.signature.dim,
            features=() if newest is None else newest.signature.features,
            context=(0, ()) if newest is None else newest.signature.context,
            labels=dict(self.labels),
            label_problem=self.label_problem,
            versions=tuple(self.versions_newest_first()),
            policy=self.policy,
            policy_problem=self.policy_problem,
        )
