"""The version that a bulk job asks, found on disk and loaded as the server loads it: proved, verified, tried.

Above: `scoring`. Below: `loading`, `engines`, `repository`. TensorFlow stays in the loading process unless it
is the engine.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

from service import engines
from service.bulk.failure import BulkError
from service.errors import LoadFailedError, VersionRefusedError
from service.loading.fork_server import Order
from service.loading.process import LoadingProcess
from service.model_version import ModelVersion
from service.repository import Repository, VersionFolder


@dataclasses.dataclass(frozen=True)
class Wanted:
    """Which version of which model.

    Args:
        models_dir: folder of models.
        model: the model's name; "" where the folder has one model.
        version: number, or None for the newest that loads.
        label: label, or None; not together with a version.
    """

    models_dir: Path
    model: str = ""
    version: int | None = None
    label: str | None = None


@contextlib.contextmanager
def opened(
    wanted: Wanted, engine: str, tell: Callable[[str], None], process: LoadingProcess | None = None
) -> Iterator[ModelVersion]:
    """Load the version and hold it for as long as the block runs.

    Args:
        wanted: which.
        engine: "auto", "program" or "tensorflow".
        tell: told of newer versions that are refused.
        process: loads them; by default one that ends when it has.

    Raises:
        BulkError: there is no such model, version or label, or none that can be loaded now.
        VersionRefusedError: the version, or every version, is refused.
    """
    folders = _candidates(wanted)
    with contextlib.ExitStack() as until_loaded:
        if process is None:
            process = LoadingProcess()
            until_loaded.callback(process.close)
        try:
            live = _load_newest(process, folders, engine, tell, is_named=len(folders) == 1)
        except LoadFailedError as err:
            raise BulkError(f"{folders[0].model}: cannot be loaded: {err.told}.") from err
    try:
        yield live
    finally:
        live.close()


def _candidates(wanted: Wanted) -> list[VersionFolder]:
    """Return the folders that may be meant, the best first."""
    repository = Repository(wanted.models_dir)
    models = repository.models()
    model = wanted.model or (models[0] if len(models) == 1 else "")
    if model not in models:
        have = ", ".join(models[:20]) or "no model"
        raise BulkError(f"--model: received '{wanted.model[:64]}', expected a model of the folder: it has {have}.")
    folders = repository.versions(model)[::-1]
    version = wanted.version
    if wanted.label is not None:
        try:
            labels = repository.labels(model)
        except VersionRefusedError as err:
            raise BulkError(f"--label: {err.reason}") from err
        version = labels.get(wanted.label)
        if version is None:
            have = ", ".join(sorted(labels)) or "none"
            raise BulkError(f"--label: received '{wanted.label[:64]}', expected a label of {model}: it has {have}.")
    if version is not None:
        folders = [folder for folder in folders if folder.version == version]
    if not folders:
        what = "a version" if version is None else f"version {version}"
        raise BulkError(f"{model}: expected {what} in the folder, there is none.")
    return folders


def _load_newest(
    process: LoadingProcess, folders: list[VersionFolder], engine: str, tell: Callable[[str], None], *, is_named: bool
) -> ModelVersion:
    """Return the first that is not refused; a server serves the same one."""
    for folder in folders[:-1]:
        try:
            return _load(process, folder, engine)
        except VersionRefusedError as err:
            tell(f"version {folder.version} is passed over: {err}")
    try:
        return _load(process, folders[-1], engine)
    except VersionRefusedError as err:
        if is_named:
            raise
        raise VersionRefusedError(err.rule, f"version {folders[-1].version} and every newer one: {err.reason}") from err


def _load(process: LoadingProcess, folder: VersionFolder, engine: str) -> ModelVersion:
    loaded = process.load(Order(folder.path, folder.model, folder.version))
    if engine == "auto" and loaded.program is not None and not process.sees_gpu():
        engine = "program"  # without asking TensorFlow here
    live = ModelVersion(loaded, engines.create(loaded, engine))
    live.make_ready()
    return live
