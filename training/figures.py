"""What a report says and shows of each task: words on score and metrics, and the figures of answers and training.

Below `report`, which places them; over `plots`, which draws, and `pictures`.
"""

import html
from collections.abc import Iterator, Mapping

from training import plots
from training.answers import Answers
from training.datasets import Data, Samples
from training.objectives.transport import DRAWS, FLOOR, draw_rows
from training.pictures import Recoloured, to_address
from training.trainer import History

MEANINGS: Mapping[str, str] = {
    "classification": "The score is the log-odds of label 1: its probability is 1 / (1 + exp(-score)). Rows with a "
    "score of at most 0, the threshold, form a convex region: whatever lies between two of them is in it.",
    "regression": "The score is an estimate of the target, in the target's own unit.",
    "transport": "The gradient of the score is a map: it takes a source row to where it belongs among the target rows, "
    "in their unit. The score is the map's potential, 0 at the mean of the source's training rows; its unit is that of "
    "the features, squared. The gradient of a convex function moves rows at the least cost to wherever it leads; how "
    "near to the target that is, the metrics say.",
}
"""What the score of a task is, as text without markup."""

_METRICS = {
    "classification": "Log loss in nats; Brier: mean squared error of the probability; calibration error: mean gap "
    "between probability and share of label 1 over ten bins; accuracy at the threshold.",
    "regression": "R2: share of the variance that is explained; RMSE and MAE in the target's unit.",
}
_LOSSES = {"classification": "logistic loss (nats)", "regression": "squared error / variance"}


def metrics_note(task: str, measured: Data) -> str:
    """Return what the metrics of a task are."""
    if not isinstance(measured, Samples):
        return _METRICS[task]
    return (
        "W2 squared: the exact squared Wasserstein-2 distance (no factor one half) between mapped source rows and "
        f"target rows, mean over {DRAWS} draws of {draw_rows(measured)} rows a side, in the features' unit squared; "
        "W2: its root, in their unit; W2-UVP: W2 squared in percent of the target's variance; transport cost: mean "
        "squared length of the moves, not good or bad in itself. "
        f"{FLOOR.capitalize()}: what is left between target rows and as many others, so no map should do better."
    )


def of_answers(task: str, answers: Answers, measured: Data, recoloured: Recoloured | None) -> Iterator[str]:
    """Yield the figures of a version's answers to the measured rows, as HTML elements.

    Args:
        task: the task.
        answers: score [n] and gradient [n, d].
        measured: the rows, with their target or the target rows.
        recoloured: photographs, where the rows are pixels of one.
    """
    if isinstance(measured, Samples):
        if recoloured is not None:
            yield _photographs(recoloured)
        yield plots.maps(measured.x, answers.gradient, measured.target.x, measured.features)
    else:
        drawing = plots.classes if task == "classification" else plots.residuals
        yield drawing(answers.score, measured.y)


def of_training(task: str, history: History) -> str:
    """Return the training curves."""
    return plots.map_curves(history) if task == "transport" else plots.curves(history, _LOSSES[task])


def _photographs(recoloured: Recoloured) -> str:
    """Return the photographs side by side, each with what it is."""
    found = [("source", recoloured.source), ("source, each pixel mapped by the gradient", recoloured.mapped)]
    if recoloured.target is not None:
        found.append(("target", recoloured.target))
    cells = "".join(
        f'<figure><img src="{to_address(pixels)}" alt="{html.escape(words)}">'
        f"<figcaption>{html.escape(words)}</figcaption></figure>"
        for words, pixels in found
    )
    return f'<div class="pictures">{cells}</div>'
