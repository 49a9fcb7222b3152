"""Reading from a pipe whose writer does as it likes."""

import os
import struct
import threading
import time

import pytest

from service.loading.answer_pipe import read_first, read_message

HEAD = struct.Struct("!Q")
SECONDS = 30.0


@pytest.fixture
def pipe():
    """Return the two ends of a pipe; both are closed after the test."""
    ends = list(os.pipe())
    yield ends
    for end in ends:
        if end is not None:
            os.close(end)


def end_of(pipe):
    """Close the writing end."""
    os.close(pipe[1])
    pipe[1] = None


def soon():
    """Return a deadline that passes within the test."""
    return time.monotonic() + 0.05


def test_message_is_read_whole_when_it_comes_in_pieces(pipe):
    """Two megabytes, more than a pipe holds, arrive as they were sent, and nothing after them is taken."""
    data = os.urandom(2 << 20)

    def write():
        with os.fdopen(pipe[1], "wb", closefd=False) as end:
            end.write(HEAD.pack(len(data)) + data + b"next")

    writer = threading.Thread(target=write)
    writer.start()
    received = read_message(pipe[0], HEAD, most_bytes=len(data), deadline_seconds=time.monotonic() + SECONDS)
    writer.join(SECONDS)
    assert data == bytes(received)
    assert b"next" == read_first(pipe[0], time.monotonic() + SECONDS)


def test_message_longer_than_the_most_is_refused_unread(pipe):
    """A head that promises too much is all that is read."""
    os.write(pipe[1], HEAD.pack(11) + b"x")
    with pytest.raises(ValueError, match="a message of 11 bytes, expected at most 10"):
        read_message(pipe[0], HEAD, most_bytes=10, deadline_seconds=time.monotonic() + SECONDS)
    assert b"x" == os.read(pipe[0], 9)


@pytest.mark.parametrize("written", [b"", b"head", HEAD.pack(9), HEAD.pack(9) + b"half"])
def test_message_that_does_not_come_whole_is_no_message(pipe, written):
    """Where the writer stops it is over in time, and where it ends it is over at once."""
    os.write(pipe[1], written)
    with pytest.raises(TimeoutError):
        read_message(pipe[0], HEAD, most_bytes=10, deadline_seconds=soon())
    os.write(pipe[1], written)
    end_of(pipe)
    with pytest.raises(EOFError):
        read_message(pipe[0], HEAD, most_bytes=99, deadline_seconds=time.monotonic() + SECONDS)


def test_first_words_are_read_or_their_absence(pipe):
    """What is there is returned, nothing at the end, and an error when the time is over before either."""
    with pytest.raises(TimeoutError):
        read_first(pipe[0], soon())
    os.write(pipe[1], b"words")
    assert b"words" == read_first(pipe[0], time.monotonic() + SECONDS)
    end_of(pipe)
    assert b"" == read_first(pipe[0], time.monotonic() + SECONDS)
