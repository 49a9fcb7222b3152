"""The training report: what was trained on what, how well it does, why it is convex; as JSON and as one HTML page.

Below `pipeline` and `retrain`, which gather the facts; `figures` has each task's words and figures. The page is
self-contained: no script, no address to load from, figures inline; a server may show it under
`Content-Security-Policy: sandbox`.
"""

import dataclasses
import html
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from service import manifest
from training import figures
from training.answers import Answers
from training.config import HIGHER_IS_BETTER, METRICS
from training.datasets import Data, Table
from training.objectives.classification import calibration
from training.objectives.transport import FLOOR
from training.pictures import Recoloured
from training.trainer import History

JSON_FILE = "report.json"
HTML_FILE = "report.html"

_STYLE = """
:root { color-scheme: light }
body { font: 15px/1.55 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1.2rem;
  color: #1f2933; background: #fff }
h1 { font-size: 1.6rem; margin-bottom: 0 } h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem }
h1 + p, .small { color: #616e7c; font-size: .9rem } svg { max-width: 100%; height: auto }
.lead { font-size: 1.05rem; border-left: 4px solid #2b6cb0; padding: .2rem 0 .2rem .9rem }
.note { background: #fff8e1; border-left: 4px solid #d69e2e; padding: .3rem .9rem; margin: .5rem 0 }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .92rem }
th, td { text-align: left; padding: .25rem 1.1rem .25rem 0; border-bottom: 1px solid #e4e7eb; vertical-align: top }
th { color: #616e7c; font-weight: 600 } td { overflow-wrap: anywhere } .best { font-weight: 700 }
.yes { color: #17692c } .no { color: #a3171a } summary { cursor: pointer; color: #2b6cb0 }
.pictures { display: flex; flex-wrap: wrap; gap: .8rem; margin: 1rem 0 } figure { margin: 0; flex: 1 1 14rem }
img { max-width: 100%; height: auto; border-radius: 4px } figcaption { color: #616e7c; font-size: .85rem }
"""

_MORE, _LESS = "↑", "↓"
_DRIFTS = {"data": "Tonight's rows beside the champion's", "target_data": "Tonight's target rows beside the champion's"}
_SHOWN, _MOST = 12, 2000
_NAMES = {
    "roc_auc": "ROC-AUC",
    "brier": "Brier",
    "r2": "R2",
    "rmse": "RMSE",
    "mae": "MAE",
    "w2_uvp": "W2-UVP %",
    "w2_squared": "W2 squared",
    "w2": "W2",
}
_FACTS = {
    "strong_convexity": "strong convexity m, for raw features: f(z) >= f(x) + <g, z - x> + m/2 |z - x|^2",
    "rounding_margin": "rounding margin: largest float32 rounding error seen, as a share of max(1, |score|)",
    "gradient": "gradient of the file against the program's",
    "difference": "difference, positive where the challenger is better",
    "standard_error": "standard error of the difference",
    "score_drift": "score drift: mean difference of scores over the champion's standard deviation",
    "gradient_ratio": "median gradient norm over the champion's",
    "data_drift": "largest shift of a feature's mean, in standard deviations of the champion's training rows",
    "recorded": "champion when it was published",
    "champion_error": "standard error of the champion",
    "floor": "what a perfect version would have, by the number of rows",
    "recorded_floor": "the same when the champion was published",
    "recorded_rows": "held-out rows when the champion was published",
    "fallen": "worse than the best version before it, added up over the nights",
    "surprise": "champion's error on new rows above that on its own night's, in standard errors",
    "leak": "challenger's loss on held-out rows below that on validation rows, in standard errors",
    "gain_leak": "the same of what it gained on the champion",
    "loss_errors": "challenger's loss on held-out rows above the champion's, in standard errors",
    "near_copies_percent": "held-out rows with a near copy among training rows, percent",
    "looked_at": "rows that were compared with the champion's one by one",
    "rows_before": "the champion's rows",
    "new": "rows that the champion had not",
    "relabelled": "rows that the champion had with another target",
    "gone": "rows of the champion that are not there tonight",
    "heaviest": "how often the most frequent row is there",
}


