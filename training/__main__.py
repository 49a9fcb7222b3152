"""The commands: train, retrain, audit, certify, evaluate. The top of training.

Nothing but the standard library and click is imported until a command runs, so that `--help` is fast.
"""

import contextlib
import csv
import dataclasses
import json
import logging
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

import click

if TYPE_CHECKING:
    from training.config import TrainingConfig

FAILED, USAGE, REFUSED, LOCKED = 1, 2, 3, 4

CONFIG = click.argument("config", type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="CONFIG.toml")
VERSION = click.argument("path", type=click.Path(exists=True, file_okay=False, path_type=Path))
MODELS_DIR = click.option(
    "--models-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Publish here instead of [publish] models_dir. Relative to the current folder.",
)
SEED = click.option("--seed", type=click.IntRange(0, 2**32 - 1), help="Use this seed instead of [trainer] seed.")
FRESH = click.option("--fresh", is_flag=True, help="Begin anew, even where the same job was killed and could go on.")


class InterruptedJobError(BaseException):
    """SIGINT or SIGTERM came. Like KeyboardInterrupt no Exception, so that nothing on the way takes it for a failure.

    Args:
        number: of the signal.
    """

    def __init__(self, number: int) -> None:
        """Keep the signal's number."""
        super().__init__(number)
        self.number = number


class Interruption:
    """Turns SIGINT and SIGTERM into one `InterruptedJobError`; remembers it, should something swallow it."""

    def __init__(self) -> None:
        """Nothing came yet."""
        self.number = 0

    def install(self) -> None:
        """Handle both signals from now on."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._raise)

    def _raise(self, number: int, _frame: FrameType | None) -> NoReturn:
        self.number = number
        for other in (signal.SIGINT, signal.SIGTERM):
            signal.signal(other, signal.SIG_IGN)  # one is enough: what follows is tidying up
        raise InterruptedJobError(number)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
def commands() -> None:
    """Train, prove and publish input-convex networks.

    Exit codes: 0 done, 1 failure, 2 bad usage or config, 3 refused (not proved, or the gate), 4 another job holds the
    lock, 130/143 interrupted and nothing published.
    """


@commands.command()
@CONFIG
@MODELS_DIR
@SEED
@FRESH
def train(config: Path, models_dir: Path | None, seed: int | None, fresh: bool) -> None:
    """Train from scratch, certify and publish; print the published folder last.

    The same job that was killed goes on where it was.
    """
    job = _load(config, models_dir, seed)
    from training import pipeline

    click.echo(_shown(pipeline.train(job, tell=lambda line: click.echo(line, err=True), fresh=fresh)))


@commands.command()
@CONFIG
@MODELS_DIR
@SEED
@FRESH
@click.option(
    "--wait-available",
    metavar="URL",
    help="After publishing, wait until this server answers that the version is AVAILABLE.",
)
def retrain(config: Path, models_dir: Path | None, seed: int | None, fresh: bool, wait_available: str | None) -> None:
    """Run the nightly job: warm start, train, certify, pass the gate, publish.

    A refused challenger publishes nothing; its report is MODELS_DIR/.refused/MODEL/report.html.
    The same job that was killed goes on where it was.
    """
    job = _load(config, models_dir, seed)
    if wait_available is not None:
        from training.config import server_address

        address = server_address(wait_available)
        if address is None:
            raise click.BadParameter("expected the http(s) address of a server", param_hint="--wait-available")
        job = dataclasses.replace(job, publish=dataclasses.replace(job.publish, wait_available=address))
    from training import retrain as nightly

    outcome = nightly.retrain(job, tell=lambda line: click.echo(line, err=True), fresh=fresh)
    for line in outcome.lines:
        click.echo(line, err=True)
    if outcome.published is None:
        raise click.exceptions.Exit(REFUSED)
    click.echo(_shown(outcome.published))


@commands.command()
@CONFIG
@SEED
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def audit(config: Path, seed: int | None, as_json: bool) -> None:
    """Print which variables the job's loss cannot move, why, and what helps; train nothing. Exit 3: train refuses.

    Each variable's gradient by two ways that must agree: by the operations between it and the loss, and by numbers.
    """
    job = _load(config, None, seed)
    from training import pipeline

    audited = pipeline.audit_job(job)
    if as_json:
        click.echo(json.dumps(audited.to_document()))
    else:
        for line in audited.table():
            click.echo(line)
    if pipeline.refuses(job, audited):
        raise click.exceptions.Exit(REFUSED)


@commands.command()
@VERSION
@click.option("--json", "as_json", is_flag=True, help="Print the proof, or the refusal, as one JSON object.")
def certify(path: Path, as_json: bool) -> None:
    """Prove (or not) that the SavedModel in PATH is convex, from its files alone. Exit 3: not proved.

    PATH is a version of ours, or any SavedModel folder: saved_model.pb and variables/.
    """
    os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")  # else TensorFlow imports Keras, which takes a second or two
    from service.manifest import VersionRefusedError
    from training import proof

    try:
        proved = proof.prove(path)
    except VersionRefusedError as error:
        if as_json:
            click.echo(json.dumps(proof.refusal_document(error)))
        for line in proof.refusal_lines(error):
            click.echo(line, err=True)
        raise click.exceptions.Exit(REFUSED) from error
    if as_json:
        click.echo(json.dumps(proof.to_document(proved)))
        return
    for line in proof.lines(proved):
        click.echo(line)


@commands.command()
@VERSION
@click.option(
    "--data",
    type=click.Path(dir_okay=False, path_type=Path),
    required=True,
    help="CSV, Parquet or NPY; of a transport the source rows, a picture too.",
)
@click.option(
    "--target", help="Target column, by default that of the training; of a transport the file of target rows."
)
@click.option(
    "--scores",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write each row's score and gradient to this CSV, as a server's program engine answers them.",
)
@click.option("--report", "page", type=click.Path(dir_okay=False, path_type=Path), help="Write plots to this HTML.")
def evaluate(path: Path, data: Path, target: str | None, scores: Path | None, page: Path | None) -> None:
    """Print the metrics of the version in PATH on a data file. The version is proved again first."""
    from training.evaluation import evaluate as run

    evaluation = run(path, data, target)
    for name, value in evaluation.metrics.items():
        click.echo(f"{name}: {value:.6g}")
    click.echo(f"rows: {len(evaluation.rows)}")
    if evaluation.dropped:
        click.echo(f"dropped rows: {evaluation.dropped}")
    if evaluation.target_dropped:
        click.echo(f"dropped target rows: {evaluation.target_dropped}")
    if scores is not None:
        with _replaced(scores) as file:
            writer = csv.writer(file)
            writer.writerow(["score", *(f"gradient_{name}" for name in evaluation.rows.features)])
            for score, gradient in zip(evaluation.answers.score, evaluation.answers.gradient, strict=True):
                writer.writerow([str(score), *map(str, gradient)])
    if page is not None:
        with _replaced(page) as file:
            file.write(evaluation.page())


@contextlib.contextmanager
def _replaced(path: Path) -> Iterator[Any]:
    """Give a file to write that takes its name when it is whole."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("w", encoding="utf-8", newline="") as file:
            yield file
        partial.replace(path)
    except OSError as err:
        message = f"{path}: cannot be written: {err.strerror}. Name a file in a folder that exists and may be written."
        raise click.ClickException(message) from err
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()


