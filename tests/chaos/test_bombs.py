"""Small requests that claim to be huge: each is refused for what it is, and the server's memory stays where it was."""

import contextlib
import gzip
import io
import json
import logging
import time
from pathlib import Path

import grpc
import numpy as np
import pyarrow as pa
import pytest

from service.rest.app import create_app
from tests.chaos.malformed_messages import bombs
from tests.chaos.plain_http import Connection
from tests.end_to_end.server_process import ROOT, ServerProcess
from tests.service.quadratic_servers import serve
from tests.service.quadratic_versions import make_service

PREDICT = "/tensorflow.serving.PredictionService/Predict"
NPY = {"Content-Type": "application/x-npy"}
GZIP = {"Content-Encoding": "gzip"}
OCTETS = {"Content-Type": "application/octet-stream"}
ARROW = {"Content-Type": "application/vnd.apache.arrow.stream"}
SECONDS = 30.0


def packed(data, claimed=None):
    """Return data under gzip, with a trailer that claims some other size."""
    body = gzip.compress(data, 9, mtime=0)
    return body if claimed is None else body[:-4] + claimed.to_bytes(4, "little")


def headed(head, version=1, size=None):
    """Return a `.npy` file of a head alone."""
    size = len(head) if size is None else size
    return b"\x93NUMPY" + bytes([version, 0]) + size.to_bytes(2 if version == 1 else 4, "little") + head


def shaped(shape, descr="<f4"):
    """Return a `.npy` file that claims a shape and holds nothing."""
    return headed(f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}".encode())


def pickled():
    """Return a `.npy` file of objects."""
    file = io.BytesIO()
    np.save(file, np.array([[1.0, "x", None]], dtype=object), allow_pickle=True)
    return file.getvalue()


def streamed(array, *replaced, compression=None):
    """Return an Arrow stream of one column `x`, pairs of 64-bit numbers in its metadata replaced by others."""
    sink = pa.BufferOutputStream()
    batch = pa.record_batch([array], names=["x"])
    with pa.ipc.new_stream(sink, batch.schema, options=pa.ipc.IpcWriteOptions(compression=compression)) as writer:
        writer.write_batch(batch)
    body = sink.getvalue().to_pybytes()
    for old, new in replaced:
        body = body.replace(old.to_bytes(8, "little"), new.to_bytes(8, "little"))
    return body


def rows_of_zeros(num_rows):
    """Return lists of three zeros."""
    return pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(3 * num_rows, np.float32)), 3)


ZEROS = packed(bytes(100 << 20))
BODIES = {
    "JSON, 250,000 lists deep": ({}, b'{"instances": ' + b"[" * 250_000, 400),
    "JSON, 250,000 lists deep and closed": ({}, b'{"instances": ' + b"[" * 250_000 + b"]" * 250_000 + b"}", 400),
    "JSON, 250,000 objects deep": ({}, b'{"a":' * 250_000, 400),
    "JSON, 100,000 empty lists": ({}, b'{"instances": [' + b"[]," * 100_000 + b"[]]}", 413),
    "JSON, number of 250,000 digits": ({}, b'{"instances": [[' + b"9" * 250_000 + b", 1, 2]]}", 400),
    "gzip, 100 MiB in 100 KB": (GZIP | OCTETS, ZEROS, 413),
    "gzip, 100 MiB that claim to be 10 bytes": (GZIP | OCTETS, ZEROS[:-4] + b"\x0a\0\0\0", 400),
    "gzip, 100 MiB that claim to be 1 MiB": (GZIP, ZEROS[:-4] + b"\0\0\x10\0", 400),
    "gzip, deep JSON": (GZIP, packed(b"[" * 250_000), 400),
    "gzip in gzip": (GZIP, packed(ZEROS), 400),
    "npy, 2^40 x 2^40": (NPY, shaped("(1099511627776, 1099511627776)"), 400),
    "npy, 2^31 - 1 rows": (NPY, shaped("(2147483647, 3)"), 400),
    "npy, 2^40 rows of nothing": (NPY, shaped("(1099511627776, 0)"), 400),
    "npy, a billion voids": (NPY, shaped("(1000000000, 3)", "|V0"), 400),
    "npy, head of 4 GiB": (NPY, headed(b"{", 2, 0xFFFFFFFF), 400),
    "npy, head of 64 KiB": (NPY, headed(b"(" * 65_000), 400),
    "npy, deep head": (NPY, headed(b"(" * 4000), 400),
    "npy, endless sign": (NPY, headed(b"-" * 4000 + b"1"), 400),
    "npy, pickled objects": (NPY, pickled(), 400),
    "Arrow, 48 MiB in zstd": (ARROW, streamed(rows_of_zeros(1 << 22), compression="zstd"), 400),
    "Arrow, 12 MiB in lz4": (ARROW, streamed(rows_of_zeros(1 << 20), compression="lz4"), 400),
    "Arrow, compressed to 2^62": (ARROW, streamed(rows_of_zeros(999), (999 * 12, 1 << 62), compression="zstd"), 400),
    "Arrow, 2^40 rows": (ARROW, streamed(rows_of_zeros(5), (5, 1 << 40), (15, 3 << 40)), 400),
    "Arrow, 2^62 bytes": (ARROW, streamed(rows_of_zeros(5), (60, 1 << 62), (64, 1 << 62)), 400),
    "Arrow, a billion nulls": (ARROW, streamed(pa.array([None] * 7), (7, 10**9)), 400),
    "Arrow, keys of a dictionary": (ARROW, streamed(pa.array(["x" * 9999] * 99).dictionary_encode()), 400),
    "Arrow, schema of 2 GiB": (ARROW, b"\xff\xff\xff\xff\xff\xff\xff\x7f" + bytes(64), 400),
}


