"""From a configuration to a published version: data, network, fit, files, proof, metrics, report, rename.

Below `__main__`; `retrain` goes the same way with a champion in view. What is certified, verified and measured is the
artefact read back from disk, not the Keras object that was trained.
"""

import contextlib
import dataclasses
import datetime
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any, Generic

import numpy as np
from numpy.typing import NDArray

from service.manifest import FORMAT_VERSION
from service.program import Program
from service.program.certification import certify
from service.program.kernel import compiled
from service.program.support_verification import verify_support
from service.program.verification import verify
from service.signature import CONTEXT, OUTPUTS
from training import audit, checkpoints, evidence, export, findings, fingerprint, leaks, publish, report
from training.answers import Answers
from training.audit import Audit
from training.checkpoints import Checkpoint
from training.config import ConfigError, TrainingConfig
from training.data_facts import data_facts
from training.datasets import Data, DataError, DataT, Samples, join, split, validation_split
from training.machine import packages as packages
from training.machine import processor as processor
from training.objectives import Objective, create_objective
from training.pictures import Recoloured, recolour
from training.progress import Report, reporting
from training.runs import Run
from training.trainer import History, fit

OWN = "this version"
CHAMPION = "champion"

Progress = Callable[..., AbstractContextManager[Report]]
"""`progress.reporting`, or another with its first two arguments and `names`."""

Tell = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Rows(Generic[DataT]):
    """The rows of one job. None is on two sides, and held-out ones stay so for ever.

    Args:
        data: all good rows of the file, or of both files.
        train: rows to fit.
        validation: rows to stop early on.
        held_out: rows that only metrics and gate see.
    """

    data: DataT
    train: DataT
    validation: DataT
    held_out: DataT


@dataclasses.dataclass(frozen=True, eq=False)
class Proved:
    """A staged version that was read back, proved and verified.

    Args:
        program: the lifted program.
        certificate: the manifest's `certificate`.
        held_out: its answers on the held-out rows.
        outputs: what it answers, in the order of the wire.
    """

    program: Program
    certificate: Mapping[str, Any]
    held_out: Answers
    outputs: tuple[str, ...] = OUTPUTS


@dataclasses.dataclass(frozen=True, eq=False)
class Result:
    """Everything that the manifest and the report of a version say.

    Args:
        config: the job.
        objective: its task.
        rows: its data.
        history: the training curves.
        audited: what the gradient audit found before the run.
        proved: the staged version.
        metrics: held-out metrics by name; `this version` first, then the baselines, and a champion if there was one.
        created: UTC time.
        parent: the champion's version, or None.
        gate: the gate's report, or None.
        notes: sentences for the report.
        run_id: what the run calls itself in its log, or "".
    """

    config: TrainingConfig
    objective: Objective[Any]
    rows: Rows[Any]
    history: History
    audited: Audit
    proved: Proved
    metrics: Mapping[str, Mapping[str, float]]
    created: str
    parent: int | None = None
    gate: Mapping[str, Any] | None = None
    notes: tuple[str, ...] = ()
    run_id: str = ""

    def findings(self) -> list[str]:
        """Return what a user should know of the data and of the run."""
        return [*findings.of_data(self.rows.data, self.rows.train), *findings.of_run(self.history)]

    def lines(self) -> list[str]:
        """Return what the log says at the end: the findings, and the version beside the others."""
        return [*self.findings(), report.summary(self.metrics, len(self.rows.held_out), kind="held-out ")]

    def report(self) -> report.TrainingReport:
        """Return the training report."""
        return report.TrainingReport(
            title=self.config.model.name,
            task=self.config.model.task,
            created=self.created,
            features=self.rows.data.features,
            data=data_facts(self.rows, self.config.data.target),
            metrics=self.metrics,
            certificate=self.proved.certificate,
            gate=self.gate,
            history=self.history,
            gradient_audit=self.audited.to_document(),
            notes=(*self.notes, *self.findings()),
            config=self.config.document,
            made_with={**packages(), "processor": processor(), **self._run()},
            answers=self.proved.held_out,
            measured=self.rows.held_out,
            recoloured=recoloured(self.proved.program, self.rows.data),
        )

    def memory(self) -> dict[str, Any]:
        """Return what the manifest's `data` keeps for the gate of the next night."""
        data, gate = self.rows.data, self.gate
        slipped = {} if gate is None else {evidence.FALLEN_KEY: {"metric": gate["metric"], "value": gate["fallen"]}}
        errors = evidence.facts(self.objective, self.rows, partial(answers, self.proved.program))
        return {**fingerprint.facts(data, self.config.data.target), **errors, **slipped}

    def document(self, version: int, files: publish.FileTable) -> dict[str, Any]:
        """Return the manifest's document, without its hash."""
        features, context = self.rows.data.features, self.rows.data.context
        return {
            "format_version": FORMAT_VERSION,
            "model": self.config.model.name,
            "version": version,
            "created": self.created,
            "task": self.config.model.task,
            "parent": self.parent,
            "rolled_back_to": None,
            "input": {**_tensor("x", features), **({CONTEXT: _tensor(CONTEXT, context)} if context else {})},
            "outputs": list(self.proved.outputs),
            "threshold": self.objective.threshold,
            "certificate": self.proved.certificate,
            "metrics": {
                "held_out": {"rows": len(self.rows.held_out), **self.metrics[OWN]},
                "baselines": {name: values for name, values in self.metrics.items() if name not in {OWN, CHAMPION}},
            },
            "data": {**data_facts(self.rows, self.config.data.target), **self.memory()},
            "config": self.config.document,
            "packages": packages(),
            "cpu": processor(),
            "files": files,
            **self._run(),
        }

    def _run(self) -> dict[str, str]:
        return {"run_id": self.run_id} if self.run_id else {}


