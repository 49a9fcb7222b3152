"""Versions planted beside one that serves: what becomes of them, and whether it answers the same bits all the while."""

import itertools
import json
import os
import shutil
from types import SimpleNamespace

import numpy as np
from structlog.testing import capture_logs

from service import engines, loader, manifest
from service.errors import VersionRefusedError
from service.model_version import ModelVersion
from service.program.verification import Probe
from service.settings import Settings
from service.worker import Worker
from tests.end_to_end.clients import RestClient
from tests.end_to_end.server_process import ROOT, ServerProcess

MODEL = "tumours"
SHIPPED = ROOT / "models" / MODEL / "1"
SECONDS = 60.0
ERROR_LEVELS = ("error", "critical")


def sealed_copy(target, version, *, change=None):
    """Copy the shipped version, give it a number, change it if asked, and seal the manifest over what is there.

    Args:
        target: the folder to make.
        version: the number in its manifest.
        change: is given the folder before the files are hashed.
    """
    shutil.copytree(SHIPPED, target)
    if change is not None:
        change(target)
    reseal(target, version=version)


def reseal(folder, **fields):
    """Rewrite the table of files, the given fields and the hash of a manifest; not what the certificate says."""
    path = folder / manifest.FILE_NAME
    document = json.loads(path.read_bytes()) | fields
    document["files"] = {
        file.relative_to(folder).as_posix(): entry(file) for file in sorted(folder.rglob("*")) if is_listed(file)
    }
    path.write_bytes(manifest.seal(document))


def entry(path):
    """Return what a manifest says of a file."""
    data = path.read_bytes()
    return {"bytes": len(data), "sha256": manifest.sha256_hex(data)}


def is_listed(path):
    """Whether a file belongs into a manifest."""
    return path.is_file() and not path.is_symlink() and path.name != manifest.FILE_NAME


def load_here(folder):
    """Return a live version as the server would make it, made in this process: for a few, that crash nobody.

    Args:
        folder: a `VersionFolder`.
    """
    loaded = loader.load(folder.path, model=folder.model, version=folder.version)
    live = ModelVersion(loaded, engines.create(loaded, "program"))
    try:
        live.reproduce(loaded.probe)
    except VersionRefusedError:
        live.close()
        raise
    return live


POLL_SECONDS = 0.05


class ServerHere:
    """The server in this process, loads and all: it starts in no time where TensorFlow is imported already.

    Args:
        models_dir: the folder.
    """

    get, versions = ServerProcess.get, ServerProcess.versions

    def __init__(self, models_dir):
        self._capture = capture_logs()
        self._entries = self._capture.__enter__()
        settings = Settings(models_dir=models_dir, rest_port=0, grpc_port=0, poll_interval_seconds=POLL_SECONDS)
        self._worker = Worker(settings, load=load_here)
        self._worker.start()
        self.process = SimpleNamespace(poll=lambda: None)

    def address(self, protocol):
        """Return host and port of "rest" or "grpc"."""
        return getattr(self._worker.addresses, protocol)

    def is_ready(self):
        """Whether `/readyz` says so."""
        return self.get("/readyz")[0] == 200

    @property
    def lines(self):
        """The lines of its log so far."""
        return [json.dumps(entry | {"level": entry["log_level"]}, default=str) for entry in list(self._entries)]

    def kill(self):
        """End it."""
        self._worker.stop(5.0)
        self._capture.__exit__(None, None, None)


