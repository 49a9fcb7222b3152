"""A published version on a data file: its metrics, its answers row by row, and a page of plots.

Below `__main__`; above `pipeline`, which evaluates the program. The version is read, hashed and proved again first,
and its answers are those that a server's program engine gives for the same rows, bit for bit.
"""

import dataclasses
from pathlib import Path

from service.manifest import Manifest, VersionRefusedError
from service.program.certification import certify
from training import export, pipeline, report
from training.answers import Answers
from training.config import parse_config
from training.datasets import DataError, Table
from training.objectives import create_objective


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluation:
    """A version's answers to the good rows of a file.

    Args:
        manifest: the version's.
        table: the rows.
        answers: score [n] and gradient [n, dim].
        metrics: of the scores against the target.
        certificate: the proof made now.
    """

    manifest: Manifest
    table: Table
    answers: Answers
    metrics: dict[str, float]
    certificate: dict[str, object]

    @property
    def name(self) -> str:
        """The model and version."""
        return f"{self.manifest.model} version {self.manifest.version}"

    def page(self) -> str:
        """Return the plots as one HTML page."""
        facts = report.TrainingReport(
            title=self.name,
            task=self.manifest.task,
            created=pipeline.utc_now(),
            features=self.table.features,
            data={"file": self.table.file, "rows": self.table.rows_read, "sha256": self.table.sha256},
            metrics={self.name: self.metrics},
            certificate=self.certificate,
            gate=None,
            history=None,
            notes=(),
            config=self.manifest.config,
            made_with={**self.manifest.packages, "processor": self.manifest.cpu},
            score=self.answers.score,
            target=self.table.y,
        )
        return report.to_html(facts, kind="evaluation report")


def evaluate(path: Path, data: Path, target: str | None = None) -> Evaluation:
    """Return the metrics and answers of the version in `path` on the rows of `data`.

    Args:
        path: a version's folder, with its manifest.
        data: CSV, Parquet or NPY with the version's features and the target.
        target: name of the target column; by default the one that the version was trained on.

    Raises:
        VersionRefusedError: the folder is not whole, has no manifest, or is not proved.
        DataError: the file cannot be used.
    """
    with export.opened(path) as (folder, manifest):
        if manifest is None:
            reason = (
                "the folder has no manifest.json, so its features and task are unknown. Evaluate a version of ours."
            )
            raise VersionRefusedError("manifest-missing", reason)
        certified = certify(folder)
    target = target or manifest.data.get("target")
    if not isinstance(target, str):
        message = "the version's manifest names no target column. Name it with --target."
        raise DataError(message)
    features = manifest.features or [f"column_{index}" for index in range(manifest.dim)]
    columns = {"target": target, "features": list(features), "max_bad_rows_percent": 100.0}
    job = {"model": {"name": manifest.model, "task": manifest.task}, "data": {"file": str(data), **columns}}
    config = parse_config(job, folder=Path())
    objective = create_objective(config)
    table = objective.read(config.data)
    proof = certified.certificate.to_document("not run", 0.0)  # nothing is executed, so these two are not known
    answers = pipeline.answers(certified.program, table.x)
    return Evaluation(
        manifest=manifest,
        table=table,
        answers=answers,
        metrics=objective.metrics(answers, table),
        certificate={key: value for key, value in proof.items() if key not in {"gradient", "rounding_margin"}},
    )
