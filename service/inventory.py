"""What lies in a models folder, for a person or a program to read: versions, certificates, metrics, and what is wrong.

Above `repository`, which reads it; `__main__` prints it. Every file is compared with its manifest. Nothing is proved
and nothing of a model is run: that takes TensorFlow, and a server does it when it loads a version.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from service.errors import VersionRefusedError
from service.manifest import Manifest
from service.repository import Repository, VersionFolder, check_identity, read_version

HEADER = ("MODEL", "VERSION", "LABELS", "FORMAT", "CREATED", "CONVEXITY", "METRICS")
MADE_ELSEWHERE = "no manifest; a server proves it when it loads it"
SHOWN_METRICS = ("roc_auc", "rmse", "r2", "w2_uvp", "rows")

_CERTIFICATE = ("proved", "gradient", "strong_convexity", "rounding_margin", "weights_sha256", "program_sha256")
"""What is told of a certificate: all but its steps."""


@dataclasses.dataclass(frozen=True)
class Version:
    """One version as it lies there.

    Args:
        model: model name.
        version: version number.
        labels: labels that name it, sorted.
        manifest: its manifest, all of whose files are there and whole; None where there is none or it is refused.
        rule: the rule by which a server refuses it unseen; empty where it would try to load it.
        reason: why; empty with an empty rule.
    """

    model: str
    version: int
    labels: tuple[str, ...]
    manifest: Manifest | None = None
    rule: str = ""
    reason: str = ""

    @property
    def convexity(self) -> str:
        """What the trainer found, or why nothing is known."""
        if self.rule:
            return f"refused: {self.rule}"
        if self.manifest is None:
            return "made elsewhere"
        return "proved" if self.manifest.certificate.get("proved") is True else "unproved"

    def cells(self) -> tuple[str, ...]:
        """Return its line of the table."""
        known = (self.model, str(self.version), ",".join(self.labels))
        if self.manifest is None:
            return (*known, "", "", self.convexity, self.reason or MADE_ELSEWHERE)
        held_out = self.manifest.metrics.get("held_out")
        held_out = held_out if isinstance(held_out, dict) else {}
        shown = [
            f"{name}={held_out[name]:.6g}" for name in SHOWN_METRICS if isinstance(held_out.get(name), int | float)
        ]
        return (*known, str(self.manifest.format_version), self.manifest.created, self.convexity, " ".join(shown))

    def to_document(self) -> dict[str, Any]:
        """Return it as JSON."""
        document: dict[str, Any] = {"version": self.version, "labels": list(self.labels), "convexity": self.convexity}
        if self.rule:
            return document | {"rule": self.rule, "reason": self.reason}
        if self.manifest is None:
            return document
        found = self.manifest
        return document | {
            "format_version": found.format_version,
            "created": found.created,
            "task": found.task,
            "parent": found.parent,
            "rolled_back_to": found.rolled_back_to,
            "run_id": found.run_id,
            "dim": found.dim,
            "context_dim": found.context_dim,
            "outputs": list(found.outputs),
            "bytes": sum(entry.bytes for entry in found.files.values()),
            "certificate": {name: found.certificate[name] for name in _CERTIFICATE if name in found.certificate},
            "metrics": found.metrics,
        }


@dataclasses.dataclass(frozen=True)
class Inventory:
    """A models folder.

    Args:
        versions: of all models, by model and number.
        problems: what is no model, no version or no labels file, and why.
    """

    versions: tuple[Version, ...]
    problems: tuple[tuple[str, str], ...]

    def lines(self) -> Iterator[str]:
        """Yield the table, and below it what was ignored."""
        rows = [HEADER, *(version.cells() for version in self.versions)]
        widths = [max(len(row[column]) for row in rows) for column in range(len(HEADER))]
        for row in rows:
            yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for name, why in self.problems:
            yield f"ignored: {name}: {why}"

    def to_document(self) -> dict[str, Any]:
        """Return it as JSON: models by name, their versions ascending."""
        models: dict[str, list[dict[str, Any]]] = {}
        for version in self.versions:
            models.setdefault(version.model, []).append(version.to_document())
        return {
            "models": [{"name": name, "versions": versions} for name, versions in models.items()],
            "ignored": [{"name": name, "reason": why} for name, why in self.problems],
        }


def take(models_dir: Path, *, follow_model_links: bool = False) -> Inventory:
    """Return what is in a models folder; what is wrong with a part of it is told and keeps nothing else from view.

    Args:
        models_dir: the folder.
        follow_model_links: as of `Repository`.

    Raises:
        OSError: the folder itself cannot be read.
    """
    problems: list[tuple[str, str]] = []
    repository = Repository(
        models_dir, follow_model_links=follow_model_links, tell=lambda *ignored: problems.append(ignored)
    )
    versions: list[Version] = []
    for model in repository.models():
        try:
            folders = repository.versions(model)
            labels = repository.labels(model)
        except OSError as err:
            problems.append((model, f"not readable ({err.strerror})"))
            continue
        except VersionRefusedError as err:
            problems.append((f"{model}/labels.json", err.reason))
            labels = {}
        versions += [_look(folder, labels) for folder in folders]
    return Inventory(tuple(versions), tuple(problems))


def _look(folder: VersionFolder, labels: Mapping[str, int]) -> Version:
    """Return one version, each of its files compared with its manifest."""
    named = tuple(sorted(name for name, version in labels.items() if version == folder.version))
    try:
        found = read_version(folder.path, in_models_folder=True).manifest
        if found is not None:
            check_identity(found, folder.model, folder.version)
    except VersionRefusedError as err:
        return Version(folder.model, folder.version, named, None, err.rule, err.reason)
    return Version(folder.model, folder.version, named, found)
