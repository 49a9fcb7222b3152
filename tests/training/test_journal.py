"""What nights leave: numbered records that survive kills, clocks and full disks, and stay bounded."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from training import journal
from training.journal import Entry, nights

ROOT = Path(__file__).parents[2]


def complaint(sentence):
    """Fail: nothing should be complained of."""
    pytest.fail(sentence)


def leave(root, run_id, outcome=journal.PUBLISHED, *, keep=100, **facts):
    """Leave the record of a run that ended."""
    entry = Entry(root, "m", run_id, complaint)
    entry.open()
    entry.write(outcome=outcome, **facts)
    entry.close(keep)
    return entry


def test_nights_come_in_the_order_in_which_they_began_whatever_the_clock_says(tmp_path, monkeypatch):
    """A clock that was set back changes times, not the story."""
    for number, time in enumerate(("2026-01-02", "2026-01-03", "2025-01-01"), start=1):
        monkeypatch.setattr(journal, "utc_now", lambda time=time: f"{time}T00:00:00Z")
        leave(tmp_path, f"{9 - number}", version=number)
    assert [(1, "8", 1), (2, "7", 2), (3, "6", 3)] == [
        (night.record["number"], night.record["run_id"], night.record["version"]) for night in nights(tmp_path, "m")
    ]


def test_journal_keeps_the_newest_runs(tmp_path):
    """The oldest go, each whole; numbers go on."""
    for number in range(1, 8):
        leave(tmp_path, f"r{number}", keep=3)
    assert ["000005-r5", "000006-r6", "000007-r7"] == sorted(os.listdir(tmp_path / journal.FOLDER / "m"))
    leave(tmp_path, "r8", keep=3)
    assert [6, 7, 8] == [night.record["number"] for night in nights(tmp_path, "m")]


def test_jobs_that_found_the_lock_held_push_no_other_out(tmp_path):
    """A job every minute beside one that hangs leaves its own last records, and the story before."""
    for number in range(3):
        leave(tmp_path, f"night{number}", keep=5)
    for number in range(20):
        leave(tmp_path, f"minute{number}", journal.LOCKED, keep=5)
    assert ["night0", "night1", "night2", "minute18", "minute19"] == [
        night.record["run_id"] for night in nights(tmp_path, "m")
    ]


def test_run_that_is_on_is_not_removed_and_says_so(tmp_path):
    """A second job that ends at once neither removes the first one's record nor takes it for dead."""
    first = Entry(tmp_path, "m", "first", complaint)
    first.open()
    first.write(step="train")
    for number in range(3):
        leave(tmp_path, f"second{number}", journal.LOCKED, keep=1)
    assert [journal.RUNNING, journal.LOCKED] == [night.outcome for night in nights(tmp_path, "m")]
    first.write(outcome=journal.PUBLISHED)
    first.close(5)
    assert [journal.PUBLISHED, journal.LOCKED] == [night.outcome for night in nights(tmp_path, "m")]


def test_run_that_was_killed_is_told_with_its_step(tmp_path):
    """Nobody holds its folder any more: the record's last word is the step that it was in."""
    script = (
        "import os, pathlib, signal, sys; from training.journal import Entry\n"
        "entry = Entry(pathlib.Path(sys.argv[1]), 'm', 'dead', print); entry.open(); entry.write(step='train')\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    ended = subprocess.run([sys.executable, "-c", script, str(tmp_path)], cwd=ROOT, timeout=60, check=False)
    assert -signal.SIGKILL == ended.returncode
    (night,) = nights(tmp_path, "m")
    assert (journal.KILLED, "train") == (night.outcome, night.record["step"])
    assert "in step train" in journal.table([night])[1]


@pytest.mark.parametrize("content", [None, b"", b"{", b"[1]", b"\xff", b"[" * 100_000])
def test_record_that_cannot_be_read_is_that_of_a_killed_run(tmp_path, content):
    """A torn or missing record hides no other, and the run is told by its folder."""
    leave(tmp_path, "whole")
    torn = leave(tmp_path, "torn")
    path = tmp_path / journal.FOLDER / "m" / f"{torn.record['number']:06d}-torn" / journal.RECORD
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    assert [("whole", journal.PUBLISHED), ("torn", journal.KILLED)] == [
        (night.record["run_id"], night.outcome) for night in nights(tmp_path, "m")
    ]


def test_journal_that_cannot_be_written_complains_once_and_stops_nothing(tmp_path):
    """A file where the folder should be: each call returns, the sentence says what and why."""
    (tmp_path / journal.FOLDER).write_text("")
    said = []
    entry = Entry(tmp_path, "m", "r", said.append)
    entry.open()
    entry.write(step="read")
    assert entry.keep(lambda place: (place / "x").touch()) is None
    entry.close(5)
    (sentence,) = said
    assert "record cannot be written: Not a directory. The job goes on" in sentence


def test_report_that_cannot_be_kept_is_no_error(tmp_path):
    """A disk that is full at the report leaves the record, and a complaint."""
    said = []
    entry = Entry(tmp_path, "m", "r", said.append)
    entry.open()

    def fail(_):
        raise OSError(28, "No space left on device")

    assert entry.keep(fail) is None
    entry.write(outcome=journal.REFUSED)
    entry.close(5)
    assert "No space left on device" in said[0]
    assert [journal.REFUSED] == [night.outcome for night in nights(tmp_path, "m")]


def test_names_that_are_no_runs_are_left_alone(tmp_path):
    """Whatever else lies there is neither read nor removed, and a link leads nowhere."""
    place = tmp_path / journal.FOLDER / "m"
    place.mkdir(parents=True)
    (place / "notes").mkdir()
    (place / "000001-file").touch()
    (tmp_path / "elsewhere").mkdir()
    (place / "000002-link").symlink_to(tmp_path / "elsewhere")
    for number in range(3):
        leave(tmp_path, f"r{number}", keep=1)
    assert {"notes", "000001-file", "000002-link"} < set(os.listdir(place))
    assert ["r2"] == [night.record["run_id"] for night in nights(tmp_path, "m")]


def test_table_says_a_line_a_run(tmp_path):
    """Number, outcome, version, rows, metric, the champion's, and the first reason of how many."""
    leave(tmp_path, "a", version=2, rows=400, gate={"metric": "roc_auc", "challenger": 0.99, "champion": 0.985})
    leave(tmp_path, "b", journal.REFUSED, rows=410, reasons=["roc_auc is\nworse.", "scores differ."])
    leave(tmp_path, "c", journal.FAILED, error="disk full")
    head, *lines = journal.table(nights(tmp_path, "m"))
    assert ["run", "started", "outcome", "version", "rows", "metric", "champion", "why"] == head.split()
    assert ["1", "a", "published", "2", "400", "roc_auc", "0.99", "0.985"] == [
        word for word in lines[0].split() if not word.endswith("Z")
    ]
    assert lines[1].endswith("roc_auc is worse. (and 1 more)")
    assert lines[2].endswith("disk full")


def test_document_names_the_page_that_is_there(tmp_path):
    """`history --json` leads to the report of each run that left one."""
    entry = Entry(tmp_path, "m", "r", complaint)
    entry.open()
    entry.keep(lambda place: (place / "report.html").touch())
    entry.write(outcome=journal.REFUSED)
    entry.close(5)
    leave(tmp_path, "none")
    first, second = (night.to_document() for night in nights(tmp_path, "m"))
    assert (True, None) == (Path(first["report"]).exists(), second["report"])
    assert json.loads(json.dumps(first)) == first
