"""One night as its operator sees it: a record that stays, a last line that says what came of it, and who is told.

Below `retrain`, whose steps run inside `opened`; over `journal`, `hooks`, `job_log` and `publish`. None of what is done
here can lose a night: what cannot be written or told is a line of the log.
"""

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from service.manifest import VersionRefusedError
from training import hooks, journal, publish, report
from training.config import ConfigError, TrainingConfig
from training.gate import GateReport
from training.hooks import Hook
from training.job_log import JobLog, plain

_EVENTS = {
    journal.PUBLISHED: "published",
    journal.REFUSED: "refused",
    journal.FAILED: "failed",
    journal.LOCKED: "failed",
}
"""Which hook is told of which outcome; a dry run and an interruption tell nobody."""

_LEVELS = {journal.PUBLISHED: "info", journal.WOULD_PUBLISH: "info", journal.FAILED: "error", journal.LOCKED: "error"}


class Night:
    """A run that is on. Made by `opened`.

    Args:
        config: the job.
        log: its lines.
        entry: its record.
        dry_run: whether it publishes nothing.
        until_the_end: what is held until the night is over, its hooks included.
    """

    def __init__(
        self,
        config: TrainingConfig,
        log: JobLog,
        entry: journal.Entry,
        *,
        dry_run: bool,
        until_the_end: contextlib.ExitStack,
    ) -> None:
        """Nothing has come of it yet."""
        self.config = config
        self.log = log
        self.entry = entry
        self.dry_run = dry_run
        self.step = log.step
        self.facts = log.facts
        self._until_the_end = until_the_end
        self._came: list[int] | None = None

    def hold_signals(self) -> None:
        """Hold SIGINT and SIGTERM back from now until the night is over."""
        if self._came is None:
            self._came = self._until_the_end.enter_context(publish.uninterrupted())

    def is_interrupted(self) -> bool:
        """Whether a signal came that was held back."""
        return bool(self._came)

    def judged(self, verdict: GateReport) -> None:
        """Keep what the gate said, for the log, the record and the hooks."""
        document = verdict.brief()
        self.facts(**{key: value for key, value in document.items() if key not in {"method", "evidence"}})
        self.entry.record.update(gate=document, reasons=document["reasons"])

    def keep_report(self, write: Callable[[Path], object]) -> str | None:
        """Let `write` leave the report with the record; return the page, or None where it cannot be written."""
        place = self.entry.keep(write)
        page = None if place is None else str(place / report.HTML_FILE)
        self.facts(report=page)
        self.entry.record.update(report=page)
        return page

    def came_to(self, outcome: str, **facts: Any) -> None:
        """Say what came of the night; it is told when the night is over."""
        self.entry.record.update(outcome=outcome, **facts)


@contextlib.contextmanager
def opened(
    config: TrainingConfig,
    log: JobLog,
    *,
    dry_run: bool = False,
    environment: Mapping[str, str] = os.environ,
    until_the_end: contextlib.ExitStack | None = None,
) -> Iterator[Night]:
    """Run a night: the block takes its steps, and says by `came_to` what came of it; an error says it too.

    Then, in this order: the last line of the log, the record, the hook. Errors of the block go on.

    Args:
        config: the job.
        log: takes the lines.
        dry_run: whether nobody is told.
        environment: of the hooks.
        until_the_end: keeps signals held back after the night, once they are, until it is closed; by default they are
            let through when the night is over.

    Raises:
        ConfigError: a hook names a variable that the environment has not, or that holds no http(s) address.
    """
    told = {event: _resolved(config, event, environment) for event in hooks.EVENTS}
    entry = journal.Entry(
        config.publish.models_dir, config.model.name, log.run_id, lambda what: log.line("journal", "warning", why=what)
    )
    entry.record.update(dry_run=dry_run)
    with contextlib.ExitStack() as tonight:
        entry.open()
        tonight.callback(entry.close, config.publish.keep_reports)
        log.listen = lambda: entry.write(step=log.current, steps=plain(log.steps), seconds=log.seconds)
        night = Night(config, log, entry, dry_run=dry_run, until_the_end=until_the_end or tonight)
        try:
            yield night
        except BaseException as err:
            night.hold_signals()
            night.came_to(_outcome_of(err), error=_words(err), step=log.current)
            _end(night, told, environment)
            raise
        night.hold_signals()
        log.end_step()
        _end(night, told, environment)


def _resolved(config: TrainingConfig, event: str, environment: Mapping[str, str]) -> Hook:
    """Return the hook of an event, with its address."""
    hook: Hook = getattr(config.publish, f"on_{event}")
    found = hook.resolved(environment)
    if found is None:
        expected = f"the environment variable {hook.variable} to hold an http(s) address"
        raise ConfigError(f"publish.on_{event}", expected, "none" if hook.variable not in environment else "another")
    return found


def _outcome_of(err: BaseException) -> str:
    """Return what an error makes of the night."""
    if isinstance(err, publish.LockHeldError):
        return journal.LOCKED
    if isinstance(err, VersionRefusedError):
        return journal.REFUSED
    return journal.FAILED if isinstance(err, Exception) else journal.INTERRUPTED


def _words(err: BaseException) -> str:
    """Return what an error says, or its class where it says nothing."""
    return (str(err) if isinstance(err, Exception) else "") or type(err).__name__


def _end(night: Night, told: Mapping[str, Hook], environment: Mapping[str, str]) -> None:
    """Write the last line and the record, and tell whom the configuration names."""
    record = night.entry.record
    record.update(ended=journal.utc_now(), seconds=night.log.seconds, steps=plain(night.log.steps))
    outcome = record["outcome"]
    shown = {key: value for key, value in record.items() if key not in {"steps", "run_id", "gate", "outcome"}}
    night.log.line(outcome, _LEVELS.get(outcome, "warning"), **shown)
    night.entry.write()
    event = _EVENTS.get(outcome, "")
    hook = told.get(event, Hook())
    if not hook or night.dry_run:
        return
    document = _document(event, night)
    answer = hooks.tell(hook, document, environment=environment, stop=night.is_interrupted)
    configured: Hook = getattr(night.config.publish, f"on_{event}")
    facts = {"on": event, "told": answer.told, "attempts": answer.attempts, "said": answer.said}
    night.log.line("hook", "info" if answer.told else "warning", hook=configured.words, **facts)
    night.entry.write(hook=facts)


def _document(event: str, night: Night) -> dict[str, Any]:
    """Return what a hook is told: no path of the data, nothing of the configuration."""
    record = night.entry.record
    gate = record.get("gate") or {}
    named = ("run_id", "model", "outcome", "started", "ended", "seconds", "step", "error", "version", "path", "report")
    document = {
        "event": event,
        **{key: record[key] for key in named if record.get(key) is not None},
        **{key: gate[key] for key in ("metric", "challenger", "champion", "difference") if gate.get(key) is not None},
        "rows": record.get("rows", 0),
        "reasons": record.get("reasons", []),
    }
    return {**plain(document), "text": _text(event, record)}


def _text(event: str, record: Mapping[str, Any]) -> str:
    """Return the night in one sentence, which chat services show."""
    who = f"retrain of {record['model']}, run {record['run_id']}"
    if event == "published":
        return f"{who}: version {record.get('version')} is published."
    why = record.get("error") or " ".join(record.get("reasons", []))
    return f"{who}: {record['outcome']}. {why}"
