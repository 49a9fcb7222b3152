"""The figures of a training report: SVG elements that need no script and load nothing.

Below `report`, which places them; equal data give equal text.
"""

import html
import io
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from numpy.typing import NDArray
from sklearn.metrics import roc_curve

from training.objectives.classification import calibration
from training.trainer import History

Floats = NDArray[np.floating]

_BLUE, _RED, _GREY = "#2b6cb0", "#c05621", "#8a8f98"
_COLORS = (_BLUE, _RED, "#2f855a", "#6b46c1", _GREY)
_MAX_POINTS = 2000
_CLOUD_POINTS = 600
_LARGEST_MARK = 160.0
_SETTINGS: Any = {
    "svg.hashsalt": "convex-scoring",
    "svg.fonttype": "none",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10,
    "legend.frameon": False,
}


def curves(history: History, loss: str) -> str:
    """Return training and validation loss by step, with the step whose weights were kept.

    Args:
        history: of the run.
        loss: what the loss is, with its unit, for the axis.
    """
    with mpl.rc_context(_SETTINGS):
        figure = Figure(figsize=(9.6, 3.2), layout="constrained")
        axes = figure.subplots()
        axes.plot(history.steps, history.train_loss, color=_BLUE, label="training")
        axes.plot(history.steps, history.validation_loss, color=_RED, label="validation")
        axes.axvline(history.best_step, color=_GREY, linestyle=":", label=f"kept: step {history.best_step}")
        _log_scale(axes, (history.train_loss, history.validation_loss))
        axes.set(xlabel="step", ylabel=loss)
        axes.legend()
        return _svg(figure, "Training and validation loss by step")


def map_curves(history: History) -> str:
    """Return the curves of a transport: the minimax's estimate, the distances that its maps leave, and the rest.

    Args:
        history: `validation_loss` is the map's distance; `curves` may have `inverse_w2_squared` and others.
    """
    others = dict(history.curves)
    distances = {"map": history.validation_loss}
    if "inverse_w2_squared" in others:
        distances["inverse map"] = others.pop("inverse_w2_squared")
    panels = [
        ({"training batches": history.train_loss}, "estimate of half W2 squared", ""),
        (distances, "W2 squared that is left", "validation rows"),
        ({name.replace("_", " "): curve for name, curve in others.items()}, "penalty and gradient norms", ""),
    ]
    panels = [panel for panel in panels if panel[0]]
    with mpl.rc_context(_SETTINGS):
        figure = Figure(figsize=(9.6, 3.2), layout="constrained")
        for axes, (found, what, title) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
            for (name, curve), color in zip(found.items(), _COLORS, strict=False):
                axes.plot(history.steps, curve, color=color, label=name)
            axes.axvline(history.best_step, color=_GREY, linestyle=":")
            if found is distances:
                _log_scale(axes, tuple(found.values()))
            axes.set(xlabel="step", ylabel=what, title=title)
            axes.legend()
        return _svg(figure, "The minimax's estimate, and the distances that its maps leave, by step")


