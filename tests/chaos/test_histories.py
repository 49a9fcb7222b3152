"""Ten thousand random lives of versions: the long form of tests/service/test_histories.py."""

import time

import pytest

from tests.service.histories import live_histories
from tests.service.registry_machine import RegistryMachine
from tests.service.watcher_machine import WatcherMachine

HISTORIES = 10_000


@pytest.mark.chaos
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("machine", [RegistryMachine, WatcherMachine])
def test_invariants_hold_when_ten_thousand_histories_are_lived(machine, report):
    """States only forward, never none once there was one, two in memory, leases and labels kept, one truth for all."""
    began = time.monotonic()
    live_histories(machine, HISTORIES)
    report(machine=machine.__name__, histories=HISTORIES, seconds=round(time.monotonic() - began))
