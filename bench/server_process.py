"""A server as a process of its own, for measurements: its address, its memory, its counters, its log."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.provenance import ROOT

_START_SECONDS = 60.0
_STOP_SECONDS = 20.0
_ASK_SECONDS = 10.0
_LOOK_SECONDS = 0.05
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_SAMPLE = re.compile(r"^([a-z_]+)(?:\{(.*)\})? ([0-9.e+]+)$", re.MULTILINE)


class ServerProcess:
    """`python -m service serve`, ready.

    Args:
        process: the running process.
        log: the file of its log.
    """

    def __init__(self, process: "subprocess.Popen[bytes]", log: Path) -> None:
        self.process = process
        self._log = log
        self.addresses: dict[str, str] = {}

    def wait_until_ready(self) -> None:
        """Wait until `/readyz` says so.

        Raises:
            RuntimeError: it ended, or did not become ready in time.
        """
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline and self.process.poll() is None:
            serving = [line for line in self.log() if line.get("event") == "serving"]
            if serving:
                self.addresses = {protocol: serving[0][protocol] for protocol in ("rest", "grpc")}
                with contextlib.suppress(OSError):
                    self.get("/readyz")
                    return
            time.sleep(_LOOK_SECONDS)
        raise RuntimeError(f"the server is not ready: {self._log.read_text()[-2000:]}")

    def get(self, path: str) -> bytes:
        """Return the body of a GET."""
        with urllib.request.urlopen(f"http://{self.addresses['rest']}{path}", timeout=_ASK_SECONDS) as answer:
            body: bytes = answer.read()
        return body

    def counters(self) -> dict[tuple[str, str], float]:
        """Return what `/metrics` says: (name, labels as written) -> value."""
        text = self.get("/metrics").decode()
        return {(name, labels): float(value) for name, labels, value in _SAMPLE.findall(text)}

    def memory_bytes(self) -> int:
        """Return the resident memory."""
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * _PAGE_BYTES

    def num_descriptors(self) -> int:
        """Return how many descriptors it has open."""
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def log(self) -> list[dict[str, Any]]:
        """Return the log lines so far; one that is no JSON is an error."""
        lines = self._log.read_bytes().splitlines(keepends=True)
        return [_event(line) for line in lines if line.endswith(b"\n")]

    def errors(self) -> list[dict[str, Any]]:
        """Return the log lines that tell of an error."""
        return [line for line in self.log() if line["level"] == "error"]


def _event(line: bytes) -> dict[str, Any]:
    try:
        event: dict[str, Any] = json.loads(line)
    except ValueError:
        return {"event": line.decode(errors="replace"), "level": "error"}
    return event


@contextlib.contextmanager
def serving(models_dir: Path, *flags: str, module: str = "service") -> Iterator[ServerProcess]:
    """Serve a folder until the block ends.

    Args:
        models_dir: the folder.
        flags: more flags.
        module: what Python runs, with the command line of `service`.
    """
    words = ["--models-dir", str(models_dir), "--rest-port", "0", "--grpc-port", "0", "--log-format", "json", *flags]
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        with log.open("wb") as stderr:
            process = subprocess.Popen(  # noqa: S603  (our own command)
                [sys.executable, "-m", module, *words],
                cwd=ROOT,
                env={name: value for name, value in os.environ.items() if not name.startswith("CONVEX_")},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
            )
        server = ServerProcess(process, log)
        try:
            server.wait_until_ready()
            yield server
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(_STOP_SECONDS)
