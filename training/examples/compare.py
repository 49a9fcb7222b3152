"""Compares the weights of examples that were trained here with those of the committed versions; ends `make train`.

It stands beside the examples, outside the layers, and reads manifests alone.
"""

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from service import manifest
from service.repository import Repository


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
    """Compare the newest trained version of each model with its first committed one; return 0 if all is as promised."""
    parser = argparse.ArgumentParser(description="Compare trained examples with the committed versions.")
    parser.add_argument("models_dir", type=Path, help="where the examples were trained")
    parser.add_argument("committed_dir", type=Path, help="the shipped models")
    options = parser.parse_args(arguments)
    trained, committed = Repository(options.models_dir), Repository(options.committed_dir)
    all_as_promised = True
    for name in trained.models():
        ours, theirs = trained.versions(name), committed.versions(name)
        if not ours:
            continue
        as_promised, sentence = True, "no version of it is committed"
        if theirs:
            as_promised, sentence = compare(read_document(ours[-1].path), read_document(theirs[0].path))
        all_as_promised &= as_promised
        sys.stdout.write(f"{name} version {ours[-1].version}: {sentence}\n")
    return 0 if all_as_promised else 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
