"""How much of the engine's own rate is left when rows come from a Parquet file and go to another.

    python -m bench bulk
    python -m bench bulk-large     # beside it, ten million rows: 6 GB of disk, some minutes

Prints one JSON document. Engine: calls on rows that lie in memory, one thread a core, the rows of a batch each. Bulk:
`service.bulk.scoring.score_file` from Parquet to Parquet, no compression on either side's account but the default.
The sides take turns; the ratio is the median of the rounds' ratios. The large file is scored once more, by the command,
in a process of its own: its peak memory, and its seconds with the load of the version.
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
_SAMPLING_SECONDS = 0.1


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is measured.

    Args:
        num_rows: rows of the file.
        num_rounds: how often the sides take turns.
        large_rows: rows of a larger file, with which memory is measured too; 0 for none.
        has_gradient: whether gradients are computed and written.
    """

    num_rows: int = 400_000
    num_rounds: int = 5
    large_rows: int = 0
    has_gradient: bool = False


LARGE = Plan(large_rows=10_000_000)


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
            large = _large(live, folder, plan) if plan.large_rows else None
    return {
        "measurement": "bulk",
        "plan": dataclasses.asdict(plan),
        "rows_per_second": {side: statistics.median(each[side] for each in rounds) for side in ("engine", "bulk")},
        "bulk_to_engine": statistics.median(each["bulk"] / each["engine"] for each in rounds),
        "rounds": rounds,
        "large": large,
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


def _large(live: ModelVersion, folder: Path, plan: Plan) -> dict[str, Any]:
    """Return the rates with a large file, the engine's before and after, and what the command takes for it."""
    source = _write_rows(folder / "many.parquet", plan.large_rows)
    outputs = ("score", "gradient") if plan.has_gradient else ("score",)
    before = _engine_rate(live, outputs)
    bulk = _bulk_rate(live, source, folder / "out.parquet", plan)
    engine = statistics.mean((before, _engine_rate(live, outputs)))
    (folder / "out.parquet").unlink()
    return {
        "num_rows": plan.large_rows,
        "rows_per_second": {"engine": engine, "bulk": bulk},
        "bulk_to_engine": bulk / engine,
        "command": _command(source, folder, plan),
    }


def _command(source: Path, folder: Path, plan: Plan) -> dict[str, float]:
    """Return the seconds and the peak memory of the command, and of its largest process with the loading one's."""
    words = ["score", "--models-dir", folder / "models", "--model", reference_model.NAME, "--input", source]
    words += ["--output", folder / "scored.parquet", *(["--gradient"] if plan.has_gradient else [])]
    began = time.perf_counter()
    own = total = 0
    command = [sys.executable, "-m", "service", *map(str, words)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL) as process:  # noqa: S603  (our own command)
        while process.poll() is None:
            sizes = [_resident_bytes(pid) for pid in _family(process.pid)]
            own, total = max(own, sizes[0]), max(total, sum(sizes))
            time.sleep(_SAMPLING_SECONDS)
    if process.returncode:
        raise RuntimeError(f"the command ended with {process.returncode}")
    seconds = time.perf_counter() - began
    return {"seconds": seconds, "peak_bytes": own, "peak_bytes_of_all_processes": total}


def _family(pid: int) -> list[int]:
    """Return a process and its descendants."""
    family = [pid]
    for each in family:
        for task in Path(f"/proc/{each}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                family += map(int, task.read_text().split())
    return family


def _resident_bytes(pid: int) -> int:
    """Return the memory of a process now; 0 where it has gone."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()
    except (OSError, IndexError):
        return 0
