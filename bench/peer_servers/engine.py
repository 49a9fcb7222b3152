"""The engine of the reference model, for a peer: the very one that our server computes with.

In the peer's own environment, which has no TensorFlow: `peers` writes the lifted program to the file that `PROGRAM`
names, and the environment variable says where.
"""

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from service.engines.program import ProgramEngine

PROGRAM = "CONVEX_BENCH_PROGRAM"
MODEL = "CONVEX_BENCH_MODEL"

Run = Callable[[NDArray[np.float32]], tuple[NDArray[np.float32], NDArray[np.float32]]]


def load() -> Run:
    """Return a function of rows, float32 [n, dim], that gives score [n] and gradient [n, dim]."""
    engine = ProgramEngine(pickle.loads(Path(os.environ[PROGRAM]).read_bytes()))  # noqa: S301  (our own file)

    def run(rows: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        outputs = engine.run(rows, ("score", "gradient"))
        return outputs["score"], outputs["gradient"]

    return run
