"""Live versions in closed form, and a service around them: score = 1/2 |x|^2 * version, gradient = x * version.

Where a test wants another map for its gradient: `AffineGradientEngine`.
"""

import dataclasses
import threading
from types import SimpleNamespace

import numpy as np
from numpy.typing import NDArray

from service.metrics import Metrics
from service.model_version import Batching, ModelVersion
from service.program.curvature import Certificate, Step
from service.registry import Registry
from service.scorer import Scorer
from service.settings import Settings
from service.signature import Signature

DIM = 3
FEATURES = ("radius", "texture", "area")


class QuadraticEngine:
    """Convex, with a gradient known by heart; each call is noted, may be held, and may be told to fail."""

    name = "program"
    tile_rows = (4,)
    thread_safe = True

    def __init__(self, factor: int) -> None:
        self.factor = np.float32(factor)
        self.calls: list[tuple[int, tuple[str, ...]]] = []
        self.rows: list[list[float]] = []
        self.failure: Exception | None = None
        self.gate = threading.Event()
        self.gate.set()

    def run(self, rows: NDArray[np.float32], outputs: tuple[str, ...]) -> dict[str, NDArray[np.float32]]:
        """Return the wanted outputs; what leaves float32 is infinite, as from a real engine."""
        self.calls.append((len(rows), outputs))
        self.rows.extend(rows.tolist())
        assert self.gate.wait(20)
        if self.failure is not None:
            raise type(self.failure)(*self.failure.args)  # a new one: a traceback would hold on to the server
        with np.errstate(over="ignore"):
            score = np.float32(0.5) * np.square(rows).sum(axis=1, dtype=np.float32) * self.factor
            values = {"score": score, "gradient": rows * self.factor}
        return {name: values[name] for name in outputs}


class AffineGradientEngine(QuadraticEngine):
    """score = 1/2 x.A x + b.x, gradient = A x + b; exact in float32 where A, b and the rows have few binary digits.

    Args:
        matrix: A, symmetric and positive semidefinite, [dim, dim].
        shift: b, [dim].
    """

    def __init__(self, matrix: NDArray[np.floating], shift: NDArray[np.floating]) -> None:
        super().__init__(1)
        self.matrix, self.shift = np.float32(matrix), np.float32(shift)

    def run(self, rows: NDArray[np.float32], outputs: tuple[str, ...]) -> dict[str, NDArray[np.float32]]:
        """Return the wanted outputs."""
        self.calls.append((len(rows), outputs))
        with np.errstate(over="ignore"):
            gradient = rows @ self.matrix + self.shift
            values = {"score": np.float32(0.5) * (rows * (gradient + self.shift)).sum(axis=1), "gradient": gradient}
        return {name: values[name] for name in outputs}


def make_version(  # noqa: PLR0913  (each has its usual value)
    model: str = "m",
    version: int = 1,
    *,
    features: tuple[str, ...] = FEATURES,
    proved: bool = True,
    dim: int = DIM,
    engine: QuadraticEngine | None = None,
    signature: Signature | None = None,
    certificate: Certificate | None = None,
    batching: Batching | None = None,
    **manifest: object,
) -> ModelVersion:
    """Return a live version of a closed-form convex function; `manifest` changes what its manifest says.

    Without an `engine` it is QuadraticEngine(version). One whose `signature` says that it was made elsewhere has no
    manifest.
    """
    strong = float(np.float32(version))
    step = Step("quadratic/Square", "convex-of-affine", "convex", "a square of an affine function is convex")
    said = {
        "created": "2026-11-20T03:00:12Z",
        "task": "regression",
        "threshold": None,
        "metrics": {"held_out": {"rows": 112}},
        "data": {},
    }
    loaded = SimpleNamespace(
        signature=signature or Signature(model=model, version=version, dim=dim, features=features),
        convexity="proved" if proved else "unproved",
        manifest=None if signature is not None and signature.made_elsewhere else SimpleNamespace(**(said | manifest)),
        certificate=(certificate or Certificate((step,), strong, "0" * 64, "1" * 64)) if proved else None,
        verification=SimpleNamespace(gradient="checked", rounding_margin=1e-6, untaken=()) if proved else None,
        unproved_reason="" if proved else "node quadratic/Cos: no rule knows the operation Cos",
    )
    return ModelVersion(loaded, engine or QuadraticEngine(version), batching or Batching())


@dataclasses.dataclass
class Service:
    """The parts that a transport is made of."""

    registry: Registry
    metrics: Metrics
    settings: Settings
    scorer: Scorer

    def publish(self, model: str = "m", version: int = 1, **options: object) -> ModelVersion:
        """Bring one version through its life up to AVAILABLE."""
        batching = Batching(
            self.settings.max_batch_rows,
            self.settings.max_queue_rows,
            self.settings.max_queue_bytes,
            self.metrics.batch_statistics,
        )
        live = make_version(model, version, batching=batching, **options)
        self.registry.begin(model, version)
        self.registry.publish(live)
        self.metrics.count_load(model, "available")
        return live


def make_service(**changes: object) -> Service:
    """Return a service without any version, with small limits where `changes` says so."""
    settings = Settings(**changes)
    registry = Registry(settings.default_model)
    return Service(registry, Metrics(), settings, Scorer(registry, settings.max_request_rows))
