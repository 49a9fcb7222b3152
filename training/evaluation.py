"""A published version on a data file: its metrics, its answers row by row, and a page of plots.

Below `__main__`; above `pipeline`, which evaluates the program. The version is read, hashed and proved again first,
and its answers are those that a server's program engine gives for the same rows, bit for bit.
"""

import dataclasses
from pathlib import Path

from service.manifest import Manifest, VersionRefusedError
from service.program import Program
from service.program.certification import certify
from training import findings, pipeline, private_copy, report
from training.answers import Answers
from training.config import TrainingConfig, parse_config
from training.datasets import Data, DataError, Samples, data_fingerprint
from training.objectives import create_objective


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluation:
    """A version's answers to the good rows of a file.

    Args:
        manifest: the version's.
        rows: the rows, with their target or the target rows.
        answers: score [n] and gradient [n, dim].
        metrics: of the answers against the target.
        certificate: the proof made now.
        program: what was proved, and what answers.
    """

    manifest: Manifest
    rows: Data
    answers: Answers
    metrics: dict[str, float]
    certificate: dict[str, object]
    program: Program

    @property
    def name(self) -> str:
        """The model and version."""
        return f"{self.manifest.model} version {self.manifest.version}"

    @property
    def dropped(self) -> int:
        """The number of rows that were dropped from the scored file."""
        table = self.rows.source if isinstance(self.rows, Samples) else self.rows
        return sum(table.dropped.values())

    @property
    def target_dropped(self) -> int:
        """The number of target rows that were dropped, 0 where there are none."""
        return sum(self.rows.target.dropped.values()) if isinstance(self.rows, Samples) else 0

    def page(self) -> str:
        """Return the plots as one HTML page."""
        facts = report.TrainingReport(
            title=self.name,
            task=self.manifest.task,
            created=pipeline.utc_now(),
            features=self.rows.features,
            data=data_fingerprint(self.rows),
            metrics={self.name: self.metrics},
            certificate=self.certificate,
            gate=None,
            history=None,
            notes=tuple(findings.of_files(self.rows)),
            config=self.manifest.config,
            made_with={**self.manifest.packages, "processor": self.manifest.cpu},
            answers=self.answers,
            measured=self.rows,
            recoloured=pipeline.recoloured(self.program, self.rows),
        )
        return report.to_html(facts, kind="evaluation report")


def evaluate(path: Path, data: Path, target: str | None = None) -> Evaluation:
    """Return the metrics and answers of the version in `path` on the rows of `data`.

    Args:
        path: a version's folder, with its manifest.
        data: CSV, Parquet or NPY with the version's features and the target; of a transport the source rows, which
            may be a picture or a name of `config.NAMED_SOURCES` too.
        target: name of the target column; by default the one that the version was trained on. Of a transport the
            file of target rows, which has no default.

    Raises:
        VersionRefusedError: the folder is not whole, has no manifest, or is not proved.
        DataError: a file cannot be used.
        ConfigError: a named source that nobody has.
    """
    with private_copy.opened(path) as (folder, manifest):
        if manifest is None:
            reason = (
                "the folder has no manifest.json, so its features and task are unknown. Evaluate a version of ours."
            )
            raise VersionRefusedError("manifest-missing", reason)
        certified = certify(folder)
    config = _job(manifest, data, target)
    objective = create_objective(config)
    rows = objective.read(config.data)
    proof = certified.certificate.to_document("not run", 0.0)  # nothing is executed, so these two are not known
    answers = pipeline.answers(certified.program, rows.x)
    return Evaluation(
        manifest=manifest,
        rows=rows,
        answers=answers,
        metrics=objective.metrics(answers, rows),
        certificate={key: value for key, value in proof.items() if key not in {"gradient", "rounding_margin"}},
        program=certified.program,
    )


def _job(manifest: Manifest, data: Path, target: str | None) -> TrainingConfig:
    """Return the configuration that reads these files as the version's task does."""
    columns = {
        "features": list(manifest.features) or [f"column_{index}" for index in range(manifest.dim)],
        "max_bad_rows_percent": 100.0,
        **({"context": list(manifest.context_features)} if manifest.context_features else {}),
    }
    if manifest.task == "transport":
        if target is None:
            message = "a transport is measured against target rows, received none. Name their file with --target."
            raise DataError(message)
        places = {"source": str(data), "target_file": target}
    else:
        target = target or manifest.data.get("target")
        if not isinstance(target, str):
            message = "the version's manifest names no target column. Name it with --target."
            raise DataError(message)
        places = {"file": str(data), "target": target}
    document = {"model": {"name": manifest.model, "task": manifest.task}, "data": {**places, **columns}}
    return parse_config(document, folder=Path())
