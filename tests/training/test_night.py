"""A night's frame: whatever ends it, there is one last line, one record, and the right hook is told once."""

import functools
import io
import json
import os
import signal
import sys

import pytest

from service.manifest import VersionRefusedError
from tests.training.local_webhook import webhook
from training import hooks, journal, night
from training.config import ConfigError, parse_config
from training.gate import GateReport
from training.job_log import JobLog
from training.publish import LockHeldError, PublishError

JOB = {
    "model": {"name": "m", "task": "regression"},
    "data": {"file": "rows.csv", "target": "y"},
}


class Interrupted(BaseException):
    """What a signal raises in a job."""


class Rig:
    """A job in a folder, its log in memory, and the environment of its hooks."""

    def __init__(self, folder, **publishing):
        self.config = parse_config({**JOB, "publish": publishing}, folder=folder)
        self.environment = dict(os.environ)
        self.stream = io.StringIO()
        self.log = JobLog("run", "json", self.stream)

    def run(self, body, *, dry_run=False):
        """Run a night whose steps are `body`."""
        with night.opened(self.config, self.log, dry_run=dry_run, environment=self.environment) as tonight:
            tonight.step("train")
            body(tonight)

    @property
    def lines(self):
        """The lines of the log."""
        return [json.loads(line) for line in self.stream.getvalue().splitlines()]

    @property
    def record(self):
        """The record of the only run."""
        (found,) = journal.nights(self.config.publish.models_dir, "m")
        assert found.outcome == found.record["outcome"]
        return found.record


def publish_three(tonight):
    """Publish version 3."""
    tonight.judged(GateReport(True, (), "r2", 50, champion=0.5, challenger=0.75, difference=0.25))
    tonight.entry.record.update(version=3, path="models/m/3", rows=400)
    tonight.came_to(journal.PUBLISHED)


def refuse(tonight):
    """Refuse the challenger."""
    tonight.judged(GateReport(False, ("r2 is worse.", "Scores differ."), "r2", 50, challenger=float("nan")))
    tonight.came_to(journal.REFUSED)


def failing(error):
    """Return steps that end with an error."""

    def body(_):
        raise error

    return body


def test_published_night_tells_its_listener_what_it_published(tmp_path):
    """The document has the run, the version, the metric of both, and a sentence; the record says that it was told."""
    with webhook() as (address, taken):
        rig = Rig(tmp_path, on_published=f"{address}/s3cret")
        rig.run(publish_three)
    ((_, _, document),) = taken
    assert {
        "event": "published", "run_id": "run", "model": "m", "outcome": "published", "version": 3,
        "path": "models/m/3", "rows": 400, "metric": "r2", "challenger": 0.75, "champion": 0.5, "difference": 0.25,
        "reasons": [], "text": "retrain of m, run run: version 3 is published.",
    }.items() <= document.items()  # fmt: skip
    assert ["train", "published", "hook"] == [line["event"] for line in rig.lines]
    assert {"on": "published", "told": True, "attempts": 1, "said": "200"} == rig.record["hook"]
    assert f"{address}/..." == rig.lines[-1]["hook"]
    assert "s3cret" not in rig.stream.getvalue() + json.dumps(rig.record)


@pytest.mark.parametrize(
    ("body", "key", "outcome", "words"),
    [
        (refuse, "on_refused", "refused", "r2 is worse. Scores differ."),
        (failing(VersionRefusedError("nonneg", "weight -1")), "on_refused", "refused", "nonneg"),
        (failing(PublishError("disk full")), "on_failed", "failed", "disk full"),
        (failing(ValueError("a defect")), "on_failed", "failed", "a defect"),
        (failing(LockHeldError("another job")), "on_failed", "locked", "another job"),
    ],
)
def test_night_that_publishes_nothing_tells_why(tmp_path, body, key, outcome, words):
    """A refusal goes to one hook, a failure and a held lock to the other, each with its reason; errors go on."""
    with webhook() as (address, taken):
        rig = Rig(tmp_path, **{key: address})
        if body is refuse:
            rig.run(body)
        else:
            with pytest.raises(Exception, match=words):
                rig.run(body)
    ((_, _, document),) = taken
    assert (key.removeprefix("on_"), outcome, True) == (
        document["event"], document["outcome"], words in document["text"],
    )  # fmt: skip
    assert outcome == rig.record["outcome"]
    assert outcome in [line["event"] for line in rig.lines]


