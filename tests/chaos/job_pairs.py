"""A process that forks two jobs at once, again and again, and looks who got which number and what became of it.

It has no thread and no TensorFlow, so that it may fork. The jobs go through the command line's own `main`, under a
command of this module alone. `python -m tests.chaos.job_pairs '{"way": ...}'` prints one JSON object.
"""

import contextlib
import errno
import fcntl
import json
import os
import select
import shutil
import sys
import traceback
import uuid
from pathlib import Path

import training.availability
import training.datasets  # noqa: F401  (with the line above: what `main` imports for an error, before the fork)
from service import manifest
from service.errors import VersionRefusedError
from service.repository import Repository, check_identity, read_version
from tests.chaos.publishers import fill, next_number, table
from tests.training.small_versions import document
from training import publish
from training.__main__ import commands, main

FREE, HELD, UNLOCKED = "free", "held", "unlocked"
"""Both race; the second starts while the first holds the lock; both race on a file system without locks."""


class Job:
    """A child that publishes one version and stops once, when it has chosen its number, until it is told to go on."""

    def __init__(self, models_dir, publish_one, *, locks=True):
        self.token = uuid.uuid4().hex
        self._told, tell = os.pipe()
        hear, self._go = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._go)
            self._run(models_dir, publish_one, tell, hear, locks)
        os.close(tell)
        os.close(hear)
        self._text = b""

    def _run(self, models_dir, publish_one, tell, hear, locks):
        """Publish, tell the number, and end with the code of the command."""
        if not locks:
            fcntl.flock = no_locks
        waits = [hear]

        def stop():
            if waits:
                os.write(tell, b"chosen\n")
                os.read(waits.pop(), 1)

        @commands.command()
        def small():
            os.write(tell, f"{publish_one(models_dir, self.token, stop)}\n".encode())

        try:
            sys.stderr = open(os.devnull, "w")  # noqa: SIM115  (what `main` says is not looked at here)
            os._exit(main(["small"]))
        except BaseException:  # noqa: BLE001  (nothing may go on as a second parent)
            traceback.print_exc(file=sys.__stderr__)
            os._exit(70)

    def wait(self, seconds, *, until=b"\n"):
        """Read what the job tells until a text, or its end; return whether either came in time."""
        while until not in self._text:
            if not select.select([self._told], [], [], seconds)[0]:
                return False
            read = os.read(self._told, 100)
            if not read:
                return True
            self._text += read
        return True

    def go(self):
        """Let it go on."""
        if self._go is not None:
            with contextlib.suppress(BrokenPipeError):  # it has ended
                os.write(self._go, b"g")  # not by closing it: a sibling that was forked later has it open too
            os.close(self._go)
            self._go = None

    def end(self):
        """Let it go on and return its exit code and number, None where it published nothing."""
        self.go()
        self.wait(60, until=b"never")
        code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        os.close(self._told)
        lines = [line for line in self._text.decode().splitlines() if line != "chosen"]
        return code, int(lines[0]) if lines else None


def no_locks(*_):
    """Be a file system without locks."""
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))


def right(models_dir, token, stop):
    """Publish by the way of training."""

    def document_for(version, files):
        stop()
        return document(version, files)

    with publish.lock(models_dir, "m") as folder, folder.staging() as staged:
        fill(staged, token)
        return folder.publish(staged, document_for).version


def wrong_overwriting(models_dir, token, stop):
    """Choose a number and copy the files there, whatever is there by then."""
    number, target = next_number(models_dir)
    staged = models_dir / "m" / f".staging-{token}"
    fill(staged, token)
    (staged / manifest.FILE_NAME).write_bytes(manifest.seal(document(number, table(staged))))
    stop()
    shutil.copytree(staged, target, dirs_exist_ok=True)
    shutil.rmtree(staged)
    return number


