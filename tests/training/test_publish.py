"""Publishing: the lock, all or nothing at every step, numbers, pruning, sweeping, and folders that refuse writes."""

import errno
import fcntl
import json
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from service import manifest, repository
from tests.training.small_versions import document, publish_one
from training import publish

ROOT = Path(__file__).parents[2]


def hold_lock(models_dir: Path, ready: "multiprocessing.synchronize.Event", end: "multiprocessing.synchronize.Event"):
    """Hold the lock of `m` in another process until told to end."""
    with publish.lock(models_dir, "m"):
        ready.set()
        end.wait(30)


def test_publish_makes_a_version_that_reads_back_whole(tmp_path):
    """What was staged is what the repository reads, under its manifest; empty folders and the lock are gone."""
    found = publish_one(tmp_path)
    read = repository.read_version(found.path)
    repository.check_identity(read.manifest, "m", 1)
    assert {"saved_model.pb": b"graph", "variables/variables.index": b"index"} == dict(read.contents)
    assert ["1"] == sorted(os.listdir(tmp_path / "m"))
    assert not (found.path / "assets").exists()


def test_publish_takes_one_more_than_the_largest_number_of_any_entry(tmp_path):
    """A removed, foreign or odd folder never has its number used again while a larger one is there."""
    for name in ("3", "0009", "2"):
        (tmp_path / "m" / name).mkdir(parents=True)
    (tmp_path / "m" / "11").write_bytes(b"a file")
    assert 12 == publish_one(tmp_path).version


def test_publish_takes_the_next_number_when_a_stranger_takes_its_own(tmp_path, monkeypatch):
    """Without a common lock, the folder that came first stays, and the manifest names the number that was got."""
    original = publish._rename_to_free_name

    def slow(source: Path, target: Path) -> None:
        if target.name == "1":
            target.mkdir()
        original(source, target)

    monkeypatch.setattr(publish, "_rename_to_free_name", slow)
    found = publish_one(tmp_path)
    assert (2, 2) == (found.version, repository.read_version(found.path).manifest.version)
    assert [] == os.listdir(tmp_path / "m" / "1")


def test_publish_passes_over_numbers_that_a_label_still_names(tmp_path):
    """A label that outlived its version does not come to mean another one of the same number."""
    publish_one(tmp_path)
    (tmp_path / "m" / "labels.json").write_text('{"stable": 7}')
    assert 8 == publish_one(tmp_path).version


def test_publish_ignores_names_beyond_int64(tmp_path):
    """A stray name that no reader takes for a version does not use up the numbers."""
    (tmp_path / "m" / "9999999999999999999").mkdir(parents=True)
    assert 1 == publish_one(tmp_path).version


def test_publish_never_replaces_an_empty_folder(tmp_path):
    """rename(2) would replace an empty folder silently: the name is looked at first."""
    (tmp_path / "source").mkdir()
    (tmp_path / "target").mkdir()
    with pytest.raises(FileExistsError):
        publish._rename_to_free_name(tmp_path / "source", tmp_path / "target")


def test_publish_refuses_the_last_number_of_int64(tmp_path):
    """There is no version after 2^63 - 1."""
    (tmp_path / "m" / str(2**63 - 1)).mkdir(parents=True)
    with pytest.raises(publish.PublishError, match="no version number"):
        publish_one(tmp_path)


def test_publish_refuses_a_document_that_is_no_manifest(tmp_path):
    """A manifest that no server would read is never published."""
    with publish.lock(tmp_path, "m") as folder, folder.staging() as staged:
        (staged / "saved_model.pb").write_bytes(b"")
        with pytest.raises(manifest.VersionRefusedError):
            folder.publish(staged, lambda version, files: {**document(version, files), "task": "magic"})
    assert not (tmp_path / "m").exists()


def test_publish_syncs_everything_before_the_rename_and_the_parent_after(tmp_path, monkeypatch):
    """Order on disk: each file and folder synced, manifest synced last, rename, parent synced."""
    steps: list[str] = []
    fsync, rename = os.fsync, Path.rename

    def note_fsync(descriptor: int) -> None:
        steps.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        fsync(descriptor)

    def note_rename(source: Path, target: Path) -> Path:
        steps.append("rename")
        return rename(source, target)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(Path, "rename", note_rename)
    publish_one(tmp_path)
    staging = next(step for step in steps if step.startswith(publish.STAGING_PREFIX))
    assert {"variables.index", "variables", "saved_model.pb", staging} == set(steps[: steps.index("manifest.json")])
    assert ["manifest.json", staging, "rename", "m"] == steps[-4:]


