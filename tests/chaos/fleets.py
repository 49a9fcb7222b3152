"""Servers of several workers: as a process of its own, or with the commander in this one; and which worker has whom."""

import functools
import os
import signal
import threading
from concurrent import futures
from types import SimpleNamespace

import psutil

from service import loader
from service.fleet.commander import Commander
from service.settings import Settings
from tests.end_to_end.server_process import ServerProcess
from tests.service.samples import total

MEMBER = "service.fleet.member"


class LoadsHere:
    """What a `LoadingProcess` is to the commander, without a process: TensorFlow is imported here already."""

    def start(self):
        """Do nothing."""

    def close(self):
        """Do nothing."""

    def give_up(self, folder):
        """Do nothing: no load here hangs."""

    def sees_gpu(self):
        """There is none."""
        return False

    def load(self, order):
        """Return the version."""
        return loader.load(order.folder, model=order.model, version=order.version)


class Fleet:
    """What both forms have in common: a server of several workers.

    `pid` is the commander's process.
    """

    pid: int

    def owner(self, client):
        """Return the process id of the worker that accepted a `RestClient`'s connection."""
        name = client.connection.sock.getsockname()
        for pid in self.workers():
            if any(tuple(each.raddr or ()) == name for each in psutil.Process(pid).net_connections("tcp")):
                return pid
        return None

    def end_worker(self, pid, number=signal.SIGKILL):
        """Send a worker a signal."""
        os.kill(pid, number)

    def number(self, name, **labels):
        """Return a number of the page."""
        return total(self.get("/metrics")[1], name, **labels)


def is_worker(process):
    """Whether a process is a worker."""
    try:
        return any(MEMBER in word for word in process.cmdline())
    except psutil.Error:
        return False


class FleetProcess(ServerProcess, Fleet):
    """A server of several workers as a process of its own."""

    @property
    def pid(self):
        """The commander's process."""
        return self.process.pid

    def workers(self):
        """Return the process ids of the workers that run."""
        return [child.pid for child in psutil.Process(self.pid).children() if is_worker(child)]


class FleetHere(Fleet):
    """The commander in this process, loads and all; the workers are processes as ever.

    Args:
        models_dir: the folder.
        num_workers: how many.
    """

    get, versions = ServerProcess.get, ServerProcess.versions

    def __init__(self, models_dir, num_workers=2, **changes):
        self.pid = os.getpid()
        self.is_over = False
        settings = Settings(
            models_dir=models_dir, rest_port=0, grpc_port=0, poll_interval_seconds=0.05, workers=num_workers, **changes
        )
        self.commander = Commander(settings, LoadsHere())
        self.commander.start()

    def address(self, protocol):
        """Return host and port of "rest" or "grpc"."""
        return getattr(self.commander.addresses, protocol)

    def workers(self):
        """Return the process ids of the workers that run."""
        with self.commander._crew.changed:
            return [member.pid for _, member in sorted(self.commander._crew.members.items())]

    def is_ready(self):
        """Whether all workers are there, and `/readyz` says so."""
        return self.commander.is_settled() and self.get("/readyz")[0] == 200

    def kill(self):
        """End it; return whether all was finished."""
        self.is_over = True
        return self.commander.stop(10.0)

    @functools.cached_property
    def process(self):
        """What there is of a process: `send_signal` begins the end, and `wait` returns 0 where all was finished."""
        pool = futures.ThreadPoolExecutor(1)
        ends = []

        def wait(timeout_seconds):
            with pool:
                return int(not ends[0].result(timeout_seconds))

        def send_signal(_number):
            ends.append(pool.submit(self._end))

        return SimpleNamespace(pid=self.pid, send_signal=send_signal, wait=wait)

    def _end(self):
        self.is_over = True
        self.commander.drain()
        threading.Event().wait(self.commander.settings.drain_delay_seconds)
        return self.commander.stop(self.commander.settings.drain_seconds)
