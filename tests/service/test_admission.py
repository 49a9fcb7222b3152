"""The room that waits are taken from: bounded in rows and bytes, shared, decided at once."""

import pytest

from service.admission import Room
from service.errors import ResourceExhaustedError


def test_room_is_bounded_in_rows_over_all_its_shares():
    """Two batchers of a version together hold no more than the limit, and what one gives back the other may take."""
    room = Room(max_rows=10, max_bytes=1000)
    first, second = room.open_share(), room.open_share()
    room.enter(first, 6, 24)
    room.enter(second, 4, 16)
    with pytest.raises(ResourceExhaustedError):
        room.enter(second, 1, 4)
    first.num_rows, first.num_bytes = 0, 0
    room.enter(second, 6, 24)
    assert (10, 0, 10) == (room.num_rows, first.num_rows, second.num_rows)


def test_room_is_bounded_in_bytes_too():
    """Few rows that are wide fill it as well."""
    room = Room(max_rows=10, max_bytes=100)
    share = room.open_share()
    room.enter(share, 1, 60)
    with pytest.raises(ResourceExhaustedError):
        room.enter(share, 1, 60)
    room.enter(share, 1, 40)


def test_empty_room_takes_a_request_of_any_size():
    """A request larger than the room is answered when nothing else waits, instead of never."""
    room = Room(max_rows=10, max_bytes=100)
    share = room.open_share()
    room.enter(share, 50, 5000)
    assert 50 == share.num_rows


def test_check_refuses_only_while_not_one_row_has_room():
    """Before a body is decoded nobody knows its rows: it is refused where even one is too many."""
    room = Room(max_rows=3, max_bytes=100)
    share = room.open_share()
    room.check()
    room.enter(share, 2, 8)
    room.check()
    room.enter(share, 1, 4)
    with pytest.raises(ResourceExhaustedError):
        room.check()


@pytest.mark.parametrize(("seconds_per_row", "whole"), [(0.0, 1), (0.25, 2), (10.0, 60)])
def test_refusal_says_what_waits_and_when_to_come_again(seconds_per_row, whole):
    """The estimate is what waits times what a row takes, in words at least a second."""
    room = Room(max_rows=6, max_bytes=100)
    share = room.open_share()
    share.seconds_per_row = seconds_per_row
    room.enter(share, 6, 48)
    with pytest.raises(ResourceExhaustedError) as refusal:
        room.enter(share, 1, 8)
    assert 6 * seconds_per_row == refusal.value.retry_after_seconds
    assert (
        f"the queue is full: 6 rows (48 bytes) wait, at most 6 rows (100 bytes) may. Try again in {whole} s."
        == refusal.value.message
    )
