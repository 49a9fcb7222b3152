"""The checkpoint's file: whole or not used, of this job or not used, and never half written."""

import contextlib
import dataclasses
import hashlib
import io
import json
import os
import pickle
import random
import resource
from pathlib import Path

import numpy as np
import pytest

from service.repository import Repository
from tests.training.test_trainer import KilledError
from training import checkpoints, machine, pipeline, publish
from training.checkpoints import Checkpoint
from training.config import load_config
from training.datasets import DataError, Samples, Table
from training.runs import DivergenceError, State

KEY = {"configuration": {"steps": 3}, "data": ["a"], "start": "b"}
LIKE = State({"run/weight": np.zeros(3, np.float32)}, {})


def state_of(step: int) -> State:
    """Return a state with every kind of thing in it."""
    numbers = {"taken": step, "loss": 0.1 + 0.2, "generator": {"state": 2**127 + step}, "curve": [1e-320, -0.0]}
    return State({"run/weight": np.array([step, 0.1, -0.0], np.float32), "best/0": np.float64(step)}, numbers)


def opened(folder: Path, told: list[str] | None = None, **changes) -> Checkpoint:
    """Return the checkpoint of a job in a folder that saves at every step."""
    said = [] if told is None else told
    return Checkpoint(folder / ".jobs" / "small", changes.pop("key", KEY), said.append, **{"every": 1, **changes})


def saved(folder: Path, step: int = 3) -> Path:
    """Save a state and return the file."""
    checkpoint = opened(folder)
    checkpoint.save(state_of(step))
    return checkpoint.path


def step_in(folder: Path, told: list[str] | None = None) -> int | None:
    """Return the step of the state that a new process loads, bit for bit, or None where there is none."""
    found = opened(folder, told).load(LIKE)
    if found is None:
        return None
    expected = state_of(found.numbers["taken"])
    assert {name: array.tobytes() for name, array in expected.arrays.items()} == {
        name: array.tobytes() for name, array in found.arrays.items()
    }
    assert repr(expected.numbers) == repr({name: found.numbers[name] for name in expected.numbers})
    return found.numbers["taken"]


def resealed(content: bytes) -> bytes:
    """Return a file whose hash fits whatever it holds."""
    return checkpoints._HEAD + hashlib.sha256(content).hexdigest().encode() + b"\n" + content


def test_checkpoint_gives_back_what_was_saved_last(tmp_path):
    """Every bit of arrays and numbers, those of a large integer, a denormal and a negative zero too."""
    assert step_in(tmp_path) is None
    saved(tmp_path, 3)
    assert 3 == step_in(tmp_path)
    saved(tmp_path, 4)
    assert 4 == step_in(tmp_path)
    assert ["checkpoint"] == os.listdir(tmp_path / ".jobs" / "small")


def test_no_server_takes_a_checkpoint_for_a_model(tmp_path):
    """A folder whose name begins with a dot is no model."""
    saved(tmp_path)
    (tmp_path / "small" / "1").mkdir(parents=True)
    assert ["small"] == sorted(Repository(tmp_path).models())


