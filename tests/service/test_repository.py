"""The repository: what it lists, what it reads, and everything it refuses to read."""

import contextlib
import errno
import os
import socket
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from service import manifest, repository
from service.errors import VersionRefusedError
from service.repository import Repository, VersionFolder

CONTENTS = {
    "saved_model.pb": b"graph",
    "variables/variables.index": b"index",
    "variables/variables.data-00000-of-00001": b"numbers",
    "model.keras": b"keras",
    "probe.npz": b"probe",
}


def document(**fields: object) -> dict:
    """Return a manifest's document for `CONTENTS`."""
    files = {name: {"bytes": len(data), "sha256": manifest.sha256_hex(data)} for name, data in CONTENTS.items()}
    return {
        "format_version": 1, "model": "m", "version": 1, "created": "2026-11-20T03:00:12Z", "task": "regression",
        "parent": None, "rolled_back_to": None, "input": {"name": "x", "dtype": "float32", "dim": 2, "features": []},
        "outputs": ["score"], "threshold": None, "certificate": {}, "metrics": {}, "data": {}, "config": {},
        "packages": {}, "cpu": "", "files": files, **fields,
    }  # fmt: skip


def write(folder: Path, contents: dict[str, bytes]) -> None:
    """Write files by relative path."""
    for name, data in contents.items():
        place = folder / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)


@pytest.fixture
def version(tmp_path: Path) -> Path:
    """Return a whole version of model `m`."""
    folder = tmp_path / "models" / "m" / "1"
    write(folder, {**CONTENTS, "manifest.json": manifest.seal(document())})
    return folder


def refused(folder: Path, **options: int) -> str:
    """Return the rule by which the folder is refused."""
    with pytest.raises(VersionRefusedError) as caught:
        repository.read_version(folder, **options)
    assert str(folder.parent) not in caught.value.reason
    return caught.value.rule


def test_read_version_returns_the_bytes_that_were_hashed(version):
    """Every listed file comes back, with the manifest and without its file."""
    found = repository.read_version(version)
    assert CONTENTS == dict(found.contents)
    assert found.manifest is not None
    assert ("m", 1) == (found.manifest.model, found.manifest.version)


def test_read_version_returns_no_manifest_when_the_savedmodel_was_made_elsewhere(version):
    """A plain SavedModel without a manifest is read as it is."""
    for name in ("manifest.json", "model.keras", "probe.npz"):
        (version / name).unlink()
    found = repository.read_version(version)
    assert found.manifest is None
    assert {name for name in CONTENTS if name.startswith(("saved", "variables"))} == found.contents.keys()


@pytest.mark.parametrize("name", ["model.keras", "probe.npz", "report.json"])
def test_read_version_refuses_an_unfinished_folder(version, name):
    """A file that only our publisher writes, without a manifest, is a version that was never published."""
    for other in ("manifest.json", "model.keras", "probe.npz"):
        (version / other).unlink()
    (version / name).write_bytes(b"")
    assert "manifest-missing" == refused(version)


@pytest.mark.parametrize("name", sorted(CONTENTS))
def test_read_version_refuses_every_flipped_bit(version, name):
    """One bit in any file is seen."""
    data = bytearray(CONTENTS[name])
    for place in range(len(data)):
        broken = bytearray(data)
        broken[place] ^= 1 << (place % 8)
        (version / name).write_bytes(broken)
        assert "file-hash" == refused(version)


def test_read_version_refuses_a_truncated_file(version):
    """A file that is shorter than its manifest says is refused."""
    (version / "saved_model.pb").write_bytes(b"gra")
    assert "file-hash" == refused(version)


def test_read_version_refuses_a_grown_file(version):
    """A file that is longer than its manifest says is refused."""
    (version / "saved_model.pb").write_bytes(b"graphs")
    assert "file-hash" == refused(version)


def test_read_version_refuses_a_missing_file(version):
    """A listed file must be there."""
    (version / "probe.npz").unlink()
    assert "file-missing" == refused(version)


def test_read_version_refuses_a_missing_folder(tmp_path):
    """A folder that is gone is a missing file, not a crash."""
    assert "file-missing" == refused(tmp_path / "7")


def test_read_version_refuses_an_unlisted_file(version):
    """A file beside the published ones is refused."""
    (version / "variables" / "more").write_bytes(b"")
    assert "file-unlisted" == refused(version)


def test_read_version_takes_an_empty_folder(version):
    """Folders are not files: an empty `assets/` harms nothing."""
    (version / "assets").mkdir()
    assert CONTENTS == dict(repository.read_version(version).contents)


