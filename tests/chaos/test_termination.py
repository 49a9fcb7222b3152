"""SIGTERM again and again while clients of both protocols ask: what was accepted is answered, and the end is soon."""

import contextlib
import functools
import shutil
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import psutil
import pytest

from tests.chaos.ramp_versions import MODEL
from tests.end_to_end.clients import GrpcClient

END_SECONDS = 10.0
ASK_SECONDS = 0.5
COPIES = 2000
LONG = [pytest.mark.chaos, pytest.mark.timeout(3600)]

REFUSED = "the server is about to end"
NOT_CONNECTED = ("failed to connect", "Connection refused", "GOAWAY")


class LostError(Exception):
    """A request that the server had, or promised to take, and did not answer."""


class RestAsker:
    """REST over bare sockets: knows what was sent, what came, and who closed when.

    Args:
        address: host and port.
        rows: float32 [n, dim].
        expected: version -> score, gradient.
    """

    def __init__(self, address, rows, expected):
        host, _, port = address.rpartition(":")
        self.address = (host, int(port))
        body = rows.tobytes()
        kind = "application/octet-stream"
        head = f"POST /models/{MODEL}/score HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\nAccept: {kind}\r\n"
        self.request = head.encode() + f"Content-Length: {len(body)}\r\n\r\n".encode() + body
        self.answers = {
            version: np.column_stack(answer).astype("<f4").tobytes() for version, answer in expected.items()
        }
        self.connection = None
        self.is_fresh = True

    def ask(self):
        """Return what became of a request: "answered", "refused" or "not connected".

        Raises:
            LostError: it was sent on a connection of the server's and has no whole answer.
        """
        if self.connection is None:
            try:
                self.connection = socket.create_connection(self.address, timeout=20)
            except OSError:
                return "not connected"
            self.is_fresh = True
        try:
            self.connection.sendall(self.request)
            head, body = self.receive()
        except OSError as error:
            raise LostError(repr(error)) from error
        if head is None:
            was_fresh = self.is_fresh
            self.close()
            if was_fresh:  # of the kernel's queue: the server never accepted it
                return "not connected"
            raise LostError("a kept-alive connection was closed without a word")
        return self.judge(head, body)

    def judge(self, head, body):
        """Check an answer."""
        self.is_fresh = False
        if b"\r\nconnection: close" in head.lower():
            self.close()
        if head.startswith(b"HTTP/1.1 503"):
            return "refused"
        fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:])
        version = int(fields.get(b"x-model-version", 0))
        if not head.startswith(b"HTTP/1.1 200") or body != self.answers.get(version):
            raise LostError(f"answered {head[:100]!r} and {len(body)} bytes")
        return "answered"

    def receive(self):
        """Return head and body of an answer; None where the connection ends before its first byte."""
        data = b""
        while b"\r\n\r\n" not in data:
            try:
                more = self.connection.recv(1 << 16)
            except ConnectionResetError:
                more = b""
            if not more:
                if data:
                    raise LostError(f"half an answer: {data[:100]!r}")
                return None, b""
            data += more
        head, body = data.split(b"\r\n\r\n", 1)
        lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        missing = int(lengths[0].split(b":")[1]) - len(body)
        while missing > 0:
            more = self.connection.recv(missing)
            if not more:
                raise LostError(f"{missing} bytes of an answer are missing")
            body += more
            missing -= len(more)
        return head, body

    def close(self):
        """Close the connection."""
        if self.connection is not None:
            self.connection.close()
        self.connection = None


class RpcAsker:
    """Predict over one channel. UNAVAILABLE is a refusal where the server said so or was not there any more."""

    def __init__(self, address, rows, expected):
        self.client = GrpcClient(address, rows, MODEL)
        self.expected = expected

    def ask(self):
        """Return what became of a call, as `RestAsker.ask`."""
        try:
            version, *answer = self.client.ask()
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.UNAVAILABLE:
                if REFUSED in error.details():
                    return "refused"
                if any(words in error.details() for words in NOT_CONNECTED):
                    return "not connected"
            raise LostError(f"{error.code()}: {error.details()}") from error
        for received, wanted in zip(answer, self.expected[version], strict=True):
            if received.tobytes() != wanted.tobytes():
                raise LostError("wrong bits")
        return "answered"

    def close(self):
        """Close the channel."""
        self.client.close()