def test_checkpoint_is_ignored_told_and_removed_when_any_byte_is_wrong(tmp_path):
    """Flipped bits, cuts and additions: none of them is loaded, each is one sentence, and the file is gone."""
    path = saved(tmp_path)
    whole = path.read_bytes()
    generator = random.Random(7)  # noqa: S311  (places to damage, not a secret)
    places = [0, len(whole) - 1, *(generator.randrange(len(whole)) for _ in range(40))]
    flipped = [whole[:at] + bytes([whole[at] ^ 1 << generator.randrange(8)]) + whole[at + 1 :] for at in places]
    cut = [whole[:size] for size in (0, 1, 27, 92, 93, len(whole) // 2, len(whole) - 1)]
    for data in (*flipped, *cut, whole + b"\0"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        told: list[str] = []
        assert step_in(tmp_path, told) is None
        assert [True] == [line.startswith(f"start: the checkpoint {path} cannot be used (damaged: ") for line in told]
        assert not (tmp_path / ".jobs").exists()


@pytest.mark.parametrize("part", KEY)
def test_checkpoint_of_another_job_is_ignored_and_told_by_what_differs(tmp_path, part):
    """Another configuration, other rows, other weights to start from: what was saved is not what goes on."""
    path, told = saved(tmp_path), []
    assert opened(tmp_path, told, key={**KEY, part: "other"}).load(LIKE) is None
    expected = f"start: the checkpoint {path} is of another job, whose {part} differed: it is ignored and removed, "
    assert [f"{expected}training begins anew"] == told
    assert not path.exists()


def packed(**arrays) -> bytes:
    """Return an npz of these arrays and of a document that fits."""
    document = json.dumps({"key": KEY, "numbers": {}}).encode()
    file = io.BytesIO()
    np.savez(file, **{"document": np.frombuffer(document, np.uint8), **arrays})
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"", "cannot be read"),
        (b"PK\x03\x04 no archive", "cannot be read"),
        (packed(document=np.frombuffer(b"[1]", np.uint8)), "cannot be read"),
        (packed(document=np.frombuffer(b"{", np.uint8)), "cannot be read"),
        (packed(**{"array/run/weight": np.zeros(4, np.float32)}), "expected run/weight as float32 [3]"),
        (packed(**{"array/run/weight": np.zeros(3, np.float64)}), "expected run/weight as float32 [3]"),
        (packed(), "expected run/weight as float32 [3]"),
    ],
)
def test_checkpoint_that_holds_something_else_is_ignored_though_its_hash_fits(tmp_path, content, named):
    """What was made by hand, or by other code, ends in the same sentence and never in a traceback."""
    path, told = saved(tmp_path), []
    path.write_bytes(resealed(content))
    assert step_in(tmp_path, told) is None
    assert named in told[0]


