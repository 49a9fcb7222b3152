"""Logs: the two formats and the level."""

import io
import json
import logging
import os

import pytest
import structlog

from service import logs


@pytest.fixture
def configured():
    """Return a function that configures logging into a buffer; everything is put back afterwards."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level

    def configure(log_format, log_level="info"):
        stream = io.StringIO()
        logs.configure(log_format, log_level, stream)
        return stream

    yield configure
    logs.close()
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)


def test_json_lines_hold_event_level_time_and_fields(configured):
    """One JSON object a line, with what was bound."""
    stream = configured("json")
    structlog.get_logger().info("version available", model="m", version=3)
    line = json.loads(stream.getvalue())
    assert {"event": "version available", "level": "info", "model": "m", "version": 3}.items() <= line.items()
    assert line["timestamp"].endswith("Z")


def test_json_lines_hold_the_traceback_of_an_exception(configured):
    """An exception is one line too, its traceback a field."""
    stream = configured("json")
    try:
        raise ValueError("boom")
    except ValueError:
        structlog.get_logger().exception("failed")
    (line,) = stream.getvalue().splitlines()
    assert "ValueError: boom" in json.loads(line)["exception"]


def test_console_lines_are_plain_when_nobody_watches(configured):
    """Into a file or a pipe no colours are written."""
    stream = configured("console")
    structlog.get_logger().warning("ignored", name="x")
    assert "\x1b" not in stream.getvalue()
    assert "ignored" in stream.getvalue()


def test_lines_of_one_of_several_workers_say_which(configured):
    """Its number stands in each line, whoever logs; a lone process has none."""
    stream = io.StringIO()
    logs.configure("json", "info", stream, worker=3)
    structlog.get_logger().info("worker serves")
    logging.getLogger("grpc").error("from a library")
    assert [3, 3] == [json.loads(line)["worker"] for line in stream.getvalue().splitlines()]
    alone = configured("json")
    structlog.get_logger().info("serving")
    assert "worker" not in json.loads(alone.getvalue())


def test_lines_below_the_level_are_not_written(configured):
    """The level filters."""
    stream = configured("json", "error")
    structlog.get_logger().warning("quiet")
    assert stream.getvalue() == ""


def test_loggers_of_libraries_write_in_the_same_format(configured):
    """A warning of asyncio is a JSON line as well; its chatter is not."""
    stream = configured("json")
    logging.getLogger("asyncio").info("Using selector")
    logging.getLogger("asyncio").warning("%d thread(s) still running", 2)
    (line,) = stream.getvalue().splitlines()
    assert json.loads(line)["event"] == "2 thread(s) still running"


def test_lines_that_cannot_be_written_are_lost_and_counted_and_nothing_fails(configured, monkeypatch):
    """A full disk under the log, or a pipe that nobody reads, costs lines and never the service."""
    configured("json")
    for full in (os.open("/dev/full", os.O_WRONLY), _pipe_without_reader()):
        monkeypatch.setattr("os.dup", lambda _, full=full: full)
        logs.configure("json", "info")
        with pytest.raises(OSError, match=r"No space left|Broken pipe"):
            os.write(full, b"control")
        writer = logs._Log.writer
        structlog.get_logger().warning("lost")
        logging.getLogger("asyncio").error("lost")
        logs.write_line("lost\n")
        assert logs.close(20.0)
        assert (3, 0) == (writer.num_lost, logs.num_dropped_lines())


def test_lines_that_are_formed_already_stand_between_the_others(configured):
    """What the access log forms itself goes where all lines go, in its turn."""
    stream = configured("json")
    structlog.get_logger().info("before")
    logs.write_line('{"event":"request"}\n')
    structlog.get_logger().info("after")
    assert ["before", "request", "after"] == [json.loads(line)["event"] for line in stream.getvalue().splitlines()]


def test_reader_that_was_too_slow_is_told_how_many_lines_it_missed(configured, monkeypatch, wait_until):
    """Lines that found no room are counted, and a line says so as soon as there is room again."""
    configured("json")
    reader, end = os.pipe()
    monkeypatch.setattr("os.dup", lambda _: end)
    logs.configure("json", "info")
    writer = logs._Log.writer
    logs.write_line("x" * (1 << 20) + "\n")
    wait_until(lambda: not writer._lines)
    while logs.num_dropped_lines() < 5:
        structlog.get_logger().info("one of many", filling="y" * 100_000)
    with os.fdopen(reader) as lines:
        last = next(line for line in lines if "were lost" in line)
        assert {"level": "warning", "num_lines": 5}.items() <= json.loads(last).items()
        assert logs.close(20.0)


def _pipe_without_reader():
    """Return the end of a pipe that fails when it is written to."""
    reader, writer = os.pipe()
    os.close(reader)
    return writer


def test_native_noise_is_dropped_and_everything_else_kept(capfd):
    """What C++ libraries write about the machine while they are imported is dropped; an error and our words are not."""
    with logs.without_native_noise():
        os.write(2, b"WARNING: All log messages before absl::InitializeLog() is called are written to STDERR\n")
        os.write(2, b"I0000 00:00:1795263331.303165   25785 port.cc:153] oneDNN custom operations are on.\n")
        os.write(2, b"E0000 00:00:1795263331.303165   25785 device.cc:1] the device is lost\n")
        os.write(2, b"words of another thread\n")
    os.write(2, b"after\n")
    assert [
        "E0000 00:00:1795263331.303165   25785 device.cc:1] the device is lost",
        "words of another thread",
        "after",
    ] == capfd.readouterr().err.splitlines()


def test_native_noise_is_let_through_when_nothing_can_be_held(capfd, monkeypatch):
    """Without a temporary folder there is noise, and no failure."""

    def fail():
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("tempfile.TemporaryFile", fail)
    with logs.without_native_noise():
        os.write(2, b"I0000 00:00:1795263331.303165   25785 port.cc:153] noise\n")
    assert "noise" in capfd.readouterr().err
