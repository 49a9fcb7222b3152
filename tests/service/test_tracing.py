"""The request id: echoed where it is harmless, else made."""

import pytest

from service import tracing


@pytest.mark.parametrize("received", ["a", "3f2c-77", "trace:1/2+3=", "x" * 64])
def test_request_id_is_echoed_when_it_is_usable(received):
    """A short id of harmless characters comes back as it came."""
    assert received == tracing.request_id(received)


@pytest.mark.parametrize("received", [None, "", "x" * 65, "a b", "a\nb", "a\r\nX: y", "é", '"', "a\n"])
def test_request_id_is_made_when_what_came_is_not_usable(received):
    """Anything that could break a header or a log line is replaced by a new id, another one each time."""
    made = {tracing.request_id(received) for _ in range(3)}
    assert 3 == len(made)
    assert {32} == set(map(len, made))
