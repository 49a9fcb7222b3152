"""A month of nights over tumours that arrive a few at a time and slowly change, and a server that follows.

Every night is one command line, as cron runs it. Nobody tidies up between two nights: what a fault leaves is the next
night's affair.
"""

import contextlib
import csv
import errno
import json
import os
import random

import numpy as np

from service import model_version
from service.lifecycle import VersionState
from service.metrics import Metrics
from service.registry import Registry
from service.repository import Repository
from service.settings import Settings
from service.watcher import Watcher
from tests.end_to_end.server_process import ROOT
from training import journal, pipeline

DATA = ROOT / "training" / "examples" / "tumours.csv"
FEATURES = ("mean texture", "mean area", "mean smoothness", "mean concavity", "worst symmetry", "worst radius")
MODEL, TARGET, SALT, PERCENT = "month", "malignant", "month", 25
NUM_TEST_ROWS = 119
TOLERANCE = 0.02
FIRST_STEPS = 10
"""How many times as many steps the first night may take, which begins from nothing."""

JOB = """
[model]
name = "month"
task = "classification"
[data]
file = "tonight.csv"
target = "malignant"
salt = "month"
held_out_percent = 25
[network]
hidden = {hidden}
[trainer]
steps = {steps}
batch = 64
learning_rate = {rate}
evaluate_every = 40
patience = 5
checkpoint_every = 40
[gate]
metric = "roc_auc"
tolerance = 0.02
min_rows = 30
max_score_drift = 1.0
[publish]
models_dir = "models"
keep = 4
on_published = "{address}/token"
on_refused = "{address}/token"
on_failed = "{address}/token"
"""


class Month:
    """The job's folder, its data, what has been seen, and the server beside it.

    Args:
        folder: an empty folder.
        first_rows: rows of the first night.
        address: of a webhook.
        steps: of each night's training.
    """

    def __init__(self, folder, first_rows, address, steps):
        self.folder, self.models, self.address, self.steps = folder, folder / "models", address, steps
        rows = _shuffled()
        self.test, self.waiting = rows[-NUM_TEST_ROWS:], rows[:-NUM_TEST_ROWS]
        self.data = []
        self.trained_on, self.held_out = set(), set()
        self.sides_seen = 0
        self.arrive(first_rows)
        self.server = Served(self.models)

    def arrive(self, count, drift=0.0):
        """Take the next rows into the data, their texture higher by `drift`: another scanner, slowly."""
        for row in self.waiting[:count]:
            self.data.append({**row, "mean texture": row["mean texture"] + drift})
        self.waiting = self.waiting[count:]

    def tonight(self, change=lambda rows: rows, *, hidden="[8, 8]", steps=None, rate=0.001):
        """Write tonight's file, changed, and the job; return the arguments of the command."""
        rows = change([dict(row) for row in self.data])
        with (self.folder / "tonight.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, [*FEATURES, TARGET])
            writer.writeheader()
            writer.writerows(rows)
        steps = steps or self.steps * (1 if self.models.exists() else FIRST_STEPS)
        job = JOB.format(hidden=hidden, steps=steps, rate=rate, address=self.address)
        (self.folder / "job.toml").write_text(job)
        return "retrain", self.folder / "job.toml"

    def nights(self):
        """Return what the journal says: the outcome of each run."""
        return journal.nights(self.models, MODEL)

    def versions(self):
        """Return the numbers of the versions on disk."""
        return sorted(int(name) for name in os.listdir(self.models / MODEL) if name.isdigit())

    def manifest(self, version):
        """Return a version's manifest."""
        return json.loads((self.models / MODEL / str(version) / "manifest.json").read_text())

    def corrupt_newest(self):
        """Flip a bit of the newest version on disk."""
        path = self.models / MODEL / str(self.versions()[-1]) / "saved_model.pb"
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)

    def look_at_the_sides(self, monkeypatch):
        """Note from now on which rows each night of this process learns from, and which it is judged by."""
        read_rows = pipeline.read_rows

        def noting(*arguments):
            rows = read_rows(*arguments)
            self.sides_seen += 1
            self.trained_on |= _hashes(rows.train) | _hashes(rows.validation)
            self.held_out |= _hashes(rows.held_out)
            return rows

        monkeypatch.setattr(pipeline, "read_rows", noting)


class Served:
    """The server's own watcher and registry over a models folder, and its error on rows that no night ever sees."""

    def __init__(self, models):
        self.registry = Registry()
        load = lambda folder: model_version.load(folder.path, "program")  # noqa: E731  (a line of one use)
        self._watcher = Watcher(Repository(models), self.registry, load, Metrics(), Settings(models_dir=models))

    def error(self, rows):
        """Look at the folder, then return the version that answers and one minus the area under its ROC curve."""
        for _ in range(2):
            self._watcher.scan()
        x = np.asarray([[row[name] for name in FEATURES] for row in rows], np.float32)
        with self.registry.acquire(MODEL) as live:
            score, _ = live.score_and_gradient(x)
            return live.loaded.manifest.version, 1.0 - _roc_auc(score, [row[TARGET] for row in rows])

    def live(self):
        """Return the versions that answer."""
        return [one.version for one in self.registry.statuses(MODEL) if one.state is VersionState.AVAILABLE]


def flipped(rows):
    """Return rows of which every third has the other label."""
    return [{**row, TARGET: 1 - row[TARGET]} if number % 3 == 0 else row for number, row in enumerate(rows)]


def in_square_centimetres(rows):
    """Return rows whose areas are in another unit, a hundred of which make one."""
    return [{**row, "mean area": row["mean area"] / 100} for row in rows]


def with_gaps(rows):
    """Return rows of which every tenth lacks a number."""
    return [{**row, "worst radius": "nan"} if number % 10 == 0 else row for number, row in enumerate(rows)]


@contextlib.contextmanager
def read_only(monkeypatch, folder):
    """Let nothing be made or opened for writing below a folder, as on a file system that was mounted again read-only.

    By the operating system's own calls: permissions do not bind an administrator, as which a test may run.
    """
    with monkeypatch.context() as patch:
        for name, is_write in (("mkdir", lambda *_, **__: True), ("open", _writes), ("rename", lambda *_, **__: True)):
            patch.setattr(os, name, _refusing(getattr(os, name), is_write, folder))
        yield


def _refusing(call, is_write, folder):
    def checked(path, *arguments, **more):
        if isinstance(path, str | os.PathLike) and str(path).startswith(str(folder)) and is_write(*arguments, **more):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        return call(path, *arguments, **more)

    return checked


def _writes(flags, *_, **__):
    return bool(flags & (os.O_CREAT | os.O_WRONLY | os.O_RDWR))


def _shuffled():
    """Return the data's rows, {column: number}, in an order that mixes the classes."""
    with DATA.open(newline="") as file:
        rows = [{name: float(row[name]) for name in (*FEATURES, TARGET)} for row in csv.DictReader(file)]
    random.Random(11).shuffle(rows)  # noqa: S311  (an order, not a secret)
    return [{**row, TARGET: int(row[TARGET])} for row in rows]


def _hashes(table):
    """Return each row's own bytes: features alone, since a label may be corrected."""
    return {row.tobytes() for row in np.ascontiguousarray(table.x, "<f4")}


def _roc_auc(scores, labels):
    """Return the share of pairs, of one class each, whose order is right; a tie is half."""
    scores, positive = np.asarray(scores, float), np.asarray(labels) == 1
    pairs = scores[positive][:, None] - scores[~positive][None, :]
    return float(np.mean((pairs > 0) + 0.5 * (pairs == 0)))
