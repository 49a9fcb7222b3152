"""A row's bits do not depend on the requests that it is computed with: through the batcher, on both engines.

`tests/chaos/test_batch_invariance_at_length.py` asks real servers the same, over both protocols and across restarts.
"""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from service.caller import Caller
from service.engines.program import ProgramEngine
from service.model_version import Batching, ModelVersion, load
from service.program.ladder import Ladder

MODELS = Path(__file__).parents[2] / "models"
SELECTIONS = (("score",), ("gradient",), ("score", "gradient"))
SECONDS = 60.0
ROUNDS = 4
REQUESTS = 24


class HeldEngine:
    """The real engine, held until requests have gathered; notes the sizes of its batches."""

    def __init__(self, engine):
        self.engine = engine
        self.name, self.thread_safe, self.tile_rows = engine.name, engine.thread_safe, engine.tile_rows
        self.gate = threading.Event()
        self.sizes = []

    @property
    def tiles(self):
        """The sizes of all tiles that were computed."""
        return {size for num_rows in self.sizes for size in self.engine.cut(num_rows)}

    def run(self, rows, outputs):
        """Return the engine's answer."""
        self.sizes.append(len(rows))
        assert self.gate.wait(SECONDS)
        return self.engine.run(rows, outputs)


@pytest.fixture(
    scope="module", params=[(model, name) for model in ("tumours", "colours") for name in ("program", "tensorflow")]
)
def shipped(request):
    """Return a shipped version on one of the two engines."""
    model, engine = request.param
    return load(MODELS / model / "1", engine)


def draw_requests(rng, dim):
    """Return rows of many scales for requests of one row to a few tiles, most of them small."""
    sizes = rng.choice([1, 1, 1, 2, 3, 7, 31, 32, 33, 70], REQUESTS)
    return [(rng.standard_normal((size, dim)) * 10.0 ** rng.integers(-3, 3)).astype(np.float32) for size in sizes]


@pytest.mark.parametrize("max_batch_rows", [50, 256])
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
    assert 500 < num_rows == sum(held.sizes)
    assert 3 <= len(set(held.sizes)) <= len(held.sizes) < ROUNDS * REQUESTS  # they were batched, in various sizes
    assert held.tiles <= set(shipped.engine.tile_rows)
    assert 2 <= len(held.tiles)
    assert max_batch_rows < 256 or 3 <= len(held.tiles)


def test_bits_change_with_the_batch_when_sizes_are_not_tried(shipped):
    """NumPy and TensorFlow with tiles of one, two and five rows beside the admitted ones give rows other bits."""
    engine = shipped.engine
    if engine.name == "program":
        engine = ProgramEngine(shipped.loaded.program, shipped.loaded.probe, uses_kernel=False)
    rows = np.random.default_rng(5).standard_normal((64, shipped.signature.dim)).astype(np.float32)
    expected = engine.run(rows, SELECTIONS[2])
    admitted, ladder = engine.tile_rows, engine._ladder
    engine._ladder = Ladder((1, 2, 5, *admitted), 0.0)
    try:
        alone = [engine.run(rows[index : index + 1], SELECTIONS[2]) for index in range(len(rows))]
    finally:
        engine._ladder = ladder
    assert any(
        expected[name].tobytes() != np.concatenate([answer[name] for answer in alone]).tobytes()
        for name in SELECTIONS[2]
    )