@dataclasses.dataclass(frozen=True)
class TrainingReport:
    """The facts of one run. Everything but the arrays goes into `report.json` as it is.

    Args:
        title: what is reported, e.g. `tumours`.
        task: the task.
        created: UTC time.
        features: names of the features, in order.
        data: facts of the data file.
        metrics: for each row of the table (this version, champion, baselines) its held-out metrics.
        certificate: the manifest's `certificate`, or None where nothing was proved yet.
        gate: the gate's report, or None where there was none.
        history: the training curves, or None.
        notes: sentences worth reading: bad rows, constant columns, a cold start.
        config: the job's TOML.
        made_with: packages and processor.
        answers: to the measured rows.
        measured: those rows, with their target or the target rows.
        recoloured: photographs, where the rows are pixels of one.
        gradient_audit: what the gradient audit found before the run, or None where there was none.
    """

    title: str
    task: str
    created: str
    features: Sequence[str]
    data: Mapping[str, Any]
    metrics: Mapping[str, Mapping[str, float]]
    certificate: Mapping[str, Any] | None
    gate: Mapping[str, Any] | None
    history: History | None
    notes: Sequence[str]
    config: Mapping[str, Any]
    made_with: Mapping[str, str]
    answers: Answers
    measured: Data
    recoloured: Recoloured | None = None
    gradient_audit: Mapping[str, Any] | None = None


def write(report: TrainingReport, folder: Path) -> None:
    """Write `report.json` and `report.html` into `folder`.

    Raises:
        OSError: the folder cannot be written.
    """
    (folder / JSON_FILE).write_bytes(manifest.canonical_json(to_document(report)))
    (folder / HTML_FILE).write_text(to_html(report), encoding="utf-8")


def to_document(report: TrainingReport) -> dict[str, Any]:
    """Return the report as JSON values; numbers that are not finite become None."""
    document: dict[str, Any] = {
        field.name: getattr(report, field.name)
        for field in dataclasses.fields(report)
        if field.name not in {"history", "answers", "measured", "recoloured"}
    }
    document["history"] = None if report.history is None else dataclasses.asdict(report.history)
    if report.task == "classification" and isinstance(report.measured, Table):
        document["calibration"] = calibration(report.answers.score, report.measured.y)
    plain: dict[str, Any] = _plain(document)
    return plain


def summary(metrics: Mapping[str, Mapping[str, float]], rows: int, *, kind: str) -> str:
    """Return one sentence with the first metric of each: this version, champion, baselines.

    Args:
        metrics: as of `TrainingReport`.
        rows: how many rows were measured.
        kind: what rows they are: `held-out `, or empty.
    """
    (_, own), *others = metrics.items()
    metric = next(iter(own))
    found = f"{_name(metric)} {_short(own[metric])} on {rows} {kind}rows"
    beside = ", ".join(f"{who} {_short(values[metric])}" for who, values in others if metric in values)
    return f"{found} ({beside})" if beside else found


def to_html(report: TrainingReport, kind: str = "training report") -> str:
    """Return the page, with its kind in the title."""
    title = html.escape(f"{report.title}: {kind}")
    body = "\n".join(_parts(report, title))
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width"><title>{title}</title>'
        f"<style>{_STYLE}</style></head>\n<body>\n{body}\n</body></html>\n"
    )


