"""Rolling back: the bits of the old version come back under the next number, labels follow, and nothing is lost."""

import json
import os
import shutil
import signal

import pytest

from service import manifest, model_version
from service.errors import VersionRefusedError
from service.metrics import Metrics
from service.registry import Registry
from service.repository import Repository, check_identity, read_version
from service.settings import Settings
from service.watcher import Watcher
from tests.chaos.ramp_versions import MODEL, RampVersions
from tests.contract.version_surgery import flipped, read_tensors, reseal, write_tensors
from tests.training.small_versions import document, publish_one
from training import label_moves, model_lock, publish, retrain
from training.__main__ import main
from training.champion import find_champion
from training.config import ConfigError, load_config
from training.rollback import rollback


@pytest.fixture(scope="module")
def ramps(tmp_path_factory):
    """Return closed-form versions; each test takes numbers of its own."""
    return RampVersions(tmp_path_factory.mktemp("prepared"))


@pytest.fixture
def ramp_dir(ramps, tmp_path):
    """Return a models folder with versions 1 and 2 of `ramps`."""
    models_dir = tmp_path / "models"
    for version in (1, 2):
        ramps.publish(models_dir, version)
    return models_dir


@pytest.fixture
def small_dir(tmp_path):
    """Return a models folder with versions 1 to 3 of `m`, which no prover has seen, and a label for each."""
    for version in (1, 2, 3):
        publish_one(tmp_path, f"graph {version}".encode())
    label_moves.write(tmp_path / "m", {"first": 1, "second": 2, "stable": 3, "canary": 3})
    return tmp_path


@pytest.fixture
def run_main():
    """Return the command line: words in, exit code out; signals get their handlers back."""
    previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield lambda *words: main([str(word) for word in words])
    for number, handler in previous.items():
        signal.signal(number, handler)


def believe(_staged, _manifest):
    """Prove nothing: for small versions."""


def test_rollback_serves_the_bits_of_the_old_version_and_labels_follow(ramps, ramp_dir):
    """A server goes from 2 to 3, whose scores and gradients are those of 1, bit for bit; label `stable` means 3."""
    label_moves.write(ramp_dir / MODEL, {"stable": 2, "first": 1})
    registry = Registry()
    settings = Settings(models_dir=ramp_dir)
    load = lambda folder: model_version.load(folder.path, "program")  # noqa: E731
    watcher = Watcher(Repository(ramp_dir), registry, load, Metrics(), settings)

    def answer(**which):
        watcher.scan()
        with registry.acquire(MODEL, **which) as version:
            return version.signature.version, *version.score_and_gradient(ramps.rows)

    served, score, _ = answer()
    assert (2, ramps.expected(2)[0].tobytes()) == (served, score.tobytes())
    done = rollback(ramp_dir, MODEL, 1)
    assert (3, 1, 2, ("stable",)) == (done.version.version, done.to, done.replaced, done.labels)
    for which in ({}, {"label": "stable"}):
        served, score, gradient = answer(**which)
        expected = [array.tobytes() for array in ramps.expected(1)]
        assert (3, expected) == (served, [score.tobytes(), gradient.tobytes()])
    assert {"stable": 3, "first": 1} == dict(registry.labels(MODEL))
    registry.close()


def test_rollback_copies_every_file_and_changes_four_fields_of_the_manifest(ramp_dir):
    """model.keras, probe and all others are the same bytes; number, time, parent and rolled_back_to alone differ."""
    done = rollback(ramp_dir, MODEL, 1, prove=believe, now=lambda: "1999-12-31T23:59:59Z")
    old, new = read_version(ramp_dir / MODEL / "1"), read_version(done.version.path)
    check_identity(new.manifest, MODEL, 3)
    assert old.contents == new.contents
    assert {"saved_model.pb", "model.keras", "probe.npz"} <= new.contents.keys()
    changed = {
        key: new.manifest.document[key]
        for key in new.manifest.document
        if new.manifest.document[key] != old.manifest.document[key]
    }
    assert changed.pop("manifest_sha256")
    assert {"version": 3, "created": "1999-12-31T23:59:59Z", "parent": 2, "rolled_back_to": 1} == changed