class Planted:
    """What calls a function of its choice when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        """Make a file."""
        return Path.touch, (self.path,)


def test_nothing_in_a_checkpoint_is_unpickled(tmp_path):
    """An array of objects in a file whose hash fits is refused unread."""
    path, told = saved(tmp_path), []
    trap = Planted(tmp_path / "sprung")
    path.write_bytes(resealed(packed(**{"array/run/weight": np.array([trap], object)})))
    assert step_in(tmp_path, told) is None
    assert "cannot be read: ValueError" in told[0]
    assert not trap.path.exists()
    pickle.loads(pickle.dumps(trap))  # noqa: S301  (the trap is one)
    assert trap.path.exists()


def test_what_is_no_plain_file_is_not_read(tmp_path):
    """A link, a FIFO that nobody writes to, and a folder stop no night."""
    path = saved(tmp_path)
    for make in (lambda: path.symlink_to("/dev/zero"), lambda: os.mkfifo(path), path.mkdir):
        path.unlink(missing_ok=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        make()
        told: list[str] = []
        assert step_in(tmp_path, told) is None
        assert "cannot be used (" in told[0]
    opened(tmp_path, told).save(state_of(1))
    assert "cannot be written: Is a directory" in told[-1]


class Failing:
    """Stands for the operating system and counts: the call of this number fails, or the process dies there.

    Args:
        monkeypatch: of the test.
        number: of the call, from 0.
        error: what is raised then.
    """

    def __init__(self, monkeypatch, number, error):
        self.left, self.error = number, error
        self.calls = 0
        for place, name in ((os, "open"), (os, "fsync"), (Path, "replace"), (Path, "unlink"), (Path, "mkdir")):
            monkeypatch.setattr(place, name, self._counted(getattr(place, name)))

    def _counted(self, function):
        def call(*arguments, **options):
            self.calls += 1
            if self.left == self.calls - 1:
                raise self.error
            return function(*arguments, **options)

        return call


CALLS = 7
"""Calls of a save: the folder, what was left, the file, its sync, its name, the folder again, its sync."""


@pytest.mark.parametrize("number", range(CALLS + 1))
@pytest.mark.parametrize("error", [KilledError(), OSError(28, "No space left on device")])
def test_old_or_new_state_is_there_whole_when_a_save_ends_anywhere(tmp_path, monkeypatch, number, error):
    """A death and a full disk at each operation: the next process has one of both states, and saves again."""
    saved(tmp_path, 3)
    told: list[str] = []
    checkpoint = opened(tmp_path, told)
    with monkeypatch.context() as patched:
        failing = Failing(patched, number, error)
        if number < CALLS and isinstance(error, KilledError):
            with pytest.raises(KilledError):
                checkpoint.save(state_of(4))
        else:
            checkpoint.save(state_of(4))
    assert number < CALLS or CALLS == failing.calls
    assert step_in(tmp_path) == (4 if number >= CALLS - 2 else 3)
    if isinstance(error, OSError):
        assert ["checkpoint"] == os.listdir(checkpoint.path.parent)
        assert (number < CALLS) == bool(told)
    saved(tmp_path, 5)
    assert 5 == step_in(tmp_path)


def test_full_disk_is_one_warning_and_training_goes_on(tmp_path):
    """The system itself refuses the bytes: one clear line however often it happens, nothing half, and it recovers."""
    path, told = saved(tmp_path, 3), []
    checkpoint = opened(tmp_path, told)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        checkpoint.save(state_of(4))
        checkpoint.save(state_of(5))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    why = f"warning: {path}: cannot be written: File too large; the checkpoint before stays. Training goes on; "
    assert [f"{why}a job that is killed begins there. Free some space."] == told
    assert 3 == step_in(tmp_path)
    assert ["checkpoint"] == os.listdir(path.parent)
    checkpoint.save(state_of(6))
    assert 6 == step_in(tmp_path)


class Clock:
    """Seconds that pass when told to, and `per_look` with each look."""

    def __init__(self):
        self.now, self.per_look = 0.0, 0.0

    def __call__(self):
        """Return the time."""
        self.now += self.per_look
        return self.now


def test_checkpoints_take_a_hundredth_of_the_time_when_no_interval_is_given(tmp_path):
    """Two seconds after the start; then 100 times as long after a save as it took; by steps where a number is given."""
    clock = Clock()
    checkpoint = opened(tmp_path, every=0, clock=clock)
    due = []
    for clock.now in (0.0, 1.99, 2.0):
        due.append(checkpoint.is_due(1))
    clock.per_look = 0.5
    checkpoint.save(state_of(1))  # looks twice: from 2.5 to 3.0
    clock.per_look = 0.0
    for clock.now in (5.1, 52.9, 53.0):
        due.append(checkpoint.is_due(1))
    assert [False, False, True, False, False, True] == due
    assert [2, 4] == [step for step in range(1, 6) if opened(tmp_path, every=2).is_due(step)]


def config_of(folder: Path, **trainer):
    """Return the small job's configuration with a checkpoint every 20 steps."""
    config = load_config(folder / "job.toml")
    return dataclasses.replace(config, trainer=dataclasses.replace(config.trainer, checkpoint_every=20, **trainer))


class Weighted:
    """A run that has weights and nothing else."""

    def weights(self):
        """Return them."""
        return [np.arange(3.0)]


