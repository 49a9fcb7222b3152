"""Single rows from 64 connections, by our server and by others, each beside ours in turns.

    python -m bench peers

Prints one JSON document. Every server has one core for itself, the load another; every peer that can be given an engine
has ours. What each peer can be configured to, batches or not, is measured, and its best counts.
"""

import contextlib
import dataclasses
import json
import pickle
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench import forms, peer_environment, reference_model
from bench.edge import edge_serving
from bench.edge_server import ECHO
from bench.load import Job, Phase, body_of, rows_of
from bench.peer_environment import MissingPeerError
from bench.peer_processes import free_port, peer_serving
from bench.peer_servers.engine import MODEL, PROGRAM
from bench.processors import SERVER_CORE, family_seconds, pinned
from bench.provenance import ROOT, provenance
from bench.server_process import serving
from bench.serving import drive, figures_of, medians, published

_ASK_SECONDS = 5.0
_AGREEMENT = 1e-5
_SERVERS = "bench.peer_servers"


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is measured.

    Args:
        num_callers: connections, each with one request open.
        seconds: time of one repeat of one side.
        num_repeats: how often each side of a pair is measured, in turns.
        peers: names of those to measure; none: all.
    """

    num_callers: int = 64
    seconds: float = 2.0
    num_repeats: int = 5
    peers: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Peer:
    """Another server, in one configuration.

    Args:
        name: of the peer.
        variant: the configuration.
        environment: name of its environment.
        command: words, the first below `bin/`; `{port}` and `{folder}` are filled in.
        content_type: of requests and answers.
        path: of the route.
        is_v2: whether it speaks the Open Inference Protocol.
        echoes: whether it computes nothing, and ours beside it is our HTTP server's own echo.
        files: name -> document of the configuration files in its folder.
    """

    name: str
    variant: str
    environment: str
    command: tuple[str, ...]
    content_type: str = forms.JSON
    path: str = "/score"
    is_v2: bool = False
    echoes: bool = False
    files: Callable[[int], dict[str, Any]] = lambda _port: {}


GOALS = {"Flask on gunicorn gthread": 6.0, "LitServe": 3.0, "BentoML": 3.0, "MLServer": 1.2, "Ray Serve": 8.0}
"""How many times as many requests as each peer we are to answer."""


def _flask(threads: int) -> Peer:
    gunicorn = ("gunicorn", "-w", "1", "-k", "gthread", "--threads", str(threads), "--keep-alive", "75")
    command = (*gunicorn, "--worker-connections", "1000", "-b", "127.0.0.1:{port}", f"{_SERVERS}.flask_signature:app")
    return Peer("Flask on gunicorn gthread", f"{threads} threads", "flask", command, forms.OCTETS)


def _litserve(max_batch_size: int) -> Peer:
    command = ("python", "-m", f"{_SERVERS}.litserve_api", "{port}", str(max_batch_size))
    return Peer("LitServe", _batches(max_batch_size), "litserve", command)


def _bento(service: str, variant: str) -> Peer:
    command = ("bentoml", "serve", f"{_SERVERS}.bento_service:{service}", "--host", "127.0.0.1", "--port", "{port}")
    return Peer("BentoML", variant, "bentoml", command)


def _mlserver(max_batch_size: int) -> Peer:
    def files(port: int) -> dict[str, Any]:
        ports = {"http_port": port, "grpc_port": free_port(), "metrics_port": free_port()}
        batching = {"max_batch_size": max_batch_size, "max_batch_time": 0.001} if max_batch_size > 1 else {}
        return {
            "settings.json": {"host": "127.0.0.1", "parallel_workers": 0, "debug": False, **ports},
            "model-settings.json": {"name": "m", "implementation": f"{_SERVERS}.mlserver_model.Model", **batching},
        }

    command = ("mlserver", "start", "{folder}")
    path = "/v2/models/m/infer"
    return Peer("MLServer", _batches(max_batch_size), "mlserver", command, path=path, is_v2=True, files=files)


def _ray(max_batch_size: int) -> Peer:
    command = ("python", "-m", f"{_SERVERS}.ray_application", "{port}", str(max_batch_size))
    return Peer("Ray Serve", _batches(max_batch_size), "ray", command)


def _granian(interface: str, variant: str, *words: str) -> Peer:
    command = ("granian", "--interface", interface, "--workers", "1", *words, "--no-log", "--port", "{port}")
    command = (*command, f"{_SERVERS}.granian_echo:{interface}")
    return Peer("Granian, an echo", variant, "granian", command, forms.OCTETS, echoes=True)


def _batches(max_batch_size: int) -> str:
    return "no batches" if max_batch_size == 1 else f"batches of {max_batch_size}"


PEERS = (
    *(_flask(threads) for threads in (8, 64)),
    *(_litserve(size) for size in (1, 64)),
    _bento("Alone", "no batches"),
    _bento("Gathered", "batches of 64"),
    *(_mlserver(size) for size in (1, 64)),
    *(_ray(size) for size in (1, 64)),
    _granian("wsgi", "WSGI, 8 threads", "--blocking-threads", "8"),
    _granian("rsgi", "RSGI", "--loop", "uvloop"),
)


def measure(plan: Plan = Plan()) -> dict[str, Any]:
    """Return requests a second and latencies of every pair, and how many times as many as each peer's best are ours."""
    before = provenance()
    with published() as models_dir, tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "program"
        program.write_bytes(_program(models_dir))
        variables = {PROGRAM: str(program), MODEL: str(models_dir / reference_model.NAME / "1")}
        with pinned(SERVER_CORE), serving(models_dir) as server:
            pid, address = server.process.pid, server.addresses["rest"]
            wanted = [peer for peer in PEERS if not plan.peers or peer.name in plan.peers]
            pairs = [_pair(peer, plan, variables, pid, address) for peer in wanted]
    return {
        "measurement": "peers",
        "plan": dataclasses.asdict(plan),
        "figures": best(pairs),
        "pairs": pairs,
        "before": before,
        "after": {"load_averages": provenance()["load_averages"]},
    }


