"""The nightly job: a challenger from tonight's data, which takes the champion's place only through the gate.

Below `__main__`; above `pipeline`, whose way it goes, `champion`, which finds the version to beat, and `availability`.
A server may be serving the champion meanwhile, and goes on until it has loaded the next one.
"""

import contextlib
import dataclasses
import shutil
from functools import partial
from pathlib import Path
from typing import Any

from training import evidence, gate, pipeline, publish, report
from training.availability import WAIT_SECONDS, wait_available
from training.champion import (
    Champion,
    check_features,
    check_held_out,
    check_task,
    find_champion,
    past,
)
from training.config import TrainingConfig
from training.gate import GateReport
from training.objectives import Objective, create_objective
from training.pipeline import Result, Rows
from training.progress import reporting

REFUSED_FOLDER = ".refused"
"""Below the models folder: the last refused challenger's report of each model. No server reads names with a dot."""


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
    config: TrainingConfig,
    *,
    progress: pipeline.Progress = reporting,
    wait_seconds: float = WAIT_SECONDS,
    tell: pipeline.Tell = pipeline.silent,
) -> Outcome:
    """Train a challenger on the configured data and publish it if the gate lets it through.

    The steps, under the model's lock: read the data; find the champion; start from its weights (from new ones where
    there is no champion, its network is not the configured one, or its file cannot be read); train;
    prove; gate; publish; wait for the server, if one is named; prune. A refused challenger leaves only its report, in
    `<models_dir>/.refused/<model>/`.

    Args:
        config: the job.
        progress: opens what is told of the run.
        wait_seconds: how long to wait for the server.
        tell: is told, line by line, what the gradient audit found before the run.

    Raises:
        DataError: the data cannot be used, or has other features than the champion.
        ConfigError: the task or the held-out rule is not the champion's; or as `pipeline.train`.
        VersionRefusedError: a row is on the wrong side of the split; or as `pipeline.train`.
        DivergenceError, LockHeldError, ExportError, PublishError: as `pipeline.train`.
        WaitError: published, but not AVAILABLE in time. Nothing is pruned then.
    """
    with contextlib.ExitStack() as until_the_end, publish.lock(config.publish.models_dir, config.model.name) as folder:
        objective = create_objective(config)
        rows = pipeline.read_rows(config, objective)
        champion, notes = find_champion(folder)
        if champion is not None:
            check_task(champion, config.model.task)
            check_features(champion, rows.data)
            check_held_out(champion, config.data)
        model, start = _start(config, objective, rows, champion)
        run = objective.start(model, rows.train, rows.validation, config.trainer)
        pipeline.check_run(run, rows)
        audited = pipeline.audit_run(config, run, tell)
        history = pipeline.run_fit(config, run, progress)
        with folder.staging() as staged:
            proved = pipeline.stage_and_prove(model, staged, config, rows)
            metrics = pipeline.measure(objective, proved, rows, config.trainer.seed)
            verdict, metrics = _judge(config, objective, rows, champion, proved, metrics)
            result = Result(
                config,
                objective,
                rows,
                history,
                audited,
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


def _start(
    config: TrainingConfig, objective: Objective[Any], rows: Rows[Any], champion: Champion | None
) -> tuple[Any, str]:
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


def _shape(network: Any) -> dict[str, Any]:
    """Return what two networks must share for one to go on from the other's weights."""
    return {key: value for key, value in network.get_config().items() if key not in {"name", "seed"}}


def _judge(
    config: TrainingConfig,
    objective: Objective[Any],
    rows: Rows[Any],
    champion: Champion | None,
    proved: pipeline.Proved,
    metrics: dict[str, dict[str, float]],
) -> tuple[GateReport, dict[str, dict[str, float]]]:
    """Return the gate's report, and the metrics with the champion's among them."""
    before = None if champion is None else partial(pipeline.answers, champion.program)
    known = None if champion is None or before is None else (champion.manifest.data, before)
    found = evidence.gather(config, objective, rows, known, partial(pipeline.answers, proved.program))
    answers, challenger = None if before is None else before(rows.held_out.x), proved.held_out
    comparison = objective.compare(answers, challenger, rows.held_out, config.gate.metric)
    if champion is None or answers is None:
        return gate.judge(None, challenger, comparison, config=config.gate, evidence=found), metrics
    told = past(champion.manifest, config.gate.metric, rows.train)
    verdict = gate.judge(answers, challenger, comparison, config=config.gate, past=told, evidence=found)
    own, *others = metrics.items()
    beside = [(pipeline.CHAMPION, objective.metrics(answers, rows.held_out))] if answers.are_finite() else []
    return verdict, dict([own, *beside, *others])


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
