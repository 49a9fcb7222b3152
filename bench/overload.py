"""Ten times more requests than a server can answer: what it still answers, how fast it refuses, how it recovers.

    python -m bench overload

For each protocol and size of request: the peak that clients in a closed loop reach; then, without a pause, half of it,
ten times it, and half of it again, sent at a fixed rate whatever becomes of what was sent before. Prints one JSON
document. The load comes from a process of its own, which takes what the server leaves of the processors.
"""

import dataclasses
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from bench import reference_model
from bench.load import OK, Job, Phase
from bench.provenance import ROOT, provenance
from bench.server_process import ServerProcess, serving

GENERATORS = {"http": "bench.http_load", "grpc": "bench.grpc_load"}
REFUSALS = {"http": "429", "grpc": "RESOURCE_EXHAUSTED"}
NORMAL_FACTOR = 1.5
RECOVERY_STEP_SECONDS = 0.1
_SAMPLING_SECONDS = 0.5
_MIB = 1 << 20


@dataclasses.dataclass(frozen=True)
class Plan:
    """One run.

    Args:
        protocol: "http" or "grpc".
        num_rows: rows of a request.
        dim: numbers of a row.
        model: the model's name.
        timeout_seconds: the deadline that each request sets.
        peak_callers: numbers of callers in closed loop; the peak is the best of them.
        peak_seconds: time of each of them.
        calm_seconds: time at half the peak, before and after.
        overload_seconds: time at `factor` times the peak.
        factor: how much more.
        max_callers: most requests that are open at once.
        expects: whether HTTP clients ask before they send a body.
        flags: of the server.
    """

    protocol: str = "http"
    num_rows: int = 2048
    dim: int = reference_model.DIM
    model: str = reference_model.NAME
    timeout_seconds: float = 1.0
    peak_callers: tuple[int, ...] = (8, 32)
    peak_seconds: float = 8.0
    calm_seconds: float = 10.0
    overload_seconds: float = 60.0
    factor: float = 10.0
    max_callers: int = 1000
    expects: bool = False
    flags: tuple[str, ...] = ()


PLANS = (
    Plan(),
    Plan(num_rows=256),
    Plan(num_rows=64, overload_seconds=15.0),
    Plan(num_rows=1, overload_seconds=15.0),
    Plan(protocol="grpc", num_rows=256, overload_seconds=15.0),
)


def measure(plans: tuple[Plan, ...] = PLANS) -> dict[str, Any]:
    """Return the results of all plans, each on a server of its own, on the reference model."""
    before = provenance()
    with tempfile.TemporaryDirectory() as folder:
        reference_model.publish_apart(Path(folder))
        runs = [run(plan, Path(folder)) for plan in plans]
    after = {"load_averages": provenance()["load_averages"]}
    return {"measurement": "overload", "runs": runs, "before": before, "after": after}


def run(plan: Plan, models_dir: Path) -> dict[str, Any]:
    """Return the result of one plan, on a server of its own that serves a folder."""
    with serving(models_dir, *plan.flags) as server:
        return run_on(server, plan)


def run_on(server: ServerProcess, plan: Plan) -> dict[str, Any]:
    """Return the result of one plan on a server that is there."""
    job = Job(
        address=server.addresses["rest" if plan.protocol == "http" else "grpc"],
        model=plan.model,
        num_rows=plan.num_rows,
        dim=plan.dim,
        timeout_seconds=plan.timeout_seconds,
        phases=(
            Phase("warm-up", 0.5, None, 2),
            *(Phase(f"peak {n}", plan.peak_seconds, None, n) for n in plan.peak_callers),
        ),
        max_callers=plan.max_callers,
        expects=plan.expects,
    )
    _, *peaks = _drive(plan, job)
    peak = max(phase["ok_per_second"] for phase in peaks)
    phases = (
        Phase("before", plan.calm_seconds, peak / 2, keeps_samples=True),
        Phase("overload", plan.overload_seconds, peak * plan.factor),
        Phase("after", plan.calm_seconds, peak / 2, keeps_samples=True),
    )
    counters = server.counters()
    with _Samples(server) as samples:
        before, overload, after = _drive(plan, dataclasses.replace(job, phases=phases))
    grown = {key: value - counters.get(key, 0.0) for key, value in server.counters().items()}
    figures = _figures(plan, peak, before, overload, after) | samples.figures()
    figures |= _rows(plan, grown, (before, overload, after)) | {"num_error_lines": len(server.errors())}
    return {
        "plan": dataclasses.asdict(plan),
        "figures": figures,
        "phases": [{**phase, "samples": None} for phase in (*peaks, before, overload, after)],
    }


