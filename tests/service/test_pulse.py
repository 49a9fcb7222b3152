"""The pulse of a batcher: what is trouble, and when it is over."""

import pytest

from service.pulse import HUNG_SECONDS, RESTLESS_SECONDS, Pulse
from tests.service.held_engine import FakeClock


@pytest.fixture
def clock():
    """Return a clock that stands still."""
    return FakeClock()


@pytest.fixture
def pulse(clock):
    """Return a pulse of which nothing is known yet."""
    return Pulse("batcher-m-1", clock)


def test_trouble_tells_of_an_engine_that_hangs_until_it_comes_back(clock, pulse):
    """A batch of thirty seconds is none yet; a longer one is, as long as it lasts."""
    assert "" == pulse.trouble()
    pulse.begin(clock.now)
    clock.now += HUNG_SECONDS
    assert "" == pulse.trouble()
    clock.now += 5.0
    assert "batcher-m-1: the engine has computed one batch for 35 s" == pulse.trouble()
    pulse.end()
    assert "" == pulse.trouble()


def test_trouble_tells_of_the_second_death_within_a_minute_and_forgets_it(clock, pulse):
    """One death is mended in silence; so are two that lie a minute apart."""
    pulse.die()
    assert "" == pulse.trouble()
    clock.now += RESTLESS_SECONDS - 1.0
    pulse.die()
    assert "batcher-m-1: its thread died twice within 60 s" == pulse.trouble()
    clock.now += 1.0
    assert "" == pulse.trouble()