def silent(_line: str) -> None:
    """Say nothing."""


def train(config: TrainingConfig, *, progress: Progress = reporting, tell: Tell = silent, fresh: bool = False) -> Path:
    """Train from scratch, certify and publish; return the published folder.

    The same job that was killed in its training goes on where it was (`checkpoints`).

    Args:
        config: the job.
        progress: opens what is told of the run.
        tell: is told, line by line, what the gradient audit found before the run, and, once the version is published,
            what data and run were like.
        fresh: whether to begin anew where the same job was killed.

    Raises:
        ConfigError: the loss cannot move all variables of the configured network.
        DataError: the data cannot be used.
        DivergenceError: training left the finite numbers.
        LockHeldError: another job trains this model.
        ExportError: TensorFlow cannot write the files.
        PublishError: the models folder cannot be written.
        VersionRefusedError: the trained version is not proved.
    """
    with (
        contextlib.ExitStack() as until_the_end,
        publish.lock(config.publish.models_dir, config.model.name) as folder,
        contextlib.ExitStack() as within_the_lock,
    ):
        objective = create_objective(config)
        rows = read_rows(config, objective)
        model = objective.create_network(config.network, rows.train, config.trainer.seed)
        run = objective.start(model, rows.train, rows.validation, config.trainer)
        check_run(run, rows)
        audited = audit_run(config, run, tell)
        sides = (rows.train, rows.validation)
        saved = within_the_lock.enter_context(checkpoints.kept(config, sides, run, tell, fresh=fresh))
        history = run_fit(config, run, progress, saved)
        with folder.staging() as staged:
            proved = stage_and_prove(model, staged, config, rows)
            metrics = measure(objective, proved, rows, config.trainer.seed)
            result = Result(config, objective, rows, history, audited, proved, metrics, utc_now())
            report.write(result.report(), staged)
            until_the_end.enter_context(publish.uninterrupted())
            version = folder.publish(staged, result.document)
        saved.remove()
        folder.prune(config.publish.keep)
    for line in result.lines():
        tell(line)
    return version.path


def read_rows(config: TrainingConfig, objective: Objective[Any]) -> Rows[Any]:
    """Return the rows of the configured file, checked and split.

    Raises:
        DataError: the file, its columns or its target cannot be used, or a side of a split would be empty.
        VersionRefusedError: `held-out-leak`: a row is not on the side where the rule puts it.
    """
    data = objective.read(config.data)
    objective.check(data)
    percent, salt = config.data.held_out_percent, config.data.salt
    sides = split(data, percent=percent, salt=salt)
    inner = config.trainer.validation_percent
    fitted = validation_split(sides.train, percent=inner, salt=salt)
    for name, side in (("training", fitted.train), ("validation", fitted.held_out), ("held-out", sides.held_out)):
        objective.check(side, name)
    found = {"train": fitted.train, "validation": fitted.held_out, "held_out": sides.held_out}
    leaks.check_sides(data, found, percent=percent, salt=salt, inner=(inner, salt + "/validation"))
    return Rows(data, **found)


def check_run(run: Run, rows: Rows[Any]) -> None:
    """Refuse a run that would train on other rows than the training rows.

    Raises:
        VersionRefusedError: `held-out-leak`.
    """
    subject = run.subject()
    if subject.as_drawn is not None:
        leaks.check_drawn(subject.draw, subject.as_drawn, rows.train, rows.held_out)


