"""Lines of the log: written in order, never waited for, lost and counted where nobody reads them."""

import contextlib
import os
import subprocess
import sys
import threading
import time

import pytest

from service.line_writer import LineWriter

SECONDS = 20.0


@contextlib.contextmanager
def pipe(**limits):
    """Yield the reading end of a pipe and a writer into it; both are gone afterwards."""
    reader, descriptor = os.pipe()
    writer = LineWriter(descriptor, **limits)
    try:
        yield reader, writer
    finally:
        with contextlib.suppress(OSError):
            os.close(reader)
        assert writer.close(SECONDS)


def read_lines(reader, count):
    """Return the next lines of a pipe."""
    data = b""
    while data.count(b"\n") < count:
        data += os.read(reader, 1 << 20)
    return data.decode().splitlines()


def fill(writer, wait_until):
    """Let the pipe be full and the writing thread stand in it; returns a line that fills it alone."""
    line = "x" * (1 << 20) + "\n"  # a pipe holds 64 KiB
    writer.write(line)
    wait_until(lambda: not writer._lines)
    return line


def test_lines_arrive_in_order_from_every_thread():
    """What a thread writes first is read first, and no line is torn by another thread's."""
    with pipe() as (reader, writer):

        def write(name):
            for number in range(200):
                writer.write(f"{name} {number}\n")

        threads = [threading.Thread(target=write, args=(name,)) for name in "abc"]
        for thread in threads:
            thread.start()
        lines = read_lines(reader, 600)
        for thread in threads:
            thread.join()
    for name in "abc":
        assert [f"{name} {number}" for number in range(200)] == [line for line in lines if line[0] == name]


def test_lines_that_are_formed_later_stand_where_they_were_written():
    """Between the others, as they were then; what they hold is counted until they are written."""
    with pipe() as (reader, writer):
        for number in range(50):
            writer.write_later(lambda number=number: b"later %d\n" % number, 10)
            writer.write(f"now {number}\n")
        expected = [f"{when} {number}" for number in range(50) for when in ("later", "now")]
        assert expected == read_lines(reader, 100)


def test_lines_that_are_formed_later_are_bounded_by_what_they_are_said_to_hold(wait_until):
    """With room for 100 bytes a third line of 40 is lost, and formed never."""
    formed = []
    with pipe(max_bytes=(1 << 20) + 101) as (reader, writer):
        fill(writer, wait_until)
        for number in range(3):
            writer.write_later(lambda number=number: formed.append(number) or b"%d\n" % number, 40)
        assert 1 == writer.num_lost
        assert [] == formed
        assert ["0", "1"] == read_lines(reader, 3)[1:]
        assert [0, 1] == formed


def test_close_writes_what_waits():
    """The last lines before the end are not lost, and what comes afterwards is."""
    reader, descriptor = os.pipe()
    writer = LineWriter(descriptor)
    for number in range(1000):
        writer.write(f"{number}\n")
    assert writer.close(SECONDS)
    writer.write("too late\n")
    with os.fdopen(reader) as lines:
        assert [str(number) for number in range(1000)] == lines.read().splitlines()
    assert 1 == writer.num_lost
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


def test_write_returns_at_once_when_nobody_reads_and_what_does_not_fit_is_counted(wait_until):
    """With a full pipe a hundred lines find room for seven; the reader gets those once it reads again."""
    told = []
    with pipe(max_lines=7, tell_lost=told.append) as (reader, writer):
        held = fill(writer, wait_until)
        for number in range(100):
            writer.write(f"{number}\n")
        assert 93 == writer.num_lost
        assert [held[:-1], *map(str, range(7))] == read_lines(reader, 8)
        wait_until(lambda: told == [93])


def test_lines_that_wait_are_bounded_in_bytes_with_those_that_are_being_written(wait_until):
    """What stands in the full pipe counts: beside a mebibyte there is room for ten bytes of eleven."""
    with pipe(max_bytes=(1 << 20) + 1 + 10) as (reader, writer):
        fill(writer, wait_until)
        writer.write("123456789\n")
        writer.write("\n")
        assert 1 == writer.num_lost
        read_lines(reader, 2)


def test_lines_are_lost_and_counted_when_the_reader_is_gone(wait_until):
    """A pipe without a reader, and a full disk, cost lines and end nothing."""
    with pipe() as (reader, writer):
        os.close(reader)
        writer.write("lost\n")
        wait_until(lambda: writer.num_lost == 1)
        writer.write("lost too\n")
        wait_until(lambda: writer.num_lost == 2)
    disk = LineWriter(os.open("/dev/full", os.O_WRONLY))
    disk.write("lost\n")
    assert disk.close(SECONDS)
    assert 1 == disk.num_lost


def test_pipe_that_does_not_block_loses_nothing():
    """Somebody else may have made the shared pipe non-blocking: the thread waits for room all the same."""
    with pipe() as (reader, writer):
        os.set_blocking(writer._descriptor, False)
        line = "y" * (1 << 18) + "\n"
        for _ in range(3):
            writer.write(line)
        assert [line[:-1]] * 3 == read_lines(reader, 3)
        assert 0 == writer.num_lost


def test_close_gives_up_in_time_when_nobody_reads(wait_until):
    """A process whose log stands still ends all the same."""
    with pipe() as (reader, writer):
        fill(writer, wait_until)
        started = time.monotonic()
        assert not writer.close(0.05)
        assert SECONDS > time.monotonic() - started
        os.read(reader, 1 << 21)
        os.close(reader)


def test_text_that_is_no_unicode_is_written_escaped():
    """A lone surrogate, as from a file name, is a line too."""
    with pipe() as (reader, writer):
        writer.write("a\udcffb\n")
        assert ["a\\udcffb"] == read_lines(reader, 1)


def test_process_ends_when_its_full_log_is_never_read():
    """An interpreter with a writer that stands in a full pipe ends: the thread does not keep it."""
    code = (
        "import atexit, os; from service.line_writer import LineWriter; reader, end = os.pipe(); "
        "writer = LineWriter(end); writer.write('z' * (1 << 20) + chr(10)); atexit.register(writer.close, 0.1)"
    )
    assert 0 == subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode
