"""The repository: what it lists, and everything that it ignores."""

import contextlib
import os
import socket
import stat
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from service import repository
from service.errors import VersionRefusedError
from service.repository import Repository, VersionFolder


@pytest.fixture
def version(tmp_path: Path) -> Path:
    """Return the folder of version 1 of model `m`, with two files in it."""
    folder = tmp_path / "models" / "m" / "1"
    (folder / "variables").mkdir(parents=True)
    (folder / "saved_model.pb").write_bytes(b"graph")
    (folder / "variables" / "variables.index").write_bytes(b"index")
    return folder


def refused(folder: Path) -> str:
    """Return the rule by which the folder is refused."""
    with pytest.raises(VersionRefusedError) as caught:
        repository.read_version(folder)
    return caught.value.rule


@pytest.mark.parametrize(
    ("name", "number"),
    [("1", 1), ("10", 10), (str(2**63 - 1), 2**63 - 1), (str(2**63), None), ("0", None), ("01", None), ("1 ", None),
     ("+1", None), ("1\n", None), ("\u0661", None), ("", None), ("1" * 20, None)],
)  # fmt: skip
def test_version_number_takes_plain_int64_only(name, number):
    """No leading zero, no sign, no other digits, within int64."""
    assert number == repository.version_number(name)


def test_models_are_sorted_and_other_names_warned_of_once(tmp_path):
    """Folders with a model's name are models; everything else is ignored, with one warning each."""
    for name in ("b", "a-1", "bad name", "x" * 65, ".hidden"):
        (tmp_path / name).mkdir()
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "link").symlink_to(tmp_path / "b")
    found = Repository(tmp_path)
    with capture_logs() as logs:
        assert ["a-1", "b"] == found.models()
        assert ["a-1", "b"] == found.models()
    assert ["'bad name'", "'file'", "'link'", f"'{'x' * 65}'"] == sorted(entry["name"] for entry in logs)


def test_models_are_none_when_the_root_is_missing(tmp_path):
    """A models folder that is not there yet is an empty one."""
    assert [] == Repository(tmp_path / "none").models()


def test_versions_are_ascending_by_number(tmp_path):
    """10 comes after 9; staging folders, labels, files and odd names are no versions."""
    for name in ("10", "9", "1", "007", ".staging-1", "latest", str(2**63)):
        (tmp_path / "m" / name).mkdir(parents=True)
    (tmp_path / "m" / "labels.json").write_bytes(b"{}")
    (tmp_path / "m" / "5").write_bytes(b"a file")
    with capture_logs() as logs:
        found = Repository(tmp_path).versions("m")
    expected = [VersionFolder("m", number, tmp_path / "m" / str(number)) for number in (1, 9, 10)]
    assert expected == found
    assert 4 == len(logs)


def test_versions_list_a_link_so_that_reading_it_says_why(version):
    """A linked version appears, and is refused by name."""
    (version.parent / "2").symlink_to(version)
    found = Repository(version.parent.parent).versions("m")
    assert [1, 2] == [folder.version for folder in found]
    assert "symlink" == refused(found[1].path)


@pytest.mark.parametrize("model", ["missing", "../models/m", "", "a/b"])
def test_versions_are_none_when_the_model_is_no_name_of_a_folder(version, model):
    """A name is never joined into a path unless it is a model's name."""
    assert [] == Repository(version.parent.parent).versions(model)


def test_versions_are_none_when_the_model_is_a_link(version):
    """A linked model folder is not walked."""
    (version.parent.parent / "linked").symlink_to(version.parent)
    assert [] == Repository(version.parent.parent).versions("linked")


@pytest.fixture
def switched(tmp_path: Path) -> Path:
    """Return a models folder as a ConfigMap or a release script makes it: `m` leads to a hidden folder beside it."""
    root = tmp_path / "models"
    for release in ("1", "2"):
        (root / "..releases" / release / "m" / release).mkdir(parents=True)
        (root / "..releases" / release / "m" / "labels.json").write_text(f'{{"stable": {release}}}')
    (root / "..data").symlink_to("..releases/1")
    (root / "m").symlink_to("..data/m")
    return root


