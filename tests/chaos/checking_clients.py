"""Clients that check every answer the moment they have it: its bits, its version, and when it came."""

import contextlib
import functools
import threading
import time

import numpy as np

from tests.chaos.ramp_versions import MODEL
from tests.end_to_end.clients import GrpcClient, RestClient

NUM_CLIENTS = 8


class CheckingClient(threading.Thread):
    """Asks until told to stop, and compares each answer with what the version that it names must answer.

    Args:
        ask: sends one request; returns version, score, gradient.
        close: ends the connection.
        expected: version -> score, gradient.
        pace: whose `period_seconds` lie between the starts of two requests; a request that is late is followed at
            once by the next, and its time counts from when it should have started.
        forgives: whether an exception is an answer that may come.
    """

    def __init__(self, ask, close, expected, pace, *, forgives=lambda _: False):
        super().__init__(name=type(self).__name__)
        self.forgives = forgives
        self.num_forgiven = 0
        self.ask, self.close = ask, close
        self.expected = expected
        self.pace = pace
        self.stopping = threading.Event()
        self.num_answers = 0
        self.versions = []  # each run of equal ones once
        self.faults = []
        self.times = []  # start and duration of each request, in seconds

    def run(self):
        """Ask, and note the first fault."""
        with contextlib.closing(self):
            due = time.monotonic()
            while not self.stopping.is_set() and not self.faults:
                try:
                    version, score, gradient = self.ask()
                except Exception as error:  # noqa: BLE001  (whatever went wrong is what the test looks at)
                    if self.forgives(error):
                        self.num_forgiven += 1
                    else:
                        self.faults.append(f"request {self.num_answers}: {error!r}")
                else:
                    self.check(version, score, gradient)
                now = time.monotonic()
                self.times.append((due, now - due))
                due = max(due + self.pace.period_seconds, now if self.pace.period_seconds == 0.0 else 0.0)
                self.stopping.wait(max(0.0, due - now))

    def check(self, version, score, gradient):
        """Note what is wrong with an answer."""
        self.num_answers += 1
        if not self.versions or version != self.versions[-1]:
            if self.versions and version < self.versions[-1]:
                self.faults.append(f"version {version} after {self.versions[-1]}")
            self.versions.append(version)
        for name, received, wanted in zip(
            ("score", "gradient"), (score, gradient), self.expected(version), strict=True
        ):
            if received.shape != wanted.shape or received.tobytes() != wanted.tobytes():
                self.faults.append(f"version {version} answered {name} {received.tolist()}, not {wanted.tolist()}")


class Pace:
    """How often each client asks.

    Args:
        period_seconds: between the starts of two requests of one client; 0 for as often as it can.
    """

    def __init__(self, period_seconds=0.0):
        self.period_seconds = period_seconds


class Crowd:
    """Eight clients of one server: four on REST over kept-alive connections (two raw, two JSON), four on gRPC.

    Args:
        server: a `ServerProcess` that is ready.
        ramps: the `RampVersions` that it serves.
        copies: how often each request repeats their rows.
        forgives: as of `CheckingClient`.
    """

    def __init__(self, server, ramps, *, copies=1, forgives=lambda _: False):
        rest, rpc = server.address("rest"), server.address("grpc")
        rows = np.tile(ramps.rows, (copies, 1))
        askers = [RestClient(rest, rows, MODEL, raw=raw) for raw in (True, False, True, False)]
        askers += [GrpcClient(rpc, rows, MODEL) for _ in range(NUM_CLIENTS - len(askers))]
        self.pace = Pace()
        expected = functools.lru_cache(maxsize=8)(functools.partial(ramps.expected, rows=rows))
        self.clients = [
            CheckingClient(asker.ask, asker.close, expected, self.pace, forgives=forgives) for asker in askers
        ]

    def __enter__(self):
        """Start them."""
        for client in self.clients:
            client.start()
        return self

    def __exit__(self, *_):
        """Stop them."""
        for client in self.clients:
            client.stopping.set()
        for client in self.clients:
            client.join(30)

    @property
    def faults(self):
        """Everything that went wrong."""
        return [fault for client in self.clients for fault in client.faults]

    @property
    def versions(self):
        """Every version that answered somebody."""
        return {version for client in self.clients for version in client.versions}

    @property
    def num_answers(self):
        """How many requests were answered."""
        return sum(client.num_answers for client in self.clients)

    @property
    def num_forgiven(self):
        """How many requests ended in an exception that was forgiven."""
        return sum(client.num_forgiven for client in self.clients)

    def durations(self, since_seconds, until_seconds):
        """Return the times in seconds, sorted, that requests took which should have started within a span of time."""
        taken = [
            duration
            for client in self.clients
            for start, duration in list(client.times)
            if since_seconds <= start < until_seconds
        ]
        return np.sort(np.array(taken))
