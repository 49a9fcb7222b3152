"""A disk that is full at any point of an export, publication or rollback: exit 1, nothing published or left.

One exception: a rollback whose labels cannot be written after the rename. Its version stands, and the sentence says so.
"""

import math
import os
import re
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest

from service.repository import Repository, check_identity, read_version
from tests.chaos.full_disk import FullDisk, largest_file
from tests.chaos.publishers import JOBS, publish_and_prune
from tests.training.conftest import write_job
from training import checkpoints, label_moves, plots, publish
from training.__main__ import commands, main
from training.objectives.classification import Classification

LONG = [pytest.mark.chaos, pytest.mark.timeout(1800)]
SENTENCE = re.compile(r"error: [^\n]*(No space left on device|File too large)[^\n]*Nothing was published\.[^\n]*")


@pytest.fixture
def run_main(capsys):
    """Return `run_main(*words)`, the command line: exit code and standard error; signals get their handlers back."""
    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def run(*words):
        code = main([str(word) for word in words])
        return code, capsys.readouterr().err

    yield run
    for number, handler in previous.items():
        signal.signal(number, handler)


@pytest.fixture
def small_job(run_main, tmp_path):
    """Return `small_job(job)`, which runs a job without TensorFlow over `tmp_path` through the command line."""

    def run(job):
        @commands.command()
        def small():
            job(tmp_path)

        try:
            return run_main("small")
        finally:
            del commands.commands["small"]

    return run


def picture(models_dir):
    """Return what lies in a models folder, and the labels; but for a checkpoint, from which the next run goes on."""
    found = (path.relative_to(models_dir) for path in models_dir.rglob("*"))
    there = {path.as_posix() for path in found if path.parts[0] != checkpoints.FOLDER}
    return there, {model: Repository(models_dir).labels(model) for model in Repository(models_dir).models()}


def faults_of(models_dir, before, code, err):
    """Return what is wrong after a job that met a full disk."""
    faults = []
    if code != 1 or "Traceback" in err or len(re.findall("^error: ", err, re.MULTILINE)) != 1:
        faults.append("code")
    elif not SENTENCE.search(err):
        faults.append("sentence")
    there, labels = picture(models_dir)
    if there - before[0]:
        faults.append("left")
    if before[0] - there or labels != before[1]:
        faults.append("lost")
    return faults


@pytest.mark.parametrize("lasting", [False, True])
@pytest.mark.parametrize("job", ["publish_and_prune", "roll_back"])
@pytest.mark.parametrize("every", [7, pytest.param(1, marks=LONG)])
def test_nothing_is_published_or_left_when_the_disk_is_full_at_any_operation(  # noqa: PLR0913  (fixtures)
    every, job, lasting, small_job, monkeypatch, tmp_path, report
):
    """Whether one operation fails or all from it on: exit 1, one sentence, nothing new, and the next run works."""
    for _ in range(3):
        publish_and_prune(tmp_path)
    newest = 3
    label_moves.write(tmp_path / "m", {"stable": newest})
    with FullDisk(tmp_path).over(monkeypatch) as counting:
        assert 0 == small_job(JOBS[job])[0]
    shutil.rmtree(tmp_path / "m" / "4")
    label_moves.write(tmp_path / "m", {"stable": newest})
    points = range(0, counting.count, every)
    stood = 0
    for point in points:
        before = picture(tmp_path)
        with FullDisk(tmp_path, point, lasting=lasting).over(monkeypatch) as disk:
            code, err = small_job(JOBS[job])
        assert disk.num_failed > 0
        if job == "roll_back" and "published, but the move of its labels could not be ended" in err:
            stood += 1
            assert 1 == code
            assert Repository(tmp_path).labels("m")["stable"] in {newest, newest + 1}
        else:
            assert [] == faults_of(tmp_path, before, code, err), (point, code, err)
        assert 0 == small_job(JOBS[job])[0]
        folders = Repository(tmp_path).versions("m")
        newest = folders[-1].version
        check_identity(read_version(folders[-1].path).manifest, "m", newest)
        rest = [name for name in os.listdir(tmp_path / "m") if not name.isdigit()]
        assert ["labels.json"] == rest
        if job == "roll_back":
            assert {"stable": newest} == Repository(tmp_path).labels("m")
    if every == 1:
        assert (stood > 0) == (job == "roll_back")
    report(points=len(points), stood_before_its_labels=stood)


class Real:
    """A real job of a few seconds: read, train two steps, export, prove, report, publish.

    Args:
        folder: an empty folder for it.
        run_main: the command line.
    """

    def __init__(self, folder, run_main):
        self.job = write_job(folder, 300)
        self.job.write_text(self.job.read_text().replace("steps = 200", "steps = 2"))
        self.models_dir = folder / "models"
        (self.models_dir / "small").mkdir(parents=True)
        self.num_operations = 0
        self._run_main = run_main

    def run(self):
        """Return exit code and standard error."""
        return self._run_main("train", self.job)

    def sizes(self):
        """Return the bytes of each file of version 1."""
        folder = self.models_dir / "small" / "1"
        return sorted(path.stat().st_size for path in folder.rglob("*") if path.is_file())

    def num_inodes(self):
        """Return how many files and folders there are, the models folder among them."""
        return 1 + sum(1 for _ in self.models_dir.rglob("*"))


