"""How much of the engine's own rate is left when rows come from a Parquet file and go to another.

    python -m bench bulk

Prints one JSON document. Engine: calls on rows that lie in memory, one thread a core, the rows of a batch each. Bulk:
`service.bulk.scoring.score_file` from Parquet to Parquet, no compression on either side's account but the default.
The sides take turns; the ratio is the median of the rounds' ratios. Peak memory: of a process of its own that does
nothing else.
"""

import contextlib
import dataclasses
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from bench import reference_model
from bench.provenance import ROOT, provenance
from service.bulk import versions
from service.bulk.scoring import Job, score_file
from service.model_version import ModelVersion

_CHUNK_ROWS = 1 << 16


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is measured.

    Args:
        num_rows: rows of the file.
        num_rounds: how often the sides take turns.
        memory_rows: rows of the larger file that only memory is measured with; 0 for none.
        has_gradient: whether gradients are computed and written.
    """

    num_rows: int = 400_000
    num_rounds: int = 5
    memory_rows: int = 0
    has_gradient: bool = False


def measure(plan: Plan = Plan()) -> dict[str, Any]:
    """Return the result."""
    before = provenance()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        reference_model.publish_apart(folder / "models")
        source = _write_rows(folder / "rows.parquet", plan.num_rows)
        wanted = versions.Wanted(folder / "models", reference_model.NAME)
        with versions.opened(wanted, "program", lambda _line: None) as live:
            rounds = [_round(live, source, folder, plan) for _ in range(plan.num_rounds)]
        memory = _peak_memory(folder, plan)
    return {
        "measurement": "bulk",
        "plan": dataclasses.asdict(plan),
        "rows_per_second": {side: statistics.median(each[side] for each in rounds) for side in ("engine", "bulk")},
        "bulk_to_engine": statistics.median(each["bulk"] / each["engine"] for each in rounds),
        "rounds": rounds,
        "memory": memory,
        "before": before,
        "after": {"load_averages": provenance()["load_averages"]},
    }


def _write_rows(path: Path, num_rows: int) -> Path:
    """Write rows of the reference model, float32, in row groups of the usual size."""
    generator = np.random.default_rng(5)
    schema = pa.schema([(f"x{position}", pa.float32()) for position in range(reference_model.DIM)])
    with parquet.ParquetWriter(path, schema, use_dictionary=False) as file:
        for start in range(0, num_rows, _CHUNK_ROWS):
            shape = (reference_model.DIM, min(_CHUNK_ROWS, num_rows - start))
            columns = generator.standard_normal(shape, np.float32)
            file.write_table(pa.table(list(columns), schema=schema))
    return path


def _round(live: ModelVersion, source: Path, folder: Path, plan: Plan) -> dict[str, float]:
    outputs = ("score", "gradient") if plan.has_gradient else ("score",)
    return {"engine": _engine_rate(live, outputs), "bulk": _bulk_rate(live, source, folder / "out.parquet", plan)}


def _engine_rate(live: ModelVersion, outputs: tuple[str, ...]) -> float:
    """Return rows a second of calls alone, on as many threads as there are cores."""
    rows = np.random.default_rng(6).standard_normal((1 << 14, reference_model.DIM), np.float32)
    num_threads, num_calls = len(os.sched_getaffinity(0)), 8
    live.engine.run(rows, outputs)
    with ThreadPoolExecutor(num_threads) as pool:
        began = time.perf_counter()
        for future in [pool.submit(live.engine.run, rows, outputs) for _ in range(num_threads * num_calls)]:
            future.result()
        return len(rows) * num_threads * num_calls / (time.perf_counter() - began)


def _bulk_rate(live: ModelVersion, source: Path, sink: Path, plan: Plan) -> float:
    began = time.perf_counter()
    scored = score_file(
        Job(source, sink, plan.has_gradient), live, lambda _rows: contextlib.nullcontext(lambda _rows: None)
    )
    return scored.num_rows / (time.perf_counter() - began)


def _peak_memory(folder: Path, plan: Plan) -> dict[str, Any] | None:
    """Return the peak memory of the command, its loading process included, and its seconds."""
    if not plan.memory_rows:
        return None
    source = _write_rows(folder / "many.parquet", plan.memory_rows)
    words = ["score", "--models-dir", folder / "models", "--model", reference_model.NAME, "--input", source]
    words += ["--output", folder / "scored.parquet", *(["--gradient"] if plan.has_gradient else [])]
    began = time.perf_counter()
    command = [sys.executable, "-m", "service", *map(str, words)]
    subprocess.run(command, cwd=ROOT, check=True, timeout=3600)  # noqa: S603  (our own module)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    return {"num_rows": plan.memory_rows, "seconds": time.perf_counter() - began, "largest_process_bytes": peak}
