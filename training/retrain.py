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

from service.repository import VersionFolder
from training import checkpoints, evidence, gate, journal, night, pipeline, publish, report
from training.audit import Audit
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
from training.job_log import JobLog
from training.night import Night
from training.objectives import Objective, create_objective
from training.pipeline import Result, Rows
from training.progress import reporting
from training.runs import Run
from training.trainer import History


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What the night came to.

    Args:
        published: the new version's folder, or None where the gate refused, and in a dry run.
        gate: what the gate saw.
        lines: sentences for the log.
        report: the page of the training report's copy, or None where the journal cannot be written.
    """

    published: Path | None
    gate: GateReport
    lines: tuple[str, ...]
    report: str | None = None


def retrain(  # noqa: PLR0913  # the job, who is told, and how it is run
    config: TrainingConfig,
    *,
    progress: pipeline.Progress = reporting,
    wait_seconds: float = WAIT_SECONDS,
    tell: pipeline.Tell = pipeline.silent,
    log: JobLog | None = None,
    dry_run: bool = False,
    fresh: bool = False,
    until_the_end: contextlib.ExitStack | None = None,
) -> Outcome:
    """Train a challenger on the configured data and publish it if the gate lets it through.

    The steps, under the model's lock: read the data; find the champion; start from its weights (from new ones where
    there is no champion, its network is not the configured one, or its file cannot be read); train;
    prove; gate; publish; wait for the server, if one is named; prune. A refused challenger leaves only its report.
    Every run leaves a record (`journal`), a published one with a copy of its report.

    Args:
        config: the job.
        progress: opens what is told of the run.
        wait_seconds: how long to wait for the server.
        tell: is told, line by line, what the gradient audit found before the run, and where a killed job goes on.
        log: takes a line a step; by default there are no lines.
        dry_run: whether to end with the gate: nothing is published, moved, pruned or told to a hook.
        fresh: whether to begin anew where the same job was killed.
        until_the_end: as of `night.opened`: for whoever still has to say what was published.

    Raises:
        DataError: the data cannot be used, or has other features than the champion.
        ConfigError: the task or the held-out rule is not the champion's; or as `pipeline.train`.
        VersionRefusedError: a row is on the wrong side of the split; or as `pipeline.train`.
        DivergenceError, LockHeldError, ExportError, PublishError: as `pipeline.train`.
        WaitError: published, but not AVAILABLE in time. Nothing is pruned then.
    """
    with night.opened(config, log or JobLog(), dry_run=dry_run, until_the_end=until_the_end) as tonight:
        return _challenge(config, tonight, progress, wait_seconds, tell, fresh=fresh)


@dataclasses.dataclass(frozen=True, eq=False)
class _Begun:
    """A challenge before its first training step.

    Args:
        objective: the task.
        rows: tonight's data.
        champion: the version to beat, or None.
        model: the network to train.
        run: its training.
        audited: what the gradient audit found.
        notes: where the weights come from, and which versions were passed over.
    """

    objective: Objective[Any]
    rows: Rows[Any]
    champion: Champion | None
    model: Any
    run: Run
    audited: Audit
    notes: tuple[str, ...]


def _challenge(
    config: TrainingConfig,
    tonight: Night,
    progress: pipeline.Progress,
    wait_seconds: float,
    tell: pipeline.Tell,
    *,
    fresh: bool,
) -> Outcome:
    """Take the steps of the night."""
    tonight.step("lock")
    with (
        publish.lock(config.publish.models_dir, config.model.name) as folder,
        contextlib.ExitStack() as within_the_lock,
    ):
        begun = _begin(config, tonight, folder, tell)
        tonight.step("train")
        sides = (begun.rows.train, begun.rows.validation)
        saved = within_the_lock.enter_context(checkpoints.kept(config, sides, begun.run, tell, fresh=fresh))
        history = pipeline.run_fit(config, begun.run, progress, saved)
        tonight.facts(steps=history.steps[-1], best_step=history.best_step, stopped_early=history.stopped_early)
        tonight.step("stage")
        with folder.staging() as staged:
            result, verdict = _prove_and_judge(config, tonight, begun, history, staged)
            told = (*begun.notes, *result.lines())
            tonight.step("report")
            if not verdict.passed or tonight.dry_run:
                return _unpublished(tonight, result, verdict, told)
            report.write(result.report(), staged)
            page = tonight.keep_report(lambda place: _copy_report(staged, place))
            tonight.step("publish")
            tonight.hold_signals()
            version = folder.publish(staged, result.document)
        saved.remove()
        tonight.facts(version=version.version, path=str(version.path))
        tonight.entry.record.update(version=version.version, path=str(version.path))
        pruned = _wait_and_prune(config, tonight, folder, version, wait_seconds)
        tonight.came_to(journal.PUBLISHED)
        return Outcome(version.path, verdict, (*told, _passed(verdict), *pruned), page)


def _begin(config: TrainingConfig, tonight: Night, folder: publish.ModelFolder, tell: pipeline.Tell) -> _Begun:
    """Return the challenge: data, champion, network and its audit."""
    tonight.step("read")
    objective = create_objective(config)
    rows = pipeline.read_rows(config, objective)
    tonight.entry.record.update(rows=len(rows.data))
    tonight.facts(**_counts(rows))
    tonight.step("champion")
    champion, notes = find_champion(folder)
    tonight.facts(version=None if champion is None else champion.version, passed_over=notes)
    if champion is not None:
        check_task(champion, config.model.task)
        check_features(champion, rows.data)
        check_held_out(champion, config.data)
    tonight.step("start")
    model, start = _start(config, objective, rows, champion)
    run = objective.start(model, rows.train, rows.validation, config.trainer)
    pipeline.check_run(run, rows)
    tonight.facts(weights=start.removeprefix("start: "))
    tonight.step("audit")
    audited = pipeline.audit_run(config, run, tell)
    tonight.facts(stuck=len(audited.stuck), left_out=len(audited.listed))
    return _Begun(objective, rows, champion, model, run, audited, (start, *notes))


def _prove_and_judge(
    config: TrainingConfig, tonight: Night, begun: _Begun, history: History, staged: Path
) -> tuple[Result, GateReport]:
    """Write the challenger's files, prove them, and return all that is known of it with the gate's verdict."""
    between = partial(tonight.step, "prove")
    proved = pipeline.stage_and_prove(begun.model, staged, config, begun.rows, between)
    steps, program = proved.certificate["steps"], proved.certificate["program_sha256"]
    tonight.facts(num_steps=len(steps), program_sha256=program)
    tonight.step("gate")
    metrics = pipeline.measure(begun.objective, proved, begun.rows, config.trainer.seed)
    verdict, metrics = _judge(config, begun.objective, begun.rows, begun.champion, proved, metrics)
    tonight.judged(verdict)
    result = Result(
        config,
        begun.objective,
        begun.rows,
        history,
        begun.audited,
        proved,
        metrics,
        pipeline.utc_now(),
        parent=None if begun.champion is None else begun.champion.version,
        gate=verdict.to_document(),
        notes=begun.notes,
        run_id=tonight.log.run_id,
    )
    return result, verdict


def _wait_and_prune(
    config: TrainingConfig, tonight: Night, folder: publish.ModelFolder, version: VersionFolder, wait_seconds: float
) -> tuple[str, ...]:
    """Wait for the server, if one is named, remove old versions, and return what the log says of it."""
    server = config.publish.wait_available
    if server:
        tonight.step("wait")
        tonight.facts(server=server)
        wait_available(server, version, wait_seconds, stop=tonight.is_interrupted)
    tonight.step("prune")
    removed = folder.prune(config.publish.keep)
    tonight.facts(removed=removed)
    return (f"pruned: {', '.join(map(str, removed))}",) if removed else ()


def _unpublished(tonight: Night, result: Result, verdict: GateReport, told: tuple[str, ...]) -> Outcome:
    """Return the outcome of a night that publishes nothing; its report goes to its record alone."""
    page = tonight.keep_report(lambda place: report.write(result.report(), place))
    if verdict.passed:
        tonight.came_to(journal.WOULD_PUBLISH)
        lines = [_passed(verdict), "dry run: nothing was published"]
    else:
        tonight.came_to(journal.WOULD_REFUSE if tonight.dry_run else journal.REFUSED)
        lines = _refusal(verdict)
    return Outcome(None, verdict, (*told, *lines, f"report: {page or 'it cannot be written'}"), page)


def _counts(rows: Rows[Any]) -> dict[str, Any]:
    """Return the numbers of rows."""
    sides = {"train": rows.train, "validation": rows.validation, "held_out": rows.held_out}
    return {"file": rows.data.file, "rows": len(rows.data), **{name: len(side) for name, side in sides.items()}}


def _copy_report(staged: Path, place: Path) -> None:
    """Copy the report: its version will be pruned."""
    for name in (report.HTML_FILE, report.JSON_FILE):
        shutil.copyfile(staged / name, place / name)


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
