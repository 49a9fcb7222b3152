"""Ray Serve with the server's own engine: `python -m bench.peer_servers.ray_application PORT MAX_BATCH_SIZE`.

JSON by orjson, in and out. With a batch size above 1 Ray gathers requests for up to a millisecond.
"""

import sys
import threading
from typing import Any

import numpy as np
import orjson
import ray
from ray import serve
from starlette.requests import Request
from starlette.responses import Response

from bench.peer_servers import engine

_BATCH_SECONDS = 0.001
_LOOPBACK = "127.0.0.1"


def deployment(max_batch_size: int) -> Any:
    """Return the deployment: one replica."""

    @serve.deployment(num_replicas=1, max_ongoing_requests=128, ray_actor_options={"num_cpus": 0.5})
    class Scorer:
        """Rows to score and gradient."""

        def __init__(self) -> None:
            """Load the engine in the replica."""
            self.run = engine.load()

        async def __call__(self, request: Request) -> Response:
            """Answer one request."""
            rows = np.asarray(orjson.loads(await request.body())["instances"], dtype=np.float32)
            scores, gradients = self.run(rows) if max_batch_size == 1 else await self.gathered(rows)
            document = {"score": np.ascontiguousarray(scores), "gradient": np.ascontiguousarray(gradients)}
            return Response(orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY), media_type="application/json")

        @serve.batch(max_batch_size=max_batch_size, batch_wait_timeout_s=_BATCH_SECONDS)
        async def gathered(self, requests: list[Any]) -> list[Any]:
            """Compute the requests that Ray has gathered."""
            scores, gradients = self.run(np.concatenate(requests))
            stops = np.cumsum([len(rows) for rows in requests])
            starts = [0, *stops[:-1]]
            return [(scores[start:stop], gradients[start:stop]) for start, stop in zip(starts, stops, strict=True)]

    return Scorer


def main(port: int, max_batch_size: int) -> None:
    """Serve until the process is ended."""
    ray.init(num_cpus=2, include_dashboard=False, _node_ip_address=_LOOPBACK, object_store_memory=100 << 20)
    serve.start(http_options={"host": _LOOPBACK, "port": port, "access_log": False})
    serve.run(deployment(max_batch_size).bind(), route_prefix="/score", logging_config={"enable_access_log": False})
    threading.Event().wait()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