def maps(source: Floats, mapped: Floats, target: Floats, features: Sequence[str]) -> str:
    """Return source and target rows, and mapped and target rows, in the two features that vary most.

    Args:
        source: [n, d].
        mapped: [n, d], where each source row goes.
        target: [m, d].
        features: names, [d]. A single one is drawn as histograms.
    """
    chosen = np.sort(np.argsort(-np.var(np.concatenate([source, target]), axis=0), kind="stable")[:2])
    names = [features[column] for column in chosen]
    with mpl.rc_context(_SETTINGS):
        figure = Figure(figsize=(9.6, 4.2), layout="constrained")
        panels = figure.subplots(1, 2, sharex=True, sharey=len(names) > 1)
        for axes, rows, title in zip(panels, (source, mapped), ("source", "mapped source"), strict=True):
            for points, color, label in ((target, _RED, "target"), (rows, _BLUE, title)):
                some = points[:: max(1, len(points) // _CLOUD_POINTS), chosen]
                if len(names) == 1:
                    axes.hist(some[:, 0], bins=_bins(len(some)), color=color, alpha=0.5, density=True, label=label)
                else:
                    axes.plot(*some.T, ".", color=color, markersize=3, alpha=0.4, label=label, rasterized=True)
            axes.set(title=f"{title} and target", xlabel=names[0], ylabel=names[1] if len(names) > 1 else "density")
            axes.legend()
        return _svg(figure, "Source, mapped and target rows in the features that vary most")


def classes(score: Floats, target: Floats) -> str:
    """Return the scores of both classes with the threshold, the ROC curve, and the calibration by tenths.

    Args:
        score: [n].
        target: [n], 0 or 1.
    """
    with mpl.rc_context(_SETTINGS):
        figure = Figure(figsize=(9.6, 3.2), layout="constrained")
        left, middle, right = figure.subplots(1, 3)
        _histograms(left, score, target)
        if len(np.unique(target)) > 1:
            false_positives, true_positives, _ = roc_curve(target, score)
            middle.plot(false_positives, true_positives, color=_BLUE, clip_on=False)
        middle.plot([0, 1], [0, 1], color=_GREY, linestyle=":")
        middle.set(title="ROC curve", xlabel="false positive rate", ylabel="true positive rate")
        middle.set(xlim=(0, 1), ylim=(0, 1))
        _calibration(right, score, target)
        return _svg(figure, "Scores by class, ROC curve and calibration")


def residuals(score: Floats, target: Floats) -> str:
    """Return scores against targets, and the distribution of their differences.

    Args:
        score: [n], in the target's unit.
        target: [n].
    """
    with mpl.rc_context(_SETTINGS):
        figure = Figure(figsize=(9.6, 3.4), layout="constrained")
        left, right = figure.subplots(1, 2)
        step = max(1, len(target) // _MAX_POINTS)
        ends = [float(target.min()), float(target.max())]
        left.plot(ends, ends, color=_GREY, linestyle=":")
        left.plot(target[::step], score[::step], ".", color=_BLUE, markersize=4, alpha=0.7)
        left.set(title="score against target", xlabel="target", ylabel="score")
        right.hist(score - target, bins=_bins(len(target)), color=_BLUE, alpha=0.7)
        right.axvline(0.0, color=_GREY, linestyle=":")
        right.set(title="errors", xlabel="score - target", ylabel="rows")
        return _svg(figure, "Scores against targets, and the errors")


def _histograms(axes: Axes, score: Floats, target: Floats) -> None:
    """Draw both classes' scores; the outermost hundredth at each end is gathered in the last bars."""
    low, high = np.quantile(score, [0.01, 0.99])
    inside = np.clip(score, low, high)
    edges = np.linspace(low, max(high, low + 1e-9), _bins(len(score)) + 1)
    for label, color in ((0, _BLUE), (1, _RED)):
        axes.hist(inside[target == label], bins=edges.tolist(), color=color, alpha=0.6, label=f"label {label}")
    axes.axvline(0.0, color=_GREY, linestyle=":", label="threshold")
    axes.set(title="scores by class", xlabel="score", ylabel="rows")
    axes.legend()


def _calibration(axes: Axes, score: Floats, target: Floats) -> None:
    """Draw the share of label 1 by tenths of the probability, each mark as large as its tenth has rows."""
    tenths = calibration(score, target)
    size = [_LARGEST_MARK * tenth["rows"] / max(entry["rows"] for entry in tenths) + 6 for tenth in tenths]
    across, up = ([tenth[key] for tenth in tenths] for key in ("probability", "share"))
    axes.plot([0, 1], [0, 1], color=_GREY, linestyle=":")
    axes.scatter(across, up, s=size, color=_BLUE, alpha=0.7, clip_on=False)
    axes.set(title="calibration", xlabel="probability of label 1", ylabel="share of label 1", xlim=(0, 1), ylim=(0, 1))


def _log_scale(axes: Axes, curves: Sequence[Sequence[float]]) -> None:
    """Use a logarithmic scale with plain numbers, where every value has a logarithm."""
    if min(min(curve) for curve in curves) <= 0:
        return
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _bins(rows: int) -> int:
    """Return a number of bars that suits a number of rows."""
    return int(np.clip(np.sqrt(rows), 8, 40))


def _svg(figure: Figure, label: str) -> str:
    """Return the figure as an SVG element with a label for readers who do not see it."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :].replace("<svg", f'<svg role="img" aria-label="{html.escape(label)}"', 1)
