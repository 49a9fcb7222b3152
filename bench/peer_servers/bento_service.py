"""BentoML with the server's own engine: `bentoml serve bench.peer_servers.bento_service:Alone`, or `Gathered`.

JSON in and out by BentoML itself. `Alone` computes each request in the event loop, `Gathered` leaves batching to
BentoML.
"""

from typing import Annotated, Any

import bentoml
import numpy as np

from bench.peer_servers import engine

_Rows = Annotated[np.ndarray, bentoml.validators.DType("float32")]
_CONFIG: dict[str, Any] = {"workers": 1, "logging": {"access": {"enabled": False}}, "metrics": {"enabled": False}}


@bentoml.service(name="alone", **_CONFIG)
class Alone:
    """Computes each request by itself."""

    def __init__(self) -> None:
        """Load the engine in the worker."""
        self.run = engine.load()

    @bentoml.api(route="/score")
    async def score(self, instances: _Rows) -> dict[str, Any]:
        """Return score and gradient of the rows."""
        scores, gradients = self.run(np.asarray(instances, dtype=np.float32))
        return {"score": scores.tolist(), "gradient": gradients.tolist()}


@bentoml.service(name="gathered", **_CONFIG)
class Gathered:
    """Computes the requests that BentoML has gathered."""

    def __init__(self) -> None:
        """Load the engine in the worker."""
        self.run = engine.load()

    @bentoml.api(route="/score", batchable=True, max_batch_size=64, max_latency_ms=1000)
    def score(self, instances: _Rows) -> np.ndarray:
        """Return the columns score and gradient of the rows: a batch is cut along one array."""
        scores, gradients = self.run(np.asarray(instances, dtype=np.float32))
        return np.hstack([scores[:, None], gradients])
