"""The domain weight that a SavedModel answers against the program of it: the same numbers, all of them in [0, 1].

Beside `verification`, which does this for score and gradient; above: `service.loader` and training.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from service.errors import VersionRefusedError
from service.program.evaluation import evaluate
from service.program.probe import PROBE_AGREEMENT, Floats, Probe, verification_rows
from service.program.program import Program

Weigh = Callable[[NDArray[np.float32]], Floats]
"""Rows float32 [n, dim] -> weights [n]."""


def verify_support(support: Program, weigh: Weigh, probe: Probe | None, seed: str) -> None:
    """Require that a model's own domain weights are those of the program, within 1e-5, on the verification rows.

    Args:
        support: the program of the domain weight.
        weigh: the SavedModel's function.
        probe: the version's probe, or None for a model made elsewhere.
        seed: hexadecimal text that fixes the rows: the weights' hash of the score's program.

    Raises:
        VersionRefusedError: rule `support`.
    """
    rows = verification_rows(support.width, probe, seed, support.context)
    own = evaluate(support, rows, gradient=False)[0]
    _require(weigh(rows), own, "the program's")
    if probe is not None:
        check_probed_support(weigh, probe)


def check_probed_support(weigh: Weigh, probe: Probe) -> None:
    """Require that the probe's domain weights come out again, within 1e-5.

    Raises:
        VersionRefusedError: rule `support`.
    """
    if probe.support is None:
        raise VersionRefusedError("support", "the model answers support, its probe holds none. Publish it again.")
    _require(weigh(probe.rows), probe.support, "the probe's")


def _require(received: Floats, expected: Floats, whose: str) -> None:
    if received.shape != expected.shape:
        reason = f"{expected.shape[0]} rows are answered by domain weights of shape {list(received.shape)}"
        raise VersionRefusedError("support", reason)
    inside = (received >= 0.0) & (received <= 1.0)  # false for NaN
    if not inside.all():
        raise VersionRefusedError("support", f"a domain weight is {received[~inside][0]:g}, expected 0 to 1")
    difference = float(np.abs(received.astype(np.float64) - expected).max(initial=0.0))
    if not difference <= PROBE_AGREEMENT:
        raise VersionRefusedError("support", f"a domain weight differs from {whose} by {difference:.2g}")