def _drive(plan: Plan, job: Job) -> list[dict[str, Any]]:
    """Return what a generator in a process of its own says of each phase."""
    seconds = sum(phase.seconds for phase in job.phases) + job.grace_seconds
    done = subprocess.run(  # noqa: S603  (our own command)
        [sys.executable, "-m", GENERATORS[plan.protocol]],
        cwd=ROOT,
        input=json.dumps(dataclasses.asdict(job)),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=3 * seconds + 60,
    )
    phases: list[dict[str, Any]] = json.loads(done.stdout)
    return phases


class _Samples:
    """Looks at the server's memory and asks `/healthz`, twice a second, while the block runs."""

    def __init__(self, server: ServerProcess) -> None:
        self._server = server
        self._memory = [server.memory_bytes()]
        self._health: list[float] = []
        self._num_failed_probes = 0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="samples")

    def __enter__(self) -> "_Samples":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopping.wait(_SAMPLING_SECONDS):
            self._memory.append(self._server.memory_bytes())
            started = time.monotonic()
            try:
                self._server.get("/healthz")
            except OSError:
                self._num_failed_probes += 1
            self._health.append((time.monotonic() - started) * 1e3)

    def figures(self) -> dict[str, Any]:
        """Return the growth of memory and the latency of probes."""
        return {
            "memory_growth_mib": (max(self._memory) - self._memory[0]) / _MIB,
            "probe_p50_milliseconds": float(np.median(self._health or [0.0])),
            "probe_max_milliseconds": max(self._health, default=0.0),
            "num_failed_probes": self._num_failed_probes,
        }


def _figures(plan: Plan, peak: float, before: Any, overload: Any, after: Any) -> dict[str, Any]:
    refusals = overload["milliseconds"].get(REFUSALS[plan.protocol])
    normal = NORMAL_FACTOR * before["milliseconds"][OK]["p99"]
    return {
        "peak_per_second": peak,
        "offered_factor": overload["offered_per_second"] / peak,
        "goodput_share": overload["ok_per_second"] / peak,
        "refusal_p50_milliseconds": refusals and refusals["p50"],
        "refusal_p99_milliseconds": refusals and refusals["p99"],
        "accepted_p99_milliseconds": overload["milliseconds"].get(OK, {}).get("p99"),
        "normal_p99_milliseconds": normal,
        "recovery_seconds": recovery_seconds(after["samples"], normal / 1e3),
        "num_hung": sum(phase["counts"].get("hung", 0) for phase in (before, overload, after)),
        "num_distinct_answers": max(phase["num_distinct_answers"] for phase in (before, overload, after)),
    }


def recovery_seconds(samples: list[tuple[float, float | None]], normal_seconds: float) -> float | None:
    """Return from when on the p99 of what was sent is normal again; None: never.

    Args:
        samples: for each request, when it was sent, counted from the end of the overload, and its latency, None where
            it was refused, late or lost.
        normal_seconds: the p99 that is normal.
    """
    if not samples:
        return None
    sent = np.array([when for when, _ in samples])
    latency = np.array([np.inf if seconds is None else seconds for _, seconds in samples])
    for start in np.arange(0.0, sent.max(), RECOVERY_STEP_SECONDS):
        if np.quantile(latency[sent >= start], 0.99, method="higher") <= normal_seconds:
            return float(start)
    return None


def _rows(plan: Plan, grown: dict[tuple[str, str], float], phases: Any) -> dict[str, Any]:
    """Return what became of the rows, by the server's counters, of the requests of all phases."""
    computed = sum(value for (name, _), value in grown.items() if name == "convex_batch_rows_sum")
    dropped: dict[str, float] = {}
    for (name, labels), value in grown.items():
        if name == "convex_dropped_rows_total" and value:
            reason = labels.partition('reason="')[2].partition('"')[0]
            dropped[reason] = dropped.get(reason, 0.0) + value
    answered = plan.num_rows * sum(phase["counts"].get(OK, 0) for phase in phases)
    return {
        "num_rows_computed": computed,
        "num_rows_answered": answered,
        "num_rows_computed_in_vain": computed - answered,
        "num_rows_dropped": dropped,
    }
