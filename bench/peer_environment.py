"""Environments that peers run in: one for each, of pinned packages, in `build/peers`, never in the service's own.

Above: `peers`. What pip says when one cannot be made is the reason why the peer is missing in the result.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from bench.provenance import ROOT

REQUIREMENTS = Path(__file__).parent / "peer_servers" / "requirements"
FOLDER = ROOT / "build" / "peers"

_INSTALL_SECONDS = 900.0
_ASK_SECONDS = 60.0
_DONE = "made-of"
_SHOWN = 300


class MissingPeerError(Exception):
    """A peer cannot be measured here; the text says why."""


def prepared(name: str, folder: Path = FOLDER) -> Path:
    """Return the folder of a peer's environment, made if it is not there or was made of other requirements.

    Raises:
        MissingPeerError: it cannot be made.
    """
    requirements = REQUIREMENTS / f"{name}.txt"
    made_of = hashlib.sha256(requirements.read_bytes()).hexdigest()
    place = folder / name
    done = place / _DONE
    if done.is_file() and done.read_text() == made_of:
        return place
    shutil.rmtree(place, ignore_errors=True)
    place.parent.mkdir(parents=True, exist_ok=True)
    _run(sys.executable, "-m", "venv", str(place))
    _run(str(place / "bin" / "pip"), "install", "--quiet", "--requirement", str(requirements))
    done.write_text(made_of)
    return place


def versions(name: str, folder: Path = FOLDER) -> dict[str, str]:
    """Return the versions of what a peer's requirements name, as installed."""
    words = (folder / name / "bin" / "pip", "list", "--format", "json", "--disable-pip-version-check")
    done = subprocess.run(words, capture_output=True, text=True, check=True, timeout=_ASK_SECONDS)  # noqa: S603  (our own command)
    installed = {package["name"].lower().replace("_", "-"): package["version"] for package in json.loads(done.stdout)}
    return {package: installed[package] for package in _named(name)}


def _named(name: str) -> list[str]:
    lines = (REQUIREMENTS / f"{name}.txt").read_text().splitlines()
    return [line.partition("==")[0].partition("[")[0] for line in lines if "==" in line]


def _run(*words: str) -> None:
    try:
        done = subprocess.run(  # noqa: S603  (our own command)
            words, capture_output=True, text=True, check=False, timeout=_INSTALL_SECONDS, env=os.environ
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise MissingPeerError(f"{words[0].rpartition('/')[2]}: {type(error).__name__}") from error
    if done.returncode != 0:
        raise MissingPeerError(f"pip: {done.stderr.strip()[-_SHOWN:]}")
