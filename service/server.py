"""The server as a process: start, announce, wait for a signal, drain, end.

Above: `__main__`. Below: `worker`, which does the serving alone, or `fleet`, several processes of which do.
"""

import os
import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Protocol

import structlog

from service.ports import Addresses
from service.registry import ModelStatus, Registry
from service.settings import Settings
from service.signature import CONTEXT

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_POLL_SECONDS = 0.1
_LOOPBACK = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}  # noqa: S104  (nothing is bound to it here)


class Serving(Protocol):
    """What serves: a lone `worker.Worker`, or the `fleet.commander.Commander` of several."""

    settings: Settings
    registry: Registry
    addresses: Addresses

    def start(self) -> None:
        """Serve."""

    def is_settled(self) -> bool:
        """Whether the models folder was looked through, and all that serves is there."""

    def lost(self) -> str:
        """Why it can serve no more; empty while it can."""

    def drain(self) -> None:
        """Be not ready, and answer all the same."""

    def stop(self, timeout_seconds: float) -> bool:
        """Finish what was accepted and end; return whether everything did."""


class Supervisor:
    """Runs what serves until a signal ends it, or it is lost.

    SIGTERM or SIGINT: not ready at once, still answering for `drain_delay_seconds`, then accepting nothing more and
    finishing what was accepted, all within `drain_seconds`; the process then ends with 0. A second signal ends the
    process at once.

    Args:
        worker: what serves; its ports are bound.
        announce: takes the lines for a person at the terminal, once the models folder was looked through.
    """

    def __init__(self, worker: Serving, announce: Callable[[str], None]) -> None:
        self._worker = worker
        self._settings = worker.settings
        self._announce = announce
        self._stopping = threading.Event()
        self._log = structlog.get_logger()

    def run(self) -> bool:
        """Serve until a signal comes, or nothing can serve any more; return whether every thread ended in time."""
        before = {number: signal.signal(number, self._on_signal) for number in _SIGNALS}
        try:
            self._worker.start()
            self._wait_and_announce()
            return self._end()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if self._stopping.is_set():
            os._exit(128 + number)
        self._stopping.set()

    def _wait_and_announce(self) -> None:
        # Waits have a bound so that a signal that arrives on another thread is seen too.
        while not self._worker.is_settled() and not self._is_over():
            self._stopping.wait(_POLL_SECONDS)
        if not self._is_over():
            registry = self._worker.registry
            self._announce(announcement(self._worker.addresses, registry.models(), self._settings))
        while not self._is_over():
            self._stopping.wait(_POLL_SECONDS * 10)

    def _is_over(self) -> bool:
        return self._stopping.is_set() or bool(self._worker.lost())

    def _end(self) -> bool:
        started = time.monotonic()
        self._log.info("draining", seconds=self._settings.drain_seconds)
        self._worker.drain()
        time.sleep(min(self._settings.drain_delay_seconds, self._settings.drain_seconds))
        remaining = max(0.0, self._settings.drain_seconds - (time.monotonic() - started))
        finished = self._worker.stop(remaining)
        self._log.info("stopped", finished=finished, seconds=round(time.monotonic() - started, 3))
        return finished


def announcement(addresses: Addresses, models: list[ModelStatus], settings: Settings) -> str:
    """Return what a person at the terminal reads: the page, one curl and one gRPC line that work as they stand.

    Args:
        addresses: where the protocols are bound.
        models: what is live; the lines ask the default model, or else the first that is live.
        settings: models_dir.
    """
    rest, grpc_address = (_reachable(address) for address in (addresses.rest, addresses.grpc))
    lines = [f"Convex Scoring: page and REST on http://{rest}/, gRPC on {grpc_address}"]
    live = sorted((model for model in models if model.dim), key=lambda model: not model.default)
    if not live:
        lines.append(f"No model is live yet: a version put under {settings.models_dir}/ is served when it is whole.")
        return "\n".join(lines)
    model = live[0]
    path = "/score" if model.default else f"/models/{model.name}/score"
    numbers, beside = (", ".join(["0"] * dim) for dim in (model.dim or 0, model.context[0]))
    context = f', "context": [[{beside}]]' if beside else ""
    lines.append(f"  curl http://{rest}{path} -d '{{\"instances\": [[{numbers}]]{context}}}'")
    lines.append(f'  {_python()} -c "{_grpc_snippet(model, grpc_address)}"')
    return "\n".join(lines)


def _reachable(address: str) -> str:
    """Return the address that a client on this machine uses for one that may mean every interface."""
    host, _, port = address.rpartition(":")
    return f"{_LOOPBACK.get(host, host)}:{port}"


def _python() -> str:
    executable, here = Path(sys.executable), Path.cwd()
    return shlex.quote(str(executable.relative_to(here) if executable.is_relative_to(here) else executable))


def _grpc_snippet(model: ModelStatus, address: str) -> str:
    # Only single quotes and nothing that a shell expands: it stands between double quotes.
    inputs = {"x": model.dim} | ({CONTEXT: model.context[0]} if model.context[0] else {})
    tensors = (
        f"{name} = t.TensorProto(dtype=1, tensor_shape={{'dim': [{{'size': 1}}, {{'size': {dim}}}]}}, "
        f"float_val=[0] * {dim}); "
        for name, dim in inputs.items()
    )
    named = ", ".join(f"'{name}': {name}" for name in inputs)
    return (
        f"import grpc; from service.protos import tensorflow_serving as t; {''.join(tensors)}"
        f"request = t.PredictRequest(model_spec={{'name': '{model.name}'}}, inputs={{{named}}}); "
        f"predict = grpc.insecure_channel('{address}').unary_unary('/tensorflow.serving.PredictionService/Predict', "
        "t.PredictRequest.SerializeToString, t.PredictResponse.FromString); print(predict(request))"
    )