def _parts(report: TrainingReport, title: str) -> Iterator[str]:
    """Yield the page's elements from top to bottom."""
    measured = "held-out " if report.history is not None else ""
    yield f"<h1>{title}</h1>"
    yield f"<p>{html.escape(report.task)} · {html.escape(report.created)}</p>"
    lead = summary(report.metrics, len(report.measured), kind=measured)
    if report.gate is not None and not report.gate["passed"]:
        lead = f"Refused by the gate, nothing was published. {lead}"
    if report.certificate is not None:
        lead += f". The score is proved convex in {_features(report)}, in {len(report.certificate['steps'])} steps"
    yield f'<p class="lead">{html.escape(lead)}.</p><p>{html.escape(figures.MEANINGS[report.task])}</p>'
    yield from (f'<p class="note">{html.escape(note)}</p>' for note in report.notes)
    if report.gate is not None:
        yield f"<h2>Gate</h2>{_gate(report.gate)}"
    yield f"<h2>Metrics on {len(report.measured)} {measured}rows</h2>{_metrics_table(report.task, report.metrics)}"
    note = html.escape(figures.metrics_note(report.task, report.measured))
    yield f'<p class="small">{_MORE} more is better, {_LESS} less is better. {note}</p>'
    yield from figures.of_answers(report.task, report.answers, report.measured, report.recoloured)
    if report.history is not None:
        yield f"<h2>Training</h2>{figures.of_training(report.task, report.history)}"
        yield f'<p class="small">{_end(report.history)}</p>'
    if report.gradient_audit is not None:
        yield f"<h2>What is trained</h2>{_gradients(report.gradient_audit)}"
    if report.certificate is not None:
        yield f"<h2>Why it is convex</h2>{_certificate(report.certificate)}"
    yield f"<h2>Data</h2>{_facts({k: v for k, v in report.data.items() if not isinstance(v, list)})}"
    yield _feature_table(report)
    yield f"<h2>Configuration</h2>{_facts(_flat(report.config))}"
    yield f"<h2>Made with</h2>{_facts(report.made_with)}"


def _plain(value: Any) -> Any:
    """Return `value` as JSON holds it: tuples as lists, NumPy numbers as Python's, no NaN."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _name(metric: str) -> str:
    return _NAMES.get(metric, metric.replace("_", " "))


def _features(report: TrainingReport) -> str:
    count = len(report.features)
    return f"{count} features" if count != 1 else "its one feature"


def _end(history: History) -> str:
    """Return why the run ended where it did."""
    if not history.chosen:
        return f"All {history.steps[-1]} steps were taken, and the last weights kept."
    why = "no better validation loss since" if history.stopped_early else "the whole budget"
    return f"The weights of step {history.best_step} were kept; {history.steps[-1]} steps were taken: {why}."


def _cell(value: Any) -> str:
    """Return a value as a table shows it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    return "-" if value is None else html.escape(str(value))


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    first = "".join(f"<th>{html.escape(name)}</th>" for name in head)
    lines = ["<tr>" + "".join(f"<td>{_cell(value)}</td>" for value in row) + "</tr>" for row in rows]
    return f"<table><tr>{first}</tr>\n" + "\n".join(lines) + "</table>"


def _facts(facts: Mapping[str, Any]) -> str:
    return _table(("fact", "value"), [(_FACTS.get(key, key.replace("_", " ")), value) for key, value in facts.items()])


def _flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a TOML document as `section.key` to value."""
    return {
        f"{section}.{key}": value
        for section, keys in config.items()
        if isinstance(keys, Mapping)
        for key, value in keys.items()
    }


def _metrics_table(task: str, metrics: Mapping[str, Mapping[str, float]]) -> str:
    """Return who does how well, the best of each metric marked: of models only, and only where one can be better."""
    names = list(dict.fromkeys(name for row in metrics.values() for name in row))
    rivals = [row for who, row in metrics.items() if who != FLOOR]
    best = {}
    for name in set(names) & set(METRICS[task]):
        values = [row[name] for row in rivals if name in row and math.isfinite(row[name])]
        best[name] = (max if name in HIGHER_IS_BETTER else min)(values) if len(values) > 1 else None
    arrows = {name: f" {_MORE if name in HIGHER_IS_BETTER else _LESS}" for name in best}
    head = [f"{_name(name)}{arrows.get(name, '')}" for name in names]
    lines = [f"<tr><th></th>{''.join(f'<th>{html.escape(name)}</th>' for name in head)}</tr>"]
    for who, row in metrics.items():
        cells = "".join(_number(row.get(name), None if who == FLOOR else best.get(name)) for name in names)
        lines.append(f"<tr><td>{html.escape(who)}</td>{cells}</tr>")
    return "<table>" + "\n".join(lines) + "</table>"


def _number(value: float | None, best: float | None) -> str:
    """Return a metric's cell, the best of its column in bold."""
    if value is None:
        return "<td>-</td>"
    return f'<td class="best">{_short(value)}</td>' if value == best else f"<td>{_short(value)}</td>"


