"""Ten thousand random lives of versions: the long form of the state machines of tests/service."""

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.service.registry_machine import RegistryMachine
from tests.service.watcher_machine import WatcherMachine

HISTORIES = 10_000


@pytest.mark.chaos
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("machine", [RegistryMachine, WatcherMachine])
def test_invariants_hold_when_ten_thousand_histories_are_lived(machine, report):
    """States only forward, never none once there was one, two in memory, leases and labels kept, one truth for all."""
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=HISTORIES, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
    report(machine=machine.__name__, histories=HISTORIES)
