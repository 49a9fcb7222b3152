"""Logs: the two formats and the level."""

import io
import json
import logging

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


def test_lines_below_the_level_are_not_written(configured):
    """The level filters."""
    stream = configured("json", "error")
    structlog.get_logger().warning("quiet")
    assert stream.getvalue() == ""


def test_loggers_of_libraries_write_in_the_same_format(configured):
    """A warning of waitress is a JSON line as well; its chatter, and a line for each request that waits, is not."""
    stream = configured("json")
    logging.getLogger("waitress").info("Serving on")
    logging.getLogger("waitress.queue").warning("Task queue depth is %d", 3)
    logging.getLogger("waitress").warning("%d thread(s) still running", 2)
    (line,) = stream.getvalue().splitlines()
    assert json.loads(line)["event"] == "2 thread(s) still running"
