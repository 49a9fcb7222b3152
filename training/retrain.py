"""The nightly job: a challenger from tonight's data, which takes the champion's place only through the gate.

Below `__main__`, above `pipeline`, whose way it goes. A champion is the newest whole version of ours on disk that is
proved today; a server may be serving it meanwhile, and goes on until it has loaded the next one.
"""

import contextlib
import dataclasses
import json
import shutil
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.manifest import Manifest, VersionRefusedError
from service.program import Program
from service.program.certification import certify
from service.repository import VersionFolder, check_identity
from training import export, gate, pipeline, publish, report
from training.config import TrainingConfig
from training.datasets import DataError
from training.gate import GateReport
from training.icnn import InputConvexNetwork
from training.objectives import Objective, create_objective
from training.pipeline import Result, Rows
from training.progress import reporting

REFUSED_FOLDER = ".refused"
"""Below the models folder: the last refused challenger's report of each model. No server reads names with a dot."""

WAIT_SECONDS = 120.0
_POLL_SECONDS = 0.25
_ANSWER_SECONDS = 5.0


class WaitError(Exception):
    """The version is published, but the server did not say AVAILABLE in time (exit code 1)."""


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
    network: InputConvexNetwork | None
    cold: str = ""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What the night came to.

    Args:
        published: the new version's folder, or None where the gate refused.
        gate: what the gate saw.
        lines: sentences for the log.
    """

    published: Path | None
    gate: GateReport
    lines: tuple[str, ...]


def retrain(
    config: TrainingConfig, *, progress: pipeline.Progress = reporting, wait_seconds: float = WAIT_SECONDS
) -> Outcome:
    """Train a challenger on the configured data and publish it if the gate lets it through.

    The steps, under the model's lock: read the data; find the champion; start from its weights (from new ones where
    there is no champion, its features or network differ from the configuration, or its file cannot be read); train;
    prove; gate; publish; wait for the server, if one is named; prune. A refused challenger leaves only its report, in
    `<models_dir>/.refused/<model>/`.

    Args:
        config: the job.
        progress: opens what is told of the run.
        wait_seconds: how long to wait for the server.

    Raises:
        DataError: the data cannot be used, or has other features than the champion.
        DivergenceError, LockHeldError, ExportError, PublishError, VersionRefusedError: as `pipeline.train`.
        WaitError: published, but not AVAILABLE in time. Nothing is pruned then.
    """
    with contextlib.ExitStack() as until_the_end, publish.lock(config.publish.models_dir, config.model.name) as folder:
        objective = create_objective(config.model.task)
        rows = pipeline.read_rows(config, objective)
        champion, notes = find_champion(folder)
        if champion is not None:
            _check_features(champion, rows)
        model, start = _start(config, objective, rows, champion)
        history = pipeline.run_fit(config, objective, model, rows, progress)
        with folder.staging() as staged:
            proved = pipeline.stage_and_prove(model, staged, config, rows)
            metrics = pipeline.measure(objective, proved, rows, config.trainer.seed)
            verdict, metrics = _judge(config, objective, rows, champion, proved.held_out, metrics)
            result = Result(
                config,
                objective,
                rows,
                history,
                proved,
                metrics,
                pipeline.utc_now(),
                parent=None if champion is None else champion.version,
                gate=verdict.to_document(),
                notes=(start, *notes),
            )
            told = (start, *notes, *result.lines())
            if not verdict.passed:
                place = _write_refusal(config, result)
                return Outcome(None, verdict, (*told, *_refusal(verdict), f"report: {place}"))
            report.write(result.report(), staged)
            came = until_the_end.enter_context(publish.uninterrupted())
            version = folder.publish(staged, result.document)
        if config.publish.wait_available:
            wait_available(config.publish.wait_available, version, wait_seconds, stop=lambda: bool(came))
        removed = folder.prune(config.publish.keep)
        pruned = (f"pruned: {', '.join(map(str, removed))}",) if removed else ()
        return Outcome(version.path, verdict, (*told, _passed(verdict), *pruned))


def find_champion(folder: publish.ModelFolder) -> tuple[Champion | None, list[str]]:
    """Return the newest whole version of ours that is proved, and why newer ones were passed over."""
    passed_over: list[str] = []
    for version in reversed(folder.versions()):
        try:
            with export.opened(version.path) as (files, manifest):
                if manifest is None:
                    passed_over.append(f"version {version.version} is not ours: it has no manifest")
                    continue
                check_identity(manifest, version.model, version.version)
                program = certify(files).program
                network, cold = _load_network(files / export.KERAS_FILE)
                return Champion(version.version, manifest, program, network, cold), passed_over
        except VersionRefusedError as err:
            passed_over.append(f"version {version.version} is passed over: {err}")
    return None, passed_over


def wait_available(
    server: str,
    version: VersionFolder,
    seconds: float,
    *,
    stop: Callable[[], bool] = lambda: False,
    poll_seconds: float = _POLL_SECONDS,
) -> None:
    """Return when the server says that the version is AVAILABLE.

    Args:
        server: http(s) address of the REST port, e.g. `http://127.0.0.1:8501`.
        version: the published version.
        seconds: how long to wait.
        stop: asked between two looks; true ends the wait.
        poll_seconds: between two looks.

    Raises:
        WaitError: the time is over, the server has refused the version, or `stop` said so.
    """
    who = f"{version.model} version {version.version}"
    deadline = time.monotonic() + seconds
    state, reason = "", "no look yet"
    while True:
        state, reason = _state(f"{server}/models", version)
        if state == "AVAILABLE":
            return
        if state == "END" and reason:
            message = f"{who} is published, but {server} refused it: {reason}. Nothing was pruned."
            raise WaitError(message)
        if stop() or time.monotonic() > deadline:
            why = "the job was interrupted" if stop() else f"not within {seconds:g} s"
            message = (
                f"{who} is published, but {server} does not say AVAILABLE ({why}; last answer: {state or reason})."
            )
            raise WaitError(f"{message} Nothing was pruned.")
        time.sleep(poll_seconds)


def _state(address: str, version: VersionFolder) -> tuple[str, str]:
    """Return the state that a server's `GET /models` gives a version and its reason; no state where it does not say."""
    try:
        with urllib.request.urlopen(address, timeout=_ANSWER_SECONDS) as answer:  # noqa: S310  # config: http(s) only
            models = json.loads(answer.read(2**24))["models"]
            for model in models:
                for entry in model["versions"] if model["name"] == version.model else ():
                    if entry["version"] == version.version:
                        return str(entry["state"]), str(entry["reason"])
            return "", "it does not list the version yet"
    except (OSError, ValueError, LookupError, TypeError) as err:
        return "", str(err)[:200]


