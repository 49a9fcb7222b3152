"""Make the virtual environment of this checkout from the hash locks, once for each state of the locks.

The Makefile calls it before every target that runs Python. Standard library only, and plain enough that an old
`python3` reads it far enough to say what is missing.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

OLDEST, NEWEST = (3, 11), (3, 13)
ROOT = Path(__file__).resolve().parent.parent
STAMP = "installed.json"
KERNEL_LOCK = "requirements/kernel.lock"


class InstallError(Exception):
    """The environment cannot be made; the text says what to do."""


def find_python(version: tuple[int, ...] = tuple(sys.version_info[:3])) -> str:
    """Return the interpreter to build on: the running one, else the newest supported one on the PATH.

    Args:
        version: of the running interpreter.

    Raises:
        InstallError: no supported interpreter.
    """
    if OLDEST <= version[:2] <= NEWEST:
        return sys.executable
    for minor in range(NEWEST[1], OLDEST[1] - 1, -1):
        python = shutil.which(f"python3.{minor}")
        if python and runs(python, ""):
            return python
    found = ".".join(str(part) for part in version)
    message = (
        f"Python 3.11, 3.12 or 3.13 is needed; python3 is {found}. Install one (Debian, Ubuntu: apt install python3.11 "
        "python3.11-venv; macOS: brew install python@3.13) or name one: make PYTHON=python3.12 ..."
    )
    raise InstallError(message)


def runs(python: str | Path, code: str) -> bool:
    """Return whether this interpreter exists and runs `code` without an error."""
    try:
        return subprocess.call([str(python), "-c", code], stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL) == 0
    except OSError:
        return False


def lock_hashes(locks: Sequence[str]) -> dict[str, str]:
    """Return {lock file: sha256 of its bytes}."""
    return {lock: hashlib.sha256((ROOT / lock).read_bytes()).hexdigest() for lock in locks}


def read_stamp(venv: Path) -> dict[str, str]:
    """Return {lock file: sha256} of what is installed to the end in `venv`, in this place; {} where nothing is.

    The stamp is written last and removed before anything is changed, so an interrupted installation has none.
    """
    try:
        stamp = json.loads((venv / STAMP).read_text())
        whole = stamp["place"] == str(venv) and runs(venv / "bin" / "python", "")
        return dict(stamp["locks"]) if whole else {}
    except (OSError, ValueError, KeyError):
        return {}


def write_stamp(venv: Path, hashes: dict[str, str]) -> None:
    """Say that everything of `hashes` is installed: the last step, in one rename."""
    fresh = venv / f"{STAMP}.new"
    fresh.write_text(json.dumps({"place": str(venv), "locks": hashes}, indent=1) + "\n")
    fresh.replace(venv / STAMP)


def make_venv(venv: Path, python: str) -> None:
    """Make an empty environment, also where there is a partial or outdated one.

    Raises:
        InstallError: the interpreter has no venv, or it failed.
    """
    if not runs(python, "import ensurepip, venv"):
        message = f"{python} has no venv module. Install it (Debian, Ubuntu: apt install python3-venv), then try again."
        raise InstallError(message)
    say(f"making {venv.name} with {python}")
    if subprocess.call([python, "-m", "venv", "--clear", str(venv)], stdin=subprocess.DEVNULL) != 0:
        message = "python -m venv failed, its message is above. Is the disk full or the folder read-only?"
        raise InstallError(message)


def install(venv: Path, locks: Sequence[str]) -> None:
    """Install the locks by hash and without resolving, then compile every module.

    Raises:
        InstallError: pip failed; the end of its log is in the message.
    """
    python = str(venv / "bin" / "python")
    command = [python, "-m", "pip", "install", "--no-deps", "--require-hashes", "--only-binary", ":all:"]
    command += ["--no-compile", "--no-input", "--disable-pip-version-check", "--progress-bar", "off"]
    command += [word for lock in locks for word in ("-r", str(ROOT / lock))]
    total = sum(line[:1].isalnum() for lock in locks for line in (ROOT / lock).read_text().splitlines())
    log_file = ROOT / "build" / "install.log"
    log_file.parent.mkdir(exist_ok=True)
    started = time.monotonic()
    with log_file.open("w") as log, Progress(", ".join(Path(lock).name for lock in locks), total) as progress:
        with subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as pip:
            for line in pip.stdout or ():
                log.write(line)
                progress.read(line)
        log.flush()
        if pip.returncode != 0:
            tail = "".join(log_file.read_text().splitlines(keepends=True)[-15:])
            message = f"pip failed. The end of build/install.log:\n{tail}"
            raise InstallError(message)
        progress.show("compiling")
        # PYTHONDONTWRITEBYTECODE may be set: then nothing else would ever write bytecode, and every start be slow.
        # Its exit code says nothing: some packages ship files for other versions of Python.
        command = [python, "-m", "compileall", "-q", "-j", "0", str(venv / "lib")]
        subprocess.call(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    say(f"installed {total} packages in {time.monotonic() - started:.0f} s")


def is_kernel_due() -> bool:
    """Return whether a kernel should be compiled though nothing is installed.

    That is where its sources were changed after it was, or where there is none and the machine has a compiler.
    """
    folder = ROOT / "service" / "program" / "kernel"
    compiled = [file.stat().st_mtime for file in folder.glob("compiled/*.so")]
    if not compiled:
        return bool(os.environ.get("CC")) or any(shutil.which(name) for name in ("cc", "gcc", "clang"))
    return max(compiled) < max(file.stat().st_mtime for file in folder.glob("*.[ch]"))


def build_kernel(venv: Path) -> None:
    """Compile the service's kernel where there is none for this machine; without a compiler, with one from a wheel.

    It is no error if nothing helps: the service then computes with NumPy, and says so.
    """
    python = str(venv / "bin" / "python")
    build = [python, "-m", "service.program.kernel.build"]
    log_file = ROOT / "build" / "kernel.log"
    log_file.parent.mkdir(exist_ok=True)
    with log_file.open("w") as log:
        if subprocess.call(build, cwd=ROOT, stdin=subprocess.DEVNULL, stderr=log) == 0:
            return
        say("no C compiler: fetching one for a moment, to compile the kernel")
        command = [python, "-m", "pip", "install", "--no-deps", "--require-hashes", "--only-binary", ":all:"]
        command += ["--no-compile", "--no-input", "--disable-pip-version-check", "--quiet"]
        with tempfile.TemporaryDirectory(dir=ROOT / "build") as folder:
            command += ["--target", folder, "-r", str(ROOT / KERNEL_LOCK)]
            if subprocess.call(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log) == 0:
                environment = {**os.environ, "PYTHONPATH": folder}
                if subprocess.call(build, cwd=ROOT, stdin=subprocess.DEVNULL, stderr=log, env=environment) == 0:
                    return
    say("the kernel could not be compiled (build/kernel.log): the service will compute with NumPy")


class Progress:
    """One line that says how far pip is: rewritten on a terminal, a plain line now and then in a log."""

    def __init__(self, name: str, total: int) -> None:
        self.name, self.total, self.seen, self.last = name, total, 0, 0.0
        self.terminal = sys.stderr.isatty()

    def __enter__(self) -> Progress:
        self.show("asking the package index")
        return self

    def __exit__(self, *error: object) -> None:
        if self.terminal:
            sys.stderr.write("\n")

    def read(self, line: str) -> None:
        """Take one line of pip's output."""
        if line.startswith("Collecting "):
            self.seen += 1
            if self.terminal or time.monotonic() - self.last > 10:
                self.show(f"package {self.seen} of {self.total}")
        elif line.startswith("Installing collected"):
            self.show("unpacking")

    def show(self, words: str) -> None:
        """Print where it stands."""
        self.last = time.monotonic()
        text = f"installing {self.name}: {words}"
        sys.stderr.write(f"\r\x1b[K{text}" if self.terminal else f"{text}\n")
        sys.stderr.flush()


