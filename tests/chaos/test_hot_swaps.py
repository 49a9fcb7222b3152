"""New versions under load, as fast as they come: nobody fails or waits, every answer is its version's to the bit."""

import itertools
import os
import threading
import time

import numpy as np
import pytest

from tests.chaos.checking_clients import NUM_CLIENTS, Crowd
from tests.chaos.ramp_versions import MODEL
from tests.end_to_end.clients import RestClient

SWAP_SECONDS = 30.0
SHARE_OF_CAPACITY = 0.6
SECONDS_BETWEEN_SWAPS = 10.0
NUM_SWAPS = int(os.environ.get("CONVEX_CHAOS_SWAPS", "60"))
"""Swaps of the long run that times requests; it takes 20 seconds for each."""

LONG = [pytest.mark.chaos, pytest.mark.timeout(3600)]


class Publisher:
    """Publishes one version after the other, each when the one before it answers, and deletes old ones.

    Args:
        server: over the folder.
        ramps: what is published.
        models_dir: the folder.
        wait_until: the fixture.
    """

    def __init__(self, server, ramps, models_dir, wait_until):
        self.ramps, self.models_dir, self.wait_until = ramps, models_dir, wait_until
        self.asker = RestClient(server.address("rest"), ramps.rows[:1], MODEL, raw=True)
        self.numbers = itertools.count(2)

    def swap(self):
        """Publish the next version and return once it answers."""
        version = next(self.numbers)
        self.ramps.publish(self.models_dir, version)
        self.wait_until(lambda: self.asker.ask()[0] == version, SWAP_SECONDS)
        self.asker.close()  # the server closes connections that are idle; the next request opens another
        if version > 3:
            self.ramps.remove(self.models_dir, version - 3)


@pytest.fixture
def published(serve, ramps, tmp_path, wait_until):
    """Return a server of version 1 and its publisher."""
    models_dir = tmp_path / "models"
    ramps.publish(models_dir, 1)
    server = serve(models_dir)
    publisher = Publisher(server, ramps, models_dir, wait_until)
    yield server, publisher
    publisher.asker.close()


@pytest.mark.parametrize("num_swaps", [8, pytest.param(1000, marks=LONG)])
def test_no_request_fails_and_every_bit_is_its_versions_when_versions_are_swapped_at_full_pace(
    num_swaps, published, ramps, report
):
    """Eight clients on both protocols: no fault, no version twice, and the bits of each version's closed form."""
    server, publisher = published
    for version in range(2, num_swaps + 2):
        ramps.stage(version)
    started = time.monotonic()
    with Crowd(server, ramps) as crowd:
        for _ in range(num_swaps):
            publisher.swap()
            assert [] == crowd.faults
        seconds = time.monotonic() - started
    assert [] == crowd.faults
    assert crowd.num_answers > num_swaps * NUM_CLIENTS
    assert len(crowd.versions) >= min(200, num_swaps // 2)
    assert f'convex_swaps_total{{model="{MODEL}"}} {float(num_swaps)}'.encode() in server.get("/metrics")[1]
    report(
        swaps=num_swaps,
        seconds=round(seconds, 1),
        answers=crowd.num_answers,
        faults=len(crowd.faults),
        versions_seen=len(crowd.versions),
    )


@pytest.mark.chaos
@pytest.mark.timeout(3600)
def test_slowest_hundredth_takes_at_most_half_again_as_long_when_versions_are_swapped(published, ramps, report):
    """At 60 % of capacity: p99 of the minutes with a swap every 10 s is at most 1.5 times that of those in between."""
    server, publisher = published
    for version in range(2, NUM_SWAPS + 10):
        ramps.stage(version)
    pause = threading.Event()
    with Crowd(server, ramps) as crowd:
        pause.wait(3.0)
        publisher.swap()
        before = crowd.num_answers
        pause.wait(5.0)
        capacity = (crowd.num_answers - before) / 5.0
        crowd.pace.period_seconds = NUM_CLIENTS / (SHARE_OF_CAPACITY * capacity)
        pause.wait(3.0)
        spans = {"steady": [], "swapping": []}
        per_minute = 6
        for _ in range(max(1, NUM_SWAPS // per_minute)):
            for kind in spans:
                begin = time.monotonic()
                for turn in range(per_minute):
                    if kind == "swapping":
                        publisher.swap()
                    pause.wait(max(0.0, begin + (turn + 1) * SECONDS_BETWEEN_SWAPS - time.monotonic()))
                spans[kind].append((begin, time.monotonic()))
    assert [] == crowd.faults
    taken = {kind: np.concatenate([crowd.durations(*span) for span in pairs]) * 1e3 for kind, pairs in spans.items()}
    figures = {
        f"{kind}_p{percent:g}_ms": round(float(np.percentile(values, percent)), 2)
        for kind, values in taken.items()
        for percent in (50, 99, 99.9, 100)
    }
    ratio = figures["swapping_p99_ms"] / figures["steady_p99_ms"]
    report(capacity=round(capacity), answers=crowd.num_answers, ratio_of_p99=round(ratio, 3), **figures)
    assert ratio <= 1.5
    assert figures["swapping_p99.9_ms"] <= figures["steady_p99.9_ms"] + 50.0