def test_key_names_everything_that_decides_the_weights(trained_once, monkeypatch):
    """A change of a key, a row, a column, a start weight, a package, a core or a line of code is another job."""
    config = config_of(trained_once)
    table = Table(("a", "b"), np.eye(2), np.zeros(2))
    both = (table, table)

    def key(job=config, sides=both, run=None):
        return checkpoints.key_of(job, sides, run or Weighted())

    def differing(other):
        return {part for part in key() if json.dumps(key()[part]) != json.dumps(other[part])}

    assert {"configuration", "data", "start", "packages", "processor", "code"} == set(key())
    assert set() == differing(key())
    assert {"configuration"} == differing(key(dataclasses.replace(config, document={**config.document, "x": 1})))
    assert {"configuration"} == differing(key(config_of(trained_once, learning_rate=0.02)))
    for rows in (
        dataclasses.replace(table, x=np.array([[1.0, 1e-16], [0.0, 1.0]])),
        dataclasses.replace(table, y=np.array([0.0, -0.0])),
        dataclasses.replace(table, features=("a",), context=("b",)),
        Samples(table, table),
    ):
        assert {"data"} == differing(key(sides=(table, rows)))
        assert {"data"} == differing(key(sides=(rows, table)))
    other = Weighted()
    other.weights = lambda: [np.arange(3.0) + 1e-15]
    assert {"start"} == differing(key(run=other))
    for name, part in (("packages", "packages"), ("processor", "processor"), ("code_sha256", "code")):
        before = key()
        with monkeypatch.context() as patched:
            patched.setattr(machine, name, lambda: "other")
            assert before[part] != key()[part]
    with monkeypatch.context() as patched:
        before = key()
        patched.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3, 4})
        assert before["processor"] != key()["processor"]


@pytest.mark.parametrize(
    ("error", "stays"),
    [
        (None, False),
        (DivergenceError(3, "the loss", float("nan")), False),
        (DataError("a metric is not defined"), False),
        (publish.PublishError("disk full"), True),
        (OSError(28, "No space left on device"), True),
        (KeyboardInterrupt(), True),
        (KilledError(), True),
    ],
)
def test_checkpoint_stays_only_where_the_same_job_may_come_further(trained_once, tmp_path, error, stays):
    """Published, refused or diverged: it is gone; interrupted, or no space left: the next run goes on from it."""
    config = config_of(trained_once)
    config = dataclasses.replace(config, publish=dataclasses.replace(config.publish, models_dir=tmp_path))
    table = Table(("a",), np.eye(1), np.zeros(1))
    ended = contextlib.suppress(type(error)) if error else contextlib.nullcontext()
    with ended, checkpoints.kept(config, (table,), Weighted(), str) as checkpoint:
        checkpoint.save(state_of(1))
        if error:
            raise error
    assert stays == checkpoint.path.exists()
    assert stays == (tmp_path / checkpoints.FOLDER).exists()
    with checkpoints.kept(config, (table,), Weighted(), str, fresh=True) as checkpoint:
        assert not checkpoint.path.exists()


def test_train_goes_on_by_itself_and_publishes_the_same_weights(trained):
    """A job that was interrupted at step 100, run again, says so, trains what is left, and leaves no checkpoint."""
    config = config_of(trained)

    class Interrupting:
        """Progress that is interrupted at an evaluation."""

        def __init__(self, *_, **__):
            """Take what there is to show."""

        def __enter__(self):
            """Interrupt at step 100."""

            def report(step, *_):
                if step == 100:
                    raise KeyboardInterrupt

            return report

        def __exit__(self, *_):
            """Close nothing."""

    with pytest.raises(KeyboardInterrupt):
        pipeline.train(config, progress=Interrupting)
    models = trained / "models"
    assert (models / ".jobs" / "small" / "checkpoint").exists()
    assert [".jobs", "small"] == sorted(os.listdir(models))
    lines: list[str] = []
    published = pipeline.train(config, tell=lines.append)
    expected = "resume: goes on after step 80 of at most 200, where the same job was ended; --fresh begins anew"
    assert expected in lines
    first, second = (
        json.loads((models / "small" / version / "manifest.json").read_text()) for version in ("1", published.name)
    )
    assert first["certificate"]["weights_sha256"] == second["certificate"]["weights_sha256"]
    assert (["small"], ["1", "2"]) == (os.listdir(models), sorted(os.listdir(models / "small")))