def test_model_link_is_followed_when_told_to_and_it_stays_below_the_root(switched):
    """Versions and labels are those behind the link, by paths without one, and follow it when it is switched."""
    found = Repository(switched, follow_model_links=True)
    assert ["m"] == found.models()
    first = switched / "..releases" / "1" / "m" / "1"
    assert [VersionFolder("m", 1, first.resolve())] == found.versions("m")
    assert {"stable": 1} == found.labels("m")
    (switched / "..next").symlink_to("..releases/2")
    (switched / "..next").replace(switched / "..data")
    assert [2] == [folder.version for folder in found.versions("m")]
    assert {"stable": 2} == found.labels("m")


def test_model_link_is_followed_when_the_root_is_a_link_too(switched, tmp_path):
    """The root that the operator named may lead anywhere; what is behind it is the root."""
    (tmp_path / "named").symlink_to(switched)
    assert [1] == [folder.version for folder in Repository(tmp_path / "named", follow_model_links=True).versions("m")]


def test_model_link_is_ignored_when_nobody_said_to_follow_it(switched):
    """By default no link is followed: neither model nor versions nor labels are there, and a warning says so."""
    told = []
    found = Repository(switched, tell=lambda *ignored: told.append(ignored))
    assert ([], [], {}) == (found.models(), found.versions("m"), found.labels("m"))
    assert [("'m'", "not a folder with a model's name")] == told


@pytest.mark.parametrize("target", ["../elsewhere/m", "/", ".", "..", "nowhere", "m", "../models", "a-file", "pipe"])
def test_model_link_is_never_followed_out_of_the_root(switched, tmp_path, target):
    """Outside, the root itself, nothing, itself, no folder: the name is ignored, whatever was said."""
    outside = tmp_path / "elsewhere" / "m" / "1"
    outside.mkdir(parents=True)
    (switched / "a-file").write_bytes(b"")
    os.mkfifo(switched / "pipe")
    (switched / "m").unlink()
    (switched / "m").symlink_to(target)
    found = Repository(switched, follow_model_links=True)
    with capture_logs():
        assert ([], {}) == (found.versions("m"), found.labels("m"))


def test_version_link_is_refused_behind_a_model_link_too(switched):
    """One switch at the top, and none below it."""
    (switched / "..releases" / "1" / "m" / "9").symlink_to("1")
    (folder,) = [each for each in Repository(switched, follow_model_links=True).versions("m") if each.version == 9]
    assert "symlink" == refused(folder.path)


def test_folders_of_too_many_entries_are_an_error_and_not_a_wait(version, monkeypatch):
    """More entries than anybody publishes are not gone through at each look."""
    monkeypatch.setattr(repository, "MAX_LISTED", 1)
    root = version.parent.parent
    assert (["m"], 1) == (Repository(root).models(), len(Repository(root).versions("m")))
    (root / "n").mkdir()
    (version.parent / "2").mkdir()
    for ask in (Repository(root).models, lambda: Repository(root).versions("m")):
        with pytest.raises(OSError, match="more than 1 files in one folder"):
            ask()


def test_labels_are_read(version):
    """labels.json maps names to versions."""
    (version.parent / "labels.json").write_bytes(b'{"stable": 3, "canary": 4}')
    assert {"stable": 3, "canary": 4} == Repository(version.parent.parent).labels("m")


@pytest.mark.parametrize("model", ["m", "missing"])
def test_labels_are_empty_when_there_is_no_file(version, model):
    """Labels are optional."""
    assert {} == Repository(version.parent.parent).labels(model)


