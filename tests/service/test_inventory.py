"""The inventory of a models folder: every version with what is known of it, and everything wrong with why."""

import json
import os
import shutil
from pathlib import Path

import pytest

from service import inventory, manifest
from service.repository import Repository

GOLDEN = json.loads((Path(__file__).parent / "manifests" / "format_1_context.json").read_bytes())


def add(models_dir, model, version, **fields):
    """Put a whole version there."""
    folder = models_dir / model / str(version)
    folder.mkdir(parents=True)
    (folder / "saved_model.pb").write_bytes(b"graph")
    files = {"saved_model.pb": {"bytes": 5, "sha256": manifest.sha256_hex(b"graph")}}
    document = {**GOLDEN, "model": model, "version": version, "files": files, **fields}
    (folder / "manifest.json").write_bytes(manifest.seal(document))
    return folder


def shown(found):
    """Return model, version and convexity of each version."""
    return [(version.model, version.version, version.convexity) for version in found.versions]


def test_inventory_tells_format_certificate_and_metrics_of_a_whole_version(tmp_path):
    """What a client or an operator asks first is in the document, and the steps of the proof are not."""
    add(tmp_path, "m", 3, run_id="night-7")
    (tmp_path / "m" / "labels.json").write_text('{"stable": 3, "canary": 4}')
    (model,) = inventory.take(tmp_path).to_document()["models"]
    (version,) = model["versions"]
    certificate = {key: value for key, value in GOLDEN["certificate"].items() if key in version["certificate"]}
    expected = {
        "version": 3, "labels": ["stable"], "convexity": "proved", "format_version": 1, "run_id": "night-7",
        "created": "2026-11-22T03:00:12Z", "task": "regression", "parent": 11, "rolled_back_to": 9, "dim": 2,
        "context_dim": 1, "outputs": ["score", "gradient", "support"], "bytes": 5,
        "metrics": {"held_out": {"rows": 112, "rmse": 0.5}}, "certificate": certificate,
    }  # fmt: skip
    assert ("m", expected) == (model["name"], version)
    assert (
        {"proved", "weights_sha256", "program_sha256"} <= certificate.keys() <= GOLDEN["certificate"].keys() - {"steps"}
    )


def damage(folder):
    """Return a way to spoil a version for each rule that is found without TensorFlow."""
    path = folder / "saved_model.pb"
    return {
        "file-hash": lambda: path.write_bytes(b"Graph"),
        "file-missing": path.unlink,
        "file-unlisted": lambda: (folder / "more").write_bytes(b""),
        "hard-link": lambda: os.link(path, folder.parent.parent / "second-name"),
        "symlink": lambda: (path.unlink(), path.symlink_to("manifest.json")),
        "special-file": lambda: (path.unlink(), os.mkfifo(path)),
        "size-limit": lambda: os.truncate(path, 2**40),
        "manifest-hash": lambda: rewrite(folder, b"regression", b"Regression"),
        "manifest-version": lambda: reformat(folder, 7),
        "manifest-identity": lambda: (shutil.rmtree(folder), shutil.copytree(folder.parent / "1", folder)),
        "manifest-missing": lambda: ((folder / "manifest.json").unlink(), (folder / "probe.npz").write_bytes(b"")),
    }


def rewrite(folder, old, new):
    """Replace bytes of the manifest."""
    path = folder / "manifest.json"
    path.write_bytes(path.read_bytes().replace(old, new))


def reformat(folder, number):
    """Seal the manifest with another format."""
    path = folder / "manifest.json"
    path.write_bytes(manifest.seal(json.loads(path.read_bytes()) | {"format_version": number}))


RULES = ("file-hash", "file-missing", "file-unlisted", "hard-link", "symlink", "special-file", "size-limit",
         "manifest-hash", "manifest-version", "manifest-identity", "manifest-missing")  # fmt: skip


@pytest.mark.timeout(10)
@pytest.mark.parametrize("rule", RULES)
def test_inventory_shows_why_a_version_is_refused_beside_a_whole_one(tmp_path, rule):
    """Each kind of damage is named by its rule with a reason, and the version beside it is shown as ever."""
    add(tmp_path, "m", 1)
    damage(add(tmp_path, "m", 2))[rule]()
    found = inventory.take(tmp_path)
    assert [("m", 1, "proved"), ("m", 2, f"refused: {rule}")] == shown(found)
    assert found.versions[1].reason
    assert found.versions[1].reason in list(found.lines())[2]


def test_inventory_shows_a_version_made_elsewhere_and_one_that_is_not_proved(tmp_path):
    """No manifest is no fault; a manifest that does not say proved is not believed to."""
    add(tmp_path, "m", 1, certificate={"proved": "yes"})
    (add(tmp_path, "m", 2) / "manifest.json").unlink()
    assert [("m", 1, "unproved"), ("m", 2, "made elsewhere")] == shown(inventory.take(tmp_path))


def test_inventory_tells_what_it_ignores_and_why(tmp_path):
    """Odd names, links and a labels file that does not parse are below the table; the versions are above."""
    add(tmp_path, "m", 1)
    (tmp_path / "m" / "labels.json").write_text("{")
    (tmp_path / "m" / "old").mkdir()
    (tmp_path / "link").symlink_to("m")
    (tmp_path / "notes.txt").write_bytes(b"")
    found = inventory.take(tmp_path)
    assert [("m", 1, "proved")] == shown(found)
    assert {"'link'", "'notes.txt'", "'m/old'", "m/labels.json"} == {name for name, _ in found.problems}
    assert 4 == sum(line.startswith("ignored: ") for line in found.lines())
    assert 4 == len(found.to_document()["ignored"])


def test_inventory_follows_the_link_of_a_model_when_told_to(tmp_path):
    """As the server does."""
    add(tmp_path / ".releases", "m", 1)
    (tmp_path / "m").symlink_to(".releases/m")
    assert [] == shown(inventory.take(tmp_path))
    assert [("m", 1, "proved")] == shown(inventory.take(tmp_path, follow_model_links=True))


def test_inventory_goes_on_when_the_folder_of_a_model_cannot_be_read(tmp_path, monkeypatch):
    """One model's folder without permission keeps no other from view."""
    add(tmp_path, "closed", 1)
    add(tmp_path, "open", 1)
    original = Repository.versions

    def versions(self, model):
        if model == "closed":
            raise PermissionError(13, "Permission denied", str(tmp_path))
        return original(self, model)

    monkeypatch.setattr(Repository, "versions", versions)
    found = inventory.take(tmp_path)
    assert [("open", 1, "proved")] == shown(found)
    assert (("closed", "not readable (Permission denied)"),) == found.problems


def test_inventory_prints_nothing_that_a_terminal_would_obey(tmp_path):
    """Escape sequences of a file's name or of a manifest's field arrive as plain letters."""
    add(tmp_path, "m", 1, task="\x1b[2J")
    add(tmp_path, "n", 1, **{"\x1b[31m": 1})
    (add(tmp_path, "o", 1) / "\x1b[2J").write_bytes(b"")
    (tmp_path / "m" / "\x1b[2J").mkdir()
    text = "".join(inventory.take(tmp_path).lines())
    assert text.isprintable()
    assert 4 == text.count("x1b")
