"""A server as a process of its own, on ports that it chose, with its log lines at hand."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).parents[2]


def _parsed(line):
    """Return a line of the log as a document; the error of another one quotes it."""
    try:
        return json.loads(line)
    except ValueError as err:
        raise AssertionError(f"the server wrote a line that is no JSON: {line!r}") from err


class ServerProcess:
    """`python -m service serve` over a folder.

    Args:
        models_dir: the folder.
        flags: more flags.
    """

    module = "service"
    """What Python runs; a test may put a composition of its own there that takes the same flags."""

    def __init__(self, models_dir, *flags):
        words = ["--models-dir", models_dir, "--rest-port", 0, "--grpc-port", 0, "--log-format", "json", *flags]
        self.process = subprocess.Popen(
            [sys.executable, "-m", self.module, *map(str, words)],
            cwd=ROOT,
            env={name: value for name, value in os.environ.items() if not name.startswith("CONVEX_")},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.lines = []
        self.printed = []
        self._readers = [
            threading.Thread(target=self._read, args=(stream, lines))
            for stream, lines in ((self.process.stderr, self.lines), (self.process.stdout, self.printed))
        ]
        for reader in self._readers:
            reader.start()

    @staticmethod
    def _read(stream, lines):
        with stream:
            for line in stream:
                lines.append(line.rstrip("\n"))

    def events(self, name):
        """Return the log lines of one event; every line of standard error must be JSON."""
        return [line for line in map(_parsed, list(self.lines)) if line["event"] == name]

    def address(self, protocol):
        """Return host and port of "rest" or "grpc", or None while they are not bound."""
        serving = self.events("serving")
        return serving[0][protocol] if serving else None

    def get(self, path):
        """Return status and body of a GET."""
        try:
            with urllib.request.urlopen(f"http://{self.address('rest')}{path}", timeout=10) as response:
                return response.status, response.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()

    def is_ready(self):
        """Whether `/readyz` says so; an ended process is an error."""
        if self.process.poll() is not None:
            raise RuntimeError(f"the server ended with {self.process.returncode}: {self.lines}")
        return self.address("rest") is not None and self.get("/readyz")[0] == 200

    def versions(self, model):
        """Return version -> (state, reason) of a model."""
        for status in json.loads(self.get("/models")[1])["models"]:
            if status["name"] == model:
                return {item["version"]: (item["state"], item["reason"]) for item in status["versions"]}
        return {}

    def terminate(self, timeout_seconds=20):
        """Send SIGTERM and return the exit code."""
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(timeout_seconds)
        self._join()
        return code

    def kill(self):
        """End it whatever it does."""
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait(20)
        self._join()

    def _join(self):
        for reader in self._readers:
            reader.join(20)