@pytest.fixture
def real(tmp_path, run_main, monkeypatch):
    """Return a real job that published version 1; plots and baselines, which write nothing, are made once."""
    made = Real(tmp_path / "job", run_main)
    for owner, name in ((plots, "_svg"), (Classification, "baselines")):
        monkeypatch.setattr(owner, name, once(getattr(owner, name)))
    with FullDisk(made.models_dir).over(monkeypatch) as counting:
        assert 0 == made.run()[0]
    made.num_operations = counting.count
    return made


def once(function):
    """Return a function that computes its first answer only."""
    answers = []

    def answer(*arguments, **named):
        if not answers:
            answers.append(function(*arguments, **named))
        return answers[0]

    return answer


def test_real_export_leaves_nothing_when_a_file_cannot_grow(real):
    """A file of TensorFlow's meets the limit in the middle."""
    before = picture(real.models_dir)
    with largest_file(real.sizes()[-1] // 2):
        code, err = real.run()
    assert [] == faults_of(real.models_dir, before, code, err)


@pytest.mark.chaos
@pytest.mark.timeout(1800)
def test_real_export_leaves_nothing_when_files_cannot_grow_or_writes_fail(real, monkeypatch, report):
    """Half the points are limits of the file size, which TensorFlow meets too, half are operations that fail."""
    before = picture(real.models_dir)
    limits = np.linspace(0, real.sizes()[-1] - 1, 71)[1:].astype(int).tolist()
    points = range(real.num_operations)
    for limit in limits:
        with largest_file(limit):
            code, err = real.run()
        assert [] == faults_of(real.models_dir, before, code, err), (limit, code, err)
    for point in points:
        with FullDisk(real.models_dir, point).over(monkeypatch) as disk:
            code, err = real.run()
        assert disk.num_failed > 0
        assert [] == faults_of(real.models_dir, before, code, err), (point, code, err)
    assert 0 == real.run()[0]
    assert [1, 2] == [folder.version for folder in Repository(real.models_dir).versions("small")]
    assert ["small"] == os.listdir(real.models_dir)
    report(points=len(limits) + len(points), operations=real.num_operations, published=0, leftovers=0)


def mounted(folder, *options):
    """Mount a small file system at a folder and return whether that is allowed here."""
    if sys.platform != "linux" or shutil.which("mount") is None:
        return False
    command = ["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(folder)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.mark.chaos
@pytest.mark.timeout(1800)
def test_real_export_leaves_nothing_on_a_file_system_that_is_full(real, tmp_path, report):
    """A real file system of a hundred sizes, from nothing to almost enough, of pages and then of inodes."""
    pages = sum(math.ceil(size / 4096) for size in real.sizes())
    models_dir = tmp_path / "small-disk"
    models_dir.mkdir()
    real.job.write_text(real.job.read_text().replace('models_dir = "models"', f'models_dir = "{models_dir}"'))
    sizes = [f"size={4 * size}k" for size in np.linspace(1, pages - 1, 90).astype(int)]
    inodes = [f"nr_inodes={count}" for count in range(2, real.num_inodes())]
    for option in sizes + inodes:
        if not mounted(models_dir, option):
            pytest.skip("no file system can be mounted here: run it as root to fill a real one")
        try:
            code, err = real.run()
            assert [] == faults_of(models_dir, (set(), {}), code, err), (option, code, err)
        finally:
            subprocess.run(["umount", str(models_dir)], check=True)
    assert 0 == real.run()[0]
    report(points=len(sizes) + len(inodes), published=0, leftovers=0)


def leaves_its_staging(models_dir):
    """Stage and never tidy."""
    folder = models_dir / "m" / f"{publish.STAGING_PREFIX}1"
    folder.mkdir()
    (folder / "saved_model.pb").write_bytes(b"graph")


def publishes_half(models_dir):
    """Write where the server looks."""
    folder = models_dir / "m" / "7"
    folder.mkdir()
    for name in ("saved_model.pb", "manifest.json"):
        (folder / name).write_bytes(b"text")


def says_nothing(models_dir):
    """Take the error for granted."""
    try:
        (models_dir / "m" / "new").write_bytes(b"")
    except OSError:
        return


@pytest.mark.parametrize(
    ("job", "point", "expected"),
    [
        (leaves_its_staging, 1, ["sentence", "left"]),
        (publishes_half, 3, ["sentence", "left"]),
        (says_nothing, 0, ["code"]),
    ],
)
def test_wrong_job_is_found_when_the_disk_is_full(job, point, expected, small_job, monkeypatch, tmp_path):
    """A job that leaves its staging folder, one that publishes file by file, and one that hides the error."""
    publish_and_prune(tmp_path)
    before = picture(tmp_path)
    with FullDisk(tmp_path, point).over(monkeypatch):
        code, err = small_job(job)
    assert expected == faults_of(tmp_path, before, code, err)
