"""How soon a worker that ended is replaced, and when it is given up."""

from service.fleet.patience import MOST_FAILURES, STEADY_SECONDS, Patience


def test_pause_doubles_with_each_short_life_up_to_half_a_minute():
    """A tenth of a second after the first, and never more than 30 s, however many there were."""
    patience = Patience()
    pauses = [patience.note_end(0, 1.0) for _ in range(40)]
    assert [0.1, 0.2, 0.4, 0.8] == pauses[:4]
    assert [30.0] * 30 == pauses[10:]


def test_pause_is_short_again_after_a_worker_that_lived_long():
    """What ended it is no reason to wait, and what was before is forgotten."""
    patience = Patience()
    for _ in range(6):
        patience.note_end(0, 1.0)
    assert 0.05 == patience.note_end(0, STEADY_SECONDS)
    assert 0.1 == patience.note_end(0, 1.0)


def test_places_wait_each_for_itself_only():
    """The pause of one place does not grow with the failures of another."""
    patience = Patience()
    for _ in range(6):
        patience.note_end(0, 1.0)
    assert 0.1 == patience.note_end(1, 1.0)


def test_it_is_hopeless_only_when_none_lives_and_several_in_a_row_failed():
    """Five short lives wherever they were, and nobody left; one long life in between begins the count anew."""
    patience = Patience()
    for number in range(MOST_FAILURES):
        assert not patience.is_hopeless(0)
        patience.note_end(number % 2, 0.0)
    assert patience.is_hopeless(0)
    assert not patience.is_hopeless(1)
    patience.note_end(0, STEADY_SECONDS)
    assert not patience.is_hopeless(0)
