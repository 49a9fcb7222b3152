"""What every test has: no GPU and no noise from TensorFlow, the leak detector, the run's report, waiting and ports."""

import os
import socket
import time
from collections.abc import Callable
from typing import Any

import pytest

# Before anything imports TensorFlow or NumPy; a process that a test starts inherits them.
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # its threads spin while they wait for each other

pytest_plugins = ["pytester", "tests.plugins.leaks", "tests.plugins.run_report", "tests.plugins.seeds"]

WaitUntil = Callable[..., Any]


@pytest.fixture(scope="session")
def wait_until() -> WaitUntil:
    """Return `wait_until(condition, deadline_seconds=30.0)`, which returns the condition's first true value.

    It looks every 10 ms and fails the test when the deadline has passed; an exception of the condition is the test's.
    """

    def wait(condition: Callable[[], Any], deadline_seconds: float = 30.0) -> Any:
        deadline = time.monotonic() + deadline_seconds
        while not (value := condition()):
            if time.monotonic() > deadline:
                pytest.fail(f"still not true after {deadline_seconds} s: {getattr(condition, '__name__', condition)}")
            time.sleep(0.01)
        return value

    return wait


@pytest.fixture
def ephemeral_port() -> int:
    """Return a TCP port of the loopback interface that was free a moment ago.

    For what must be told a port beforehand. Where a server can bind port 0 and say which it got, do that instead.
    """
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])