def test_night_after_a_rollback_starts_from_it(trained):
    """The rolled-back version is the champion and the parent of the next one, and its network gives the warm start."""
    models_dir = trained / "models"
    shutil.copytree(models_dir / "small" / "1", models_dir / "small" / "2")
    reseal(models_dir / "small" / "2", version=2)
    rollback(models_dir, "small", 1)
    with publish.lock(models_dir, "small") as folder:
        champion, passed_over = find_champion(folder)
    assert (3, 1, [], "") == (champion.version, champion.manifest.rolled_back_to, passed_over, champion.cold)
    job = trained / "job.toml"
    job.write_text(job.read_text().replace("steps = 200", "steps = 10"))
    outcome = retrain.retrain(load_config(job))
    assert "start: the weights of champion version 3" in outcome.lines
    found = json.loads((outcome.published / "manifest.json").read_text())
    assert (4, 3, None) == (found["version"], found["parent"], found["rolled_back_to"])


def test_rollback_exits_3_when_the_old_version_is_not_proved_today(ramps, ramp_dir, run_main, capsys):
    """A weight that would break convexity, under hashes that are all right, is found by the proof; nothing changes."""
    old = ramp_dir / MODEL / "1"
    tensors = read_tensors(old)
    write_tensors(old, flipped(tensors, ramps.key("output/kernel"), (0, 0)))
    reseal(old)
    assert 3 == run_main("rollback", ramp_dir / MODEL, "--to", 1)
    out, err = capsys.readouterr()
    assert ("", "refused: nonneg-matmul", ["1", "2"]) == (out, err[:22], sorted(os.listdir(ramp_dir / MODEL)))


def test_rollback_exits_3_when_the_proof_is_of_another_program(ramp_dir, run_main, capsys):
    """A version whose recorded program is not today's would be refused by a server, and is refused here."""
    path = ramp_dir / MODEL / "1" / "manifest.json"
    document = json.loads(path.read_text())
    document["certificate"]["program_sha256"] = "0" * 64
    path.write_bytes(manifest.seal(document))
    assert 3 == run_main("rollback", ramp_dir / MODEL, "--to", 1)
    assert "refused: certificate-hash: program_sha256" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("m", "--to", "3"), 2, "a version older than the newest (1, 2), received 3, which is the newest"),
        (("m", "--to", "9"), 2, "a version older than the newest (1, 2), received 9"),
        (("m", "--to", "0"), 2, "--to"),
        (("m",), 2, "--to"),
        (("n", "--to", "1"), 2, "the folder of a model with versions in it"),
        (("m/1", "--to", "1"), 2, "the folder of a model with versions in it"),
        (("m", "--to", "2"), 3, "refused: saved-model"),
    ],
)
def test_rollback_ends_with_a_code_and_a_sentence(small_dir, run_main, capsys, words, code, said):
    """Bad usage is exit 2, what cannot be proved exit 3; nothing is published and no label moves."""
    before = sorted(os.listdir(small_dir / "m"))
    assert code == run_main("rollback", small_dir / words[0], *words[1:])
    out, err = capsys.readouterr()
    assert (False, True, False) == (str(small_dir / "m" / "4") in out, said in err, "Traceback" in err)
    assert (before, 3) == (sorted(os.listdir(small_dir / "m")), Repository(small_dir).labels("m")["stable"])
    assert not (small_dir / "n").exists()


def test_rollback_exits_4_when_another_job_holds_the_lock(small_dir, run_main, capsys):
    """It does not wait, and says who is in the way."""
    with publish.lock(small_dir, "m"):
        assert 4 == run_main("rollback", small_dir / "m", "--to", 1)
    assert "another job holds the lock of model m" in capsys.readouterr().err


def spoil_file(path):
    """Flip a byte of the graph."""
    (path / "saved_model.pb").write_bytes(b"Graph 1")


def remove_manifest(path):
    """Make a folder that looks as if it came from elsewhere."""
    (path / "manifest.json").unlink()


def take_another_number(path):
    """Put the manifest of another version there."""
    shutil.copy(path.parent / "2" / "manifest.json", path / "manifest.json")


def become_a_link(path):
    """Leave a link to the files in the folder's place."""
    path.rename(path.parent / ".moved")
    path.symlink_to(path.parent / ".moved")


@pytest.mark.parametrize(
    ("spoil", "rule"),
    [
        (spoil_file, "file-hash"),
        (remove_manifest, "manifest-missing"),
        (take_another_number, "file-hash"),
        (become_a_link, "symlink"),
    ],
)
def test_rollback_refuses_a_version_that_is_not_whole_or_not_ours(small_dir, spoil, rule):
    """The hashes are compared before anything is proved; no version appears and no label moves."""
    spoil(small_dir / "m" / "1")
    with pytest.raises(VersionRefusedError) as refused:
        rollback(small_dir, "m", 1, prove=believe)
    assert (rule, 3) == (refused.value.rule, Repository(small_dir).labels("m")["stable"])
    assert ["1", "2", "3", "labels.json"] == sorted(name for name in os.listdir(small_dir / "m") if name != ".moved")


