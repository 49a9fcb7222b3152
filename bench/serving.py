"""What the server serves: the reference model by every protocol and form, beside an echo by the same server.

    python -m bench serving

Prints one JSON document. One server process on one core, its load on another, everything interleaved. Of one row there
are 64 callers, of more 8. Processor time is that of the whole server process a request.
"""

import contextlib
import dataclasses
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bench import edge, forms, reference_model
from bench.edge import edge_serving, per_request, processor_seconds
from bench.edge_server import ECHO
from bench.load import Job, Phase, rows_of
from bench.processors import LOAD_CORE, SERVER_CORE, pinned
from bench.provenance import provenance
from bench.server_process import serving

_MICROSECONDS = 1e6
_BOTH = ("score", "gradient")


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is measured.

    Args:
        num_rows: sizes of requests.
        seconds: time of one repeat of one case.
        num_repeats: how often each case is measured, in turns.
        most_callers: callers in closed loop of requests of one row.
        few_callers: of larger ones.
    """

    num_rows: tuple[int, ...] = (1, 64, 1000)
    seconds: float = 2.0
    num_repeats: int = 5
    most_callers: int = 64
    few_callers: int = 8

    def callers(self, num_rows: int) -> int:
        """Return how many ask at once for so many rows."""
        return self.most_callers if num_rows == 1 else self.few_callers


@dataclasses.dataclass(frozen=True)
class Case:
    """One kind of request.

    Args:
        name: such as "JSON, 64 rows".
        num_rows: rows of a request.
        generator: module that makes the load.
        pid: the server's process.
        job: what is sent.
    """

    name: str
    num_rows: int
    generator: str
    pid: int
    job: Job


def measure(plan: Plan = Plan()) -> dict[str, Any]:
    """Return requests a second, latencies and processor time of each case, and of the engine and codecs alone."""
    before = provenance()
    with published() as folder:
        with pinned(SERVER_CORE), contextlib.ExitStack() as servers:
            server = servers.enter_context(serving(folder))
            edge_pid, edge_address = servers.enter_context(edge_serving())
            cases = _cases(plan, server.process.pid, server.addresses, edge_pid, edge_address)
            repeats: dict[str, list[dict[str, float]]] = {case.name: [] for case in cases}
            for _ in range(plan.num_repeats):
                for case in cases:
                    repeats[case.name].append(_run(case, plan))
        with pinned(SERVER_CORE):
            alone = stages(folder, plan)
    figures = {name: medians(values) for name, values in repeats.items()}
    return {
        "measurement": "serving",
        "plan": dataclasses.asdict(plan),
        "figures": figures,
        "alone_microseconds": alone,
        "ratios": ratios(figures, alone),
        "repeats": repeats,
        "before": before,
        "after": {"load_averages": provenance()["load_averages"]},
    }


@contextlib.contextmanager
def published() -> Iterator[Path]:
    """Publish the reference model in a folder that is there until the block ends."""
    with tempfile.TemporaryDirectory() as folder:
        reference_model.publish_apart(Path(folder))
        yield Path(folder)


def medians(repeats: list[dict[str, float]]) -> dict[str, float]:
    """Return the median of each figure over its repeats."""
    return {name: round(statistics.median([repeat[name] for repeat in repeats]), 3) for name in repeats[0]}


def ratios(figures: dict[str, dict[str, float]], alone: dict[str, dict[str, float]]) -> dict[str, float]:
    """Return the quotients that goals are set for.

    `64 rows over engine, in echoes`: what a request of 64 rows as octet-stream costs beyond the engine's own time, in
    echoes of its bytes. `1000 rows as JSON, in engines`: decoding, computing and encoding over computing.
    `p99 over p50, 1 row`: of as many requests as are ever open at once.
    """
    found = {}
    octets = figures.get("octet-stream, 64 rows")
    if octets is not None and "64 rows" in alone:
        over = octets["processor_microseconds"] - alone["64 rows"]["engine"]
        found["64 rows over engine, in echoes"] = over / figures["echo, 64 rows"]["processor_microseconds"]
    if "1000 rows" in alone:
        costs = alone["1000 rows"]
        found["1000 rows as JSON, in engines"] = (
            costs["decode JSON"] + costs["engine"] + costs["encode JSON"]
        ) / costs["engine"]
    for form in ("octet-stream", "JSON"):
        single = figures.get(f"{form}, 1 row")
        if single is not None:
            found[f"p99 over p50, 1 row as {form}"] = single["p99_milliseconds"] / single["p50_milliseconds"]
    return {name: round(value, 3) for name, value in found.items()}


def drive(job: Job, generator: str = "bench.http_load") -> list[dict[str, Any]]:
    """Run a job on the core of loads; return its phases' documents."""
    with pinned(LOAD_CORE):
        return edge.drive(job, generator)


