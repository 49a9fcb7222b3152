"""The command line: `python -m service [serve | score | models | label]`; without a word, or flags alone, it serves.

The top of the service. What a command needs is imported when it runs: `--help` answers without TensorFlow or NumPy.
"""

import contextlib
import json
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

# Before NumPy is imported. OpenBLAS starts a thread for every core it sees and lets them spin: with several requests at
# once that is up to 200 times slower than one thread each (measured for small networks). Requests are the parallelism.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# TensorFlow and gRPC write dozens of lines about the machine at the start; errors that matter arrive as exceptions.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
# TensorFlow imports all of Keras along, which takes as long again and a hundred megabytes, unless the old Keras is
# meant, and that is not installed. Nothing here uses either; the loading process inherits this.
os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")

if __name__ == "__main__":  # an interruption ends without a traceback from the first line on
    for _number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(_number, lambda number, _: os._exit(128 + number))

import click

from service import settings as settings_module

if TYPE_CHECKING:
    from service import server
    from service.loading.child import Child
    from service.loading.process import LoadingProcess

_STANDARD_OUTPUT = 1


class _ServeByDefault(click.Group):
    """A group of commands in which flags without a command go to `serve`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put `serve` in front where no command is named."""
        if not args or (args[0].startswith("-") and args[0] not in {"--help", "-h"}):
            args = ["serve", *args]
        return super().parse_args(ctx, args)


def _flags(command: click.Command) -> click.Command:
    """Give a command one option for each setting; what is given arrives as text under the setting's name."""
    for row in settings_module.rows():
        default = f" [default: {row.default}{' ' + row.unit if row.unit else ''}]" if row.default else ""
        command.params.append(
            click.Option(
                [row.flag, row.name],
                help=f"{row.meaning}; {row.expected}{default}",
                metavar=(row.unit or "TEXT").upper().replace(" ", "-") if not row.is_switch else "[BOOL]",
                # A switch may stand alone (`--allow-tf32`) or with a word (`--allow-tf32=false`).
                is_flag=False,
                flag_value="true" if row.is_switch else None,
            )
        )
    return command


_models_dir = click.option(
    "--models-dir",
    type=click.Path(path_type=Path),
    default=Path("models"),
    envvar="CONVEX_MODELS_DIR",
    show_default=True,
    help="folder of models: <model>/<version>/ below it",
)