def say(text: str) -> None:
    """Tell the user, on standard error."""
    sys.stderr.write(f"{text}\n")


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Hold a lock, so that two commands started together install once. It is on the folder: no file is left."""
    folder = os.open(ROOT / "requirements", os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def ensure(venv: Path, locks: Sequence[str]) -> None:
    """Bring `venv` to the state of `locks`; return at once where it is there already.

    Args:
        venv: absolute path of the environment.
        locks: lock files relative to the checkout, the runtime's first. A lock that only adds to what is there whole
            (the development tools) is added; anything else starts from an empty environment.
    """
    wanted = lock_hashes(locks)
    with alone():
        present = read_stamp(venv)
        if wanted.items() <= present.items():
            if is_kernel_due():
                build_kernel(venv)
            return
        if present and present.items() <= wanted.items():
            (venv / STAMP).unlink()  # from here until the end it is partial
        else:
            present = {}
            make_venv(venv, find_python())
        install(venv, [lock for lock in locks if lock not in present])
        build_kernel(venv)
        write_stamp(venv, wanted)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the Makefile; return the exit code."""
    parser = argparse.ArgumentParser(description="Make the virtual environment from the hash locks.")
    parser.add_argument("--venv", default=".venv", help="where the environment goes, relative to the checkout")
    parser.add_argument("locks", nargs="+", help="lock files, relative to the checkout, the runtime's first")
    options = parser.parse_args(arguments)
    try:
        ensure(ROOT / options.venv, options.locks)
    except InstallError as error:
        say(f"make: {error}")
        return 1
    except KeyboardInterrupt:
        say("make: interrupted; the next run begins again")
        return 130
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
