"""LitServe with the server's own engine: `python -m bench.peer_servers.litserve_api PORT MAX_BATCH_SIZE`.

JSON in and out by LitServe itself. With a batch size above 1 it gathers requests for up to a millisecond.
"""

import sys
from typing import Any

import litserve
import numpy as np

from bench.peer_servers import engine

_BATCH_SECONDS = 0.001


class Api(litserve.LitAPI):
    """Rows of one instance to its score and gradient."""

    def setup(self, device: str) -> None:  # noqa: ARG002  (LitServe's signature)
        """Load the engine in the worker."""
        self.run = engine.load()

    def decode_request(self, request: dict[str, Any]) -> Any:
        """Return the rows of a request."""
        return np.asarray(request["instances"], dtype=np.float32)

    def batch(self, inputs: list[Any]) -> Any:
        """Return the rows of several requests."""
        self.stops = np.cumsum([len(rows) for rows in inputs])
        return np.concatenate(inputs)

    def predict(self, rows: Any) -> Any:
        """Return score and gradient."""
        return self.run(rows)

    def unbatch(self, output: Any) -> Any:
        """Return the part of each request."""
        starts = [0, *self.stops[:-1]]
        return [(output[0][start:stop], output[1][start:stop]) for start, stop in zip(starts, self.stops, strict=True)]

    def encode_response(self, output: Any) -> dict[str, Any]:
        """Return what is answered."""
        return {"score": output[0].tolist(), "gradient": output[1].tolist()}


if __name__ == "__main__":
    port, max_batch_size = int(sys.argv[1]), int(sys.argv[2])
    batching = {"max_batch_size": max_batch_size, "batch_timeout": _BATCH_SECONDS} if max_batch_size > 1 else {}
    server = litserve.LitServer(Api(api_path="/score", **batching), accelerator="cpu", fast_queue=True)
    server.run(host="127.0.0.1", port=port, log_level="error", access_log=False, generate_client_file=False)