def test_read_version_refuses_a_symlinked_file(version):
    """A link is refused even where it points to the right bytes."""
    (version / "saved_model.pb").rename(version.parent / "elsewhere")
    (version / "saved_model.pb").symlink_to(version.parent / "elsewhere")
    assert "symlink" == refused(version)


def test_read_version_refuses_a_symlinked_folder_inside(version):
    """A linked `variables/` is refused."""
    (version / "variables").rename(version.parent / "elsewhere")
    (version / "variables").symlink_to(version.parent / "elsewhere")
    assert "symlink" == refused(version)


def test_read_version_refuses_a_symlinked_version(version):
    """A version's folder that is a link is refused."""
    link = version.parent / "2"
    link.symlink_to(version)
    assert "symlink" == refused(link)


def test_read_version_refuses_a_file_for_a_folder(version):
    """A file with a version's name is refused."""
    (version.parent / "2").write_bytes(b"")
    assert "symlink" == refused(version.parent / "2")


@pytest.mark.timeout(10)
def test_read_version_refuses_a_fifo_without_waiting(version):
    """A FIFO is refused at once: nobody waits for a writer."""
    (version / "saved_model.pb").unlink()
    os.mkfifo(version / "saved_model.pb")
    assert "special-file" == refused(version)


def test_read_version_refuses_a_socket(version, monkeypatch):
    """A socket is no file."""
    (version / "saved_model.pb").unlink()
    monkeypatch.chdir(version)
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as listener:
        listener.bind("saved_model.pb")
        assert "special-file" == refused(version)


def test_read_version_refuses_a_hard_link(version):
    """A file with a second name elsewhere could change after the check."""
    os.link(version / "saved_model.pb", version.parent / "elsewhere")
    assert "hard-link" == refused(version)


def test_read_version_refuses_a_hard_linked_manifest(version):
    """The manifest itself is held to the same rule."""
    os.link(version / "manifest.json", version.parent / "elsewhere")
    assert "hard-link" == refused(version)


def test_read_version_refuses_too_many_bytes(version):
    """The limit holds for all files together."""
    assert "size-limit" == refused(version, max_bytes=64)


def test_read_version_refuses_a_sparse_giant_before_reading_it(version):
    """A terabyte that takes no space on disk is refused by its size."""
    os.truncate(version / "saved_model.pb", 2**40)
    assert "size-limit" == refused(version)


def test_read_version_refuses_folders_that_are_too_deep(version):
    """Depth is bounded."""
    (version / "/".join("d" * (repository.MAX_DEPTH + 1))).mkdir(parents=True)
    assert "size-limit" == refused(version)


def test_read_version_refuses_too_many_files(version, monkeypatch):
    """The number of files is bounded."""
    monkeypatch.setattr(repository, "MAX_FILES", 5)
    assert "size-limit" == refused(version)


@pytest.mark.parametrize("name", [b"bad\xff", b"line\nbreak", b"back\\slash"])
def test_read_version_refuses_a_name_that_is_not_plain(version, name):
    """Names that a log or another system would read differently are refused."""
    Path(os.fsdecode(os.fsencode(version) + b"/" + name)).write_bytes(b"")
    assert "file-name" == refused(version)


def test_read_version_refuses_a_file_it_may_not_read(version, monkeypatch):
    """A file without permission is refused, with the system's reason."""
    original = os.open

    def deny(path: object, *args: object, **options: object) -> int:
        if path == "saved_model.pb":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return original(path, *args, **options)

    monkeypatch.setattr(os, "open", deny)
    assert "file-unreadable" == refused(version)


def test_read_version_gives_a_whole_version_or_a_refusal_when_the_folder_is_exchanged(version, monkeypatch):
    """A folder renamed away while it is read cannot mix with the one that takes its place."""
    other = version.parent / "next"
    write(other, {**CONTENTS, "saved_model.pb": b"GRAPH"})
    original = manifest.parse

    def exchange(data: bytes) -> manifest.Manifest:
        version.rename(version.parent / "old")
        other.rename(version)
        return original(data)

    monkeypatch.setattr(manifest, "parse", exchange)
    assert b"graph" == repository.read_version(version).contents["saved_model.pb"]


@pytest.mark.parametrize(("model", "number"), [("other", 1), ("m", 2)])
def test_check_identity_refuses_a_copied_folder(model, number):
    """A version copied to another name or number is refused."""
    found = manifest.parse(manifest.seal(document()))
    with pytest.raises(VersionRefusedError) as caught:
        repository.check_identity(found, model, number)
    assert "manifest-identity" == caught.value.rule


def test_check_identity_takes_the_folder_it_was_written_for():
    """The right name and number pass."""
    repository.check_identity(manifest.parse(manifest.seal(document())), "m", 1)


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
