"""Where a figure comes from: commit, versions, machine and its load. Every result carries it."""

import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PACKAGES = frozenset(
    {"numpy", "tensorflow", "tensorflow-cpu", "grpcio", "flask", "httptools", "uvloop", "orjson", "pyarrow"}
)


def provenance() -> dict[str, Any]:
    """Return commit, whether files were changed since, versions of Python and packages, processor, cores, and load."""
    return {
        "commit": _git("rev-parse", "HEAD"),
        "is_changed": bool(_git("status", "--porcelain", "--untracked-files=no")),
        "python": platform.python_version(),
        "packages": dict(sorted(_versions())),
        "cpu": _cpu(),
        "num_cores": os.cpu_count(),
        "openblas_threads": os.environ.get("OPENBLAS_NUM_THREADS", ""),
        "load_averages": [round(load, 2) for load in os.getloadavg()],
    }


def _versions() -> Iterator[tuple[str, str]]:
    for package in importlib.metadata.distributions():
        name = package.metadata["Name"].lower().replace("_", "-")
        if name in PACKAGES:
            yield name, package.version


def _git(*words: str) -> str:
    done = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=False, timeout=20)  # noqa: S603, S607  (our own words)
    return done.stdout.strip()


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
