"""The one who waits: until when, and whether still."""

from service.caller import Caller


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
