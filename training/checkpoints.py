"""The state of a training on disk, so that a job that was killed goes on where it was, to the same bits.

Below `trainer`, which saves and loads; over `runs`, whose `State` is kept. `pipeline` and `retrain` open the checkpoint
of their job while they hold the model's lock, and it is gone when the job is published or refused.

One file, `<models_dir>/.jobs/<model>/checkpoint`, in a place that no server reads: a line with the SHA-256 of the rest,
and the rest, an `.npz` of plain arrays with one JSON document. It is written under another name, synced and renamed.
"""

import contextlib
import dataclasses
import errno
import hashlib
import io
import json
import os
import stat
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.manifest import VersionRefusedError
from training import machine
from training.config import ConfigError, TrainingConfig
from training.datasets import Data, DataError, Samples, Table
from training.runs import DivergenceError, Run, State

FOLDER = ".jobs"
"""Below the models folder: the checkpoint of each model's job. No server reads names with a dot."""

FILE_NAME = "checkpoint"

LEAST_SECONDS = 2.0
"""Where no interval is configured, at least this much training lies between two checkpoints."""

SHARE = 0.01
"""Where no interval is configured, writing them takes at most this part of the time."""

_HEAD = b"convex-scoring checkpoint 1 "
_DOCUMENT = "document"
_VERDICTS = (ConfigError, DataError, DivergenceError, VersionRefusedError)
"""Errors that end a job for good: the same job would come to the same one."""

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_UNREADABLE = (ValueError, KeyError, TypeError, AttributeError, EOFError, NotImplementedError, zipfile.BadZipFile)

Tell = Callable[[str], None]


class DamagedError(Exception):
    """A file that is no whole checkpoint of the job."""


class Checkpoint:
    """The checkpoint of one job.

    A checkpoint that cannot be written (disk full) is told once and stops no training: what was saved before stays as
    it was. One that cannot be used is told, removed, and the training begins anew.

    Args:
        folder: where it lies; made by the first `save`. Nobody else may write there meanwhile (the model's lock).
        key: all that decides the weights; a checkpoint of another key is not used.
        tell: told, in one line each, of what is resumed, ignored, or cannot be written.
        every: save each so many steps; 0: as often as `LEAST_SECONDS` and `SHARE` allow.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        folder: Path,
        key: Mapping[str, Any],
        tell: Tell,
        *,
        every: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Remember where, and begin to count the seconds."""
        self.path = folder / FILE_NAME
        self._partial = folder / f"{FILE_NAME}.partial"
        self._key = json.loads(_canonical(key))
        self._tell = tell
        self._every = every
        self._clock = clock
        self._due = clock() + LEAST_SECONDS
        self._warned = False

    def load(self, like: State) -> State | None:
        """Return the state that was saved, or None where there is none that can be used.

        Args:
            like: a state whose arrays those of the saved one must resemble; it may have others beside them.
        """
        try:
            data = _read(self.path)
            if data is None:
                return None
            key, state = _unpacked(data)
            differing = sorted(part for part in {*self._key, *key} if self._key.get(part) != key.get(part))
            if differing:
                self._ignore(f"is of another job, whose {' and '.join(differing)} differed")
                return None
            _check_arrays(state.arrays, like.arrays)
        except (DamagedError, OSError) as err:
            self._ignore(f"cannot be used ({getattr(err, 'strerror', None) or err})")
            return None
        return state

    def is_due(self, step: int) -> bool:
        """Tell whether it is time to save, after so many steps."""
        return step % self._every == 0 if self._every else self._clock() >= self._due

    def save(self, state: State) -> None:
        """Put a state in the place of the one before: after a crash at any instant one of the two is there, whole."""
        begun = self._clock()
        try:
            _write(self._partial, self.path, _packed(self._key, state))
        except OSError as err:
            if not self._warned:
                kept = "the checkpoint before stays" if self.path.exists() else "there is none yet"
                words = f"{self.path}: cannot be written: {err.strerror or err}; {kept}"
                advice = "Free some space" if err.errno in _FULL else "Let this user write there"
                self._tell(f"warning: {words}. Training goes on; a job that is killed begins there. {advice}.")
            self._warned = True
        ended = self._clock()
        self._due = ended + max(LEAST_SECONDS, (ended - begun) / SHARE)

    def remove(self) -> None:
        """Leave nothing: neither the file, nor what a killed job left of one, nor empty folders."""
        with contextlib.suppress(OSError):
            for path in (self.path, self._partial):
                path.unlink(missing_ok=True)
            self.path.parent.rmdir()
            self.path.parent.parent.rmdir()

    def say_resumed(self, step: int, steps: int) -> None:
        """Tell that the job goes on after a step."""
        where = f"goes on after step {step} of at most {steps}, where the same job was ended"
        self._tell(f"resume: {where}; --fresh begins anew")

    def _ignore(self, why: str) -> None:
        self._tell(f"start: the checkpoint {self.path} {why}: it is ignored and removed, training begins anew")
        self.remove()


