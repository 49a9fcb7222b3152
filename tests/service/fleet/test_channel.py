"""Objects and descriptors between two processes."""

import os
import threading

import pytest

from service.fleet.channel import Channel


@pytest.fixture
def ends():
    """Return the two ends of a channel."""
    ours, theirs = Channel.pair()
    other = Channel(theirs)
    yield ours, other
    ours.close()
    other.close()


def test_objects_arrive_whole_and_in_order_whatever_their_size(ends):
    """Ten megabytes between two small ones, while the other end reads."""
    ours, other = ends
    sent = [1, b"x" * 10_000_000, {"a": (2, 3)}]
    sender = threading.Thread(target=lambda: [ours.send(each) for each in sent])
    sender.start()
    received = [other.receive()[0] for _ in sent]
    sender.join(10)
    assert sent == received


def test_descriptors_arrive_with_the_object_that_they_were_sent_with(ends):
    """What is written to one end of a pipe is read from the descriptor that came."""
    ours, other = ends
    reading, writing = os.pipe()
    ours.send("first", [reading])
    ours.send("second")
    os.close(reading)
    (first, (came,)), (second, none) = other.receive(), other.receive()
    os.write(writing, b"hello")
    assert (b"hello", "first", "second", []) == (os.read(came, 5), first, second, none)
    os.close(came)
    os.close(writing)


def test_end_is_heard_by_who_waits_at_either_side(ends):
    """The one that ends it and the other one have EOFError; sending is an error then."""
    ours, other = ends
    heard = []

    def wait():
        with pytest.raises(EOFError):
            other.receive()
        heard.append(True)

    waiting = threading.Thread(target=wait)
    waiting.start()
    ours.end()
    waiting.join(10)
    with pytest.raises(EOFError):
        ours.receive()
    with pytest.raises(OSError, match=r"[Bb]roken pipe"):
        ours.send(1)
    assert [True] == heard


def test_half_a_message_is_an_end(ends):
    """A process that is killed while it sends says nothing with the half that came."""
    ours, other = ends
    ours._connection.sendall(b"\0" * 7 + b"\x10" + b"\0" + b"half")
    ours.end()
    with pytest.raises(EOFError):
        other.receive()