class Beside:
    """A server whose model `tumours` serves version 1, and what is planted beside it.

    A client asks again and again, from the first planted version to the last; `check` says that each of its answers
    had the bits of version 1, or those of a control, which has the same weights.

    Args:
        server: over `models_dir`.
        models_dir: the folder.
        wait_until: the fixture.
    """

    _numbers = itertools.count(2)

    def __init__(self, server, models_dir, wait_until):
        self.server, self.models_dir, self.wait_until = server, models_dir, wait_until
        self.rows = Probe.from_bytes((SHIPPED / "probe.npz").read_bytes()).x
        self._client = RestClient(server.address("rest"), self.rows, MODEL, raw=True, pause_seconds=0.01)
        self.expected = self._bits(self._client.ask())
        self._client.start()

    @staticmethod
    def _bits(answer):
        version, score, gradient = answer
        return version, score.tobytes(), gradient.tobytes()

    def next_version(self):
        """Return a number that no version had."""
        return next(self._numbers)

    def plant(self, make, *, version=None, model=MODEL):
        """Let `make(folder, version)` fill a folder, and put it among the versions in one step; return its number."""
        version = version or self.next_version()
        (self.models_dir / model).mkdir(exist_ok=True)
        staged = self.models_dir / model / f".staging-{version}"
        make(staged, version)
        os.rename(staged, self.models_dir / model / str(version))
        return version

    def outcome(self, version, model=MODEL):
        """Return state, rule and reason of a planted version; None while it is not over."""
        state, reason = self.server.versions(model).get(version, ("", ""))
        if state not in {"AVAILABLE", "END"}:
            return None
        rule, _, words = reason.partition(": ")
        return state, rule, words

    def outcomes(self, versions, model=MODEL):
        """Return {version: (rule, reason)} of planted versions once all are refused."""

        def is_over():
            found = self.server.versions(model)
            return all(found.get(version, ("",))[0] == "END" for version in versions) and found

        found = self.wait_until(is_over, SECONDS)
        return {version: tuple(found[version][1].partition(": ")[::2]) for version in versions}

    def remove(self, versions, model=MODEL):
        """Delete planted versions, whatever they are made of, and wait until the server has forgotten them."""
        for version in versions:
            path = self.models_dir / model / str(version)
            if path.is_symlink() or not path.is_dir():
                path.unlink()
            else:
                shutil.rmtree(path)
        self.wait_until(lambda: not set(versions) & self.server.versions(model).keys(), SECONDS)

    def accepts(self, make):
        """Plant what is whole: whether it is served, with the bits of version 1; afterwards version 1 serves again."""
        version = self.plant(make)
        ours = self.wait_until(lambda: self.outcome(version), SECONDS)
        if ours[0] == "AVAILABLE":
            self.wait_until(lambda: self._last_version() == version, SECONDS)
        shutil.rmtree(self.models_dir / MODEL / str(version))
        self.wait_until(lambda: self.server.versions(MODEL).get(1, ("",))[0] == "AVAILABLE", SECONDS)
        self.wait_until(lambda: self._last_version() == 1, SECONDS)
        return ours[0] == "AVAILABLE"

    def _last_version(self):
        return self._client.answers[-1][0] if self._client.answers else None

    def check(self, *, controls=0):
        """Require that the server lives, that every answer so far had the same bits, and that nothing crashed.

        Args:
            controls: how many planted versions were to be served.
        """
        assert self.server.process.poll() is None
        assert [] == self._client.failures
        answers = [self._bits(answer) for answer in self._client.answers]
        assert {self.expected[1:]} == {answer[1:] for answer in answers}
        assert len({answer[0] for answer in answers}) == 1 + controls
        lines = [json.loads(line) for line in self.server.lines]
        assert [] == [line for line in lines if line["level"] in ERROR_LEVELS]
        return len(answers)

    def refusal_seconds(self):
        """Return, as an array, how many loads of the model were refused so far, and the seconds that they took."""
        text = self.server.get("/metrics")[1].decode()
        found = {"count": 0.0, "sum": 0.0}
        for line in text.splitlines():
            if line.startswith("convex_version_load_seconds_") and f'model="{MODEL}"' in line and "refused" in line:
                name = line.partition("{")[0].rpartition("_")[2]
                found[name] = float(line.rpartition(" ")[2])
        return np.array([found["count"], found["sum"]])

    def close(self):
        """End the client."""
        self._client.stopping.set()
        self._client.join(SECONDS)