@pytest.mark.parametrize(
    "data",
    [b"", b"[]", b'{"a": 0}', b'{"a": true}', b'{"a": "1"}', b'{"a": 1.0}', b'{"a": 9223372036854775808}',
     b'{"a/b": 1}', b'{"": 1}', b'{"a": 1, "a": 2}', b"[" * 100_000, b"\xff", b" " * 70_000],
)  # fmt: skip
def test_labels_refuse_what_is_no_object_of_versions(version, data):
    """A labels file that does not parse is refused as a whole."""
    (version.parent / "labels.json").write_bytes(data)
    with pytest.raises(VersionRefusedError) as caught:
        Repository(version.parent.parent).labels("m")
    assert "labels-schema" == caught.value.rule


def test_labels_refuse_a_link(version, tmp_path):
    """labels.json is read without following a link."""
    (tmp_path / "elsewhere").write_bytes(b'{"stable": 1}')
    (version.parent / "labels.json").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(VersionRefusedError) as caught:
        Repository(version.parent.parent).labels("m")
    assert "labels-schema" == caught.value.rule


@pytest.mark.timeout(10)
@pytest.mark.parametrize("kind", ["fifo", "socket", "hard link", "sparse", "folder", "device"])
def test_labels_refuse_what_is_no_small_file_of_its_own(version, tmp_path, monkeypatch, kind):
    """A FIFO is not waited for, a device not opened, a terabyte not read, a file with a second name not believed."""
    path = version.parent / "labels.json"
    monkeypatch.chdir(path.parent)
    with contextlib.ExitStack() as stack:
        if kind == "fifo":
            os.mkfifo(path)
        elif kind == "socket":
            stack.enter_context(contextlib.closing(socket.socket(socket.AF_UNIX))).bind("labels.json")
        elif kind == "hard link":
            (tmp_path / "elsewhere").write_bytes(b'{"stable": 1}')
            os.link(tmp_path / "elsewhere", path)
        elif kind == "sparse":
            path.write_bytes(b"")
            os.truncate(path, 2**40)
        elif kind == "folder":
            path.mkdir()
        else:
            forbid_device(monkeypatch, path)
        with pytest.raises(VersionRefusedError) as caught:
            Repository(version.parent.parent).labels("m")
    assert "labels-schema" == caught.value.rule


def forbid_device(monkeypatch, path):
    """Let a file look like a device that must not be opened: who is not root cannot make one."""
    path.write_bytes(b'{"stable": 1}')
    look, unlock = os.stat, os.open

    def stat_of_a_device(name, *arguments, **options):
        found = look(name, *arguments, **options)
        return os.stat_result((stat.S_IFCHR | 0o666, *found[1:])) if name == path.name else found

    def open_no_device(name, *arguments, **options):
        assert name != path.name, "the device was opened"
        return unlock(name, *arguments, **options)

    monkeypatch.setattr(os, "stat", stat_of_a_device)
    monkeypatch.setattr(os, "open", open_no_device)


def test_labels_refuse_a_folder_and_keep_no_descriptor_of_it(version):
    """A folder in the place of labels.json is refused like a file that does not parse, at every poll anew."""
    (version.parent / "labels.json").mkdir()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with pytest.raises(VersionRefusedError) as caught:
            Repository(version.parent.parent).labels("m")
        assert "labels-schema" == caught.value.rule
    assert before == len(os.listdir("/proc/self/fd"))


def test_fingerprint_is_equal_twice_and_changes_with_a_file(version):
    """Names, sizes, times: any change of a file changes the fingerprint, and nothing else does."""
    found = Repository(version.parent.parent)
    folder = VersionFolder("m", 1, version)
    before = found.fingerprint(folder)
    assert before == found.fingerprint(folder)
    os.utime(version / "variables" / "variables.index", ns=(1, 1))
    touched = found.fingerprint(folder)
    assert before != touched
    (version / "more").write_bytes(b"")
    assert touched != found.fingerprint(folder)


def test_fingerprint_is_empty_when_the_folder_is_gone(tmp_path):
    """A folder that vanished has no fingerprint and raises nothing."""
    assert () == Repository(tmp_path).fingerprint(VersionFolder("m", 1, tmp_path / "m" / "1"))
