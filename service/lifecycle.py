"""The life of a version: its states, what is told about it, and which versions of a model should be live.

Pure: no clock, no disk, no threads. `registry` keeps the states, `watcher` asks `choose` what to load and to drop.
"""

import dataclasses
import enum
from collections.abc import Collection, Mapping
from typing import Any

from service.policies import VersionPolicy


class VersionState(enum.StrEnum):
    """States of a version, as TensorFlow Serving names them; one life runs through them only forward."""

    START = "START"
    LOADING = "LOADING"
    AVAILABLE = "AVAILABLE"
    UNLOADING = "UNLOADING"
    END = "END"


_FORWARD: Mapping[VersionState, frozenset[VersionState]] = {
    VersionState.START: frozenset({VersionState.LOADING, VersionState.END}),
    VersionState.LOADING: frozenset({VersionState.AVAILABLE, VersionState.END}),
    VersionState.AVAILABLE: frozenset({VersionState.UNLOADING}),
    VersionState.UNLOADING: frozenset({VersionState.END}),
    VersionState.END: frozenset(),
}


def check_transition(before: VersionState, after: VersionState) -> None:
    """Raise ValueError where a life does not lead from `before` to `after`."""
    if after not in _FORWARD[before]:
        message = f"a version cannot go from {before} to {after}"
        raise ValueError(message)


@dataclasses.dataclass(frozen=True)
class VersionStatus:
    """What `/models`, `/v1` and GetModelStatus tell about one version.

    Args:
        model: model name.
        version: version number.
        state: where in its life it is.
        reason: why it is not served, or what it waits for; empty while all is well. Holds no path.
        rule: the rule that refused it, e.g. `nonneg-matmul`; empty if none did.
        convexity: "proved" or "unproved"; empty where it was never loaded.
        engine: "program" or "tensorflow"; empty where it was never loaded.
        tile_rows: sizes of tiles that its engine cuts batches into, ascending; empty where it was never loaded.
        created: the manifest's time of creation; empty where there is no manifest.
        metrics: the manifest's metrics.
        made_elsewhere: whether it is a SavedModel that came without a manifest.
        num_steps: steps of its proof; 0 where it was never loaded, or is not proved.
        steps: the first of them.
    """

    model: str
    version: int
    state: VersionState
    reason: str = ""
    rule: str = ""
    convexity: str = ""
    engine: str = ""
    tile_rows: tuple[int, ...] = ()
    created: str = ""
    metrics: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    made_elsewhere: bool = False
    num_steps: int = 0
    steps: tuple[Mapping[str, Any], ...] = ()


@dataclasses.dataclass(frozen=True)
class ModelStatus:
    """What `/models` tells about one model.

    Args:
        name: model name.
        default: whether requests without a model go to it.
        dim: features of a row of its newest live version, or None where none is live.
        features: their names, or empty.
        labels: label -> version that it means now.
        label_problem: why the labels file, or a part of it, was not followed; empty while all is well.
        versions: newest first.
        context: number and names of the features of that version's context; 0 and none without one.
        policy: the version policy that is followed, e.g. `latest:1`.
        policy_problem: what of it, or of the file that says it, is not followed and why; empty while all is well.
    """

    name: str
    default: bool
    dim: int | None
    features: tuple[str, ...]
    labels: Mapping[str, int]
    label_problem: str
    versions: tuple[VersionStatus, ...]
    context: tuple[int, tuple[str, ...]] = (0, ())
    policy: str = ""
    policy_problem: str = ""


@dataclasses.dataclass(frozen=True)
class Choice:
    """What should change so that the wanted versions of a model are live.

    Args:
        load: versions to load, the most urgent first.
        retire: live versions that may go now.
    """

    load: tuple[int, ...]
    retire: tuple[int, ...]


def choose(
    usable: Collection[int], live: Collection[int], labelled: Collection[int], policy: VersionPolicy, most: int
) -> Choice:
    """Return what to load and what to drop: what the policy wants of the usable versions and every labelled one.

    A live version is dropped only when the policy wants some and every one of these is live already, so that a model
    that answers never stops answering: not while its successor loads, not when its folder vanishes, not when the policy
    names versions that are missing or refused.

    Args:
        usable: versions on disk that load as far as is known: not refused, not waiting. A live one may be among them.
        live: versions that answer now.
        labelled: versions that a label means or should mean.
        policy: which of them are wanted.
        most: how many the policy may want; the newest of more.
    """
    by_policy = policy.want(usable, live, most)
    wanted = by_policy | (set(labelled) & (set(usable) | set(live)))
    load = tuple(sorted(wanted - set(live), reverse=True))
    settled = bool(by_policy) and by_policy <= set(live)
    retire = tuple(sorted(set(live) - wanted)) if settled else ()
    return Choice(load=load, retire=retire)
