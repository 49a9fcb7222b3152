"""Callers of one row in one process: the batcher against direct calls of the same engine, interleaved.

    python -m bench batching

Prints one JSON document: both sides for 1, 8 and 64 callers, the median of the repeats of each, and where it was
measured. A closed loop: each caller sends its next row when it has its answer.
"""

import dataclasses
import statistics
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.provenance import ROOT, provenance
from service.batch_statistics import BatchStatistics
from service.caller import Caller
from service.model_version import Batching, ModelVersion, load

OUTPUTS = ("score", "gradient")
DEADLINE_SECONDS = 30.0

Ask = Callable[[NDArray[np.float32]], Any]


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is measured.

    Args:
        num_callers: numbers of callers.
        num_repeats: how often each side is measured for each of them; the sides take turns.
        seconds: time of one repeat.
        model: the version's folder, relative to the repository.
    """

    num_callers: tuple[int, ...] = (1, 8, 64)
    num_repeats: int = 5
    seconds: float = 2.0
    model: str = "models/tumours/1"


def measure(plan: Plan = Plan()) -> dict[str, Any]:
    """Return the result."""
    before = provenance()
    loaded = load(ROOT / plan.model, "program")
    row = np.random.default_rng(1).standard_normal((1, loaded.signature.dim)).astype(np.float32)
    results = [_compare(loaded, row, count, plan) for count in plan.num_callers]
    return {
        "measurement": "batching",
        "engine": loaded.engine.name,
        "plan": dataclasses.asdict(plan),
        "callers": results,
        "before": before,
        "after": {"load_averages": provenance()["load_averages"]},
    }


def _compare(loaded: ModelVersion, row: NDArray[np.float32], num_callers: int, plan: Plan) -> dict[str, Any]:
    counts = BatchStatistics()
    live = ModelVersion(loaded.loaded, loaded.engine, Batching(statistics=lambda *_: counts))
    sides: dict[str, Ask] = {
        "direct": lambda rows: live.run(rows, OUTPUTS),
        "batched": lambda rows: live.submit(rows, OUTPUTS, Caller(time.monotonic() + DEADLINE_SECONDS)),
    }
    repeats: dict[str, list[dict[str, float]]] = {name: [] for name in sides}
    for _ in range(plan.num_repeats):
        for name, ask in sides.items():
            repeats[name].append(_drive(ask, row, num_callers, plan.seconds))
    live.close()
    medians = {
        name: {key: statistics.median(repeat[key] for repeat in measured) for key in measured[0]}
        for name, measured in repeats.items()
    }
    return {
        "num_callers": num_callers,
        **medians,
        "ratio_of_rows_per_second": medians["batched"]["rows_per_second"] / medians["direct"]["rows_per_second"],
        "mean_batch_rows": counts.batch_rows.total / counts.batch_rows.count,
        "repeats": repeats,
    }


def _drive(ask: Ask, row: NDArray[np.float32], num_callers: int, seconds: float) -> dict[str, float]:
    """Return rows a second and latencies of callers in a closed loop."""
    latencies: list[list[float]] = [[] for _ in range(num_callers)]
    start = threading.Barrier(num_callers)

    def call(mine: list[float]) -> None:
        start.wait()
        end = time.perf_counter() + seconds
        while (began := time.perf_counter()) < end:
            ask(row)
            mine.append(time.perf_counter() - began)

    threads = [threading.Thread(target=call, args=(mine,)) for mine in latencies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    p50, p99 = np.quantile(np.concatenate(latencies), [0.5, 0.99]) * 1e6
    return {
        "rows_per_second": sum(map(len, latencies)) / seconds,
        "p50_microseconds": float(p50),
        "p99_microseconds": float(p99),
    }