KILLER = """
import json, os, signal, sys
from pathlib import Path
sys.path.insert(0, {root!r})
from service import repository
from tests.training.small_versions import publish_one
from training import publish

models_dir, outcomes = Path({models!r}), []
for step in range(1000):
    child = os.fork()
    if child == 0:
        counted = 0
        def count(event, args):
            global counted
            if event in ("open", "os.rename", "os.mkdir", "os.rmdir", "os.remove", "os.listdir", "fcntl.flock"):
                counted += 1
                if counted > step:
                    os.kill(os.getpid(), signal.SIGKILL)
        fsync = os.fsync
        def counting_fsync(descriptor):
            count("open", ())
            fsync(descriptor)
        os.fsync = counting_fsync
        sys.addaudithook(count)
        publish_one(models_dir)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    for folder in repository.Repository(models_dir).versions("m"):
        read = repository.read_version(folder.path)
        repository.check_identity(read.manifest, "m", folder.version)
    versions = [folder.version for folder in repository.Repository(models_dir).versions("m")]
    outcomes.append([os.WIFSIGNALED(status), versions])
    if not os.WIFSIGNALED(status):
        break
with publish.lock(models_dir, "m"):
    left = sorted(name for name in os.listdir(models_dir / "m") if not name.isdigit())
print(json.dumps([outcomes, left, os.waitstatus_to_exitcode(status)]))
"""


def test_publish_leaves_no_new_version_or_a_whole_one_when_killed_at_any_step(tmp_path):
    """SIGKILL before each file operation in turn: every version on disk is whole, and the next job works."""
    script = KILLER.format(root=str(ROOT), models=str(tmp_path))
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    outcomes, left, status = json.loads(ended.stdout)
    assert (0, [".lock"]) == (status, left)
    assert len(outcomes) > 20  # the harness did kill at many points
    before = 0
    for killed, versions in outcomes[:-1]:
        assert killed
        assert len(versions) - before in {0, 1}
        before = len(versions)
    assert before > 0  # some kills came after the rename
    assert outcomes[0][1] == []


def test_publish_takes_a_version_back_that_it_cannot_sync(tmp_path, monkeypatch):
    """The disk fails after the rename: nothing was published, as the error says."""
    publish_one(tmp_path)
    original = publish.sync_folder

    def fail(folder: Path) -> None:
        if (folder / "2").exists():
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        original(folder)

    monkeypatch.setattr(publish, "sync_folder", fail)
    with pytest.raises(publish.PublishError, match="Nothing was published"):
        publish_one(tmp_path)
    assert ["1"] == os.listdir(tmp_path / "m")


def test_publish_says_so_when_a_version_can_neither_be_synced_nor_taken_back(tmp_path, monkeypatch):
    """What stands there whole is not called unpublished."""

    def fail(folder: Path) -> None:
        if (folder / "1").exists():
            monkeypatch.setattr(Path, "rename", refuse)
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    def refuse(*_: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(publish, "sync_folder", fail)
    with pytest.raises(publish.PublishError, match="published and whole, but not safe from a power cut"):
        publish_one(tmp_path)
    assert 1 == repository.read_version(tmp_path / "m" / "1").manifest.version


def test_lock_is_refused_when_another_process_holds_it(tmp_path):
    """Two jobs at once: the second is told so, and gets the lock once the first has ended."""
    context = multiprocessing.get_context("spawn")
    ready, end = context.Event(), context.Event()
    process = context.Process(target=hold_lock, args=(tmp_path, ready, end))
    process.start()
    try:
        assert ready.wait(30)
        with pytest.raises(publish.LockHeldError, match="another job"), publish.lock(tmp_path, "m"):
            pass
        assert (tmp_path / "m" / ".lock").exists()  # the loser removes nothing
        with publish.lock(tmp_path, "other"):
            pass  # another model's lock is free
    finally:
        end.set()
        process.join(30)
    with publish.lock(tmp_path, "m") as folder:
        assert tmp_path / "m" == folder.path


def test_lock_is_free_when_its_holder_was_killed(tmp_path):
    """A lock file that a dead job left behind locks nobody out."""
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / ".lock").write_bytes(b"")
    assert 1 == publish_one(tmp_path).version


