"""A row's bits do not depend on the requests that it is computed with: through the batcher, on both engines."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from service.caller import Caller
from service.model_version import Batching, ModelVersion, load

SHIPPED = Path(__file__).parents[2] / "models" / "tumours" / "1"
SELECTIONS = (("score",), ("gradient",), ("score", "gradient"))
SECONDS = 60.0
ROUNDS = 6
REQUESTS = 24


class HeldEngine:
    """The real engine, held until requests have gathered; notes the sizes of its batches."""

    def __init__(self, engine):
        self.engine = engine
        self.name, self.thread_safe, self.tile_rows = engine.name, engine.thread_safe, engine.tile_rows
        self.gate = threading.Event()
        self.sizes = []

    def run(self, rows, outputs):
        """Return the engine's answer."""
        self.sizes.append(len(rows))
        assert self.gate.wait(SECONDS)
        return self.engine.run(rows, outputs)


@pytest.fixture(scope="module", params=["program", "tensorflow"])
def shipped(request):
    """Return the shipped version on one of the two engines."""
    return load(SHIPPED, request.param)


def draw_requests(rng, dim):
    """Return rows of many scales for requests of one row to a few tiles, most of them small."""
    sizes = rng.choice([1, 1, 1, 2, 3, 7, 31, 32, 33, 70], REQUESTS)
    return [(rng.standard_normal((size, dim)) * 10.0 ** rng.integers(-3, 3)).astype(np.float32) for size in sizes]


@pytest.mark.parametrize("max_batch_rows", [32, 50, 256])
def test_bits_are_those_of_a_row_alone_whatever_it_is_batched_with(shipped, max_batch_rows, wait_until):
    """Random requests at once, for random outputs, under three bounds of a batch: each row has the bits of it alone."""
    rng = np.random.default_rng(31)
    held = HeldEngine(shipped.engine)
    live = ModelVersion(shipped.loaded, held, Batching(max_batch_rows=max_batch_rows))
    num_rows = 0
    with ThreadPoolExecutor(REQUESTS) as pool:
        for _ in range(ROUNDS):
            held.gate.clear()
            requests = draw_requests(rng, live.signature.dim)
            wanted = [SELECTIONS[index] for index in rng.integers(0, 3, REQUESTS)]
            futures = [
                pool.submit(live.submit, rows, outputs, Caller(client=int(client)))
                for rows, outputs, client in zip(requests, wanted, rng.integers(0, 5, REQUESTS), strict=True)
            ]
            total = sum(map(len, requests))
            wait_until(lambda total=total: live._room.num_rows == total, SECONDS)
            held.gate.set()
            for rows, outputs, future in zip(requests, wanted, futures, strict=True):
                received = future.result(SECONDS)
                for index in range(len(rows)):
                    alone = shipped.engine.run(rows[index : index + 1], ("score", "gradient"))
                    for name in outputs:
                        assert alone[name][0].tobytes() == received[name][index].tobytes()
                num_rows += len(rows)
    assert live.close(SECONDS)
    assert 1000 < num_rows == sum(held.sizes)
    assert 3 <= len(set(held.sizes)) <= len(held.sizes) < ROUNDS * REQUESTS  # they were batched, in various sizes
