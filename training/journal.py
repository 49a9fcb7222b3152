"""What the nights left: for each run a folder with its record and its report, kept to a number of runs.

Beside `publish`, below `night`, which opens an entry before a run does anything and closes it when it has ended.
Standard library only.

    <models_dir>/.reports/<model>/000012-3f9a1c2e77b0/record.json    outcome, steps, rows, metric, reasons
                                                     /report.html    the training report, where the run got that far
                                                     /report.json

No server reads names with a dot. Runs are numbered in the order in which they began, whatever the clock says. While a
run is on, its process holds an advisory lock on its folder: a record that says `running` in a folder that nobody holds
is that of a run that was killed. A journal that cannot be written stops no run: `Entry` says so once.
"""

import contextlib
import dataclasses
import datetime
import fcntl
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

FOLDER = ".reports"
RECORD = "record.json"
KEEP = 100
"""How many runs of a model are kept."""

RUNNING, PUBLISHED, REFUSED, FAILED, LOCKED = "running", "published", "refused", "failed", "locked"
INTERRUPTED, WOULD_PUBLISH, WOULD_REFUSE, KILLED = "interrupted", "would publish", "would be refused", "killed"

_NAME = re.compile(r"([0-9]{6,12})-[0-9a-zA-Z_.-]{1,128}", re.ASCII)
_MAX_RECORD_BYTES = 2**22
_ATTEMPTS = 100
_MOMENT_SECONDS = 0.01


class Entry:
    """One run's folder, open while the run is on.

    Args:
        root: the models folder.
        model: the model's name.
        run_id: of the run.
        complain: told once, in a sentence, where the folder cannot be written.
    """

    def __init__(self, root: Path, model: str, run_id: str, complain: Callable[[str], None]) -> None:
        """Nothing is written yet."""
        self.place = root / FOLDER / model
        self.path: Path | None = None
        self._complain = complain
        self._complained = False
        self._descriptor = -1
        self.record: dict[str, Any] = {
            "run_id": run_id, "model": model, "number": 0, "outcome": RUNNING, "started": utc_now(),
        }  # fmt: skip

    def open(self) -> None:
        """Make the folder with the next number, hold it, and write the record."""
        with self._tried():
            self.place.mkdir(parents=True, exist_ok=True)
            for number in range(_next_number(self.place), _next_number(self.place) + _ATTEMPTS):
                path = self.place / f"{number:06d}-{self.record['run_id']}"
                with contextlib.suppress(FileExistsError):
                    path.mkdir()
                    break
            else:
                return
            self._descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            _hold(self._descriptor)
            self.path, self.record["number"] = path, number
        self.write()

    def write(self, **facts: Any) -> None:
        """Add facts to the record and write it: the one before, or this one whole."""
        self.record.update(facts)
        if self.path is None:
            return
        with self._tried():
            partial = self.path / f".{RECORD}"
            with partial.open("w", encoding="utf-8") as file:
                json.dump(self.record, file, indent=1, default=str)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(self.path / RECORD)

    def keep(self, write: Callable[[Path], object]) -> Path | None:
        """Let `write` put files into the folder and return it, or None where that is not possible."""
        if self.path is None:
            return None
        with self._tried():
            write(self.path)
            return self.path
        return None

    def close(self, keep: int) -> None:
        """Let the folder go, and remove those of ended runs so that `keep` remain.

        First go runs that only found the lock held, then the oldest: a job that is started every minute beside one
        that hangs does not push the story out.
        """
        if self.path is None:
            return
        with self._tried():
            folders = _folders(self.place)
            surplus = len(folders) - max(keep, 1)
            if surplus > 0:
                folders.sort(key=lambda path: _read(path).get("outcome") != LOCKED)  # stable: the oldest of each first
            for path in folders[: max(surplus, 0)]:
                if path != self.path and not _is_held(path):
                    shutil.rmtree(path, ignore_errors=True)
        os.close(self._descriptor)
        self.path, self._descriptor = None, -1

    @contextlib.contextmanager
    def _tried(self) -> Iterator[None]:
        """Complain, once, where the operating system refuses."""
        try:
            yield
        except OSError as err:
            if not self._complained:
                words = os.strerror(err.errno) if err.errno else str(err)
                self._complain(f"{self.place}: this run's record cannot be written: {words}. The job goes on without.")
            self._complained = True


@dataclasses.dataclass(frozen=True)
class Night:
    """One run as `history` shows it.

    Args:
        record: what it wrote.
        outcome: its own, or `killed`.
        path: its folder.
    """

    record: Mapping[str, Any]
    outcome: str
    path: Path

    def to_document(self) -> dict[str, Any]:
        """Return the record as JSON values, with what became of the run."""
        page = self.path / "report.html"
        return {**self.record, "outcome": self.outcome, "report": str(page) if page.exists() else None}


def nights(models_dir: Path, model: str) -> list[Night]:
    """Return the runs of a model that are kept, in the order in which they began; unreadable records are left out."""
    found = []
    for path in _folders(models_dir / FOLDER / model):
        record = _read(path)
        if not record:  # killed before the first word
            record = {"run_id": path.name.partition("-")[2], "model": model, "number": int(path.name.partition("-")[0])}
        outcome = str(record.get("outcome", RUNNING))
        if outcome == RUNNING and not _is_held(path):
            outcome = KILLED
        found.append(Night(record, outcome, path))
    return found


def table(found: list[Night]) -> list[str]:
    """Return a line a run: number, time, outcome, version, rows, the metric and the champion's, and why."""
    lines = [("run", "started", "outcome", "version", "rows", "metric", "champion", "why")]
    for night in found:
        record = night.record
        gate = record.get("gate") or {}
        why = record.get("reasons") or [record.get("error") or ""]
        if night.outcome in {KILLED, RUNNING}:
            why = [f"in step {record.get('step', '?')}"]
        lines.append(
            (
                f"{record.get('number', 0)} {record.get('run_id', '')}",
                str(record.get("started", "-")),
                night.outcome,
                _cell(record.get("version")),
                _cell(record.get("rows")),
                f"{gate.get('metric', '')} {_cell(gate.get('challenger'))}".strip(),
                _cell(gate.get("champion")),
                " ".join(str(why[0]).split())[:160] + (f" (and {len(why) - 1} more)" if len(why) > 1 else ""),
            )
        )
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]


def utc_now() -> str:
    """Return the time as manifests write it."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _folders(place: Path) -> list[Path]:
    """Return the folders of runs, the first run first."""
    try:
        names = [name for name in os.listdir(place) if _NAME.fullmatch(name)]
    except OSError:
        return []
    names.sort(key=lambda name: (int(name.partition("-")[0]), name))
    return [place / name for name in names if (place / name).is_dir() and not (place / name).is_symlink()]


def _read(path: Path) -> dict[str, Any]:
    """Return a run's record, or nothing where it cannot be read."""
    try:
        with (path / RECORD).open("rb") as file:
            record = json.loads(file.read(_MAX_RECORD_BYTES))
    except (OSError, ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}


def _next_number(place: Path) -> int:
    folders = _folders(place)
    return int(folders[-1].name.partition("-")[0]) + 1 if folders else 1


def _hold(descriptor: int) -> None:
    """Lock a run's folder; whoever looks whether it is held has it for a moment."""
    for _ in range(_ATTEMPTS):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(_MOMENT_SECONDS)
        except OSError:  # a file system without locks: the run will look dead while it is on
            return
        else:
            return


def _is_held(path: Path) -> bool:
    """Return whether the run that made the folder is on."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False