def test_lock_leaves_nothing_behind_when_nothing_was_published(tmp_path):
    """A failed first job leaves no empty model for a server to list."""
    with publish.lock(tmp_path, "m") as folder, folder.staging() as staged:
        (staged / "saved_model.pb").write_bytes(b"")
    assert [] == os.listdir(tmp_path)


def test_lock_sweeps_what_killed_jobs_left(tmp_path):
    """Folders, files and links with a staging name go; links are not followed; everything else stays."""
    model = tmp_path / "m"
    (model / ".staging-a" / "variables").mkdir(parents=True)
    (model / "7").mkdir()
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").write_bytes(b"")
    (model / ".staging-b").symlink_to(tmp_path / "precious")
    (model / ".staging-c").write_bytes(b"")
    with publish.lock(tmp_path, "m"):
        assert [".lock", "7"] == sorted(os.listdir(model))
    assert (tmp_path / "precious" / "file").exists()


def age(path: Path, seconds: float) -> None:
    """Make a path look older."""
    then = path.stat().st_mtime - seconds
    os.utime(path, (then, then))


def test_lock_sweeps_halves_of_labels_that_nobody_is_writing(tmp_path):
    """What a killed writer of labels left goes; while one writes, nobody looks at it."""
    model = tmp_path / "m"
    model.mkdir()
    (model / ".labels-half").write_text("{}")
    with publish.lock(tmp_path, "m"):
        assert {".lock"} == set(os.listdir(model))


def test_prune_waits_for_who_changes_the_labels(tmp_path):
    """A version that is being labelled is not removed: the labels are read once the other has let go of them."""
    for _ in range(3):
        publish_one(tmp_path)
    held = os.open(tmp_path / "m", os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    entered = threading.Event()

    def prune() -> list[int]:
        entered.set()
        return publish.ModelFolder(repository.Repository(tmp_path), "m").prune(keep=1)

    with ThreadPoolExecutor(1) as pool:
        pruning = pool.submit(prune)
        assert entered.wait(30)
        (tmp_path / "m" / "labels.json").write_text('{"stable": 1}')
        os.close(held)
        assert [2] == pruning.result(30)


def test_lock_sweeps_no_young_staging_folder_where_there_are_no_locks(tmp_path, monkeypatch):
    """Another job may be staging in it; one of yesterday is dead."""

    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", no_locks)
    model = tmp_path / "m"
    for name in (".staging-young", ".staging-old", ".labels-young", ".labels-old"):
        (model / name).mkdir(parents=True)
        age(model / name, 2 * publish.OLD_SECONDS if name.endswith("old") else 0.0)
    with publish.lock(tmp_path, "m") as folder:
        assert folder.exclusive is False
    assert {".lock", ".staging-young", ".labels-young"} == set(os.listdir(model))


def test_lock_goes_on_when_a_leftover_cannot_be_removed(tmp_path, monkeypatch):
    """A leftover of another user keeps no night from being published."""
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / ".staging-a").write_bytes(b"")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", refuse)
        with publish.lock(tmp_path, "m") as folder:
            assert [".staging-a"] == [path.name for path in folder.path.glob(".staging-*")]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_lock_tells_at_the_start_that_nothing_can_be_staged(tmp_path, monkeypatch, number):
    """A folder that takes no new name is found before the training, not after it."""
    (tmp_path / "m").mkdir()
    mkdir = Path.mkdir

    def refuse(path: Path, *arguments: object, **named: object) -> None:
        if path.name.startswith(publish.STAGING_PREFIX):
            raise OSError(number, os.strerror(number))
        mkdir(path, *arguments, **named)

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(publish.PublishError, match=os.strerror(number)), publish.lock(tmp_path, "m"):
        pytest.fail("the lock was given")
    assert [] == os.listdir(tmp_path)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EIO])
