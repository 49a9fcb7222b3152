"""Make the hash locks again from the `.in` files: `make lock`, or `make lock ARGS=--upgrade` for the newest versions.

Run by hand where the package index is reachable; README.md in this folder says what the options are for.
"""

import os
import subprocess
import sys
import venv
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
UV = "uv==0.13.9"
COMPILE = ["--universal", "--python-version", "3.11", "--only-binary", ":all:", "--generate-hashes"]
COMPILE += ["--no-header", "--no-annotate", "--quiet"]
# In this order: the second and third take the first as constraints, so that what they share has one version.
LOCKS = {"cpu": ["--override", "overrides.txt"], "gpu": ["-c", "cpu.lock"], "dev": ["-c", "cpu.lock"], "kernel": []}


def main(options: list[str]) -> int:
    """Compile the locks; `options` go to each `uv pip compile`. Return the exit code."""
    environment = FOLDER.parent / "build" / "uv"
    if not (environment / "bin" / "uv").exists():
        venv.create(environment, clear=True, with_pip=True)
        subprocess.check_call([str(environment / "bin" / "python"), "-m", "pip", "install", "--quiet", UV])
    settings = {**os.environ, "UV_PYTHON_DOWNLOADS": "never"}
    for name, extra in LOCKS.items():
        sys.stderr.write(f"resolving requirements/{name}.in\n")
        command = [str(environment / "bin" / "uv"), "pip", "compile", f"{name}.in", "-o", f"{name}.lock"]
        code = subprocess.call([*command, *COMPILE, *extra, *options], cwd=FOLDER, env=settings)
        if code:
            return code
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
