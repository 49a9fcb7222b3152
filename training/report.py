"""The training report: what was trained on what, how well it does, why it is convex; as JSON and as one HTML page.

Below `pipeline` and `retrain`, which gather the facts. The page is self-contained: no script, no address to load from,
curves as inline SVG; a server may show it under `Content-Security-Policy: sandbox`.
"""

import dataclasses
import html
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from service import manifest
from training.trainer import History

JSON_FILE = "report.json"
HTML_FILE = "report.html"

_BINS = 10
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin-top: 2rem; border-bottom: 1px solid #ccc }
table { border-collapse: collapse; font-variant-numeric: tabular-nums } svg { max-width: 100%; height: auto }
th, td { text-align: left; padding: .2rem .8rem .2rem 0; border-bottom: 1px solid #eee; vertical-align: top }
.yes { color: #17692c } .no { color: #a3171a }
"""


@dataclasses.dataclass(frozen=True)
class TrainingReport:
    """The facts of one run. Everything but the arrays goes into `report.json` as it is.

    Args:
        title: what is reported, e.g. `tumours`.
        task: the task.
        created: UTC time.
        data: facts of the data file.
        metrics: for each row of the table (this version, champion, baselines) its held-out metrics.
        certificate: the manifest's `certificate`, or None where nothing was proved yet.
        gate: the gate's report, or None where there was none.
        history: the training curves, or None.
        notes: sentences worth reading: bad rows, constant columns, a cold start.
        score: [n], held-out scores.
        target: [n], held-out targets.
    """

    title: str
    task: str
    created: str
    data: Mapping[str, Any]
    metrics: Mapping[str, Mapping[str, float]]
    certificate: Mapping[str, Any] | None
    gate: Mapping[str, Any] | None
    history: History | None
    notes: Sequence[str]
    score: NDArray[np.floating]
    target: NDArray[np.floating]


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
        if field.name not in {"history", "score", "target", "notes"}
    }
    document["notes"] = list(report.notes)
    document["history"] = None if report.history is None else dataclasses.asdict(report.history)
    if report.task == "classification":
        document["calibration"] = calibration(report.score, report.target)
    plain: dict[str, Any] = _plain(document)
    return plain


def calibration(score: NDArray[np.floating], target: NDArray[np.floating]) -> list[dict[str, float]]:
    """Return, for each tenth of the probability sigmoid(score) that has rows: mean probability, share of ones, rows."""
    probability = 0.5 * (1.0 + np.tanh(0.5 * score.astype(np.float64)))
    bins = np.minimum((probability * _BINS).astype(int), _BINS - 1)
    return [
        {
            "probability": float(probability[bins == place].mean()),
            "share": float(target[bins == place].mean()),
            "rows": int((bins == place).sum()),
        }
        for place in range(_BINS)
        if (bins == place).any()
    ]


def to_html(report: TrainingReport, kind: str = "training report") -> str:
    """Return the page, with its kind in the title."""
    title = f"{report.title}: {kind}"
    parts = [
        f"<h1>{html.escape(title)}</h1>",
        f"<p>{html.escape(report.task)}, {html.escape(report.created)} (UTC)</p>",
    ]
    parts += [f"<p>{html.escape(note)}</p>" for note in report.notes]
    parts += ["<h2>Held-out metrics</h2>", _metrics_table(report.metrics)]
    if report.gate is not None:
        parts += ["<h2>Gate</h2>", _gate(report.gate)]
    if report.history is not None:
        parts += ["<h2>Training</h2>", _curves(report.history)]
    if report.task == "classification":
        parts += ["<h2>Calibration on held-out rows</h2>", _calibration_plot(report)]
    else:
        parts += ["<h2>Held-out scores and targets</h2>", _scatter(report)]
    if report.certificate is not None:
        parts += ["<h2>Why it is convex</h2>", _certificate(report.certificate)]
    parts += [
        "<h2>Data</h2>",
        _facts({key: value for key, value in report.data.items() if not isinstance(value, list)}),
    ]
    body = "\n".join(parts)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{_STYLE}</style></head>\n<body>\n{body}\n</body></html>\n"
    )


def _plain(value: Any) -> Any:
    """Return `value` as JSON holds it: tuples as lists, NumPy numbers as Python's, no NaN."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _cell(value: Any) -> str:
    """Return a value as a table shows it."""
    if isinstance(value, float):
        return f"{value:.6g}"
    return "-" if value is None else html.escape(str(value))


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    first = "".join(f"<th>{html.escape(name)}</th>" for name in head)
    lines = ["<tr>" + "".join(f"<td>{_cell(value)}</td>" for value in row) + "</tr>" for row in rows]
    return f"<table><tr>{first}</tr>\n" + "\n".join(lines) + "</table>"


def _facts(facts: Mapping[str, Any]) -> str:
    return _table(("fact", "value"), [(key.replace("_", " "), value) for key, value in facts.items()])


def _metrics_table(metrics: Mapping[str, Mapping[str, float]]) -> str:
    names = list(dict.fromkeys(name for row in metrics.values() for name in row))
    rows = [(who, *(row.get(name) for name in names)) for who, row in metrics.items()]
    return _table(("", *(name.replace("_", " ") for name in names)), rows)


def _gate(gate: Mapping[str, Any]) -> str:
    word, kind = ("passed", "yes") if gate["passed"] else ("refused", "no")
    reasons = "".join(f"<li>{html.escape(reason)}</li>" for reason in gate["reasons"])
    facts = _facts({key: value for key, value in gate.items() if key not in {"passed", "reasons"}})
    return f'<p class="{kind}"><strong>{word}</strong></p><ul>{reasons}</ul>{facts}'


def _certificate(certificate: Mapping[str, Any]) -> str:
    steps = [
        (number, step["node"], step["rule"].replace("-", " "), step["curvature"], step.get("min_weight"))
        for number, step in enumerate(certificate["steps"], start=1)
    ]
    table = _table(("step", "node", "rule", "curvature", "smallest weight"), steps)
    facts = _facts({key: value for key, value in certificate.items() if not isinstance(value, list)})
    return f"<p>Each step follows from those above it; together they prove the score convex in x.</p>{table}<br>{facts}"


def _curves(history: History) -> str:
    figure = Figure(figsize=(7.5, 3.2), layout="constrained")
    axes = figure.subplots()
    axes.plot(history.steps, history.train_loss, label="training")
    axes.plot(history.steps, history.validation_loss, label="validation")
    axes.axvline(history.best_step, color="grey", linestyle=":", label="best")
    if min(*history.train_loss, *history.validation_loss) > 0:
        axes.set_yscale("log")
    axes.set(xlabel="step", ylabel="loss")
    axes.legend()
    end = "stopped early" if history.stopped_early else "the whole budget"
    return f"{_svg(figure)}<p>Best at step {history.best_step} of {history.steps[-1]} taken ({end}).</p>"


def _calibration_plot(report: TrainingReport) -> str:
    bins = calibration(report.score, report.target)
    figure = Figure(figsize=(4, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="grey", linestyle=":")
    axes.plot([entry["probability"] for entry in bins], [entry["share"] for entry in bins], marker="o")
    axes.set(xlabel="probability of label 1", ylabel="share of label 1", xlim=(0, 1), ylim=(0, 1))
    return _svg(figure)


def _scatter(report: TrainingReport) -> str:
    step = max(1, len(report.target) // 1000)
    figure = Figure(figsize=(4, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot(report.target[::step], report.score[::step], ".", markersize=3)
    axes.set(xlabel="target", ylabel="score")
    return _svg(figure)


def _svg(figure: Figure) -> str:
    """Return the figure as an SVG element; equal figures give equal text."""
    buffer = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": "convex-scoring", "svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]