def _shown(path: Path) -> str:
    """Return a path as a reader wants it: relative where it lies below the current folder."""
    absolute, here = os.path.abspath(path), os.path.abspath(".")
    return os.path.relpath(absolute, here) if absolute.startswith(here + os.sep) else absolute


def _load(path: Path, models_dir: Path | None, seed: int | None) -> "TrainingConfig":
    """Return the configuration with the overrides of the command line; a seed is recorded in the manifest too."""
    from training.config import load_config

    config = load_config(path)
    if models_dir is not None:
        config = dataclasses.replace(
            config, publish=dataclasses.replace(config.publish, models_dir=models_dir.absolute())
        )
    if seed is not None:
        trainer = dataclasses.replace(config.trainer, seed=seed)
        document = {**config.document, "trainer": {**config.document.get("trainer", {}), "seed": seed}}
        config = dataclasses.replace(config, trainer=trainer, document=document)
    return config


def _quiet() -> None:
    """Keep TensorFlow and matplotlib from saying anything at start-up; before either is imported.

    oneDNN's line is printed before TensorFlow's logging is set up: only switching oneDNN off avoids it, which also lets
    processors of one family agree bit for bit. A value that the environment already has stays.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    for name in ("tensorflow", "absl", "matplotlib"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _exit_code(error: Exception) -> int | None:
    """Return the exit code of an error that a user can do something about, None for a defect of ours."""
    from service.manifest import VersionRefusedError
    from training.availability import WaitError
    from training.config import ConfigError
    from training.datasets import DataError
    from training.publish import LockHeldError, PublishError

    if isinstance(error, ConfigError):
        return USAGE
    if isinstance(error, VersionRefusedError):
        return REFUSED
    if isinstance(error, LockHeldError):
        return LOCKED
    if isinstance(error, DataError | PublishError | WaitError | OSError):
        return FAILED
    from training.export import ExportError  # these import TensorFlow; whoever raised one of them has done so already
    from training.runs import DivergenceError

    return FAILED if isinstance(error, DivergenceError | ExportError) else None


def main(arguments: list[str] | None = None) -> int:
    """Run a command and return its exit code; every expected failure is one sentence on stderr."""
    interruption = Interruption()
    interruption.install()
    _quiet()
    try:
        result = commands.main(args=arguments, prog_name="python -m training", standalone_mode=False)
        code = int(result) if isinstance(result, int) else 0
    except click.ClickException as error:
        error.show()
        code = USAGE if isinstance(error, click.UsageError) else FAILED
    except BaseException as error:
        if interruption.number:
            click.echo("interrupted; nothing was published", err=True)
            return 128 + interruption.number
        known = _exit_code(error) if isinstance(error, Exception) else None
        if known is None:
            raise
        word = "refused" if known == REFUSED else "error"
        click.echo(f"{word}: {error}", err=True)
        code = known
    return code


if __name__ == "__main__":
    ended = main()
    for late in (signal.SIGINT, signal.SIGTERM):
        signal.signal(late, signal.SIG_IGN)  # the job is over; TensorFlow takes a moment to go
    sys.exit(ended)
