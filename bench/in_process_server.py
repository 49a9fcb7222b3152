"""The server as it is, but that it loads versions in its own process: the other side of the measurement `loading`."""

from pathlib import Path

from service import version_loader
from service.__main__ import main
from service.loader import LoadedVersion, load, prepare, warm_up
from service.loading.fork_server import Order


class InProcess:
    """What `LoadingProcess` is to the server, without a process."""

    def __init__(self) -> None:
        self._has_gpu: bool | None = None

    def start(self) -> None:
        """Do nothing: the first load imports TensorFlow."""

    def load(self, order: Order) -> LoadedVersion:
        """Return the version, loaded here."""
        if self._has_gpu is None:
            warm_up()
            self._has_gpu = prepare()
        return load(order.folder, model=order.model, version=order.version, allow_uncertified=order.allow_uncertified)

    def give_up(self, folder: Path) -> None:
        """Do nothing: a thread cannot be ended."""

    def sees_gpu(self) -> bool:
        """Whether TensorFlow sees a GPU."""
        return bool(self._has_gpu)

    def close(self) -> None:
        """Do nothing."""


if __name__ == "__main__":
    version_loader.LoadingProcess = InProcess  # type: ignore[assignment,misc]  # the one thing
    main(prog_name="python -m service")