class Sender:
    """Sends every bomb and times the refusals.

    Args:
        ask: (path, headers, body) -> status, headers, body of an HTTP answer.
        channel: to the same server by gRPC.
        model: of three features.
    """

    def __init__(self, ask, channel, model):
        self.ask, self.predict = ask, channel.unary_unary(PREDICT)
        self.path, self.messages = f"/models/{model}/score", bombs(model)
        self.seconds = {}

    def send(self, repeat):
        """Send each so often; every one is refused as the caller's fault."""
        for name, (headers, body, expected) in BODIES.items():
            for _ in range(repeat):
                with self.timed(name):
                    status, _, answer = self.ask(self.path, headers, body)
                assert (expected, "INVALID_ARGUMENT") == (status, json.loads(answer)["error"]["code"]), (name, answer)
        for number, data in enumerate(self.messages):
            assert len(data) < 1000
            for _ in range(repeat):
                with self.timed(f"message {number}"), pytest.raises(grpc.RpcError) as error:
                    self.predict(data, timeout=SECONDS)
                assert grpc.StatusCode.INVALID_ARGUMENT is error.value.code(), (number, error.value)

    @contextlib.contextmanager
    def timed(self, name):
        """Note how long the block takes."""
        started = time.monotonic()
        yield
        self.seconds.setdefault(name, []).append(time.monotonic() - started)


class Memory:
    """Watches the memory of a process from now on.

    Args:
        pid: of the process.
    """

    def __init__(self, pid):
        self._folder = Path(f"/proc/{pid}")
        (self._folder / "clear_refs").write_text("5")  # the peak is what it has now
        self._before = self._read("VmRSS")

    def _read(self, field):
        text = (self._folder / "status").read_text("ascii")
        return next(int(line.split()[1]) for line in text.splitlines() if line.startswith(field)) / 1024

    def grown_mib(self):
        """Return by how much it has grown."""
        return self._read("VmRSS") - self._before

    def peak_mib(self):
        """Return by how much it had grown at its greatest."""
        return self._read("VmHWM") - self._before


def test_bombs_are_refused_and_take_no_memory():
    """Each of them five times, after a first round: refused for what it is, at no moment more than 16 MiB."""
    service = make_service()
    service.publish("m", 1)
    client = create_app(service.scorer, service.registry, service.metrics, service.settings).test_client()

    def ask(path, headers, body):
        response = client.post(path, data=body, headers=headers)
        return response.status_code, response.headers, response.data

    with serve(service) as channel:
        sender = Sender(ask, channel, "m")
        sender.send(1)
        memory = Memory("self")
        sender.send(5)
        assert memory.peak_mib() < 16
    assert {6} == {len(seconds) for seconds in sender.seconds.values()}


def test_memory_sees_a_peak_that_has_passed():
    """Memory that was taken and given back is a peak; what is kept is growth."""
    memory = Memory("self")
    block = bytearray(b"x") * (64 << 20)
    kept = memory.grown_mib()
    del block
    assert kept > 60
    assert memory.peak_mib() > 60
    assert memory.grown_mib() < 30


@pytest.mark.chaos
@pytest.mark.timeout(900)
def test_thousand_of_each_bomb_leave_memory_where_it_was(wait_until, record_property):
    """In a server of its own: each refused, memory grows by less than 5 MiB, the server answers as before."""
    server = ServerProcess(ROOT / "models")
    try:
        wait_until(server.is_ready, 120.0)
        with Connection(server.address("rest")) as connection, grpc.insecure_channel(server.address("grpc")) as channel:
            sender = Sender(connection.ask, channel, "colours")
            good = (sender.path, OCTETS, np.float32([[248, 249, 254]]).tobytes())
            before = connection.ask(*good)[::2]
            sender.send(20)
            memory = Memory(server.process.pid)
            sender.seconds.clear()
            sender.send(1000)
            assert before == connection.ask(*good)[::2]
            assert 200 == before[0]
            grown_mib, peak_mib = memory.grown_mib(), memory.peak_mib()
        assert [] == server.events("request failed")
    finally:
        server.kill()
    slowest = max(sender.seconds, key=lambda name: float(np.percentile(sender.seconds[name], 99)))
    figures = {
        "bombs": sum(map(len, sender.seconds.values())),
        "slowest": slowest,
        "its p99 ms": round(1000 * float(np.percentile(sender.seconds[slowest], 99)), 1),
        "grown MiB": round(grown_mib, 1),
        "peak MiB": round(peak_mib, 1),
    }
    record_property("bombs", figures)
    logging.getLogger(__name__).warning("bombs: %s", figures)
    assert grown_mib < 5
    assert peak_mib < 16
