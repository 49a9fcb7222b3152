"""Numbers in memory that processes share: what one writes all others read."""

import contextlib
import os

from service.fleet.connections import Connections
from service.fleet.moment import Moment


def test_moment_that_one_writes_is_read_by_who_has_the_same_memory():
    """It begins at 0, and a second mapping of the memory sees each number at once."""
    with contextlib.closing(Moment.create()) as ours, contextlib.closing(Moment(os.dup(ours.descriptor))) as theirs:
        assert 0 == theirs.read()
        for number in (1, 2, 1 << 40):
            ours.write(number)
            assert number == theirs.read()


def test_turn_is_of_the_workers_that_have_fewest_connections():
    """A worker takes a connection while no other that is there has fewer; one that is absent counts for nothing."""
    with contextlib.ExitStack() as stack:
        commander = stack.enter_context(contextlib.closing(Connections.create(3)))
        first, second, _ = (
            stack.enter_context(contextlib.closing(Connections(os.dup(commander.descriptor), slot)))
            for slot in range(3)
        )
        first.tell(2)
        assert first.is_my_turn()
        second.tell(1)
        assert [False, True] == [first.is_my_turn(), second.is_my_turn()]
        second.tell(2)
        assert [True, True] == [first.is_my_turn(), second.is_my_turn()]
        first.tell(5)
        assert not first.is_my_turn()
        first.tell(35)
        second.tell(33)
        assert first.is_my_turn()
        second.tell(32)
        assert not first.is_my_turn()
        commander.forget(1)
        assert first.is_my_turn()
