"""The lock: who holds it, who takes it over, and what stands in its place."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from training import model_lock

ROOT = Path(__file__).parents[2]
HOLDER = """
import subprocess, sys, time
sys.path.insert(0, {root!r})
from pathlib import Path
from training import model_lock
held = model_lock.acquire(Path({folder!r}))
child = subprocess.Popen(["sleep", "60"], close_fds=False)
print(child.pid, flush=True)
time.sleep(60)
"""


def test_acquire_takes_over_the_lock_of_a_killed_job_whose_child_lives_on(tmp_path):
    """The system frees a dead job's lock; a program that the job had started holds nothing of it."""
    script = HOLDER.format(root=str(ROOT), folder=str(tmp_path / "m"))
    job = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    child = int(job.stdout.readline())
    try:
        with pytest.raises(BlockingIOError):
            model_lock.acquire(tmp_path / "m")
        job.kill()
        job.wait(30)
        held = model_lock.acquire(tmp_path / "m")
        assert held.exclusive is True
        held.release()
    finally:
        os.kill(child, signal.SIGKILL)
        job.kill()
        job.communicate(timeout=30)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("kind", ["link", "dangling link", "folder", "fifo"])
def test_acquire_refuses_a_lock_that_is_no_plain_file(tmp_path, kind):
    """A link is not followed, a FIFO is not waited for: one sentence says what to remove."""
    path = tmp_path / "m" / ".lock"
    path.parent.mkdir()
    (tmp_path / "precious").write_bytes(b"text")
    {
        "link": lambda: path.symlink_to(tmp_path / "precious"),
        "dangling link": lambda: path.symlink_to(tmp_path / "nowhere"),
        "folder": path.mkdir,
        "fifo": lambda: os.mkfifo(path),
    }[kind]()
    with pytest.raises(model_lock.PublishError, match="expected a plain file as the lock"):
        model_lock.acquire(path.parent)
    assert (b"text", False) == ((tmp_path / "precious").read_bytes(), (tmp_path / "nowhere").exists())


def test_acquire_refuses_a_model_folder_that_is_a_link(tmp_path):
    """No server would follow it, so nothing is published there."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "m").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(model_lock.PublishError, match="symbolic link"):
        model_lock.acquire(tmp_path / "m")
    assert [] == os.listdir(tmp_path / "elsewhere")


def test_acquire_leaves_no_empty_model_when_the_lock_cannot_be_made(tmp_path, monkeypatch):
    """A full disk leaves no folder for a server to list."""

    def fail(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "open", fail)
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        model_lock.acquire(tmp_path / "m")
    assert [] == os.listdir(tmp_path)


def test_acquire_opens_a_lock_file_that_only_another_user_may_write(tmp_path, monkeypatch):
    """A lock file that a job of another user left behind locks nobody out."""
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / ".lock").write_bytes(b"")
    original = os.open

    def refuse_writing(path: str, flags: int, *mode: int) -> int:
        if flags & os.O_RDWR:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return original(path, flags, *mode)

    monkeypatch.setattr(os, "open", refuse_writing)
    model_lock.acquire(tmp_path / "m").release()
    assert [] == os.listdir(tmp_path)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_acquire_goes_on_and_says_so_where_there_are_no_locks(tmp_path, monkeypatch, number):
    """A file system without locks gives one that is not exclusive; the file stays for whoever else is there."""

    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", fail)
    held = model_lock.acquire(tmp_path / "m")
    held.release()
    assert (False, [".lock"]) == (held.exclusive, os.listdir(tmp_path / "m"))


def test_release_removes_no_lock_file_of_somebody_else(tmp_path):
    """Where a person removed the file and another job made a new one, the new one stays."""
    held = model_lock.acquire(tmp_path / "m")
    held.path.unlink()
    other = model_lock.acquire(tmp_path / "m")
    held.release()
    assert other.path.exists()
    other.release()
    assert [] == os.listdir(tmp_path)


def test_label_lock_ends_with_a_timeout_when_another_holds_it_all_the_time(tmp_path):
    """It is the system's lock on the folder itself, which the label command holds too."""
    held = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    with pytest.raises(TimeoutError, match="changing the labels"), model_lock.label_lock(tmp_path, 0.0):
        pytest.fail("both hold it")
    os.close(held)
    with model_lock.label_lock(tmp_path, 0.0) as held_now:
        assert held_now is True
