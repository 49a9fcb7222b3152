"""The log of a server process: a line for each request, and no request that waits for its reader."""

import contextlib
import fcntl
import json
import os
import signal
import struct
import subprocess
import sys
import termios
import time
import urllib.error
import urllib.request

import grpc
import pytest
from grpc_health.v1 import health_pb2

from tests.end_to_end.server_process import ROOT

START_SECONDS = 40.0
PIPE_BYTES = 1 << 16
NUM_REQUESTS = 300
SHORTEST_LINE_BYTES = 250


def full_pipe():
    """Return both ends of a pipe that takes no byte more."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writer, b"x" * 4096)
    os.set_blocking(writer, True)
    return reader, writer


def bytes_in(pipe):
    """Return how many bytes a pipe holds."""
    return struct.unpack("i", fcntl.ioctl(pipe, termios.FIONREAD, b"\0" * 4))[0]


def status(url):
    """Return the status of a GET, None while nobody listens."""
    try:
        with urllib.request.urlopen(url, timeout=10) as response:
            return response.status
    except urllib.error.HTTPError as error:
        error.close()
        return error.code
    except urllib.error.URLError:
        return None


@pytest.mark.parametrize("is_full_from_the_start", [True, False])
def test_requests_are_answered_when_nobody_reads_the_log(tmp_path, ephemeral_port, wait_until, is_full_from_the_start):
    """With standard output and error in a full pipe every request is answered, and SIGTERM ends the process with 0."""
    reader, writer = full_pipe() if is_full_from_the_start else os.pipe()
    words = ["--models-dir", tmp_path, "--rest-port", ephemeral_port, "--grpc-port", 0, "--log-level", "debug"]
    process = subprocess.Popen(
        [sys.executable, "-m", "service", *map(str, words), "--access-log", "--log-format", "json"],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=writer,
        stderr=writer,
    )
    try:
        os.close(writer)
        url = f"http://127.0.0.1:{ephemeral_port}/healthz"
        wait_until(lambda: status(url), START_SECONDS)
        assert {200} == {status(url) for _ in range(NUM_REQUESTS)}
        assert PIPE_BYTES / 2 < bytes_in(reader) <= PIPE_BYTES < NUM_REQUESTS * SHORTEST_LINE_BYTES
        started = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert 0 == process.wait(30)
        assert 10 > time.monotonic() - started
    finally:
        process.kill()
        process.wait(20)
        os.close(reader)


def test_requests_are_answered_when_the_reader_of_the_log_is_gone(serve, tmp_path, wait_until):
    """Standard output and error whose reader has left cost lines, which are counted, and nothing else."""
    server = serve(tmp_path, "--access-log")
    wait_until(lambda: server.address("rest"), START_SECONDS)
    url = f"http://{server.address('rest')}"
    for stream in (server.process.stdout, server.process.stderr):
        os.dup2(os.open(os.devnull, os.O_RDONLY), stream.fileno())
    assert {404} == {status(f"{url}/nothing") for _ in range(5)}

    def lost():
        assert 404 == status(f"{url}/nothing")  # one more line: the first ones may still have been read
        with urllib.request.urlopen(f"{url}/metrics", timeout=10) as response:
            return b"convex_log_lines_dropped_total 0.0" not in response.read()

    wait_until(lost)
    assert 0 == server.terminate()


def test_every_request_is_one_line_over_both_protocols(serve, tmp_path, wait_until):
    """The line of an answer has its id; bodies, queries and keys are in none; probes are not logged."""
    server = serve(tmp_path, "--access-log")
    wait_until(lambda: server.address("rest"), START_SECONDS)
    request = urllib.request.Request(
        f"http://{server.address('rest')}/models/m/score?label=secret",
        b'{"instances": [["secret"]]}',
        {"X-Request-ID": "night-7", "Authorization": "Bearer secret", "Content-Type": "application/json"},
    )
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=10)
    with refused.value as answer:
        assert "night-7" == answer.headers["X-Request-ID"]
        size = len(answer.read())
    assert 200 == server.get("/healthz")[0]
    with grpc.insecure_channel(server.address("grpc")) as channel:
        method = channel.unary_unary("/tensorflow.serving.PredictionService/Predict")
        metadata = (("x-request-id", "night-8"), ("authorization", "Bearer secret"))
        assert method.future(b"", timeout=10, metadata=metadata).exception() is not None
        check = channel.unary_unary("/grpc.health.v1.Health/Check", None, health_pb2.HealthCheckResponse.FromString)
        check(b"", timeout=10)
    first, second = wait_until(lambda: len(server.events("request")) == 2 and server.events("request"))
    assert {
        "request_id": "night-7",
        "protocol": "rest",
        "method": "POST",
        "path": "/models/m/score",
        "code": "NOT_FOUND",
        "status": 404,
        "bytes_in": 27,
        "bytes_out": size,
        "peer": "127.0.0.1",
        "level": "info",
    }.items() <= first.items()
    assert {
        "request_id": "night-8",
        "protocol": "grpc",
        "method": "Predict",
        "path": "/tensorflow.serving.PredictionService/Predict",
        "code": "INVALID_ARGUMENT",
        "status": None,
        "bytes_in": 0,
        "peer": "127.0.0.1",
    }.items() <= second.items()
    assert 0 == server.terminate()
    assert [] == [line for line in server.lines if "secret" in line]
    assert 2 == sum(json.loads(line)["event"] == "request" for line in server.lines)