@click.group(cls=_ServeByDefault, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Serves convex scores and their gradients. `serve --help` lists every setting; `serve` may be left out."""


@_flags
@main.command()
def serve(**flags: str | None) -> None:
    """Serve the models of a folder on REST and gRPC until SIGTERM.

    Every flag is an environment variable too: --rest-port is CONVEX_REST_PORT. A flag wins over a variable.
    """
    try:
        settings = settings_module.Settings.read(
            {name: text for name, text in flags.items() if text is not None}, os.environ
        )
    except settings_module.SettingError as error:
        _fail(str(error), 2)
    _open_closed_streams()
    for number in (signal.SIGTERM, signal.SIGINT):  # while the imports run there is nothing to drain
        signal.signal(number, lambda *_: os._exit(0))
    child = _started_child()  # TensorFlow is read from the disk while the server's own imports are
    from service.garbage import uncollected

    with uncollected():
        from service import freed_memory, logs, ports, server
        from service.line_writer import LineWriter
        from service.loading.process import LoadingProcess

    freed_memory.return_large_blocks()
    logs.configure(settings.log_format, settings.log_level)
    printed = LineWriter(os.dup(_STANDARD_OUTPUT))  # nobody may be reading: signals are heard all the same

    def announce(text: str) -> None:
        printed.write(text + "\n")

    process = LoadingProcess(child)
    try:
        with uncollected():  # it imports too
            serving = _what_serves(settings, process)
    except (settings_module.SettingError, ports.StartError) as error:
        process.close()
        _fail(str(error), 2 if isinstance(error, settings_module.SettingError) else 1)  # 2: a file that a setting names
    all_ended = server.Supervisor(serving, announce).run()
    printed.close()
    logs.close()
    if serving.lost():
        _fail(serving.lost(), 1)
    if not all_ended:
        os._exit(0)  # a thread is still loading or computing; the interpreter would wait for TensorFlow under it


def _started_child() -> "Child | None":
    """Return the child that loads, or None where the system gives no process now: it is tried again when one loads."""
    from service.loading.child import Child  # which imports nothing but Python's own

    with contextlib.suppress(OSError):
        return Child()
    return None


def _what_serves(settings: settings_module.Settings, process: "LoadingProcess") -> "server.Serving":
    """Return what is to serve, its ports bound: this process, or several others."""
    if settings.workers > 1:
        from service.fleet.commander import Commander  # needs neither Flask nor gRPC, which the others import

        return Commander(settings, process)
    from service.worker import Worker

    return Worker(settings, process=process)


@main.command()
@_models_dir
@click.option("--model", default="", envvar="CONVEX_DEFAULT_MODEL", help="name of the model [default: the only one]")
@click.option("--version", type=click.IntRange(1), help="number of the version [default: the newest that loads]")
@click.option("--label", help="label of the version")
@click.option(
    "--input", "source", type=click.Path(path_type=Path), required=True, help="rows: .parquet, .csv, .npy, .arrow"
)
@click.option("--output", "sink", type=click.Path(path_type=Path), required=True, help="file to write; .parquet, ...")
@click.option("--gradient", is_flag=True, help="add the gradient too, a column gradient_<feature> for each feature")
@click.option(
    "--bad-rows",
    type=click.Choice(["refuse", "empty"]),
    default="refuse",
    show_default=True,
    help="a row with an empty cell, NaN or an infinity ends the job, or gets an empty score",
)
@click.option("--engine", type=click.Choice(["auto", "tensorflow", "program"]), default="auto", show_default=True)
@click.option("--threads", type=click.IntRange(0), default=0, help="batches computed at once [default: one a core]")
def score(  # noqa: PLR0913  (one for each flag)
    models_dir: Path,
    model: str,
    version: int | None,
    label: str | None,
    source: Path,
    sink: Path,
    gradient: bool,
    bad_rows: str,
    engine: str,
    threads: int,
) -> None:
    """Score the rows of a file without a server: its columns, then `score`, go to another file.

    Features are found by name; other columns stay. The output appears when it is whole. Bits are those of the server.
    """
    if version is not None and label is not None:
        _fail("--version and --label: expected one of them, received both", 2)
    for number in (signal.SIGTERM, signal.SIGINT):  # what is half written is removed on the way out
        signal.signal(number, lambda received, _: sys.exit(128 + received))
    from rich.console import Console

    from service.bulk import progress, scoring, versions
    from service.bulk.failure import BulkError
    from service.errors import VersionRefusedError

    console = Console(stderr=True)

    def tell(line: str) -> None:
        console.print(line, highlight=False, soft_wrap=True, markup=False)

    job = scoring.Job(source, sink, gradient, bad_rows == "empty", threads)
    try:
        with versions.opened(versions.Wanted(models_dir, model, version, label), engine, tell) as live:
            name = f"{live.signature.model} version {live.signature.version}"
            scored = scoring.score_file(job, live, lambda rows: progress.counting(f"score {name}", rows, console))
    except BulkError as error:
        _fail(str(error), 1)
    except VersionRefusedError as error:
        _fail(f"refused: {error}", 3)
    bad = f", {scored.num_bad_rows} of them without a score" if scored.num_bad_rows else ""
    tell(f"{name}: {scored.num_rows} rows{bad}")
    _say(str(sink))


@main.command()
@_models_dir
@click.option("--json", "as_json", is_flag=True, help="one JSON document with everything that is known")
@click.option(
    "--follow-model-links", is_flag=True, envvar="CONVEX_FOLLOW_MODEL_LINKS", help="as of `serve`", show_default=True
)
def models(models_dir: Path, *, as_json: bool, follow_model_links: bool) -> None:
    """List models, versions, certificates and metrics of a folder, checking every file against its manifest."""
    from service import inventory

    if not models_dir.is_dir():
        _fail(f"{models_dir}: expected a folder of models, there is none. Name one with --models-dir.", 1)
    try:
        found = inventory.take(models_dir, follow_model_links=follow_model_links)
    except OSError as error:
        _fail(f"{models_dir}: it cannot be read ({error.strerror}). Let this user read it.", 1)
    if as_json:
        _say(json.dumps(found.to_document(), indent=2))
    elif found.versions or found.problems:
        _say("\n".join(found.lines()))
    if not found.versions:
        _fail(f"{models_dir}: no version of any model is in it.", 1)


@main.command()
@click.argument("model_folder", type=click.Path(path_type=Path), metavar="MODELS_DIR/MODEL")
@click.argument("assignments", nargs=-1, required=True, metavar="LABEL=VERSION...")
def label(model_folder: Path, assignments: tuple[str, ...]) -> None:
    """Let labels mean versions: `label models/tumours stable=3 canary=4`; `canary=` removes one.

    Labels that are not named stay. The server follows within its poll interval, once it serves the version.
    """
    from service.errors import VersionRefusedError
    from service.labels import MissingVersionError, change_labels
    from service.repository import Repository

    if not Repository(model_folder.parent, follow_model_links=True).versions(model_folder.name):
        _fail(f"{model_folder}: expected a model's folder with versions in it. Name MODELS_DIR/MODEL.", 2)
    changes = _parse_assignments(assignments)
    try:
        labels = change_labels(model_folder, changes)
    except MissingVersionError as error:
        _fail(str(error), 2)
    except VersionRefusedError as error:
        _fail(f"{error.reason} Remove or repair the file first.", 1)
    except OSError as error:
        _fail(f"{model_folder}: the labels cannot be written ({error.strerror or error}); they are as they were", 1)
    _say(" ".join(f"{name}={version}" for name, version in sorted(labels.items())) or "no labels")
    for version in sorted({version for version in changes.values() if version is not None}):
        _warn_of_broken(model_folder / str(version), version)


def _parse_assignments(assignments: tuple[str, ...]) -> dict[str, int | None]:
    """Return label -> version, or None where it is to be removed."""
    from service.repository import LABEL_NAME, version_number

    changes: dict[str, int | None] = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        version = version_number(text)
        if not LABEL_NAME.fullmatch(name) or not equals or (text and version is None) or name in changes:
            _fail(f"received {assignment[:80]!r}, expected LABEL=VERSION or LABEL=, each label once", 2)
        changes[name] = version
    return changes


def _warn_of_broken(folder: Path, version: int) -> None:
    """Say on standard error where a labelled version is one that a server would refuse for its files."""
    from service.errors import VersionRefusedError
    from service.repository import read_version

    try:
        read_version(folder)
    except VersionRefusedError as error:
        what = f"a server will refuse version {version} ({error.rule}: {error.reason}) and leave the label where it was"
        click.echo(f"warning: {what}", err=True)


def _open_closed_streams() -> None:
    """Let standard streams that the parent closed lead nowhere: else a socket gets their number, and our lines."""
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            nowhere = os.open(os.devnull, os.O_RDWR)  # the lowest free number: that of the stream
            setattr(sys, name, open(nowhere, "r+", encoding="utf-8", closefd=False))  # noqa: SIM115


def _say(text: str) -> None:
    try:
        print(text, flush=True)
    except OSError:  # nobody reads, or the disk is full: serving goes on
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  (lives as long as the process)


def _fail(message: str, code: int) -> NoReturn:
    """End with one line on standard error and the exit code of the contract."""
    click.echo(f"error: {message}", err=True)
    raise SystemExit(code)


if __name__ == "__main__":
    main(prog_name="python -m service")
