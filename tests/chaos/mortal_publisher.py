"""A process that forks jobs, kills them at every operation and at random moments, and looks at what they left.

It has no thread and no TensorFlow, so that it may fork. `python -m tests.chaos.mortal_publisher '{"job": ...}'` prints
a JSON object for each argument: how many were killed, and what was found that must not be.
"""

import json
import os
import random
import select
import signal
import sys
import time
import traceback
from pathlib import Path

from service.errors import VersionRefusedError
from service.repository import Repository, check_identity, read_version
from tests.chaos.publishers import JOBS, end_of_rollbacks, publish_and_prune
from training import label_moves

_COUNTED = ("open", "os.", "fcntl.", "shutil.")


class Steps:
    """Counts the operations on files of this process and kills it before the one of a number.

    A sync counts before and after. What was synced is written into a pipe, in the state that it was in.
    """

    def __init__(self, log, kill_at):
        self.log = log
        self.kill_at = kill_at
        self.count = 0
        self._fsync = os.fsync

    def install(self):
        """Count from now on."""
        os.fsync = self.sync
        sys.addaudithook(self.hear)

    def hear(self, event, _args):
        """Count an operation."""
        if not event.startswith(_COUNTED) or event == "os.kill":
            return
        if self.count == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        self.count += 1

    def sync(self, descriptor):
        """Sync, and say what."""
        self.hear("os.fsync", ())
        self._fsync(descriptor)
        os.write(self.log, f"{state(os.fstat(descriptor))}\n".encode())
        self.hear("os.fsync", ())


def state(info):
    """Return what changes when the content of a file or of a folder does."""
    return f"{info.st_ino} {info.st_mtime_ns} {info.st_size}"


class Killer:
    """Runs a job again and again over one folder, killed, and after each the next job in peace.

    Args:
        models_dir: the folder.
        job: what is killed.
        next_job: what comes after it, by itself.
    """

    def __init__(self, models_dir, job, next_job):
        self.models_dir = models_dir
        self.repository = Repository(models_dir)
        self.job = job
        self.next_job = next_job
        self.synced = set()
        self.num_killed = 0
        self.num_new = 0
        self.faults = {}

    def fork(self, job, *, kill_at=None, kill_after_seconds=None):
        """Run a job in a child and return its exit code and how many steps it took, if it ended."""
        receiver, log = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                steps = Steps(log, kill_at)
                steps.install()
                job(self.models_dir)
                os.write(log, f"steps {steps.count}\n".encode())
                os._exit(0)
            except BaseException:  # noqa: BLE001  (nothing may go on as a second parent)
                traceback.print_exc()
                os._exit(1)
        os.close(log)
        if kill_after_seconds is not None:
            select.select([], [], [], kill_after_seconds)
            os.kill(child, signal.SIGKILL)
        with os.fdopen(receiver) as file:
            lines = file.read().splitlines()
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        said = [line for line in lines if line.startswith("steps ")]
        self.synced.update(lines)
        return code, int(said[0].split()[1]) if said else None

    def trial(self, **kill):
        """Kill a job, look, let the next job run, and look again."""
        folders = self.repository.versions("m")
        newest = folders[-1].version
        label_moves.write(self.models_dir / "m", {"first": 1, "stable": newest})
        code, _ = self.fork(self.job, **kill)
        self.num_killed += code == -signal.SIGKILL
        if code not in {0, -signal.SIGKILL}:
            self.fault("failed", f"exit {code} at {kill}")
        self.look()
        after = self.repository.versions("m")[-1].version
        self.num_new += after > newest
        if self.fork(self.next_job)[0] != 0:
            self.fault("next job", f"after {kill}")
        self.look()
        versions = self.repository.versions("m")
        if versions[-1].version != after + 1:
            self.fault("number", f"{versions[-1].version} after {after}")
        self.look_for_leftovers(newest, versions)

    def look(self):
        """Read every version that a server sees: it must be whole, and safe from a power cut as it is."""
        for folder in self.repository.versions("m"):
            try:
                found = read_version(folder.path).manifest
                if found is None:
                    self.fault("half", f"{folder.version} has no manifest")
                    continue
                check_identity(found, "m", folder.version)
            except VersionRefusedError as error:
                self.fault("half", str(error))
            for path in (folder.path, *folder.path.rglob("*")):
                if state(path.lstat()) not in self.synced:
                    self.fault("unsynced", str(path))

    def look_for_leftovers(self, newest, versions):
        """Look for whatever else lies there, and whether the labels are where they belong."""
        rest = [name for name in os.listdir(self.models_dir / "m") if not name.isdigit() and name != "labels.json"]
        if rest:
            self.fault("leftovers", ", ".join(rest))
        expected = {"first": 1, "stable": end_of_rollbacks(versions, newest)}
        found = self.repository.labels("m")
        if found != expected or not set(found.values()) <= {folder.version for folder in versions}:
            self.fault("labels", f"{found} for {expected}")

    def fault(self, kind, what):
        """Count what must not be, and keep the first of each kind."""
        counted, first = self.faults.get(kind, (0, what))
        self.faults[kind] = (counted + 1, first)


def main(models_dir, job, *, next_job="publish_and_prune", begin=0, every=1, num_moments=0):
    """Kill a job before every (or every so many-th) operation, then at so many random moments."""
    killer = Killer(Path(models_dir), JOBS[job], JOBS[next_job])
    for _ in range(2):
        killer.fork(publish_and_prune)
    label_moves.write(killer.models_dir / "m", {"first": 1})
    started = time.perf_counter()
    code, num_steps = killer.fork(killer.job)
    seconds = time.perf_counter() - started
    killer.look()
    for step in range(begin, num_steps, every):
        killer.trial(kill_at=step)
    at_steps, rng = killer.num_killed, random.Random(num_moments)  # noqa: S311
    for _ in range(10 * num_moments):  # some come too late
        if killer.num_killed < at_steps + num_moments:
            killer.trial(kill_after_seconds=rng.uniform(0.0, seconds))
    return {
        "code": code,
        "num_steps": num_steps,
        "num_killed_at_steps": at_steps,
        "num_killed_at_moments": killer.num_killed - at_steps,
        "num_new": killer.num_new,
        "faults": killer.faults,
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps([main(**json.loads(words)) for words in sys.argv[1:]]))