@pytest.mark.parametrize("name", ["fsync", "rename"])
def test_publish_leaves_nothing_when_the_disk_fails(tmp_path, monkeypatch, name, number):
    """Disk full, read-only or broken, at the sync or at the rename: a clear error, staging gone, nothing published."""

    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(*((os, "fsync", fail) if name == "fsync" else (Path, "rename", fail)))
    with pytest.raises(publish.PublishError, match=rf"{os.strerror(number)}\. Nothing was published"):
        publish_one(tmp_path)
    assert [] == os.listdir(tmp_path)


def test_staging_tells_of_a_file_size_limit(tmp_path):
    """A write over the file size limit is the clear error, not a signal."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1024, before[1]))
        with pytest.raises(publish.PublishError, match=r"File too large\. Nothing was published"):
            publish_one(tmp_path, bytes(4096))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, previous)
    assert [] == os.listdir(tmp_path)


def test_lock_tells_of_a_models_folder_that_is_a_file(tmp_path):
    """A models folder that cannot hold folders is a clear error."""
    (tmp_path / "models").write_bytes(b"")
    with pytest.raises(publish.PublishError, match="cannot be written"), publish.lock(tmp_path / "models", "m"):
        pass


def test_prune_keeps_the_newest_and_the_labelled(tmp_path):
    """The oldest versions go until `keep` remain; a labelled one never does."""
    for _ in range(5):
        publish_one(tmp_path)
    (tmp_path / "m" / "labels.json").write_text('{"stable": 1}')
    with publish.lock(tmp_path, "m") as folder:
        assert [2, 3] == folder.prune(keep=2)
        assert [1, 4, 5] == [found.version for found in folder.versions()]
        assert [] == folder.prune(keep=2)
    assert ["1", "4", "5", "labels.json"] == sorted(os.listdir(tmp_path / "m"))


def test_prune_removes_nothing_when_the_labels_do_not_parse(tmp_path):
    """As long as nobody can tell what is labelled, nothing goes."""
    for _ in range(3):
        publish_one(tmp_path)
    (tmp_path / "m" / "labels.json").write_text("{")
    with publish.lock(tmp_path, "m") as folder:
        assert [] == folder.prune(keep=1)


@pytest.mark.parametrize("name", ["labels", "versions"])
def test_prune_removes_nothing_when_the_folder_cannot_be_read(tmp_path, monkeypatch, name):
    """What was published stays published: an unreadable folder is no failure of the job."""
    for _ in range(3):
        publish_one(tmp_path)

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with publish.lock(tmp_path, "m") as folder:
        monkeypatch.setattr(repository.Repository, name, fail)
        assert [] == folder.prune(keep=1)


def test_prune_waits_for_no_fifo_in_the_place_of_a_manifest(tmp_path):
    """A planted FIFO neither holds the job up nor counts as a version of ours."""
    for _ in range(3):
        publish_one(tmp_path)
    (tmp_path / "m" / "2" / "manifest.json").unlink()
    os.mkfifo(tmp_path / "m" / "2" / "manifest.json")
    with publish.lock(tmp_path, "m") as folder:
        assert [1] == folder.prune(keep=1)


def test_prune_removes_and_counts_only_versions_of_ours(tmp_path):
    """A version made elsewhere, and one with a broken manifest, neither goes nor counts as kept."""
    for _ in range(4):
        publish_one(tmp_path)
    (tmp_path / "m" / "1" / "manifest.json").unlink()
    (tmp_path / "m" / "4" / "manifest.json").write_bytes(b"{}")
    with publish.lock(tmp_path, "m") as folder:
        assert [2] == folder.prune(keep=1)
        assert [1, 3, 4] == [found.version for found in folder.versions()]


def test_prune_keeps_one_when_told_to_keep_none(tmp_path):
    """The newest version never goes."""
    publish_one(tmp_path)
    with publish.lock(tmp_path, "m") as folder:
        assert [] == folder.prune(keep=0)


def test_uninterrupted_holds_back_both_signals_and_restores_the_handlers():
    """From the rename on a job is not interrupted; before and after, it is."""
    caught: list[int] = []
    previous = {number: signal.signal(number, lambda got, _: caught.append(got)) for number in (2, 15)}
    try:
        with publish.uninterrupted() as came:
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGINT)
        assert ([signal.SIGTERM, signal.SIGINT], []) == (came, caught)
        os.kill(os.getpid(), signal.SIGTERM)
        assert [signal.SIGTERM] == caught
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