def _short(value: float) -> str:
    """Return a number with four digits, one of up to seven places before the point without a power of ten."""
    return f"{value:.0f}" if 1e4 <= abs(value) < 1e7 else f"{value:.4g}"


def _gate(gate: Mapping[str, Any]) -> str:
    word, kind = ("passed", "yes") if gate["passed"] else ("refused", "no")
    reasons = "".join(f"<li>{html.escape(reason)}</li>" for reason in gate["reasons"])
    warnings = "".join(f'<p class="note">{html.escape(line)}</p>' for line in gate.get("warnings", ()))
    facts = _facts({key: value for key, value in gate.items() if _is_fact(key, value)})
    seen = gate.get("evidence") or {}
    notes = "".join(f'<p class="small">{html.escape(note)}</p>' for note in seen.get("notes", ()))
    more = _facts({key: value for key, value in seen.items() if _is_fact(key, value)}) if seen else ""
    tables = "".join(_drift(seen[key], title) for key, title in _DRIFTS.items() if seen.get(key))
    return f'<p class="{kind}"><strong>{word}</strong></p><ul>{reasons}</ul>{warnings}{facts}<br>{more}{notes}{tables}'


def _is_fact(key: str, value: Any) -> bool:
    """Tell whether a key of the gate's document is a line of a table of facts."""
    return not isinstance(value, Mapping | list | tuple) and key not in {"passed", "evidence", "data", "target_data"}


def _drift(drift: Mapping[str, Any], title: str) -> str:
    """Return how far the rows drifted: facts, and the columns by their stability index, all but the first folded."""
    head = ("column", "rows", "stability index", "allowed", "outside of the range, percent", "missing, percent", "mean")
    rows = [
        (
            one["column"],
            one["compared"],
            one["psi"],
            one["psi_limit"],
            one["outside_percent"],
            one["bad_percent"],
            one["mean"],
        )
        for one in drift["columns"]
    ]
    table = _table(head, rows[:_SHOWN])
    rest = f"<details><summary>{len(rows) - _SHOWN} more</summary>{_table(head, rows[_SHOWN:_MOST])}</details>"
    facts = _facts({key: value for key, value in drift.items() if _is_fact(key, value)})
    return f"<h2>{html.escape(title)}</h2>{facts}<br>{table}{rest if len(rows) > _SHOWN else ''}"


def _certificate(certificate: Mapping[str, Any]) -> str:
    steps = [
        (number, step["node"], step["rule"].replace("-", " "), step["curvature"], step.get("min_weight"))
        for number, step in enumerate(certificate["steps"], start=1)
    ]
    table = _table(("step", "node", "rule", "curvature", "smallest weight"), steps)
    facts = _facts({key: value for key, value in certificate.items() if not isinstance(value, list)})
    claim = html.escape("f(z) >= f(x) + <g, z - x>")
    return (
        "<p>Each step follows from those above it; together they prove, from this version's files, that the score f is "
        f"convex: {claim} for all rows x and z, g the gradient at x.</p>{table}<br>{facts}"
    )


def _gradients(audit: Mapping[str, Any]) -> str:
    """Return the variables with what becomes of them; reason and cure of those without a gradient."""
    rows = [
        (one["variable"], one["answer"], one["largest"], one["rule"], f"{one['reason']} {one['cure']}".strip())
        for one in audit["variables"]
    ]
    silent = [row for row in rows if row[-1]]
    table = _table(("variable", "gradient", "largest", "what becomes of it", "why, and what helps"), silent)
    rest = (
        f"<p>{len(rows) - len(silent)} of {len(rows)} trainable variables get a gradient: by the operations between "
        f"them and the loss, and by numbers over {audit['draws']} draws of the weights and {audit['batches']} batches."
    )
    return f"{rest}</p>{table if silent else ''}"


def _feature_table(report: TrainingReport) -> str:
    """Return each feature's mean and standard deviation in the training rows, folded."""
    means, deviations = report.data.get("feature_means"), report.data.get("feature_deviations")
    if not means or not deviations:
        return ""
    rows = list(zip(report.features, means, deviations, strict=True))
    table = _table(("feature", "mean", "standard deviation"), rows)
    return f"<details><summary>{_features(report)} in the training rows</summary>{table}</details>"
