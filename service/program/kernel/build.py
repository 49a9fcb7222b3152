"""Compiles the kernel for this kind of machine: `python -m service.program.kernel.build`.

Takes `$CC`, else `cc`, `gcc`, `clang` or the C compiler in Zig's wheel, the first that is there. What it makes lies
beside the sources, under the name that `library` looks for. Without a compiler the exit code is 1, and NumPy computes.
"""

import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from service.program.kernel.library import FOLDER, SOURCES, Library, path

FLAGS = (
    "-O3",
    "-std=c11",
    "-ffp-contract=off",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fPIC",
    "-pthread",
    "-shared",
)
"""No option lets a compiler compute otherwise than the source says: no contraction, no fast-math."""

_ZIG_FLAGS = ("-mcpu=baseline", "-fno-sanitize=all", "-s")
_TIMEOUT_SECONDS = 300.0


class BuildError(Exception):
    """The kernel cannot be compiled; the text says why."""


def compiler() -> list[str]:
    """Return the command of a C compiler.

    Raises:
        BuildError: there is none.
    """
    if os.environ.get("CC"):
        return shlex.split(os.environ["CC"])
    for name in ("cc", "gcc", "clang"):
        if found := shutil.which(name):
            return [found]
    if importlib.util.find_spec("ziglang") is not None:
        return [sys.executable, "-m", "ziglang", "cc", *_ZIG_FLAGS]
    message = "no C compiler: none of cc, gcc, clang, and no wheel ziglang. Install one, or name one in CC."
    raise BuildError(message)


def build(target: Path | None = None) -> Path:
    """Compile the kernel, unless it is there, and return where it is.

    Args:
        target: where to; where `library` looks for it by default. Written in one rename.

    Raises:
        BuildError: no compiler, or it failed, or what it made cannot be loaded.
    """
    target = path() if target is None else target
    if target.exists():
        return target
    command = compiler()
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".build-", dir=target.parent) as folder:
        fresh = Path(folder) / target.name
        command += [*FLAGS, str(FOLDER / SOURCES[0]), "-o", str(fresh)]
        try:
            done = subprocess.run(  # noqa: S603  (our own command)
                command, capture_output=True, text=True, errors="replace", timeout=_TIMEOUT_SECONDS, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as err:
            message = f"{shlex.join(command)}: {err}"
            raise BuildError(message) from err
        if done.returncode != 0:
            message = f"{shlex.join(command)} failed:\n{done.stderr[-2000:]}"
            raise BuildError(message)
        try:
            Library(fresh)
        except OSError as err:
            message = f"what {command[0]} made cannot be used here: {err}"
            raise BuildError(message) from err
        fresh.replace(target)
    return target


def main() -> int:
    """Build, say where; return the exit code."""
    try:
        where = build()
    except (BuildError, OSError) as error:
        sys.stderr.write(f"no compiled kernel: {error}\n")
        return 1
    sys.stderr.write(f"compiled kernel: {where.name}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
