"""The one who waits: until when, and whether still."""

from service.caller import Caller, closed, drop_reason
from service.errors import CancelledError, DeadlineExceededError


def test_cancel_tells_who_asked_whenever_it_comes():
    """Whoever asked before hears of it then, whoever asks after at once, and who no longer wants to, not."""
    told = []
    before, after, gone = Caller(), Caller(), Caller()
    before.on_cancel(lambda: told.append("before"))
    gone.on_cancel(lambda: told.append("gone"))
    gone.on_cancel(None)
    for caller in (before, after, gone):
        assert not caller.is_cancelled
        caller.cancel()
        assert caller.is_cancelled
    assert ["before"] == told
    after.on_cancel(lambda: told.append("after"))
    assert ["before", "after"] == told


def test_lateness_says_why_nobody_waits_any_more():
    """Nothing before the deadline; from the deadline on, or once the caller went away, the error and its count."""
    waiting, gone = Caller(10.0), Caller(10.0)
    gone.cancel()
    assert (None, DeadlineExceededError) == (waiting.lateness(9.9), type(waiting.lateness(10.0)))
    assert CancelledError is type(gone.lateness(9.9))
    errors = [waiting.lateness(10.0), gone.lateness(9.9), closed(), None]
    assert ["deadline", "cancelled", "closed", "closed"] == [drop_reason(error) for error in errors]
