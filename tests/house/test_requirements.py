"""The hash locks fit together: one TensorFlow on each machine, equal pins, hashes for all, no address."""

import re
import sys
from importlib import metadata
from pathlib import Path

import pytest
from packaging.markers import Marker

FOLDER = Path(__file__).parents[2] / "requirements"
LINUX = {"sys_platform": "linux", "platform_machine": "x86_64", "platform_python_implementation": "CPython"}
ARM = LINUX | {"platform_machine": "aarch64"}
MACOS = LINUX | {"sys_platform": "darwin", "platform_machine": "arm64"}

Pins = dict[str, tuple[str, Marker | None]]


def read_lock(name: str) -> Pins:
    """Return {package: (version, marker)} of a lock.

    Raises:
        ValueError: a line that is neither a pin, a hash nor a comment, or a pin without a hash.
    """
    pins: Pins = {}
    for entry in (FOLDER / f"{name}.lock").read_text().replace("\\\n", " ").splitlines():
        words = re.fullmatch(r"([a-z0-9.-]+)==([^\s;]+)(?:\s*;\s*(.*?))?((?:\s+--hash=sha256:[0-9a-f]{64})+)", entry)
        if words:
            pins[words[1]] = (words[2], Marker(words[3]) if words[3] else None)
        elif entry.strip() and not entry.startswith("#"):
            message = f"{name}.lock: unexpected line {entry!r}"
            raise ValueError(message)
    return pins


def on_machine(pins: Pins, machine: dict[str, str]) -> dict[str, str]:
    """Return {package: version} that this machine installs."""
    return {name: version for name, (version, marker) in pins.items() if marker is None or marker.evaluate(machine)}


@pytest.mark.parametrize(
    ("lock", "machine", "expected"),
    [
        ("cpu", LINUX, {"tensorflow-cpu"}),
        ("cpu", ARM, {"tensorflow"}),
        ("cpu", MACOS, {"tensorflow"}),
        ("gpu", LINUX, {"tensorflow"}),
    ],
)
def test_lock_holds_one_tensorflow_on_each_machine(lock: str, machine: dict[str, str], expected: set[str]) -> None:
    """Two TensorFlow distributions would unpack into one folder, and the last one win."""
    assert expected == {"tensorflow", "tensorflow-cpu"} & set(on_machine(read_lock(lock), machine))


def test_cpu_lock_holds_no_gpu_library_on_any_machine() -> None:
    """The CPU lock downloads none of the 3 GB of CUDA wheels."""
    assert [] == [name for name in read_lock("cpu") if name.startswith("nvidia-")]


def test_gpu_lock_differs_in_tensorflow_and_its_libraries_only() -> None:
    """What runs on a GPU machine is what was tested on the CPU, but for TensorFlow's build."""
    cpu, gpu = on_machine(read_lock("cpu"), LINUX), on_machine(read_lock("gpu"), LINUX)
    assert cpu["tensorflow-cpu"] == gpu["tensorflow"]
    assert {"tensorflow-cpu"} == cpu.keys() - gpu.keys()
    assert set() == {name for name in gpu.keys() - cpu.keys() if not name.startswith("nvidia-")} - {"tensorflow"}
    assert {name: cpu[name] for name in cpu.keys() & gpu.keys()} == {
        name: gpu[name] for name in cpu.keys() & gpu.keys()
    }


def test_dev_lock_pins_the_same_version_where_it_shares_a_package() -> None:
    """Both locks go into one environment, so a shared package has one version."""
    cpu, dev = read_lock("cpu"), read_lock("dev")
    assert {name: cpu[name][0] for name in cpu.keys() & dev.keys()} == {
        name: dev[name][0] for name in cpu.keys() & dev.keys()
    }


def test_requirements_hold_no_address() -> None:
    """The locks install from whatever index the machine is set to."""
    files = [*FOLDER.glob("*.in"), *FOLDER.glob("*.lock"), FOLDER / "overrides.txt"]
    assert 9 == len(files)
    assert [] == [path.name for path in files if "://" in path.read_text()]


def test_environment_holds_the_versions_of_the_locks() -> None:
    """The tests run with what the locks say."""
    pins = {name: version for lock in ("cpu", "dev") for name, (version, mark) in read_lock(lock).items() if not mark}
    assert pins == {name: metadata.version(name) for name in pins}


def test_lock_is_refused_when_a_pin_has_no_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reader of locks does not pass over a line that pip would refuse."""
    (tmp_path / "bad.lock").write_text("numpy==2.4.6\n")
    monkeypatch.setattr(sys.modules[__name__], "FOLDER", tmp_path)
    with pytest.raises(ValueError, match="unexpected line"):
        read_lock("bad")
