"""Loading in a process of its own against loading in the server: start, memory, requests meanwhile, growth.

    python -m bench loading

Both sides serve the same shipped model by the program engine, in turns. Of each: the time until it is ready; the
memory of the process that serves, and of the one that loads; the latency of requests of one row, sent at a fixed rate,
without loads and with a new version every second; and by how much memory grows with reloads. Prints one JSON document
with the ratios, the child's side to the server's own.
"""

import contextlib
import dataclasses
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.load import OK, Job, Phase
from bench.provenance import ROOT, provenance
from bench.server_process import ServerProcess, serving
from service import manifest

SIDES = {"child": "service", "in_process": "bench.in_process_server"}
"""Each side and the module that Python runs for it."""

_SWAP_SECONDS = 60.0
_LOOK_SECONDS = 0.01
_KEPT = 2
_MIB = 1 << 20


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is measured.

    Args:
        model: the shipped model, of which version 1 is copied.
        num_repeats: how often each side is started and measured; the sides take turns.
        rate: requests a second, of one row.
        steady_seconds: time without loads.
        loading_seconds: time with loads.
        seconds_between_loads: from one version to the next.
        num_warm_reloads: reloads before growth is measured.
        num_reloads: reloads over which it is.
    """

    model: str = "tumours"
    num_repeats: int = 3
    rate: float = 300.0
    steady_seconds: float = 10.0
    loading_seconds: float = 10.0
    seconds_between_loads: float = 1.0
    num_warm_reloads: int = 5
    num_reloads: int = 40


def measure(plan: Plan = Plan()) -> dict[str, Any]:
    """Return the result."""
    before = provenance()
    repeats: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
    for _ in range(plan.num_repeats):
        for side in SIDES:
            repeats[side].append(_run(side, plan))
    medians = {
        side: {key: statistics.median(repeat[key] for repeat in measured) for key in measured[0]}
        for side, measured in repeats.items()
    }
    child, in_process = medians["child"], medians["in_process"]
    return {
        "measurement": "loading",
        "plan": dataclasses.asdict(plan),
        "sides": medians,
        "ratios": {key: child[key] / in_process[key] for key in child if in_process[key] > 0},
        "repeats": repeats,
        "before": before,
        "after": {"load_averages": provenance()["load_averages"]},
    }


def _run(side: str, plan: Plan) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        publisher = Publisher(Path(folder), plan.model)
        publisher.publish()
        flags = ("--engine", "program", "--poll-interval-seconds", "0.1")
        started = time.monotonic()
        with serving(Path(folder), *flags, module=SIDES[side]) as server:
            ready_seconds = time.monotonic() - started
            first_bytes = memory_of(server.process.pid)
            steady = _drive(server, plan, Phase("steady", plan.steady_seconds, plan.rate))
            with publisher.publishing(plan.seconds_between_loads):
                loading = _drive(server, plan, Phase("loading", plan.loading_seconds, plan.rate))
            num_loads = publisher.version - 1
            _reload(server, publisher, plan.num_warm_reloads)
            warm_bytes, warm_child_bytes = memory_of(server.process.pid), _memory_below(server.process.pid)
            _reload(server, publisher, plan.num_reloads)
            last_bytes, last_child_bytes = memory_of(server.process.pid), _memory_below(server.process.pid)
    return {
        "ready_seconds": ready_seconds,
        "serving_mib": first_bytes / _MIB,
        "serving_mib_after_reloads": last_bytes / _MIB,
        "loading_mib_after_reloads": last_child_bytes / _MIB,
        "growth_mib_of_serving": (last_bytes - warm_bytes) / _MIB,
        "growth_mib_of_loading": (last_child_bytes - warm_child_bytes) / _MIB,
        "steady_p50_ms": steady["milliseconds"][OK]["p50"],
        "steady_p99_ms": steady["milliseconds"][OK]["p99"],
        "loading_p50_ms": loading["milliseconds"][OK]["p50"],
        "loading_p99_ms": loading["milliseconds"][OK]["p99"],
        "loading_max_ms": loading["milliseconds"][OK]["max"],
        "p99_ratio_loading_to_steady": loading["milliseconds"][OK]["p99"] / steady["milliseconds"][OK]["p99"],
        "num_loads_meanwhile": float(num_loads),
        "num_answers": float(steady["counts"][OK] + loading["counts"][OK]),
        "num_without_answer": float(sum(_failures(phase) for phase in (steady, loading))),
    }


class Publisher:
    """Publishes copies of a shipped version under the next numbers, and deletes all but the newest.

    Args:
        models_dir: where to.
        model: the shipped model.
    """

    def __init__(self, models_dir: Path, model: str) -> None:
        self._folder = models_dir / model
        self._shipped = ROOT / "models" / model / "1"
        self.version = 0

    def publish(self) -> None:
        """Publish the next version, whole, in one step."""
        self.version += 1
        staged = self._folder / f".staging-{self.version}"
        shutil.copytree(self._shipped, staged)
        document = json.loads((staged / manifest.FILE_NAME).read_bytes())
        del document["manifest_sha256"]
        (staged / manifest.FILE_NAME).write_bytes(manifest.seal(document | {"version": self.version}))
        os.rename(staged, self._folder / str(self.version))
        shutil.rmtree(self._folder / str(self.version - _KEPT), ignore_errors=True)

    @contextlib.contextmanager
    def publishing(self, seconds: float) -> Iterator[None]:
        """Publish one every so many seconds while the block runs."""
        stopping = threading.Event()

        def run() -> None:
            while not stopping.wait(seconds):
                self.publish()

        thread = threading.Thread(target=run, name="publishing")
        thread.start()
        try:
            yield
        finally:
            stopping.set()
            thread.join()


def _reload(server: ServerProcess, publisher: Publisher, count: int) -> None:
    """Publish versions one after the other, each when the one before it serves alone."""
    for _ in range(count):
        publisher.publish()
        deadline = time.monotonic() + _SWAP_SECONDS
        while not _serves_alone(server, publisher.version):
            if time.monotonic() > deadline:
                message = f"version {publisher.version} is not served: {server.log()[-3:]}"
                raise RuntimeError(message)
            time.sleep(_LOOK_SECONDS)
    _wait_for_loads(server)


def _serves_alone(server: ServerProcess, version: int) -> bool:
    (model,) = json.loads(server.get("/models"))["models"]
    states = {item["version"]: item["state"] for item in model["versions"]}
    return states.pop(version, "") == "AVAILABLE" and set(states.values()) <= {"END"}


def _wait_for_loads(server: ServerProcess) -> None:
    """Wait until no load runs, or is about to end, below the process that loads."""
    deadline = time.monotonic() + _SWAP_SECONDS
    while any(_children_of(child) for child in _children_of(server.process.pid)) and time.monotonic() < deadline:
        time.sleep(_LOOK_SECONDS)


def _children_of(process: int) -> list[int]:
    children: list[int] = []
    for path in Path(f"/proc/{process}/task").glob("*/children"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            children += map(int, path.read_text().split())
    return children


def memory_of(process: int) -> int:
    """Return the memory of a process and its share of what it shares with others (PSS), in bytes; 0 if it has ended."""
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:"))


def _memory_below(process: int) -> int:
    """Return the memory of all that a process started, and of what that started."""
    return sum(memory_of(child) + _memory_below(child) for child in _children_of(process))


def _failures(phase: dict[str, Any]) -> int:
    return sum(count for outcome, count in phase["counts"].items() if outcome != OK)


def _drive(server: ServerProcess, plan: Plan, phase: Phase) -> dict[str, Any]:
    """Return what a generator in a process of its own says of a phase."""
    (model,) = json.loads(server.get("/models"))["models"]
    job = Job(server.addresses["rest"], plan.model, 1, model["dim"], 30.0, (phase,))
    done = subprocess.run(
        [sys.executable, "-m", "bench.http_load"],
        cwd=ROOT,
        input=json.dumps(dataclasses.asdict(job)),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=3 * phase.seconds + 120,
    )
    (result,) = json.loads(done.stdout)
    return {**result, "samples": None}
