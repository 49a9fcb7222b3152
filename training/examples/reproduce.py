"""Trains the shipped examples into another models folder and compares their weights with the committed ones.

`make train` runs it. It stands beside the examples and outside the layers: it uses `training.pipeline` as anybody may.
"""

import argparse
import dataclasses
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before TensorFlow is imported

from service import manifest
from service.repository import Repository
from training.config import load_config
from training.pipeline import train

FOLDER = Path(__file__).resolve().parent


def compare(trained: Mapping[str, Any], committed: Mapping[str, Any]) -> tuple[bool, str]:
    """Return whether all is as promised, and the sentence that says what was found.

    The same data, configuration, packages and processor give the same weights, bit for bit. Where one of them is
    another, other weights are no fault.

    Args:
        trained: manifest document of the version that was trained just now.
        committed: manifest document of the shipped version.
    """
    ours, theirs = (document["certificate"]["weights_sha256"] for document in (trained, committed))
    if ours == theirs:
        return True, f"weights_sha256 {ours[:16]}... equals the committed one"
    for key, what in (("cpu", "processor"), ("packages", "set of packages"), ("config", "configuration")):
        if trained[key] != committed[key]:
            return True, (
                f"weights_sha256 {ours[:16]}... is not the committed {theirs[:16]}..., as may be: the manifest names "
                f"another {what} ({short(committed[key])}; here: {short(trained[key])})"
            )
    return False, f"weights_sha256 {ours[:16]}... differs from the committed {theirs[:16]}... on the same processor"


def short(value: object) -> str:
    """Return the beginning of a value."""
    return str(value)[:120]


def read_document(folder: Path) -> Mapping[str, Any]:
    """Return the manifest of a version's folder."""
    return manifest.parse((folder / "manifest.json").read_bytes()).document


def main(arguments: list[str]) -> int:
    """Train every example and say how it compares; return 0 where all is as promised."""
    parser = argparse.ArgumentParser(description="Train the shipped examples and compare them with the committed ones.")
    parser.add_argument("models_dir", type=Path, help="where the examples are published")
    parser.add_argument("committed_dir", type=Path, help="the shipped models")
    options = parser.parse_args(arguments)
    all_as_promised = True
    for path in sorted(FOLDER.glob("*.toml")):
        config = load_config(path)
        models_dir = options.models_dir.resolve()
        config = dataclasses.replace(config, publish=dataclasses.replace(config.publish, models_dir=models_dir))
        trained = read_document(train(config))
        name = config.model.name
        shipped = Repository(options.committed_dir).versions(name)
        if shipped:
            as_promised, sentence = compare(trained, read_document(shipped[0].path))
        else:
            as_promised, sentence = True, "no version of it is committed"
        all_as_promised &= as_promised
        sys.stdout.write(f"{name}: {options.models_dir}/{name}/{trained['version']}: {sentence}\n")
    return 0 if all_as_promised else 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
