"""The manifest's facts of a job's data: file, rows, sides, and each feature's mean and standard deviation.

Below `pipeline`, which writes them; the champion's gate compares the means of the next night with them.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.datasets import Samples, data_fingerprint
from training.evidence import Sides


def data_facts(rows: Sides, target: str) -> dict[str, Any]:
    """Return the manifest's `data`: file, rows, split, and each feature's mean and standard deviation; the context's.

    Of two samples these are the source's, which is what a server gets; the target's file and rows stand beside them.

    Args:
        rows: of the job.
        target: the target column's name; two samples have none.
    """
    train, dim = rows.train.x.astype(np.float64), len(rows.data.features)
    means, deviations = (_rounded(statistic) for statistic in (train.mean(axis=0), train.std(axis=0)))
    beside = {"context_means": means[dim:], "context_deviations": deviations[dim:]} if rows.data.context else {}
    sides = {"train_rows": rows.train, "validation_rows": rows.validation, "held_out_rows": rows.held_out}
    counts = {name: len(side) for name, side in sides.items()}
    of_target = {f"target_{name}": len(side.target) for name, side in sides.items() if isinstance(side, Samples)}
    return {
        **data_fingerprint(rows.data),
        **counts,
        **(of_target or {"target": target}),
        "feature_means": means[:dim],
        "feature_deviations": deviations[:dim],
        **beside,
    }


def _rounded(values: NDArray[np.float64]) -> list[float]:
    """Return numbers with seven digits: enough for a drift, short in a manifest."""
    return [float(f"{value:.7g}") for value in values]