def test_rollback_refuses_the_only_version_there_is(tmp_path):
    """There is nothing older."""
    publish_one(tmp_path)
    with pytest.raises(ConfigError, match="there is but one version"):
        rollback(tmp_path, "m", 1, prove=believe)


def test_rollback_begins_nothing_when_the_labels_do_not_parse(small_dir):
    """Labels that cannot be moved are told of before anything is published."""
    (small_dir / "m" / "labels.json").write_text("{")
    with pytest.raises(model_lock.PublishError, match=r"Repair or remove the file first\. Nothing was published"):
        rollback(small_dir, "m", 1, prove=believe)
    assert ["1", "2", "3", "labels.json"] == sorted(os.listdir(small_dir / "m"))


def test_rollback_says_that_the_labels_stayed_and_the_next_job_moves_them(small_dir, monkeypatch):
    """The disk fills up between rename and labels: the version is there, the error says so, a night mends it."""

    def fail(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(label_moves, "write", fail)
        with pytest.raises(
            model_lock.PublishError, match=r"published, but the move of its labels could not be ended: No space left"
        ):
            rollback(small_dir, "m", 1, prove=believe)
    assert 3 == Repository(small_dir).labels("m")["stable"]
    assert 5 == publish_one(small_dir).version
    assert {"first": 1, "second": 2, "stable": 4, "canary": 4} == Repository(small_dir).labels("m")
    assert ["1", "2", "3", "4", "5", "labels.json"] == sorted(os.listdir(small_dir / "m"))


@pytest.mark.parametrize("name", ["announce", "publish"])
def test_rollback_leaves_nothing_when_the_disk_fails_before_the_rename(small_dir, monkeypatch, name):
    """Neither a version nor a staging folder nor an announcement stays."""

    def fail(*_):
        raise OSError(28, "No space left on device")

    module = {"announce": label_moves, "publish": publish}[name]
    monkeypatch.setattr(module, "sync_folder", fail)
    with pytest.raises(model_lock.PublishError, match=r"No space left on device\. Nothing was published"):
        rollback(small_dir, "m", 1, prove=believe)
    assert ["1", "2", "3", "labels.json"] == sorted(os.listdir(small_dir / "m"))


@pytest.mark.parametrize(("change", "told"), [({}, 1), ({"task": "classification"}, 2)])
def test_rollback_tells_when_a_server_would_refuse_the_other_schema(small_dir, change, told):
    """Going back over a change of features or task needs a word to the server: the last line says which."""
    publish_one(small_dir, document_for=lambda *args: {**document(*args), **change})
    lines = rollback(small_dir, "m", 1, prove=believe).lines()
    assert "version 5 has the files of version 1 and replaces 4; no label named that one." == lines[0]
    assert (told, told == 2) == (len(lines), "--allow-schema-change" in lines[-1])


def test_rollback_has_no_run_id_when_a_night_made_what_it_repeats(small_dir):
    """The id names the run that published a version, and no run published this one."""
    publish_one(small_dir, document_for=lambda *args: {**document(*args), "run_id": "0f"})
    publish_one(small_dir)
    found = read_version(rollback(small_dir, "m", 4, prove=believe).version.path)
    assert (6, 4) == (found.manifest.version, found.manifest.rolled_back_to)
    assert "run_id" not in found.manifest.document


def test_rollback_can_be_rolled_back(small_dir):
    """Back to 1, then to 3 again: each is a version of its own, whose parent is the one before."""
    rollback(small_dir, "m", 1, prove=believe)
    done = rollback(small_dir, "m", 3, prove=believe)
    found = read_version(done.version.path)
    assert (5, 4, 3, b"graph 3") == (
        found.manifest.version,
        found.manifest.parent,
        found.manifest.rolled_back_to,
        found.contents["saved_model.pb"],
    )
    assert {"first": 1, "second": 2, "stable": 5, "canary": 5} == Repository(small_dir).labels("m")


def test_pruning_after_a_rollback_keeps_what_is_labelled(small_dir):
    """The labelled ones stay, whatever their age; the copy does not need the version that it was copied from."""
    label_moves.write(small_dir / "m", {"second": 2, "stable": 3})
    rollback(small_dir, "m", 1, prove=believe)
    with publish.lock(small_dir, "m") as folder:
        assert [1, 3] == folder.prune(keep=1)
        assert [2, 4] == [version.version for version in folder.versions()]
