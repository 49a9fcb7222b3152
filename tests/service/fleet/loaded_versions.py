"""Loaded versions made of numbers: no model, no proof."""

import numpy as np

from service.loader import LoadedVersion
from service.program.verification import Probe
from service.signature import Signature


def loaded_version(model="m", version=1, *, dim=3):
    """Return a loaded version without a program, whose probe has 16 rows of ones."""
    rows = np.ones((16, dim), np.float32)
    return LoadedVersion(
        Signature(model, version, dim),
        None,
        {"saved_model.pb": b"bytes"},
        Probe(rows, rows[:, 0] * version, rows),
        None,
        None,
        None,
    )
