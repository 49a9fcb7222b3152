"""`requirements/install.py`: an environment is taken for whole only when its installation came to its end."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[2] / "requirements" / "install.py"
CPU, DEV = "requirements/cpu.lock", "requirements/dev.lock"


class Checkout:
    """A checkout whose two slow steps, the environment and pip, are noted instead of done."""

    def __init__(self, root: Path, module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
        self.module = module
        self.venv = root / ".venv"
        self.steps: list[str] = []
        self.pip_fails = False
        self.kernels: list[bool] = []
        self.has_kernel_due = False
        monkeypatch.setattr(module, "ROOT", root)
        monkeypatch.setattr(module, "make_venv", self.make_venv)
        monkeypatch.setattr(module, "install", self.install)
        monkeypatch.setattr(module, "build_kernel", lambda _venv: self.kernels.append(self.has_kernel_due))
        monkeypatch.setattr(module, "is_kernel_due", lambda: self.has_kernel_due)
        for lock in (CPU, DEV):
            self.write(lock, f"{lock} as it was first\n")

    def write(self, lock: str, text: str) -> None:
        """Change a lock."""
        path = self.module.ROOT / lock
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)

    def make_venv(self, venv: Path, python: str) -> None:
        """Make an environment with an interpreter and nothing else."""
        self.steps.append(f"venv {python}")
        (venv / "bin").mkdir(parents=True, exist_ok=True)
        (venv / "bin" / "python").unlink(missing_ok=True)
        (venv / "bin" / "python").symlink_to(sys.executable)
        (venv / self.module.STAMP).unlink(missing_ok=True)

    def install(self, venv: Path, locks: list[str]) -> None:
        """Note what pip was to install."""
        assert not (venv / self.module.STAMP).exists()
        self.steps.append("pip " + " ".join(locks))
        if self.pip_fails:
            message = "the network is gone"
            raise self.module.InstallError(message)

    def ensure(self, *locks: str) -> list[str]:
        """Run the script's work and return the steps it took."""
        self.steps.clear()
        self.module.ensure(self.venv, locks)
        return self.steps.copy()