def audit_run(config: TrainingConfig, run: Run, tell: Tell = silent) -> Audit:
    """Return what the gradient audit finds of a run before its first step; told line by line.

    Variables whose gradient is zero for every data set are left out of the run's training.

    Raises:
        ConfigError: such a variable is more than a constant without effect, and `objective.untrained` refuses those.
        MissingGradientError: a gradient is None and no rule says why.
    """
    audited = audit.audit(run.subject())
    for line in audited.summary():
        tell(line)
    if refuses(config, audited):
        raise ConfigError(*_refusal(config, audited))
    run.leave_out([one.variable for one in audited.listed])
    return audited


def refuses(config: TrainingConfig, audited: Audit) -> bool:
    """Tell whether a job is refused for what its audit found."""
    return bool(audited.stuck) and config.objective.untrained == "refuse"


def audit_job(config: TrainingConfig) -> Audit:
    """Return what the gradient audit finds of a job, which is not begun: nothing is trained or written.

    Raises:
        DataError: the data cannot be used.
        MissingGradientError: a gradient is None and no rule says why.
    """
    objective = create_objective(config)
    rows = read_rows(config, objective)
    model = objective.create_network(config.network, rows.train, config.trainer.seed)
    return audit.audit(objective.start(model, rows.train, rows.validation, config.trainer).subject())


def _refusal(config: TrainingConfig, audited: Audit) -> tuple[str, str, str]:
    """Return the key that makes variables of the network untrainable, what belongs there, and what was found."""
    network = config.network
    alone = len(network.hidden) == 1 and network.first_activation
    key, value = ("first_activation", alone) if alone else ("activation", network.activation)
    names = ", ".join(one.variable for one in audited.stuck)
    expected = "an activation with a curved graph, such as 'smooth_leaky' or 'softplus'"
    received = f"'{value}', with which no gradient reaches {names}: {audited.stuck[0].rule}"
    return f"network.{key}", expected, f'{received} (objective.untrained = "freeze" trains without them)'


def run_fit(config: TrainingConfig, run: Run, progress: Progress, checkpoint: Checkpoint | None = None) -> History:
    """Take the steps of a run, or those that its checkpoint leaves, told to `progress`, and return the curves."""
    with progress(f"train {config.model.name}", config.trainer.steps, names=run.names) as told:
        return fit(run, config.trainer, told, checkpoint)


def stage_and_prove(
    model: Any, staged: Path, config: TrainingConfig, rows: Rows[Any], between: Callable[[], None] = lambda: None
) -> Proved:
    """Write the version's files, read them back (after `between`), prove them convex and verify that they answer so.

    Raises:
        ExportError: the files cannot be written.
        VersionRefusedError: not proved, or not verified.
    """
    probe = export.stage(model, staged, name=config.model.name, rows=rows.train.x)
    between()
    certified = certify(staged)
    reloaded = export.reload(staged)
    verification = verify(certified.program, reloaded, probe)
    certificate = dict(certified.certificate.to_document(verification.gradient, verification.rounding_margin))
    if certified.support is not None:
        verify_support(certified.support, reloaded.support, probe, certified.program.weights_sha256)
        certificate["support_sha256"] = certified.support.program_sha256
    held_out = answers(certified.program, rows.held_out.x)
    return Proved(certified.program, certificate, held_out, certified.file_signatures[0].outputs)


def answers(program: Program, x: NDArray[np.floating]) -> Answers:
    """Return a program's float32 answers to rows [n, dim], as the server computes them: the same bits."""
    found = compiled.answers(program, np.asarray(x, np.float32), ("score", "gradient"))
    return Answers(found["score"], found["gradient"])


def recoloured(program: Program, data: Data) -> Recoloured | None:
    """Return the source picture's preview, each pixel mapped by the program's gradient, or None without a picture."""
    if not isinstance(data, Samples):
        return None

    def gradient(x: NDArray[np.floating]) -> NDArray[np.floating]:
        rows = np.asarray(x, np.float32)
        return np.asarray(compiled.answers(program, rows, ("gradient",))["gradient"], np.float32)

    return recolour(data, gradient)


def measure(objective: Objective[Any], proved: Proved, rows: Rows[Any], seed: int) -> dict[str, dict[str, float]]:
    """Return the held-out metrics of the version and of the usual models, the version first.

    Raises:
        DataError: a score or gradient left float32, or a metric is not defined.
    """
    if not proved.held_out.are_finite():
        message = "expected finite answers to the held-out rows, received NaN or infinity. Look for extreme values."
        raise DataError(message)
    own = objective.metrics(proved.held_out, rows.held_out)
    return {OWN: own, **objective.baselines(join(rows.train, rows.validation), rows.held_out, seed)}


def _tensor(name: str, features: Sequence[str]) -> dict[str, Any]:
    return {"name": name, "dtype": "float32", "dim": len(features), "features": list(features)}


def utc_now() -> str:
    """Return the time as the manifest writes it."""
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