class Round:
    """One server from its start to its end, under eight clients with small requests and four with large ones.

    Args:
        server: ready.
        ramps: it serves their version 1.
    """

    def __init__(self, server, ramps):
        self.server = server
        self.children = psutil.Process(server.process.pid).children()
        self.outcomes = dict.fromkeys(["answered", "refused", "not connected"], 0)
        self.lost = []
        self._counting = threading.Lock()
        self._warm = threading.Semaphore(0)
        many = np.tile(ramps.rows, (COPIES, 1))
        sizes = [(x, {version: ramps.expected(version, x) for version in (1, 2)}) for x in (ramps.rows, many)]
        counts = (4, 2)
        self.askers = [
            kind(server.address(protocol), rows, expected)
            for kind, protocol in ((RestAsker, "rest"), (RpcAsker, "grpc"))
            for count, (rows, expected) in zip(counts, sizes, strict=True)
            for _ in range(count)
        ]

    def run(self, meanwhile):
        """Let them ask, end the server `meanwhile`; return exit code and the seconds that the end took."""
        with ThreadPoolExecutor(len(self.askers)) as pool:
            clients = [pool.submit(self.client, asker) for asker in self.askers]
            for _ in self.askers:
                assert self._warm.acquire(timeout=60)
            threading.Event().wait(ASK_SECONDS)
            meanwhile()
            started = time.monotonic()
            self.server.process.send_signal(signal.SIGTERM)
            code = self.server.process.wait(60)
            seconds = time.monotonic() - started
            for client in clients:
                client.result(60)
        return code, seconds

    def client(self, asker):
        """Ask until the server is not there any more."""
        with contextlib.closing(asker):
            outcome, is_first = "", True
            while outcome != "not connected":
                try:
                    outcome = asker.ask()
                except LostError as error:
                    with self._counting:
                        self.lost.append(f"{type(asker).__name__}: {error}")
                    outcome = "not connected"
                else:
                    with self._counting:
                        self.outcomes[outcome] += 1
                if is_first:
                    self._warm.release()
                    is_first = False
                if outcome == "refused":
                    threading.Event().wait(0.02)


@pytest.mark.parametrize("num_rounds", [1, pytest.param(50, marks=LONG)])
def test_no_accepted_request_is_lost_when_servers_are_ended_under_load(num_rounds, serve, ramps, tmp_path, report):
    """Each has a whole, exact answer or a clean refusal, whether or not a version is loaded; exit 0; nothing stays."""
    outcomes, lost, codes, durations = {}, [], [], []
    for number in range(num_rounds):
        models_dir = tmp_path / f"models-{number}"
        ramps.publish(models_dir, 1)
        server = serve(models_dir)
        this = Round(server, ramps)
        ramps.stage(2)
        publish = functools.partial(ramps.publish, models_dir, 2)
        code, seconds = this.run(publish if number % 2 else lambda: None)
        shutil.rmtree(ramps.folder / "staged-2", ignore_errors=True)
        for name, count in this.outcomes.items():
            outcomes[name] = outcomes.get(name, 0) + count
        lost += this.lost
        codes.append(code)
        durations.append(seconds)
        assert [] == [child for child in this.children if child.is_running()]
        (stopped,) = server.events("stopped")
        assert stopped["finished"] is True
        assert not any("Traceback" in line for line in server.lines)
    report(rounds=num_rounds, lost=len(lost), longest_seconds=round(max(durations), 2), **outcomes)
    assert [] == lost
    assert [0] * num_rounds == codes
    assert outcomes["answered"] > 0
    if num_rounds > 1:
        assert max(durations) < END_SECONDS