def _load_network(path: Path) -> tuple[InputConvexNetwork | None, str]:
    """Return the network, or None and why it cannot be read."""
    try:
        return export.load_network(path), ""
    except (ValueError, TypeError, KeyError, OSError) as err:
        return None, f"its model.keras cannot be used ({str(err)[:200]})"


def _check_features(champion: Champion, rows: Rows) -> None:
    """Refuse data whose features are not the champion's, in its order: clients send rows in that order."""
    if champion.manifest.features != rows.table.features:
        changed = sorted(set(champion.manifest.features) ^ set(rows.table.features))
        what = f"differ in {', '.join(changed[:5])}" if changed else "stand in another order"
        message = (
            f"{rows.table.file}: expected the features of version {champion.version}, received others: they {what}. "
            f"Name them in data.features, or publish the change on purpose with `train`."
        )
        raise DataError(message)


def _start(
    config: TrainingConfig, objective: Objective, rows: Rows, champion: Champion | None
) -> tuple[InputConvexNetwork, str]:
    """Return the network to train and a sentence on where its weights come from."""
    new = objective.create_network(config.network, rows.train, config.trainer.seed)
    if champion is None:
        return new, "start: new weights, there is no champion"
    old = champion.network
    if old is None:
        return new, f"start: new weights, champion is version {champion.version}, {champion.cold}"
    if _shape(old) != _shape(new):
        return new, f"start: new weights, the network of champion version {champion.version} is another one"
    return old, f"start: the weights of champion version {champion.version}"


def _shape(network: InputConvexNetwork) -> dict[str, Any]:
    """Return what two networks must share for one to go on from the other's weights."""
    return {key: value for key, value in network.get_config().items() if key not in {"name", "seed"}}


def _judge(
    config: TrainingConfig,
    objective: Objective,
    rows: Rows,
    champion: Champion | None,
    challenger: gate.Scored,
    metrics: dict[str, dict[str, float]],
) -> tuple[GateReport, dict[str, dict[str, float]]]:
    """Return the gate's report, and the metrics with the champion's among them."""
    name = config.gate.metric

    def metric(scores: NDArray[np.floating], targets: NDArray[np.floating]) -> float:
        try:
            return objective.metrics(scores, targets)[name]
        except DataError:
            return float("nan")

    if champion is None:
        return gate.judge(None, challenger, rows.held_out.y, config=config.gate, metric=metric), metrics
    answers = pipeline.answers(champion.program, rows.held_out.x)
    drift = _data_drift(champion.manifest, rows)
    answers = dataclasses.replace(answers, recorded=_recorded(champion.manifest, name))
    verdict = gate.judge(answers, challenger, rows.held_out.y, config=config.gate, metric=metric, data_drift=drift)
    own, *others = metrics.items()
    return verdict, dict([own, (pipeline.CHAMPION, objective.metrics(answers.score, rows.held_out.y)), *others])


def _recorded(manifest: Manifest, metric: str) -> float | None:
    """Return the metric that a manifest records for its held-out rows, or None where it has none."""
    value = manifest.metrics.get("held_out", {}).get(metric)
    return float(value) if isinstance(value, int | float) else None


def _data_drift(manifest: Manifest, rows: Rows) -> float | None:
    """Return how far the features moved since the champion was trained, or None where its manifest does not say."""
    means, deviations = manifest.data.get("feature_means"), manifest.data.get("feature_deviations")
    dim = rows.train.x.shape[1]
    if not isinstance(means, list) or not isinstance(deviations, list) or {len(means), len(deviations)} != {dim}:
        return None
    return gate.feature_drift(rows.train.x.mean(axis=0), np.asarray(means, float), np.asarray(deviations, float))


def _write_refusal(config: TrainingConfig, result: Result) -> Path:
    """Write the refused challenger's report in place of the one before and return its page."""
    place = config.publish.models_dir / REFUSED_FOLDER / config.model.name
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    report.write(result.report(), place)
    return place / report.HTML_FILE


def _refusal(verdict: GateReport) -> list[str]:
    return [f"refused: {reason}" for reason in verdict.reasons]


def _passed(verdict: GateReport) -> str:
    """Return the gate's verdict in one line."""
    if verdict.champion is None:
        return "gate: no champion to compare with"
    error = "unknown" if verdict.standard_error is None else f"{verdict.standard_error:.2g}"
    return (
        f"gate: passed; {verdict.metric} {verdict.challenger:.6g}, the champion's {verdict.champion:.6g} "
        f"(standard error of the difference {error}) on {verdict.rows} held-out rows"
    )
