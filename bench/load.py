"""What a load is: phases in open or closed loop, and what came of each. Below the two generators, HTTP and gRPC."""

import base64
import dataclasses
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

_NICENESS = 10

OK = "ok"
RESET = "reset"
HUNG = "hung"


@dataclasses.dataclass(frozen=True)
class Phase:
    """A part of a load.

    Args:
        name: what it is called in the result.
        seconds: how long requests are sent.
        rate: requests a second, sent whatever becomes of those before (open loop); None: closed loop.
        num_callers: in closed loop, how many ask, each its next request when it has its answer.
        keeps_samples: whether the result has each request's time of sending and, where it was answered, its latency.
    """

    name: str
    seconds: float
    rate: float | None = None
    num_callers: int = 0
    keeps_samples: bool = False


@dataclasses.dataclass(frozen=True)
class Job:
    """What a generator is told: whom to ask for what, and the phases, which follow without a pause.

    Args:
        address: host:port.
        model: the model's name.
        num_rows: rows of a request.
        dim: numbers of a row.
        timeout_seconds: the deadline that each request sets.
        phases: in order.
        max_callers: most requests that are open at once; a request for which there is no caller is counted as missed.
        grace_seconds: after the last phase, how long to wait for open requests; those that are open then hung.
        expects: HTTP: whether clients ask before they send the body (`Expect: 100-continue`).
        path: HTTP: where it is sent; "": the native route of the model.
        content_type: HTTP: of the body, and what the answer is to be.
        body: HTTP: what is sent, as base64; "": the rows as little-endian float32.
    """

    address: str
    model: str
    num_rows: int
    dim: int
    timeout_seconds: float
    phases: tuple[Phase, ...]
    max_callers: int = 1000
    grace_seconds: float = 5.0
    expects: bool = False
    path: str = ""
    content_type: str = "application/octet-stream"
    body: str = ""


class Tally:
    """What came of one phase. A request belongs to the phase that sent it; the rate of answers to that they came in."""

    def __init__(self, phase: Phase, started: float) -> None:
        """Begin a phase.

        Args:
            phase: what was asked.
            started: monotonic seconds.
        """
        self.phase = phase
        self.started = started
        self.stopped = started
        self.num_sent = 0
        self.num_missed = 0
        self.num_ok_meanwhile = 0
        self.num_without_retry_after = 0
        self.num_reconnects = 0
        self.latencies: dict[str, list[float]] = {}
        self.samples: list[tuple[float, float | None]] = []
        self.answers: set[int] = set()
        self.cpu_seconds = time.process_time()

    def note(self, outcome: str, sent: float, now: float) -> None:
        """Count the end of a request that was sent at `sent`."""
        seconds = now - sent
        self.latencies.setdefault(outcome, []).append(seconds)
        if self.phase.keeps_samples:
            self.samples.append((sent - self.started, seconds if outcome == OK else None))

    def stop(self, now: float) -> None:
        """End the phase; answers to its requests may still come."""
        self.stopped = now
        self.cpu_seconds = time.process_time() - self.cpu_seconds

    def document(self, timeout_seconds: float) -> dict[str, Any]:
        """Return everything as plain numbers; latencies in milliseconds."""
        seconds = max(self.stopped - self.started, 1e-9)
        return {
            "name": self.phase.name,
            "seconds": seconds,
            "asked_per_second": self.phase.rate,
            "offered_per_second": self.num_sent / seconds,
            "ok_per_second": self.num_ok_meanwhile / seconds,
            "num_sent": self.num_sent,
            "num_missed": self.num_missed,
            "num_reconnects": self.num_reconnects,
            "num_without_retry_after": self.num_without_retry_after,
            "num_late": sum(latency > timeout_seconds for latency in self.latencies.get(OK, ())),
            "num_distinct_answers": len(self.answers),
            "counts": {outcome: len(values) for outcome, values in sorted(self.latencies.items())},
            "milliseconds": {outcome: quantiles(values) for outcome, values in sorted(self.latencies.items())},
            "generator_cpu_share": self.cpu_seconds / seconds,
            "samples": self.samples,
        }


def quantiles(seconds: list[float]) -> dict[str, float]:
    """Return median, p99 and maximum in milliseconds."""
    p50, p99, most = np.quantile(seconds, [0.5, 0.99, 1.0]) * 1e3
    return {"p50": round(float(p50), 3), "p99": round(float(p99), 3), "max": round(float(most), 3)}


def rows_of(num_rows: int, dim: int) -> NDArray[np.float32]:
    """Return the rows of every request: equal ones, so that answers can be compared."""
    return np.random.default_rng(1).standard_normal((num_rows, dim)).astype("<f4")


def body_of(job: Job) -> bytes:
    """Return the body of every request over HTTP."""
    return base64.b64decode(job.body) if job.body else rows_of(job.num_rows, job.dim).tobytes()


def yield_processors() -> None:
    """Let the server have the processors first: its clients have machines of their own.

    How much was sent all the same is in the result, as the rate that was really offered.
    """
    os.nice(_NICENESS)


def main(run: Callable[[Job], list[Tally]]) -> None:
    """Read a job as JSON from standard input, run it, write the phases' documents to standard output."""
    words = json.load(sys.stdin)
    words["phases"] = tuple(Phase(**phase) for phase in words["phases"])
    job = Job(**words)
    yield_processors()
    json.dump([tally.document(job.timeout_seconds) for tally in run(job)], sys.stdout)