def load() -> ModuleType:
    """Return the script as a module of its own."""
    spec = importlib.util.spec_from_file_location("install", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Checkout:
    """Return a checkout without an environment."""
    return Checkout(tmp_path, load(), monkeypatch)


def test_install_does_nothing_when_the_locks_are_installed(checkout: Checkout) -> None:
    """The second run starts at once, and what `make test` adds does not disturb `make serve`."""
    assert [f"venv {sys.executable}", f"pip {CPU}"] == checkout.ensure(CPU)
    assert [] == checkout.ensure(CPU)
    assert [f"pip {DEV}"] == checkout.ensure(CPU, DEV)
    assert [] == checkout.ensure(CPU, DEV)
    assert [] == checkout.ensure(CPU)


@pytest.mark.parametrize("lock", [CPU, DEV])
def test_install_begins_again_when_a_lock_has_changed(checkout: Checkout, lock: str) -> None:
    """Another lock is another environment, made from nothing: what the new lock left out is gone."""
    checkout.ensure(CPU, DEV)
    checkout.write(lock, "another version\n")
    assert [f"venv {sys.executable}", f"pip {CPU} {DEV}"] == checkout.ensure(CPU, DEV)


def test_install_begins_again_when_the_first_was_interrupted(checkout: Checkout) -> None:
    """A partial environment is not taken for a whole one."""
    checkout.pip_fails = True
    with pytest.raises(checkout.module.InstallError):
        checkout.ensure(CPU)
    checkout.pip_fails = False
    assert [f"venv {sys.executable}", f"pip {CPU}"] == checkout.ensure(CPU)


def test_install_begins_again_when_adding_the_tools_was_interrupted(checkout: Checkout) -> None:
    """The runtime's stamp does not outlive a half-added development set."""
    checkout.ensure(CPU)
    checkout.pip_fails = True
    with pytest.raises(checkout.module.InstallError):
        checkout.ensure(CPU, DEV)
    checkout.pip_fails = False
    assert [f"venv {sys.executable}", f"pip {CPU}"] == checkout.ensure(CPU)


def test_install_begins_again_when_the_folder_was_moved(checkout: Checkout) -> None:
    """An environment holds absolute paths, so a copied one is not taken for whole."""
    checkout.ensure(CPU)
    stamp = checkout.venv / checkout.module.STAMP
    stamp.write_text(json.dumps(json.loads(stamp.read_text()) | {"place": "/elsewhere/.venv"}))
    assert 2 == len(checkout.ensure(CPU))


def test_install_begins_again_when_the_interpreter_is_gone(checkout: Checkout) -> None:
    """An environment whose Python was removed is not taken for whole."""
    checkout.ensure(CPU)
    (checkout.venv / "bin" / "python").unlink()
    assert 2 == len(checkout.ensure(CPU))


def test_find_python_names_what_to_install_when_none_is_supported(
    checkout: Checkout, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sentence says what was found, what is expected and how to get it."""
    monkeypatch.setenv("PATH", "")
    with pytest.raises(
        checkout.module.InstallError, match=r"3\.11, 3\.12 or 3\.13 is needed; python3 is 3\.9\.2\. .*apt"
    ):
        checkout.module.find_python((3, 9, 2))


def test_find_python_takes_another_one_when_python3_is_too_new(
    checkout: Checkout, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The newest supported interpreter on the PATH that runs is used; one that does not run is passed over."""
    for name, command in (("python3.13", "exit 127"), ("python3.12", "exit 0"), ("python3.11", "exit 0")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{command}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert str(tmp_path / "python3.12") == checkout.module.find_python((3, 14, 0))


def test_command_names_the_package_when_venv_is_missing(tmp_path: Path) -> None:
    """Without the venv module the whole answer is one sentence that says what to install, and exit code 1."""
    (tmp_path / "ensurepip.py").write_text("raise ImportError('as on a bare Debian')\n")
    command = [sys.executable, str(SCRIPT), "--venv", str(tmp_path / ".venv"), CPU]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert 1 == result.returncode
    expected = f"make: {sys.executable} has no venv module. Install it (Debian, Ubuntu: apt install python3-venv), then"
    assert [f"{expected} try again."] == result.stderr.splitlines()


def test_kernel_is_compiled_after_an_installation_and_where_it_is_due(checkout: Checkout) -> None:
    """Once after what was installed; then only when its sources were changed or a compiler has come."""
    checkout.module.ensure(checkout.venv, [CPU])
    checkout.module.ensure(checkout.venv, [CPU])
    assert [False] == checkout.kernels
    checkout.has_kernel_due = True
    checkout.module.ensure(checkout.venv, [CPU])
    assert [False, True] == checkout.kernels


@pytest.mark.parametrize(
    ("compiled_seconds", "has_compiler", "expected"),
    [(None, True, True), (None, False, False), (50, True, True), (150, True, False), (150, False, False)],
)
def test_kernel_is_due_when_it_is_older_than_its_sources_or_missing_beside_a_compiler(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compiled_seconds: int | None, has_compiler: bool, expected: bool
) -> None:
    """Sources of second 100: code of second 50 is old, of 150 is not; none is due where a compiler is there."""
    module = load()
    folder = tmp_path / "service" / "program" / "kernel"
    (folder / "compiled").mkdir(parents=True)
    files = {folder / "kernel.c": 100, folder / "compiled" / "kernel.so": compiled_seconds}
    for file, seconds in files.items():
        if seconds is not None:
            file.touch()
            os.utime(file, (seconds, seconds))
    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(module.shutil, "which", lambda name: f"/usr/bin/{name}" if has_compiler else None)
    assert expected == module.is_kernel_due()


@pytest.mark.parametrize(
    ("codes", "steps", "is_told"),
    [([0], 1, False), ([1, 0, 0], 3, False), ([1, 1], 2, True), ([1, 0, 1], 3, True)],
)
def test_kernel_is_compiled_by_a_wheels_compiler_when_the_machine_has_none(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    codes: list[int],
    steps: int,
    is_told: bool,
) -> None:
    """Build; if that fails, the wheel by its lock, and the build again with it; if nothing helps, a sentence."""
    module = load()
    calls: list[tuple[list[str], dict]] = []

    def call(command: list[str], **options: object) -> int:
        calls.append((command, dict(options.get("env") or {})))  # type: ignore[call-overload]
        return codes[len(calls) - 1]

    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(module.subprocess, "call", call)
    (tmp_path / "build").mkdir()
    module.build_kernel(tmp_path / ".venv")
    assert steps == len(calls)
    assert is_told == ("compute with NumPy" in capsys.readouterr().err)
    if steps > 1:
        wheel = calls[1][0]
        assert {"--require-hashes", "--target", str(tmp_path / module.KERNEL_LOCK)} <= set(wheel)
        assert all(wheel[wheel.index("--target") + 1] == options["PYTHONPATH"] for _, options in calls[2:])
