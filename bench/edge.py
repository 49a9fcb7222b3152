"""What a request costs beside the model: processor time of the server, of those it refuses and of those it answers.

    python -m bench edge

Prints one JSON document. Processor time and not the clock's: it is the same while other work is done on the machine.
The model's own part is measured in this process, the whole in a server of its own, the edge alone in another.
"""

import contextlib
import dataclasses
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bench import reference_model
from bench.edge_server import ECHO, REFUSED
from bench.load import OK, Job, Phase
from bench.provenance import ROOT, provenance
from bench.server_process import serving

_MICROSECONDS = 1e6


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is measured.

    Args:
        num_rows: rows of a request that is answered.
        refused_rows: rows of requests that are refused.
        num_callers: callers in closed loop, of requests that are answered.
        refused_per_second: how many are sent, in open loop, of those that are refused.
        seconds: time of one repeat.
        num_repeats: how often each is measured, in turns.
    """

    num_rows: int = 64
    refused_rows: tuple[int, ...] = (1, 64, 256)
    num_callers: int = 8
    refused_per_second: float = 4000.0
    seconds: float = 3.0
    num_repeats: int = 3


def measure(plan: Plan = Plan()) -> dict[str, Any]:
    """Return microseconds of processor time a request: the median of the repeats of each kind, and their ratio."""
    before = provenance()
    with tempfile.TemporaryDirectory() as folder:
        reference_model.publish_apart(Path(folder))
        with serving(Path(folder)) as server, edge_serving() as (edge_pid, edge_address):
            scored = _job(server.addresses["rest"], reference_model.NAME, plan.num_rows)
            echoed = dataclasses.replace(scored, address=edge_address, model=ECHO)
            closed = Phase("answered", plan.seconds, None, plan.num_callers)
            opened = Phase("refused", plan.seconds, plan.refused_per_second)
            kinds = {
                "scored": (server.process.pid, scored, closed),
                "echoed": (edge_pid, echoed, closed),
                **{
                    f"refused, {rows} rows": (edge_pid, _job(edge_address, REFUSED, rows), opened)
                    for rows in plan.refused_rows
                },
            }
            costs: dict[str, list[float]] = {kind: [] for kind in kinds}
            for _ in range(plan.num_repeats):
                for kind, (pid, job, phase) in kinds.items():
                    costs[kind].append(cost(pid, job, phase))
        costs["engine"] = [engine_cost(Path(folder), plan.num_rows) for _ in range(plan.num_repeats)]
    medians = {kind: statistics.median(values) for kind, values in costs.items()}
    return {
        "measurement": "edge",
        "unit": "microseconds of the server's processor time a request",
        "plan": dataclasses.asdict(plan),
        "figures": medians | {"over_engine_in_echoes": (medians["scored"] - medians["engine"]) / medians["echoed"]},
        "repeats": costs,
        "before": before,
        "after": {"load_averages": provenance()["load_averages"]},
    }


def cost(pid: int, job: Job, phase: Phase) -> float:
    """Return the microseconds of processor time that a process takes for each request of a phase; see `per_request`."""
    warm_up = dataclasses.replace(job, phases=(Phase("warm-up", 0.3, None, 2),))
    drive(warm_up)
    started = processor_seconds(pid)
    (document,) = drive(dataclasses.replace(job, phases=(phase,)))
    return per_request(document, processor_seconds(pid) - started)


def per_request(document: dict[str, Any], seconds: float) -> float:
    """Return microseconds a request of a phase.

    Raises:
        RuntimeError: one was neither answered nor refused, or nothing was asked.
    """
    answered = sum(document["counts"].get(outcome, 0) for outcome in (OK, "429"))
    if answered == 0 or answered != document["num_sent"]:
        raise RuntimeError(f"of {document['num_sent']} requests came {document['counts']}")
    return float(_MICROSECONDS * seconds / answered)


def processor_seconds(pid: int) -> float:
    """Return the processor time that a process has taken, all of its threads."""
    seconds: float = time.clock_gettime(~pid << 3 | 2)  # clock_getcpuclockid(3), which Python has for threads alone
    return seconds


def engine_cost(models_dir: Path, num_rows: int) -> float:
    """Return the microseconds of processor time that the engine takes for a request's rows."""
    from service.model_version import load  # imports TensorFlow

    live = load(models_dir / reference_model.NAME / "1", "program")
    rows = np.random.default_rng(1).standard_normal((num_rows, reference_model.DIM)).astype(np.float32)
    calls = 200
    live.engine.run(rows, ("score", "gradient"))
    started = time.thread_time()
    for _ in range(calls):
        live.engine.run(rows, ("score", "gradient"))
    seconds = time.thread_time() - started
    live.close()
    return _MICROSECONDS * seconds / calls


@contextlib.contextmanager
def edge_serving() -> Iterator[tuple[int, str]]:
    """Serve the edge alone until the block ends; its process and address."""
    with subprocess.Popen(
        [sys.executable, "-m", "bench.edge_server"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        try:
            port = process.stdout.readline().strip() if process.stdout is not None else ""
            yield process.pid, f"127.0.0.1:{port}"
        finally:
            process.communicate(timeout=20)


def _job(address: str, model: str, num_rows: int) -> Job:
    return Job(address, model, num_rows, reference_model.DIM, timeout_seconds=5.0, phases=())


def drive(job: Job, generator: str = "bench.http_load") -> list[dict[str, Any]]:
    """Run a job in a process of its own, which inherits this one's cores; return the results of its phases."""
    done = subprocess.run(  # noqa: S603  (our own command)
        [sys.executable, "-m", generator],
        cwd=ROOT,
        input=json.dumps(dataclasses.asdict(job)),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=60.0 + 3 * sum(phase.seconds for phase in job.phases),
    )
    documents: list[dict[str, Any]] = json.loads(done.stdout)
    return documents
