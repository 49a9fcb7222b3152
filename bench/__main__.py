"""`python -m bench [NAME]`: runs a measurement (by default all but those on request) and prints its result as JSON."""

import json
import os
import sys
from collections.abc import Callable
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before NumPy: more threads than free cores collapse

from bench import batching, bulk, codecs, edge, engine, invariance, loading, overload, peers, serving, workers

MEASUREMENTS: dict[str, Callable[[], dict[str, Any]]] = {
    "batching": batching.measure,
    "bulk": bulk.measure,
    "bulk-large": lambda: bulk.measure(bulk.LARGE),
    "codecs": codecs.measure,
    "edge": edge.measure,
    "engine": engine.measure,
    "invariance": invariance.measure,
    "loading": loading.measure,
    "overload": overload.measure,
    "peers": peers.measure,
    "serving": serving.measure,
    "workers": workers.measure,
}

ON_REQUEST = frozenset({"bulk-large", "peers"})
"""Takes the disk or the time of all others together; or installs other servers, gigabytes of them."""


def main(names: list[str]) -> int:
    """Run the named measurements, or all of them but those that are run only where they are named."""
    unknown = sorted(set(names) - set(MEASUREMENTS))
    if unknown:
        sys.stderr.write(f"bench: there is no measurement {', '.join(unknown)}; known: {', '.join(MEASUREMENTS)}\n")
        return 2
    for name in names or sorted(MEASUREMENTS.keys() - ON_REQUEST):
        json.dump(MEASUREMENTS[name](), sys.stdout, indent=1)
        sys.stdout.write("\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