@pytest.mark.parametrize(
    ("body", "dry_run", "outcome"),
    [
        (lambda tonight: tonight.came_to(journal.WOULD_PUBLISH), True, "would publish"),
        (lambda tonight: tonight.came_to(journal.WOULD_REFUSE), True, "would be refused"),
        (failing(ValueError("in a dry run")), True, "failed"),
        (failing(Interrupted()), False, "interrupted"),
    ],
)
def test_dry_run_and_interruption_tell_nobody(tmp_path, body, dry_run, outcome):
    """Whoever tries something out, or presses Ctrl-C, sits before it; the record stays."""
    with webhook() as (address, taken):
        rig = Rig(tmp_path, on_published=address, on_refused=address, on_failed=address)
        try:
            rig.run(body, dry_run=dry_run)
        except (ValueError, Interrupted):
            assert "train" == rig.record["step"]
    assert [] == taken
    assert (outcome, dry_run) == (rig.record["outcome"], rig.record["dry_run"])


@pytest.mark.parametrize(
    "hook",
    ["http://127.0.0.1:9/", [sys.executable, "-c", "raise SystemExit(1)"], ["/no/such/program"], "$LATE"],
)
def test_hook_that_fails_is_a_line_and_loses_no_publication(tmp_path, monkeypatch, hook):
    """The night stays published whatever becomes of the listener; the line says what became of it."""
    monkeypatch.setattr(hooks, "tell", functools.partial(hooks.tell, pause_seconds=0.0))
    rig = Rig(tmp_path, on_published=hook)
    rig.environment["LATE"] = "http://127.0.0.1:9/token"
    rig.run(publish_three)
    assert ("published", False) == (rig.record["outcome"], rig.record["hook"]["told"])
    assert ("hook", "warning") == (rig.lines[-1]["event"], rig.lines[-1]["level"])


@pytest.mark.parametrize("value", [None, "", "not an address"])
def test_hook_without_an_address_is_refused_before_the_night(tmp_path, value):
    """A variable that is not set is found when the job begins, not in the night when it is needed."""
    rig = Rig(tmp_path, on_failed="$ALERT_URL")
    rig.environment.update({} if value is None else {"ALERT_URL": value})
    with pytest.raises(
        ConfigError, match=r"publish\.on_failed: expected the environment variable ALERT_URL"
    ) as refused:
        rig.run(publish_three)
    assert "not an address" not in str(refused.value)
    assert not (tmp_path / "models").exists()


def test_signal_after_the_publication_ends_the_telling_and_nothing_else(tmp_path):
    """A job that published ends as one that published, though it is asked to end while it tells."""
    came = []
    previous = signal.signal(signal.SIGTERM, lambda *_: came.append("too early"))
    try:
        with webhook((503,)) as (address, taken):
            rig = Rig(tmp_path, on_published=address)

            def body(tonight):
                tonight.hold_signals()
                publish_three(tonight)
                signal.raise_signal(signal.SIGTERM)
                assert tonight.is_interrupted()

            rig.run(body)
    finally:
        signal.signal(signal.SIGTERM, previous)
    assert ([], 1, "published") == (came, len(taken), rig.record["outcome"])


def test_night_without_a_place_for_its_record_goes_on(tmp_path):
    """A journal that cannot be written is a line of the log; the steps are taken and the hook is told."""
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / journal.FOLDER).write_text("")
    with webhook() as (address, taken):
        rig = Rig(tmp_path, on_published=address)
        rig.run(publish_three)
    assert ["journal", "train", "published", "hook"] == [line["event"] for line in rig.lines]
    assert 1 == len(taken)
