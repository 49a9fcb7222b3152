"""The champion: the newest whole version on disk that is proved today, which tonight's challenger must match.

Below `retrain`; over `private_copy` and `export`, which read versions, and `publish`, whose lock is held meanwhile.
What it was trained on binds the night: its task, its features in their order, and its held-out rule.
"""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from service.manifest import FILE_NAME, Manifest, VersionRefusedError
from service.program import Program
from service.program.certification import certify
from service.repository import check_identity
from training import export, gate, private_copy, publish
from training.config import ConfigError, DataConfig
from training.datasets import Data, DataError
from training.evidence import fallen
from training.icnn import InputConvexNetwork
from training.objectives.transport import FLOOR
from training.picnn import PartiallyInputConvexNetwork


@dataclasses.dataclass(frozen=True, eq=False)
class Champion:
    """The version to beat.

    Args:
        version: its number.
        manifest: its manifest.
        program: its proved program.
        network: its Keras model for a warm start, or None where that cannot be used.
        cold: why it cannot be used; empty where it can.
    """

    version: int
    manifest: Manifest
    program: Program
    network: InputConvexNetwork | PartiallyInputConvexNetwork | None
    cold: str = ""


def find_champion(folder: publish.ModelFolder) -> tuple[Champion | None, list[str]]:
    """Return the newest whole version of ours that is proved, and why newer ones were passed over.

    There is none where no version of ours was ever published; what was made elsewhere, or never finished, is none.

    Raises:
        VersionRefusedError: `no-champion`: there are versions of ours, none of them whole and proved today. Whatever
            was trained would take their place without having been compared with anything.
    """
    passed_over: list[str] = []
    damaged: list[int] = []
    for version in reversed(folder.versions()):
        try:
            with private_copy.opened(version.path) as (files, manifest):
                if manifest is None:
                    passed_over.append(f"version {version.version} is not ours: it has no manifest")
                    continue
                check_identity(manifest, version.model, version.version)
                program = certify(files).program
                network, cold = _load_network(files / export.KERAS_FILE)
                return Champion(version.version, manifest, program, network, cold), passed_over
        except VersionRefusedError as err:
            passed_over.append(f"version {version.version} is passed over: {err}")
            if os.path.lexists(version.path / FILE_NAME):
                damaged.append(version.version)
    if damaged:
        raise VersionRefusedError("no-champion", _advice(folder.model, damaged, passed_over[-1]))
    return None, passed_over


def _advice(model: str, damaged: list[int], told: str) -> str:
    which = f"version {damaged[0]} alone is" if len(damaged) == 1 else f"{len(damaged)} versions are"
    return (
        f"{model}: {which} on disk and none can be compared with, so that the gate would let anything pass ({told}). "
        f"Restore one from a backup, move the damaged folders away, or begin anew with `train`."
    )


def check_task(champion: Champion, task: str) -> None:
    """Refuse another task than the champion's: its score means something else.

    Raises:
        ConfigError: names both.
    """
    if champion.manifest.task != task:
        advice = "Give the model another name, or publish the change on purpose with `train`"
        expected = f"'{champion.manifest.task}' as in version {champion.version}"
        raise ConfigError("model.task", expected, f"'{task}'. {advice}")


def check_features(champion: Champion, data: Data) -> None:
    """Refuse data whose features are not the champion's, in its order: clients send rows in that order.

    Raises:
        DataError: names what differs.
    """
    manifest = champion.manifest
    if (manifest.features, manifest.context_features) != (data.features, data.context):
        before = {*manifest.features, *(f"context {name}" for name in manifest.context_features)}
        changed = sorted(before ^ {*data.features, *(f"context {name}" for name in data.context)})
        what = f"differ in {', '.join(changed[:5])}" if changed else "stand in another order"
        message = (
            f"{data.file}: expected the features of version {champion.version}, received others: they {what}. "
            f"Name them in data.features and data.context, or publish the change on purpose with `train`."
        )
        raise DataError(message)


def check_held_out(champion: Champion, data: DataConfig) -> None:
    """Refuse a rule that holds rows out on which the champion was trained: both would be measured on what they know.

    Raises:
        ConfigError: `data.salt` is not the champion's, or `data.held_out_percent` is larger.
    """
    recorded: Mapping[str, Any] = champion.manifest.config["data"]
    salt = recorded.get("salt", DataConfig.salt)
    percent = recorded.get("held_out_percent", DataConfig.held_out_percent)
    advice = "Its training rows would be held out: put it back, or begin anew with `train`"
    if data.salt != salt:
        raise ConfigError("data.salt", f"{salt!r} as in version {champion.version}", f"{data.salt!r}. {advice}")
    if data.held_out_percent > percent:
        expected = f"at most {percent} as in version {champion.version}"
        raise ConfigError("data.held_out_percent", expected, f"{data.held_out_percent}. {advice}")


def recorded_metric(manifest: Manifest, metric: str) -> float | None:
    """Return the metric that a manifest records for its held-out rows, or None where it has none."""
    value = manifest.metrics.get("held_out", {}).get(metric)
    return float(value) if isinstance(value, int | float) else None


def recorded_floor(manifest: Manifest, metric: str) -> float | None:
    """Return the metric's floor (`Comparison.floor`) that a manifest records, or None where it has none."""
    value = manifest.metrics.get("baselines", {}).get(FLOOR, {}).get(metric)
    return float(value) if isinstance(value, int | float) else None


def data_drift(manifest: Manifest, train: Data) -> float | None:
    """Return how far the features moved since the champion was trained, or None where its manifest does not say."""
    means, deviations = (
        [*_list(manifest.data.get(f"feature_{name}")), *_list(manifest.data.get(f"context_{name}"))]
        for name in ("means", "deviations")
    )
    dim = train.x.shape[1]
    if {len(means), len(deviations)} != {dim}:
        return None
    return gate.feature_drift(train.x.mean(axis=0), np.asarray(means, float), np.asarray(deviations, float))


def past(manifest: Manifest, metric: str, train: Data) -> gate.Past:
    """Return what the gate has to know of the champion's own night.

    Args:
        manifest: the champion's.
        metric: the name of the gate's metric.
        train: tonight's training rows.
    """
    rows = manifest.metrics.get("held_out", {}).get("rows")
    deviations = np.asarray(_list(manifest.data.get("feature_deviations")), np.float64)
    return gate.Past(
        recorded=recorded_metric(manifest, metric),
        floor=recorded_floor(manifest, metric),
        rows=rows if isinstance(rows, int) and rows > 0 else None,
        fallen=fallen(manifest.data, metric),
        deviations=deviations if len(deviations) == manifest.dim else None,
        data_drift=data_drift(manifest, train),
    )


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _load_network(path: Path) -> tuple[InputConvexNetwork | PartiallyInputConvexNetwork | None, str]:
    """Return the network, or None and why it cannot be read."""
    try:
        return export.load_network(path), ""
    except (ValueError, TypeError, KeyError, OSError) as err:
        return None, f"its model.keras cannot be used ({str(err)[:200]})"