def wrong_waiting(models_dir, token, stop):
    """Wait for the lock."""
    (models_dir / "m").mkdir(exist_ok=True, parents=True)
    lock = os.open(models_dir / "m" / ".waiting", os.O_RDWR | os.O_CREAT)
    fcntl.flock(lock, fcntl.LOCK_EX)
    return right(models_dir, token, stop)


WAYS = {"right": right, "wrong_overwriting": wrong_overwriting, "wrong_waiting": wrong_waiting}


class Pairs:
    """Rounds of two jobs over one folder, and what must not be in them."""

    def __init__(self, models_dir, way, patience_seconds):
        self.models_dir = models_dir
        self.way = way
        self.patience_seconds = patience_seconds
        self.tokens = {}
        self.outcomes = {}
        self.faults = {}

    def round(self, mode):
        """Let two jobs run, and look."""
        jobs = self.held() if mode == HELD else self.side_by_side(locks=mode == FREE)
        ended = [job.end() for job in jobs]
        codes = [code for code, _ in ended]
        outcome = f"{mode} {sorted(codes)}"
        self.outcomes[outcome] = self.outcomes.get(outcome, 0) + 1
        if codes not in {FREE: [[0, 0], [0, 4], [4, 0]], HELD: [[0, 4]], UNLOCKED: [[0, 0]]}[mode]:
            self.fault("codes", outcome)
        before = set(self.tokens)
        for job, (code, number) in zip(jobs, ended, strict=True):
            if (code == 0) != (number is not None):
                self.fault("codes", f"{code} and version {number}")
            if number in self.tokens:
                self.fault("clobbered", f"{number} was given twice")
            if number is not None:
                self.tokens[number] = job.token
        self.look(set(self.tokens) - before)

    def held(self):
        """Start the second while the first stands where it has chosen its number, lock in hand; it ends meanwhile."""
        first = Job(self.models_dir, self.way)
        first.wait(60)
        second = Job(self.models_dir, self.way)
        if not second.wait(self.patience_seconds, until=b"never"):
            self.fault("waited", "the second job did not end while the first held the lock")
        return first, second

    def side_by_side(self, *, locks):
        """Start both; without locks they go on once both have chosen their number, which is then the same one."""
        jobs = [Job(self.models_dir, self.way, locks=locks) for _ in range(2)]
        for job in jobs:
            if not locks:
                job.wait(60)
        for job in jobs:
            job.go()
        return jobs

    def look(self, numbers):
        """Compare what is on disk with what the jobs said."""
        on_disk = {folder.version for folder in Repository(self.models_dir).versions("m")}
        if on_disk != set(self.tokens):
            self.fault("lost", f"{sorted(set(self.tokens) ^ on_disk)[:4]}")
        for number in numbers & on_disk:
            path = self.models_dir / "m" / str(number)
            try:
                found = read_version(path)
                check_identity(found.manifest, "m", number)
            except VersionRefusedError as error:
                self.fault("half", str(error))
                continue
            if not found.contents["saved_model.pb"].startswith(self.tokens[number].encode()):
                self.fault("clobbered", f"{number} has another job's files")
        rest = [name for name in os.listdir(self.models_dir / "m") if not name.isdigit()]
        if set(rest) - {".lock", ".waiting"}:
            self.fault("leftovers", str(rest))

    def fault(self, kind, what):
        """Count what must not be, and keep the first of each kind."""
        counted, first = self.faults.get(kind, (0, what))
        self.faults[kind] = (counted + 1, first)


def run(models_dir, way, rounds, *, patience_seconds=60.0):
    """Run so many rounds of each mode."""
    pairs = Pairs(Path(models_dir), WAYS[way], patience_seconds)
    for mode, count in rounds.items():
        for _ in range(count):
            pairs.round(mode)
    pairs.look(set(pairs.tokens))
    return {"outcomes": pairs.outcomes, "num_versions": len(pairs.tokens), "faults": pairs.faults}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(run(**json.loads(sys.argv[1]))))
