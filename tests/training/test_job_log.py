"""The job's log: a line a step with the run's id, for people and as JSON, whatever reads it."""

import io
import json

import pytest

from training import job_log
from training.job_log import JobLog


class Clock:
    """Seconds that the test turns."""

    now = 100.0

    def __call__(self):
        """Return the time."""
        return self.now


def steps_of(log_format, stream):
    """Take two steps, 2 and 0.5 seconds long."""
    clock = Clock()
    log = JobLog("abc", log_format, stream, clock)
    log.step("read")
    log.facts(rows=3, notes=["a b"], missing=None, share=float("nan"))
    clock.now += 2.0
    log.step("train")
    clock.now += 0.5
    log.end_step(loss=0.25)
    log.end_step(loss=9.0)
    return log


def test_json_lines_are_one_object_a_step():
    """Event, run id, seconds and facts; a fact that is missing or not finite is left out, and JSON stays strict."""
    stream = io.StringIO()
    log = steps_of("json", stream)
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert all(line.pop("timestamp").endswith("Z") for line in lines)
    common = {"level": "info", "run_id": "abc"}
    assert [
        {"event": "read", **common, "seconds": 2.0, "rows": 3, "notes": ["a b"]},
        {"event": "train", **common, "seconds": 0.5, "loss": 0.25},
    ] == lines
    assert (["read", "train"], 2.5) == ([step["step"] for step in log.steps], log.seconds)


def test_console_lines_are_for_people():
    """The same facts in the form of the server's log, without colours where nobody sees them."""
    stream = io.StringIO()
    steps_of("console", stream)
    first, second = stream.getvalue().splitlines()
    assert " [info     ] read " in first
    assert "run_id=abc seconds=2.0 rows=3 notes=['a b']" in first
    assert "run_id=abc seconds=0.5 loss=0.25" in second
    assert "\x1b" not in stream.getvalue()


def test_sentences_are_plain_for_people_and_lines_in_json():
    """Whoever reads JSON gets nothing else."""
    console, as_json = io.StringIO(), io.StringIO()
    for stream, log_format in ((console, "console"), (as_json, "json")):
        JobLog("abc", log_format, stream).tell("start: new weights")
    assert "start: new weights\n" == console.getvalue()
    assert {"event": "told", "sentence": "start: new weights", "run_id": "abc"}.items() <= json.loads(
        as_json.getvalue()
    ).items()


def test_progress_is_about_ten_lines_in_json():
    """A run of a thousand evaluations does not flood the log; its losses go by their names."""
    stream = io.StringIO()
    with JobLog("abc", "json", stream).progress("train m", 1000, names=("loss", "w2")) as report:
        for step in range(1001):
            report(step, 0.5, 0.25)
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert list(range(0, 1001, 100)) == [line["taken"] for line in lines]
    assert {"event": "progress", "budget": 1000, "training_loss": 0.5, "validation_w2": 0.25}.items() <= lines[
        0
    ].items()


class Broken(io.StringIO):
    """A pipe whose reader went away."""

    def write(self, _):
        """Fail."""
        raise BrokenPipeError


@pytest.mark.parametrize("log_format", ["console", "json"])
def test_log_that_cannot_be_written_stops_no_job(log_format):
    """A reader that went away loses lines, and the night goes on."""
    log = steps_of(log_format, Broken())
    log.tell("a sentence")
    assert 2 == len(log.steps)


def test_log_without_a_format_writes_nothing(capsys):
    """Who calls the job from Python gets no lines unless asked for; the steps are kept all the same."""
    assert 2 == len(steps_of("", None).steps)
    assert ("", "") == capsys.readouterr()


def test_run_ids_are_distinct_and_fit_a_manifest():
    """Twelve hexadecimal digits."""
    ids = {job_log.new_run_id() for _ in range(100)}
    assert 100 == len(ids)
    assert all(len(one) == 12 and set(one) <= set("0123456789abcdef") for one in ids)


def test_listener_sees_the_step_that_begins():
    """A job that is killed in a step has said before that it is in it."""
    log, seen = JobLog("abc"), []
    log.listen = lambda: seen.append((log.current, len(log.steps)))
    log.step("read")
    log.step("train")
    assert [("read", 0), ("train", 1)] == seen
