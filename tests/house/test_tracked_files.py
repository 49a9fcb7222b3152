"""No tracked file, text or binary, tells where it was made: no path of a machine, no address of a package registry."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# Written so that they do not match themselves.
MACHINE_PATH = re.compile(rb"(?<![\w.])/(?:home|root|Users|work)/[\w.-]+")
REGISTRY = re.compile(rb"pypi\.(?:org|io)|pythonh[o]sted|https?://[^\s\"')]*(?:/[s]imple\b|artifactory|nexus)")


def tracked_files() -> list[Path]:
    """Return the tracked files, or all that a checkout would hold where git or its folder is missing."""
    if (ROOT / ".git").exists() and shutil.which("git"):
        names = subprocess.check_output(["git", "-C", str(ROOT), "ls-files", "-z"], text=True).split("\0")
        return [ROOT / name for name in names if name and (ROOT / name).is_file()]
    generated = {line.strip("/") for line in (ROOT / ".gitignore").read_text().splitlines()} | {".git"}
    return [path for path in ROOT.rglob("*") if path.is_file() and not generated & set(path.relative_to(ROOT).parts)]


def traces(data: bytes) -> list[bytes]:
    """Return the paths and addresses in `data` that belong to the machine it was made on."""
    return MACHINE_PATH.findall(data) + REGISTRY.findall(data)


def test_tracked_files_hold_no_trace_of_the_machine_they_were_made_on() -> None:
    """Sources, documents and committed models can be published as they are."""
    found = {str(path.relative_to(ROOT)): traces(path.read_bytes()) for path in tracked_files()}
    assert {} == {path: what for path, what in found.items() if what}


@pytest.mark.parametrize(
    ("template", "word"),
    [
        (b"see /%s/ada/models", b"home"),
        (b"\x00\x12/%s/main/training/icnn.py\x1a", b"work"),
        (b"--hash=... # https://%s.org/x", b"pypi"),
        (b'index = "https://example.com/%s"', b"simple"),
    ],
)
def test_trace_is_found_when_there_is_one(template: bytes, word: bytes) -> None:
    """The search finds machine paths in text and binary data, and registry addresses."""
    assert traces(template % word)
    assert not traces(template % b"")
