"""One worker and two: single rows from 64 connections, requests a second and processor time a request, in turns.

python -m bench workers

Prints one JSON document. The clients run on the same machine, and stand back behind the server (`nice`): on two cores
two workers and the clients share what one worker and the clients did not use up, so that the ratio of rates says less
than the machine would with clients elsewhere. `capacity` says that: workers, divided by the processor time of a
request.
"""

import dataclasses
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench import reference_model
from bench.edge import drive, processor_seconds
from bench.load import OK, Job, Phase
from bench.provenance import ROOT, provenance
from bench.server_process import serving

_MEMBER = b"service.fleet.member"


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is measured.

    Args:
        num_workers: of each server, the first of which the others are compared with.
        num_callers: connections in closed loop.
        num_rows: rows of a request.
        seconds: time of one repeat.
        num_repeats: how often each is measured, in turns.
    """

    num_workers: tuple[int, ...] = (1, 2)
    num_callers: int = 64
    num_rows: int = 1
    seconds: float = 4.0
    num_repeats: int = 5


def measure(plan: Plan = Plan()) -> dict[str, Any]:
    """Return what each server did, as medians of its repeats, and the ratios to the first."""
    before = provenance()
    found: dict[int, list[dict[str, float]]] = {count: [] for count in plan.num_workers}
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(  # noqa: S603  (our own command)
            [sys.executable, "-m", "bench.reference_model", folder],
            cwd=ROOT,
            check=True,
            capture_output=True,
            timeout=200,
        )
        for _ in range(plan.num_repeats):
            for count in plan.num_workers:
                with serving(Path(folder), "--workers", str(count)) as server:
                    found[count].append(_repeat(plan, count, server.process.pid, server.addresses["rest"]))
    medians = {
        count: {name: statistics.median(each[name] for each in repeats) for name in repeats[0]}
        for count, repeats in found.items()
    }
    first = medians[plan.num_workers[0]]
    return {
        "measurement": "workers",
        "plan": dataclasses.asdict(plan),
        "figures": {
            str(count): figures
            | {f"{name}_ratio": figures[name] / first[name] for name in ("requests_per_second", "capacity")}
            for count, figures in medians.items()
        },
        "repeats": {str(count): repeats for count, repeats in found.items()},
        "before": before,
        "after": {"load_averages": provenance()["load_averages"]},
    }


def serving_processes(pid: int) -> list[int]:
    """Return the processes that answer requests for a server: its workers, or itself where it has none."""
    children = [int(word) for path in Path(f"/proc/{pid}/task").glob("*/children") for word in path.read_text().split()]
    members = [child for child in children if _MEMBER in Path(f"/proc/{child}/cmdline").read_bytes()]
    return members or [pid]


def _repeat(plan: Plan, num_workers: int, pid: int, address: str) -> dict[str, float]:
    processes = serving_processes(pid)
    if len(processes) != num_workers:
        message = f"of {num_workers} workers {len(processes)} run"
        raise RuntimeError(message)
    job = Job(address, reference_model.NAME, plan.num_rows, reference_model.DIM, timeout_seconds=20.0, phases=())
    drive(dataclasses.replace(job, phases=(Phase("warm-up", 0.5, None, plan.num_callers),)))
    started, spent = time.monotonic(), [processor_seconds(process) for process in processes]
    (document,) = drive(dataclasses.replace(job, phases=(Phase("measured", plan.seconds, None, plan.num_callers),)))
    wall = time.monotonic() - started
    taken = [processor_seconds(process) - before for process, before in zip(processes, spent, strict=True)]
    if document["counts"].keys() != {OK}:
        message = f"expected every request to be answered, received {document['counts']}"
        raise RuntimeError(message)
    per_request = sum(taken) / document["counts"][OK]
    return {
        "requests_per_second": document["ok_per_second"],
        "p50_milliseconds": document["milliseconds"][OK]["p50"],
        "p99_milliseconds": document["milliseconds"][OK]["p99"],
        "processor_microseconds_a_request": 1e6 * per_request,
        "processors_used": sum(taken) / wall,
        "share_of_the_busiest": max(taken) / sum(taken),
        "generator_cpu_share": document["generator_cpu_share"],
        "capacity": num_workers / per_request,
    }
