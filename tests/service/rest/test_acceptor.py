"""Taking connections from a shared socket: each process its share, and none is left to nobody."""

import asyncio
import socket

import pytest

from service.rest.acceptor import MOST_PAUSES, Acceptor


class FakeShares:
    """Shares that a test deals out."""

    def __init__(self, *, is_mine=True):
        self.is_mine = is_mine
        self.num_asked = 0

    def tell(self, num_connections):
        """Do nothing."""

    def is_my_turn(self):
        """Return what the test says."""
        self.num_asked += 1
        return self.is_mine


@pytest.fixture
def loop():
    """Return an event loop."""
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


@pytest.fixture
def listener():
    """Return a socket that listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


class Taken(list):
    """Accepted sockets."""

    def until(self, loop, count):
        """Let the loop run until so many were taken."""

        async def wait():
            async with asyncio.timeout(10):
                while len(self) < count:
                    await asyncio.sleep(0.001)

        loop.run_until_complete(wait())

    def close(self):
        """Close them."""
        for each in self:
            each.close()


def test_acceptor_takes_every_connection_while_it_is_its_turn(loop, listener):
    """Each is handed over, without blocking, and nobody waits."""
    taken = Taken()
    acceptor = Acceptor(loop, listener, FakeShares(), taken.append)
    clients = [socket.create_connection(listener.getsockname()) for _ in range(5)]
    taken.until(loop, 5)
    assert [client.getsockname() for client in clients] == [each.getpeername() for each in taken]
    assert not any(each.getblocking() for each in taken)
    acceptor.close()
    for client in clients:
        client.close()
    taken.close()


def test_connection_is_left_to_a_process_that_has_fewer(loop, listener):
    """Of two acceptors on one socket the one whose turn it is not takes none while the other is there."""
    mine, others = Taken(), Taken()
    second = socket.socket(fileno=listener.dup().detach())
    acceptors = [
        Acceptor(loop, listener, FakeShares(is_mine=False), mine.append),
        Acceptor(loop, second, FakeShares(), others.append),
    ]
    clients = [socket.create_connection(listener.getsockname()) for _ in range(8)]
    others.until(loop, 8)
    assert [] == mine
    for acceptor in acceptors:
        acceptor.close()
    for client in clients:
        client.close()
    others.close()


def test_connection_that_nobody_else_takes_is_taken_all_the_same(loop, listener):
    """The others may stand still: after a few pauses the turn does not matter."""
    shares, taken = FakeShares(is_mine=False), Taken()
    acceptor = Acceptor(loop, listener, shares, taken.append)
    with socket.create_connection(listener.getsockname()):
        taken.until(loop, 1)
    assert MOST_PAUSES + 1 == shares.num_asked  # and once whether to take another
    acceptor.close()
    taken.close()


def test_closing_takes_what_waits_and_listens_no_more(loop, listener):
    """Connections that the system has accepted for us are ours; the next one is refused."""
    taken, address = Taken(), listener.getsockname()
    acceptor = Acceptor(loop, listener, FakeShares(is_mine=False), taken.append)
    with socket.create_connection(address), socket.create_connection(address):
        acceptor.close()
        assert 2 == len(taken)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address, timeout=5)
    taken.close()


def test_lack_of_descriptors_ends_nothing(loop, listener):
    """It is logged, and the connection is taken once there are some again."""
    taken, failures = Taken(), [OSError(24, "Too many open files")]

    class Scarce:
        """A listener that has no descriptor at first."""

        setblocking, fileno, close = listener.setblocking, listener.fileno, listener.close

        def accept(self):
            """Fail once."""
            if failures:
                raise failures.pop()
            return listener.accept()

    acceptor = Acceptor(loop, Scarce(), FakeShares(), taken.append)
    with socket.create_connection(listener.getsockname()):
        taken.until(loop, 1)
    assert [] == failures
    acceptor.close()
    taken.close()
