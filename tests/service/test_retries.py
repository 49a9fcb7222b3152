"""When a version is tried again, by a clock that is a number."""

import itertools

import pytest

from service.retries import Retries

KEY = ("m", 1)


def test_refused_version_is_tried_again_with_other_files_only():
    """However late it is, the same files stay refused; other ones, or another version, are worth a load."""
    retries = Retries()
    retries.note_refusal(KEY, ("one",))
    assert not retries.may_try(KEY, ("one",), 1e12)
    assert retries.may_try(KEY, ("two",), 0.0)
    assert retries.may_try(("m", 2), ("one",), 0.0)


def test_failed_version_is_tried_again_after_pauses_that_double_up_to_a_minute():
    """1, 2, 4 ... 60 seconds for quick failures; other files begin anew."""
    retries, now, pauses = Retries(), 0.0, []
    for _ in range(8):
        pauses.append(retries.note_failure(KEY, ("one",), now, 0.25))
        assert not retries.may_try(KEY, ("one",), now + pauses[-1] - 0.001)
        now += pauses[-1]
        assert retries.may_try(KEY, ("one",), now)
    assert [1, 2, 4, 8, 16, 32, 60, 60] == pauses
    assert 1 == retries.note_failure(KEY, ("two",), now, 0.25)


@pytest.mark.parametrize("took", [90.0, 600.0])
def test_failed_version_rests_for_as_long_as_its_load_took(took):
    """A load that hangs until it is given up is there half of the time at most."""
    retries, now = Retries(), 0.0
    for _ in range(3):
        assert took == retries.note_failure(KEY, ("one",), now, took)
        now += took


def test_version_that_was_forgotten_is_tried_at_once():
    """One that loads, or that is gone, leaves nothing behind."""
    retries = Retries()
    for note in (lambda: retries.note_refusal(KEY, ()), lambda: retries.note_failure(KEY, (), 0.0, 0.0)):
        note()
        assert not retries.may_try(KEY, (), 0.5)
        retries.forget(KEY)
        assert retries.may_try(KEY, (), 0.5)


def test_pauses_of_one_version_are_not_those_of_another():
    """Each version counts its own attempts."""
    retries = Retries()
    pauses = [retries.note_failure((model, 1), (), 0.0, 0.0) for model in itertools.islice(itertools.cycle("ab"), 4)]
    assert [1, 1, 2, 2] == pauses
