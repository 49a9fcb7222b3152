"""The server as it is, whose loads do harm: `python -m tests.chaos.loading_faults serve ...`.

A version in whose folder lies a file `harm` does what the file says, in the process that loads it, instead of being
loaded. Everything else is the server's own.
"""

from service.__main__ import main
from service.loading import child
from tests.end_to_end.server_process import ServerProcess

HARM = "harm"

_HARMFUL = """
import ctypes, os, signal, sys, time
from service.loading import bounds, fork_server as f
right, right_bytes = f.load, bounds.memory_bytes
bounds.memory_bytes = lambda *_: 512 << 20
def load(folder, **words):
    if (folder / "harm").exists():
        exec((folder / "harm").read_text())
    return right(folder, **words)
f.load = load
f.main()
"""


class HarmedServer(ServerProcess):
    """A server process whose loads do what their versions say."""

    module = "tests.chaos.loading_faults"


def publish_harm(models_dir, model, version, deed):
    """Put a version into a models folder whose load does harm.

    Args:
        models_dir: the folder.
        model: model name.
        version: its number.
        deed: Python lines.
    """
    staged = models_dir / model / f".staging-{version}"
    staged.mkdir(parents=True)
    (staged / HARM).write_text(deed)
    (staged / "manifest.json").write_text("{}")
    staged.rename(models_dir / model / str(version))


if __name__ == "__main__":
    child._PROGRAM = _HARMFUL
    main(prog_name="python -m service")
