"""The files of a version: what is read, and everything that is refused before or while it is read."""

import contextlib
import errno
import itertools
import os
import socket
from pathlib import Path

import pytest

from service import manifest, plain_files, version_files
from service.errors import VersionRefusedError

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


def refused(folder: Path, **options: object) -> str:
    """Return the rule by which the folder is refused."""
    with pytest.raises(VersionRefusedError) as caught:
        version_files.read_version(folder, **options)
    assert str(folder.parent) not in caught.value.reason
    return caught.value.rule


def test_read_version_returns_the_bytes_that_were_hashed(version):
    """Every listed file comes back, with the manifest and without its file."""
    found = version_files.read_version(version)
    assert CONTENTS == dict(found.contents)
    assert found.manifest is not None
    assert ("m", 1) == (found.manifest.model, found.manifest.version)


def test_read_version_returns_no_manifest_when_the_savedmodel_was_made_elsewhere(version):
    """A plain SavedModel without a manifest is read as it is."""
    for name in ("manifest.json", "model.keras", "probe.npz"):
        (version / name).unlink()
    found = version_files.read_version(version)
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
    assert CONTENTS == dict(version_files.read_version(version).contents)


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
    (version / "/".join("d" * (plain_files.MAX_DEPTH + 1))).mkdir(parents=True)
    assert "size-limit" == refused(version)


def test_read_version_refuses_too_many_files(version, monkeypatch):
    """The number of files is bounded."""
    monkeypatch.setattr(plain_files, "MAX_FILES", 5)
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
    assert b"graph" == version_files.read_version(version).contents["saved_model.pb"]


def test_read_version_refuses_a_linked_model_folder_when_it_is_of_a_models_folder(version):
    """Between the look at a model's folder and its reading nobody can put a link in its place."""
    assert CONTENTS == dict(version_files.read_version(version, in_models_folder=True).contents)
    version.parent.rename(version.parent.parent / "away")
    version.parent.symlink_to("away")
    assert "symlink" == refused(version, in_models_folder=True)
    assert CONTENTS == dict(version_files.read_version(version).contents)


def test_read_version_refuses_a_million_names_without_going_through_them(version, monkeypatch):
    """A folder with more names than allowed is given up after that many, before a single file is looked at."""
    names = (f"variables/{number}" for number in itertools.count())
    for name in itertools.islice(names, plain_files.MAX_FILES + 1):
        (version / name).touch()
    looked = []
    original = os.stat
    monkeypatch.setattr(os, "stat", lambda name, **options: looked.append(name) or original(name, **options))
    assert "size-limit" == refused(version)
    assert len(looked) <= len(CONTENTS) + 1


def test_read_version_never_opens_what_is_no_file(version, monkeypatch):
    """A special file is refused by its kind alone, without being opened."""
    (version / "saved_model.pb").unlink()
    os.mkfifo(version / "saved_model.pb")
    opened = []
    original = os.open
    monkeypatch.setattr(
        os, "open", lambda name, *flags, **options: opened.append(name) or original(name, *flags, **options)
    )
    assert "special-file" == refused(version)
    assert "saved_model.pb" not in opened


@pytest.mark.parametrize("change", ["grow", "shrink", "exchange", "fifo", "link", "vanish"])
@pytest.mark.timeout(10)
def test_read_version_refuses_a_file_that_changes_between_the_look_and_the_reading(version, monkeypatch, change):
    """Whatever is put in a file's place after its kind and size were seen, the hashed bytes or none are returned."""
    path = version / "saved_model.pb"
    original = manifest.parse

    def parse(data):
        found = original(data)
        if change in {"grow", "shrink"}:
            path.write_bytes(CONTENTS["saved_model.pb"] * 2 if change == "grow" else b"")
            return found
        path.unlink()
        if change == "exchange":
            path.write_bytes(b"GRAPH")
        elif change == "fifo":
            os.mkfifo(path)
        elif change == "link":
            path.symlink_to(version / "probe.npz")
        return found

    monkeypatch.setattr(manifest, "parse", parse)
    expected = {"grow": "size-limit", "fifo": "special-file", "link": "symlink", "vanish": "file-missing"}
    assert expected.get(change, "file-hash") == refused(version)


def test_read_manifest_returns_the_manifest_alone(version):
    """Nothing else is read: a version whose weights are broken has its manifest still."""
    (version / "saved_model.pb").write_bytes(b"broken")
    assert ("m", 1) == (version_files.read_manifest(version).model, version_files.read_manifest(version).version)


def test_read_manifest_returns_none_when_there_is_none(version):
    """A SavedModel made elsewhere has no manifest; a folder that is gone is an error."""
    (version / "manifest.json").unlink()
    assert version_files.read_manifest(version) is None
    with pytest.raises(VersionRefusedError) as caught:
        version_files.read_manifest(version.parent / "7")
    assert "file-missing" == caught.value.rule


@pytest.mark.timeout(10)
@pytest.mark.parametrize("kind", ["fifo", "link", "hard link", "folder", "sparse", "damaged"])
def test_read_manifest_refuses_what_is_no_manifest(version, tmp_path, kind):
    """A FIFO is not waited for, and no link is followed."""
    path = version / "manifest.json"
    data = path.read_bytes()
    path.unlink()
    (tmp_path / "elsewhere").write_bytes(data)
    make = {
        "fifo": lambda: os.mkfifo(path),
        "link": lambda: path.symlink_to(tmp_path / "elsewhere"),
        "hard link": lambda: os.link(tmp_path / "elsewhere", path),
        "folder": path.mkdir,
        "sparse": lambda: path.write_bytes(b"") or os.truncate(path, 2**40),
        "damaged": lambda: path.write_bytes(data.replace(b"regression", b"Regression")),
    }
    make[kind]()
    with pytest.raises(VersionRefusedError) as caught:
        version_files.read_manifest(version)
    rules = {"fifo": "special-file", "link": "symlink", "hard link": "hard-link", "folder": "special-file",
             "sparse": "size-limit", "damaged": "manifest-hash"}  # fmt: skip
    assert rules[kind] == caught.value.rule


@pytest.mark.parametrize(("model", "number"), [("other", 1), ("m", 2)])
def test_check_identity_refuses_a_copied_folder(model, number):
    """A version copied to another name or number is refused."""
    found = manifest.parse(manifest.seal(document()))
    with pytest.raises(VersionRefusedError) as caught:
        version_files.check_identity(found, model, number)
    assert "manifest-identity" == caught.value.rule


def test_check_identity_takes_the_folder_it_was_written_for():
    """The right name and number pass."""
    version_files.check_identity(manifest.parse(manifest.seal(document())), "m", 1)
