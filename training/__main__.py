"""The commands: train, retrain, rollback, history, audit, certify, evaluate. The top of training.

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
from typing import TYPE_CHECKING, Any

import click

from training.interruption import Interruption

if TYPE_CHECKING:
    from training.config import TrainingConfig
    from training.job_log import JobLog

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


class Voice:
    """How this process says its last sentence: as the log says the others.

    Args:
        log_format: "console", or "json" from the moment when a command was told so.
    """

    def __init__(self) -> None:
        """A sentence for people, until a command says otherwise."""
        self.log_format = "console"
        self.log: JobLog | None = None

    def say(self, word: str, sentence: str) -> None:
        """Say on standard error that something ended, with the id of the run where there is one."""
        if self.log_format == "json":
            from training.job_log import JobLog

            (self.log or JobLog(log_format="json")).line("end", "error", what=word, why=sentence)
        else:
            click.echo(f"{word}: {sentence}" if sentence else word, err=True)


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
@click.option("--dry-run", is_flag=True, help="End with the gate: publish, move and prune nothing, tell no hook.")
@click.option(
    "--log-format",
    type=click.Choice(["console", "json"]),
    default="console",
    show_default=True,
    envvar="CONVEX_LOG_FORMAT",
    show_envvar=True,
    help="Lines for people, or one JSON object a line.",
)
@click.pass_obj
def retrain(  # noqa: PLR0913  # its flags
    voice: "Voice",
    config: Path,
    models_dir: Path | None,
    seed: int | None,
    fresh: bool,
    wait_available: str | None,
    dry_run: bool,
    log_format: str,
) -> None:
    """Run the nightly job: warm start, train, certify, pass the gate, publish.

    A line a step goes to standard error, with the run's id. Each run leaves its record and its report in
    MODELS_DIR/.reports/MODEL (`history` lists them); a refused challenger leaves nothing else.
    The same job that was killed goes on where it was.
    """
    voice.log_format = log_format
    job = _load(config, models_dir, seed)
    if wait_available is not None:
        from training.config import server_address

        address = server_address(wait_available)
        if address is None:
            raise click.BadParameter("expected the http(s) address of a server", param_hint="--wait-available")
        job = dataclasses.replace(job, publish=dataclasses.replace(job.publish, wait_available=address))
    from training import retrain as nightly
    from training.job_log import JobLog

    log = voice.log = JobLog(log_format=log_format)
    with contextlib.ExitStack() as until_the_end:  # no signal between the publication and its path on standard output
        outcome = nightly.retrain(
            job,
            progress=log.progress,
            tell=log.tell,
            log=log,
            dry_run=dry_run,
            fresh=fresh,
            until_the_end=until_the_end,
        )
        for line in outcome.lines:
            log.tell(line)
        if not outcome.gate.passed:
            raise click.exceptions.Exit(REFUSED)
        if outcome.published is not None:
            click.echo(_shown(outcome.published))


@commands.command()
@click.argument("path", type=click.Path(path_type=Path), metavar="MODELS_DIR/MODEL")
@click.option("-n", "--last", type=click.IntRange(1), default=30, show_default=True, help="How many runs, at most.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a run, with its steps.")
def history(path: Path, last: int, as_json: bool) -> None:
    """Print what came of the last nights: a line a run, the newest last."""
    from training import journal

    folder = Path(os.path.abspath(path))
    found = journal.nights(folder.parent, folder.name)[-last:]
    if not found:
        message = f"{path}: no run of this model left a record. Name MODELS_DIR/MODEL as `retrain` has them."
        raise click.ClickException(message)
    for line in [json.dumps(night.to_document()) for night in found] if as_json else journal.table(found):
        click.echo(line)


@commands.command()
@click.argument("model_folder", type=click.Path(path_type=Path), metavar="MODELS_DIR/MODEL")
@click.option("--to", type=click.IntRange(1, 2**63 - 1), required=True, metavar="VERSION", help="Go back to this one.")
def rollback(model_folder: Path, to: int) -> None:
    """Publish an older version's files as the next version, and move every label of the newest one to it.

    The files are certified again first; exit 3 if that fails today.
    """
    os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")  # else TensorFlow imports Keras, which takes a second or two
    from training.rollback import rollback as run

    folder = Path(os.path.abspath(model_folder))
    rolled = run(folder.parent, folder.name, to)
    for line in rolled.lines():
        click.echo(line, err=True)
    click.echo(_shown(rolled.version.path))


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
    voice = Voice()
    _quiet()
    try:
        result = commands.main(args=arguments, prog_name="python -m training", standalone_mode=False, obj=voice)
        code = int(result) if isinstance(result, int) else 0
    except click.ClickException as error:
        error.show()
        code = USAGE if isinstance(error, click.UsageError) else FAILED
    except BaseException as error:
        if interruption.number:
            voice.say("interrupted; nothing was published", "")
            return 128 + interruption.number
        known = _exit_code(error) if isinstance(error, Exception) else None
        if known is None:
            raise
        voice.say("refused" if known == REFUSED else "error", str(error))
        code = known
    return code


if __name__ == "__main__":
    ended = main()
    for late in (signal.SIGINT, signal.SIGTERM):
        signal.signal(late, signal.SIG_IGN)  # the job is over; TensorFlow takes a moment to go
    sys.exit(ended)
