"""What makes the numbers beside the data and the configuration: processor, packages, and this package's own code.

At the bottom of training: `pipeline` writes packages and processor into the manifest, `checkpoints` compares all of it.
"""

import functools
import hashlib
import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

import tensorflow as tf

_PACKAGES = ("keras", "numpy", "tensorflow", "tensorflow-cpu")
_SETTINGS = ("TF_ENABLE_ONEDNN_OPTS", "CUDA_VISIBLE_DEVICES", "NVIDIA_TF32_OVERRIDE", "TF_XLA_FLAGS", "XLA_FLAGS")


def packages() -> dict[str, str]:
    """Return the versions of Python and of the packages that make the numbers."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def processor() -> str:
    """Return the processor's name: weights repeat bit for bit on the same one."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else 'unknown processor'} ({platform.machine()})"


def conditions() -> dict[str, Any]:
    """Return all of it that one training needs to be the same from its first step to its last.

    Beside packages and processor: its cores, since sums are cut into as many parts; the GPUs; the settings that choose
    between kernels; and the hash of the training's own code.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    settings = {name: os.environ[name] for name in _SETTINGS if name in os.environ}
    return {
        "packages": packages(),
        "processor": {"name": processor(), "cores": cores, "devices": _devices(), "settings": settings},
        "code": code_sha256(),
    }


def _devices() -> list[str]:
    """Return the name of each GPU that TensorFlow sees."""
    found = tf.config.list_physical_devices("GPU")
    return [str(tf.config.experimental.get_device_details(one).get("device_name", one.name)) for one in found]


@functools.cache
def code_sha256() -> str:
    """Return one hash of every Python file of this package and of its own below it."""
    folder, found = Path(__file__).parent, hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        found.update(
            f"{path.relative_to(folder).as_posix()} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode()
        )
    return found.hexdigest()