def best(pairs: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return, for each peer, its configuration that answered the most, ours beside it, and the quotient."""
    found: dict[str, dict[str, Any]] = {}
    for pair in pairs:
        figures = found.setdefault(pair["peer"], {"missing": pair.get("missing", "")})
        if "theirs" not in pair:
            continue
        theirs, ours = pair["theirs"], pair["ours"]
        rate = theirs["requests_per_second"]
        if "theirs" in figures and figures["theirs"]["requests_per_second"] >= rate:
            continue
        found[pair["peer"]] = {
            "variant": pair["variant"],
            "form": pair["form"],
            "theirs": theirs,
            "ours": ours,
            "times_theirs": round(ours["requests_per_second"] / rate, 2),
            "goal": GOALS.get(pair["peer"]),
            "missing": "",
        }
    return found


def _pair(peer: Peer, plan: Plan, variables: dict[str, str], pid: int, address: str) -> dict[str, Any]:
    """Return what one peer and ours answered in turns, or why the peer is missing."""
    about: dict[str, Any] = {"peer": peer.name, "variant": peer.variant, "form": peer.content_type}
    rows = rows_of(1, reference_model.DIM)
    with contextlib.ExitStack() as servers:
        model = reference_model.NAME
        if peer.echoes:
            with pinned(SERVER_CORE):
                pid, address = servers.enter_context(edge_serving())
            model = ECHO
        ours = _job(address, f"/models/{model}/score", forms.body(peer.content_type, rows), peer)
        try:
            place = peer_environment.prepared(peer.environment)
            about["versions"] = peer_environment.versions(peer.environment)
            peer_pid, theirs = servers.enter_context(_peer_running(peer, place, variables, rows))
            return about | _in_turns(peer, plan, {"theirs": (peer_pid, theirs), "ours": (pid, ours)})
        except (MissingPeerError, RuntimeError) as error:
            return {**about, "missing": str(error).replace(str(ROOT), "")[:600]}


def _in_turns(peer: Peer, plan: Plan, sides: dict[str, tuple[int, Job]]) -> dict[str, Any]:
    """Return what two servers, by their processes and jobs, answer in turns."""
    _check_agreement(*(_ask(job) for _, job in reversed(sides.values())), peer)
    for _, job in sides.values():
        drive(dataclasses.replace(job, phases=(Phase("warm-up", 1.0, None, plan.num_callers),)))
    repeats: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
    for _ in range(plan.num_repeats):
        for side, (pid, job) in sides.items():
            repeats[side].append(_run(pid, job, plan))
    return {**{side: medians(values) for side, values in repeats.items()}, "repeats": repeats}


def _run(pid: int, job: Job, plan: Plan) -> dict[str, float]:
    started = family_seconds(pid)
    (document,) = drive(dataclasses.replace(job, phases=(Phase("measured", plan.seconds, None, plan.num_callers),)))
    document["num_distinct_answers"] = 1  # some name each answer
    return figures_of(document, 1, family_seconds(pid) - started)


@contextlib.contextmanager
def _peer_running(peer: Peer, place: Path, variables: dict[str, str], rows: Any) -> Iterator[tuple[int, Job]]:
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        for name, document in peer.files(port).items():
            (Path(folder) / name).write_text(json.dumps(document))
        filled = [word.format(port=port, folder=folder) for word in peer.command]
        job = _job(f"127.0.0.1:{port}", peer.path, _body(peer, rows), peer)
        paths = {**variables, "PATH": f"{place / 'bin'}:/usr/bin:/bin"}
        with peer_serving(
            [str(place / "bin" / filled[0]), *filled[1:]], paths, Path(folder), lambda: _answers(job)
        ) as pid:
            yield pid, job


def _job(address: str, path: str, body: bytes, peer: Peer) -> Job:
    return Job(
        address,
        reference_model.NAME,
        1,
        reference_model.DIM,
        timeout_seconds=60.0,
        phases=(),
        grace_seconds=30.0,
        path=path,
        content_type=peer.content_type,
        body=forms.packed(body),
    )


def _body(peer: Peer, rows: NDArray[np.float32]) -> bytes:
    if not peer.is_v2:
        return forms.body(peer.content_type, rows)
    tensor = {"name": "x", "datatype": "FP32", "shape": list(rows.shape), "data": rows.ravel()}
    return forms.json_body({"id": "1", "inputs": [tensor]})


def _answers(job: Job) -> bool:
    try:
        _ask(job)
    except (OSError, RuntimeError):
        return False
    return True


def _ask(job: Job) -> bytes:
    headers = {"Content-Type": job.content_type, "Accept": job.content_type}
    request = urllib.request.Request(f"http://{job.address}{job.path}", body_of(job), headers)
    with urllib.request.urlopen(request, timeout=_ASK_SECONDS) as answer:  # noqa: S310
        body: bytes = answer.read()
    return body


def columns(body: bytes, content_type: str) -> NDArray[np.float64]:
    """Return score and gradient of one row, however a server writes them."""
    if content_type == forms.OCTETS:
        return np.frombuffer(body, "<f4").astype(np.float64)
    document = json.loads(body)
    if isinstance(document, dict) and "outputs" in document:
        parts = [output["data"] for output in document["outputs"]]
    elif isinstance(document, dict):
        parts = [document["score"], document["gradient"]]
    else:
        parts = [document]
    return np.concatenate([np.ravel(np.asarray(part, dtype=np.float64)) for part in parts])


def _check_agreement(ours: bytes, theirs: bytes, peer: Peer) -> None:
    expected, received = columns(ours, peer.content_type), columns(theirs, peer.content_type)
    if expected.shape != received.shape or np.abs(expected - received).max() > _AGREEMENT * np.abs(expected).max():
        raise RuntimeError("its answer is not that of the model")


def _program(models_dir: Path) -> bytes:
    from service.model_version import load  # imports TensorFlow

    with contextlib.closing(load(models_dir / reference_model.NAME / "1", "program")) as live:
        return pickle.dumps(live.loaded.program)
