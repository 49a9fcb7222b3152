"""Publishing: the lock, all or nothing at every step, numbers, pruning, sweeping, and folders that refuse writes."""

import errno
import json
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from service import manifest, repository
from training import publish

ROOT = Path(__file__).parents[2]


def document(version: int, files: publish.FileTable) -> dict[str, object]:
    """Return a manifest's document for a version of model `m`."""
    return {
        "format_version": 1, "model": "m", "version": version, "created": "2026-11-20T03:00:12Z", "task": "regression",
        "parent": None, "rolled_back_to": None, "input": {"name": "x", "dtype": "float32", "dim": 2, "features": []},
        "outputs": ["score"], "threshold": None, "certificate": {}, "metrics": {}, "data": {}, "config": {},
        "packages": {}, "cpu": "", "files": files,
    }  # fmt: skip


def publish_one(models_dir: Path, content: bytes = b"graph") -> repository.VersionFolder:
    """Publish a small version of `m` by the whole way."""
    with publish.lock(models_dir, "m") as folder, folder.staging() as staged:
        (staged / "variables").mkdir()
        (staged / "assets").mkdir()
        (staged / "saved_model.pb").write_bytes(content)
        (staged / "variables" / "variables.index").write_bytes(b"index")
        return folder.publish(staged, document)


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
sys.path[:0] = [{root!r}, {tests!r}]
import test_publish
from service import repository
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
        test_publish.publish_one(models_dir)
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
    script = KILLER.format(root=str(ROOT), tests=str(Path(__file__).parent), models=str(tmp_path))
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
