"""What importing a module costs and may bring along: no TensorFlow where none is needed, no side effect."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

WITHOUT_TENSORFLOW = [
    "service",
    "service.__main__",
    "service.program",
    "service.registry",
    "service.rest.app",
    "service.rpc.server",
    "service.server",
    "service.settings",
    "training",
    "training.config",
    "training.publish",
]
"""Modules that start fast or run in a process that must not hold TensorFlow."""

LIGHT = ["service.errors", "service.manifest", "service.settings"]
"""Modules of the standard library alone, for tools that read a models folder and nothing else."""

HEAVY = {"tensorflow", "keras", "sklearn", "scipy", "matplotlib", "pyarrow"}
OUTSIDE = {"numpy", "flask", "grpc", "google", "orjson", "prometheus_client", "click", "rich"} | HEAVY

PROBE = """
import os, sys, threading
threads, descriptors = threading.active_count(), len(os.listdir("/dev/fd"))
import {module}
assert threads == threading.active_count(), "import started a thread"
assert descriptors == len(os.listdir("/dev/fd")), "import left a file open"
print(*sorted({{name.partition(".")[0] for name in sys.modules}}))
"""


def imported_by(module: str) -> set[str]:
    """Return the top-level packages that a new process holds after importing `module`."""
    command = [sys.executable, "-W", "error", "-c", PROBE.format(module=module)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert 0 == result.returncode, result.stderr
    return set(result.stdout.split())


@pytest.mark.parametrize("module", WITHOUT_TENSORFLOW)
def test_import_brings_no_heavy_library_along(module: str) -> None:
    """`--help` answers at once, and a process that serves with the program engine need not hold TensorFlow."""
    assert set() == imported_by(module) & HEAVY


@pytest.mark.parametrize("module", LIGHT)
def test_import_needs_the_standard_library_alone_when_the_module_is_light(module: str) -> None:
    """These modules can be used where nothing is installed."""
    assert set() == imported_by(module) & OUTSIDE


def test_import_of_tensorflow_is_seen_and_brings_no_keras_along_when_the_service_does_it() -> None:
    """The probe does see TensorFlow where it is imported; after the service's command line it comes without Keras."""
    assert {"tensorflow"} == imported_by("service.__main__, service.program.graph") & {"tensorflow", "keras", "sklearn"}