@contextlib.contextmanager
def kept(
    config: TrainingConfig, sides: Sequence[Data], run: Run, tell: Tell, *, fresh: bool = False
) -> Iterator[Checkpoint]:
    """Give the checkpoint of a job, and remove it when the job is over: at the end of the block, or by a verdict.

    It stays where the same job, started again, may come further: after a kill, an interruption, or a full disk.

    Args:
        config: the job, whose model's lock is held.
        sides: the rows that the run trains on, and those it is judged by.
        run: before its first step.
        tell: told as `Checkpoint` says.
        fresh: whether to remove one that is there.
    """
    folder = config.publish.models_dir / FOLDER / config.model.name
    checkpoint = Checkpoint(folder, key_of(config, sides, run), tell, every=config.trainer.checkpoint_every)
    if fresh:
        checkpoint.remove()
    try:
        yield checkpoint
    except _VERDICTS:
        checkpoint.remove()
        raise
    checkpoint.remove()


def key_of(config: TrainingConfig, sides: Sequence[Data], run: Run) -> dict[str, Any]:
    """Return all that decides the weights of a run: configuration, rows, the weights it starts from, and the machine.

    The configuration is that of the file, verbatim, and what this code reads in it, defaults included. The weights at
    the start stand for the seed, and for the champion's of a warm start.
    """
    read = {name: dataclasses.asdict(getattr(config, name)) for name in ("network", "objective", "trainer")}
    weights = hashlib.sha256()
    for weight in run.weights():
        _add(weights, np.asarray(weight))
    return {
        "configuration": {"file": config.document, "read": read},
        "data": [_rows_sha256(side) for side in sides],
        "start": weights.hexdigest(),
        **machine.conditions(),
    }


def _rows_sha256(rows: Data) -> str:
    """Return the hash of rows: names of columns, and every number."""
    found = hashlib.sha256()
    tables: tuple[Table, ...] = (rows.source, rows.target) if isinstance(rows, Samples) else (rows,)
    for table in tables:
        found.update(_canonical([table.features, table.context]))
        _add(found, table.x)
        _add(found, table.y)
    return found.hexdigest()


def _add(found: Any, array: NDArray[Any]) -> None:
    """Add an array to a hash: shape, type and bytes."""
    found.update(f"{array.shape} {array.dtype.str} ".encode())
    found.update(np.ascontiguousarray(array).data)


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, default=str).encode()


def _packed(key: Mapping[str, Any], state: State) -> bytes:
    """Return the file's bytes."""
    document = np.frombuffer(_canonical({"key": key, "numbers": state.numbers}), np.uint8)
    file = io.BytesIO()
    arrays: dict[str, Any] = {f"array/{name}": value for name, value in state.arrays.items()}
    np.savez(file, **{_DOCUMENT: document, **arrays})
    content = file.getbuffer()
    return b"".join((_HEAD, hashlib.sha256(content).hexdigest().encode(), b"\n", content))


def _unpacked(data: bytes) -> tuple[dict[str, Any], State]:
    """Return key and state of the file's bytes.

    Raises:
        DamagedError: they are not whole.
    """
    head, _, content = data.partition(b"\n")
    if head != _HEAD + hashlib.sha256(content).hexdigest().encode():
        raise DamagedError("damaged: its SHA-256 is not that of its content")
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            document = json.loads(arrays[_DOCUMENT].tobytes())
            found = {name.removeprefix("array/"): arrays[name] for name in arrays.files if name != _DOCUMENT}
        return dict(document["key"]), State(found, dict(document["numbers"]))
    except _UNREADABLE as err:
        raise DamagedError(f"it cannot be read: {type(err).__name__}") from err


def _check_arrays(found: Mapping[str, NDArray[Any]], like: Mapping[str, NDArray[Any]]) -> None:
    """Refuse arrays that are not those of the run (DamagedError)."""
    for name, array in like.items():
        if name not in found or (found[name].shape, found[name].dtype) != (array.shape, array.dtype):
            raise DamagedError(f"expected {name} as {array.dtype} {list(array.shape)}, which it has not")


def _read(path: Path) -> bytes | None:
    """Return the bytes of a plain file, or None where there is none.

    Raises:
        DamagedError: something else bears its name.
        OSError: it cannot be read.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise DamagedError("it is no plain file")
    with os.fdopen(descriptor, "rb") as file:
        return file.read()


def _write(partial: Path, path: Path, data: bytes) -> None:
    """Write a file under another name, sync it, give it its name, and sync the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        partial.unlink(missing_ok=True)
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        partial.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise
    descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