def figures_of(document: dict[str, Any], num_rows: int, seconds: float) -> dict[str, float]:
    """Return what is reported of a phase of which every request was answered, in that processor time.

    Raises:
        RuntimeError: one was not answered, or answered otherwise than the others.
    """
    if document["counts"] != {"ok": document["num_sent"]} or document["num_distinct_answers"] != 1:
        raise RuntimeError(f"{document['num_distinct_answers']} different answers, and {document['counts']}")
    return {
        "requests_per_second": document["ok_per_second"],
        "rows_per_second": num_rows * document["ok_per_second"],
        "p50_milliseconds": document["milliseconds"]["ok"]["p50"],
        "p99_milliseconds": document["milliseconds"]["ok"]["p99"],
        "processor_microseconds": per_request(document, seconds),
        "generator_share": document["generator_cpu_share"],
    }


def _cases(plan: Plan, pid: int, addresses: dict[str, str], edge_pid: int, edge_address: str) -> list[Case]:
    cases = []
    for num_rows in plan.num_rows:
        rows = rows_of(num_rows, reference_model.DIM)
        size = "1 row" if num_rows == 1 else f"{num_rows} rows"
        plain = Job("", reference_model.NAME, num_rows, reference_model.DIM, timeout_seconds=30.0, phases=())
        for name, content_type in forms.FORMS.items():
            body = forms.packed(forms.body(content_type, rows))
            job = dataclasses.replace(plain, address=addresses["rest"], content_type=content_type, body=body)
            cases.append(Case(f"{name}, {size}", num_rows, "bench.http_load", pid, job))
        call = dataclasses.replace(plain, address=addresses["grpc"])
        cases.append(Case(f"gRPC, {size}", num_rows, "bench.grpc_load", pid, call))
        echo = dataclasses.replace(plain, address=edge_address, model=ECHO)
        cases.append(Case(f"echo, {size}", num_rows, "bench.http_load", edge_pid, echo))
    return cases


def _run(case: Case, plan: Plan) -> dict[str, float]:
    callers = plan.callers(case.num_rows)
    drive(dataclasses.replace(case.job, phases=(Phase("warm-up", 0.3, None, callers),)), case.generator)
    started = processor_seconds(case.pid)
    phase = Phase("measured", plan.seconds, None, callers)
    (document,) = drive(dataclasses.replace(case.job, phases=(phase,)), case.generator)
    return figures_of(document, case.num_rows, processor_seconds(case.pid) - started)


def stages(models_dir: Path, plan: Plan) -> dict[str, dict[str, float]]:
    """Return the microseconds of processor time of the engine alone, and of reading and writing each form.

    Medians of interleaved repeats, in this process, of both outputs of the engine that the server would take.
    """
    from service.model_version import load  # imports TensorFlow

    with contextlib.closing(load(models_dir / reference_model.NAME / "1", "program")) as live:
        return {
            "1 row" if num_rows == 1 else f"{num_rows} rows": _stages_of(live, num_rows, plan.num_repeats)
            for num_rows in plan.num_rows
        }


def _stages_of(live: Any, num_rows: int, num_repeats: int) -> dict[str, float]:
    from service.codecs import csv, json, npy, raw

    signature, most = live.signature, max(num_rows, 2)
    rows = rows_of(num_rows, reference_model.DIM)
    outputs = live.engine.run(rows, _BOTH)
    bodies = {name: forms.body(content_type, rows) for name, content_type in forms.FORMS.items()}

    def checked(decoded: Any) -> Any:
        return signature.validate(decoded, name="instances", max_rows=most)

    calls: dict[str, Callable[[], Any]] = {
        "engine": lambda: live.engine.run(rows, _BOTH),
        "decode JSON": lambda: checked(json.decode_both(json.decode_request(bodies["JSON"], most), signature)),
        "encode JSON": lambda: json.encode_answer(signature, outputs),
        "decode octet-stream": lambda: checked(raw.decode_rows(bodies["octet-stream"], signature)),
        "encode octet-stream": lambda: raw.encode_answer(outputs),
        "decode npy": lambda: checked(npy.decode_rows(bodies["npy"])),
        "encode npy": lambda: npy.encode_answer(outputs),
        "decode CSV": lambda: checked(csv.decode_rows(bodies["CSV"], signature, most)),
        "encode CSV": lambda: csv.encode_answer(signature, outputs),
    }
    costs: dict[str, list[float]] = {name: [] for name in calls}
    num_calls = max(3, 1000 // num_rows)
    for _ in range(1 + num_repeats):  # the first warms up
        for name, call in calls.items():
            started = time.process_time()
            for _ in range(num_calls):
                call()
            costs[name].append(_MICROSECONDS * (time.process_time() - started) / num_calls)
    return {name: round(float(np.median(values[1:])), 2) for name, values in costs.items()}
