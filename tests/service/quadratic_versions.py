"""Live versions in closed form, and a service around them: score = 1/2 |x|^2 * version, gradient = x * version."""

import dataclasses
from types import SimpleNamespace

import numpy as np
from numpy.typing import NDArray

from service.metrics import Metrics
from service.model_version import ModelVersion
from service.registry import Registry
from service.scorer import Scorer
from service.settings import Settings
from service.signature import Signature

DIM = 3
FEATURES = ("radius", "texture", "area")


class QuadraticEngine:
    """Convex, with a gradient known by heart; each call is noted, and one may be told to fail."""

    name = "program"
    thread_safe = True

    def __init__(self, factor: int) -> None:
        self.factor = np.float32(factor)
        self.calls: list[tuple[int, tuple[str, ...]]] = []
        self.failure: Exception | None = None

    def run(self, rows: NDArray[np.float32], outputs: tuple[str, ...]) -> dict[str, NDArray[np.float32]]:
        """Return the wanted outputs; what leaves float32 is infinite, as from a real engine."""
        self.calls.append((len(rows), outputs))
        if self.failure is not None:
            raise type(self.failure)(*self.failure.args)  # a new one: a traceback would hold on to the server
        with np.errstate(over="ignore"):
            score = np.float32(0.5) * np.square(rows).sum(axis=1, dtype=np.float32) * self.factor
            values = {"score": score, "gradient": rows * self.factor}
        return {name: values[name] for name in outputs}


def make_version(
    model: str = "m", version: int = 1, *, dim: int = DIM, features: tuple[str, ...] = FEATURES, proved: bool = True
) -> ModelVersion:
    """Return a live version of a closed-form convex function."""
    loaded = SimpleNamespace(
        signature=Signature(model=model, version=version, dim=dim, features=features),
        convexity="proved" if proved else "unproved",
        manifest=SimpleNamespace(created="2026-11-20T03:00:12Z", metrics={"held_out": {"rows": 112}}),
    )
    return ModelVersion(loaded, QuadraticEngine(version))


@dataclasses.dataclass
class Service:
    """The parts that a transport is made of."""

    registry: Registry
    metrics: Metrics
    settings: Settings
    scorer: Scorer

    def publish(self, model: str = "m", version: int = 1, **options: object) -> ModelVersion:
        """Bring one version through its life up to AVAILABLE."""
        live = make_version(model, version, **options)
        self.registry.begin(model, version)
        self.registry.publish(live)
        self.metrics.count_load(model, "available")
        return live


def make_service(**changes: object) -> Service:
    """Return a service without any version, with small limits where `changes` says so."""
    settings = Settings(**changes)
    registry = Registry(settings.default_model)
    return Service(registry, Metrics(), settings, Scorer(registry, settings.max_request_rows))
