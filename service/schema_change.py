"""Refusing a version that takes or answers something else than the one that its model serves now.

Clients send rows by place as often as by name, and a nightly job that was given another table would break them all at
once, each answer looking as sound as before. Above `registry`, which knows what is served, and the way to load;
`worker` puts it before the watcher unless `--allow-schema-change` is said.
"""

import dataclasses
from collections.abc import Callable

from service.errors import NotFoundError, UnavailableError, VersionRefusedError
from service.model_version import ModelVersion
from service.registry import Registry
from service.repository import VersionFolder

RULE = "schema-change"


@dataclasses.dataclass(frozen=True)
class Schema:
    """What the clients of a version rely on.

    Args:
        dim: features of a row.
        features: their names in column order, or empty.
        context_dim: features of the context beside each row.
        context_features: their names in column order, or empty.
        outputs: what it answers.
        task: what the score means, e.g. `regression`; empty for a SavedModel made elsewhere, which does not say.
    """

    dim: int
    features: tuple[str, ...]
    context_dim: int
    context_features: tuple[str, ...]
    outputs: tuple[str, ...]
    task: str

    @classmethod
    def of(cls, version: ModelVersion) -> "Schema":
        """Return the schema of a live version."""
        signature, manifest = version.signature, version.loaded.manifest
        return cls(
            signature.dim,
            signature.features,
            signature.context_dim,
            signature.context_features,
            signature.outputs,
            "" if manifest is None else manifest.task,
        )

    def change_to(self, other: "Schema") -> str:
        """Return what a client of this schema would stumble over in another, or "" where there is nothing.

        Another output is nothing to stumble over, nor are names where there were none.
        """
        pairs = (
            ("features", self.dim, other.dim),
            ("context features", self.context_dim, other.context_dim),
            ("task", self.task, other.task if self.task else ""),
        )
        for what, before, after in pairs:
            if before != after:
                return f"{what}: {before or 'none'} before, {after or 'none'} now"
        for kind, before_names, after_names in (
            ("features", self.features, other.features),
            ("context features", self.context_features, other.context_features),
        ):
            if before_names and not after_names:
                return f"{kind}: with names before, without any now"
            for name, now in zip(before_names, after_names, strict=False):
                if name != now:
                    return f"{kind}: {name[:40]!a} before, {now[:40]!a} now in its place"
        gone = [output for output in self.outputs if output not in other.outputs]
        return f"outputs: {gone[0]} before, not now" if gone else ""


class SteadySchema:
    """Loads versions, but for those that would break the clients of the newest version that is served.

    While no version of the model is served, every schema is as good as any.

    Args:
        load: makes a live version of a folder.
        registry: what is served.

    Thread safety: as of `load`.
    """

    def __init__(self, load: Callable[[VersionFolder], ModelVersion], registry: Registry) -> None:
        self._load = load
        self._registry = registry

    def __call__(self, folder: VersionFolder) -> ModelVersion:
        """Return the version.

        Raises:
            VersionRefusedError: rule `schema-change`, or as of `load`.
        """
        live = self._load(folder)
        try:
            self._check(live)
        except BaseException:
            live.close()
            raise
        return live

    def _check(self, live: ModelVersion) -> None:
        try:
            with self._registry.acquire(live.signature.model) as served:
                before, version = Schema.of(served), served.signature.version
        except (NotFoundError, UnavailableError):
            return
        change = before.change_to(Schema.of(live))
        if change:
            reason = (
                f"{change}: the clients of version {version} would break. Publish it under another model's name, or "
                "start the server with --allow-schema-change."
            )
            raise VersionRefusedError(RULE, reason)
