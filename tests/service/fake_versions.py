"""Live versions for tests without TensorFlow: a linear function as the engine, whose answer names its version."""

import threading
from types import SimpleNamespace

import numpy as np
from numpy.typing import NDArray

from service.model_version import ModelVersion
from service.signature import Signature


class LinearEngine:
    """score = sum(x) + offset, gradient = 1; counts calls and can be held up."""

    name = "program"
    tile_rows = (4,)
    thread_safe = False

    def __init__(self, offset: float = 0.0) -> None:
        self.offset = np.float32(offset)
        self.calls: list[tuple[int, tuple[str, ...]]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()

    def run(self, rows: NDArray[np.float32], outputs: tuple[str, ...]) -> dict[str, NDArray[np.float32]]:
        """Return the wanted outputs, once the gate is open."""
        self.calls.append((len(rows), outputs))
        self.entered.set()
        self.gate.wait(10)
        with np.errstate(over="ignore", invalid="ignore"):
            values = {"score": rows.sum(axis=1, dtype=np.float32) + self.offset, "gradient": np.ones_like(rows)}
        return {name: values[name] for name in outputs}


def make_version(model: str = "m", version: int = 1, *, dim: int = 3, proved: bool = True) -> ModelVersion:
    """Return a live version whose scores are sum(x) + version."""
    manifest = SimpleNamespace(created="2026-11-20T03:00:12Z", task="regression", metrics={"held_out": {"rows": 112}})
    loaded = SimpleNamespace(
        signature=Signature(model=model, version=version, dim=dim),
        convexity="proved" if proved else "unproved",
        certificate=None,
        verification=None,
        manifest=manifest,
    )
    return ModelVersion(loaded, LinearEngine(version))
