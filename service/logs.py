"""How the server writes lines: for people on a console, or one JSON object a line.

Below everything that logs, above `line_writer`: nobody who logs waits for the reader of the log. Bodies, rows, scores
and headers of requests are never logged.
"""

import atexit
import contextlib
import logging
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from typing import Any, TextIO

import structlog

from service.line_writer import LineWriter

_STANDARD_ERROR = 2
_NOISE = re.compile(
    rb"WARNING: All log messages before absl::InitializeLog|[IW]\d{4} \d\d:\d\d:\d+\.\d+ +\d+ \S+:\d+\] "
)


class _Log:
    """Where the lines of this process go."""

    writer: LineWriter | None = None
    stream: TextIO | LineWriter | None = None


def configure(log_format: str, log_level: str, stream: TextIO | None = None, *, worker: int | None = None) -> None:
    """Set up structlog, and the standard library's loggers of asyncio and grpc, once at the start of the process.

    Lines are written by a thread of their own; what the reader of standard error does not take is lost and counted.

    Args:
        log_format: "console" or "json".
        log_level: "debug", "info", "warning" or "error": the least important line that is written.
        stream: where lines go, at once; by default standard error, by a thread, so that standard output stays a
            command's answer.
        worker: which of several processes this is: stands in each line; None: the only one, or none of them.
    """
    close()
    out: Any = stream
    if stream is None:
        # A descriptor of its own: lines are written also while `without_native_noise` holds standard error back.
        out = _Log.writer = LineWriter(os.dup(_STANDARD_ERROR), tell_lost=_tell_lost)
        atexit.register(close)
    _Log.stream = out
    level = logging.getLevelNamesMapping()[log_level.upper()]
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if worker is not None:
        shared.append(lambda _logger, _name, event: {**event, "worker": worker})
    if log_format == "json":
        shared.append(structlog.processors.format_exc_info)
        renderer: structlog.typing.Processor = structlog.processors.JSONRenderer()
    else:
        renderer = structlog.dev.ConsoleRenderer(
            colors=out.isatty(), exception_formatter=structlog.dev.plain_traceback, sort_keys=False
        )
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(file=out),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(level, logging.WARNING))


def write_line(line: str) -> None:
    """Write a line that is formed already, its end included, where the others go."""
    stream = _Log.stream or sys.stderr
    if stream is not None:  # closed by the parent
        stream.write(line)


def write_later(form: Callable[[], bytes], num_bytes: int) -> None:
    """Write a line that is formed when it is written, its end included, where the others go; see `LineWriter`."""
    stream = _Log.stream or sys.stderr
    if isinstance(stream, LineWriter):
        stream.write_later(form, num_bytes)
    else:
        write_line(form().decode())


def num_dropped_lines() -> int:
    """Return how many lines were lost, because the reader of the log was too slow or gone."""
    return 0 if _Log.writer is None else _Log.writer.num_lost


def close(timeout_seconds: float = 1.0) -> bool:
    """Write what waits and end the thread; return whether that was done in time. What is logged later is lost."""
    writer, _Log.writer = _Log.writer, None
    atexit.unregister(close)
    return True if writer is None else writer.close(timeout_seconds)


def _tell_lost(num_lines: int) -> None:
    structlog.get_logger().warning("lines of this log were lost: nobody read them in time", num_lines=num_lines)


@contextlib.contextmanager
def without_native_noise() -> Iterator[None]:
    """Hold standard error back, and write on at the end what is not TensorFlow's chatter about the machine.

    TensorFlow writes information lines from C++ while it is imported, whatever TF_CPP_MIN_LOG_LEVEL says. Warnings and
    information of that form are dropped; errors and what other threads wrote meanwhile appear a little later.
    """
    try:
        held = tempfile.TemporaryFile()  # noqa: SIM115  (closed below)
    except OSError:  # nowhere to write: better noise than no service
        yield
        return
    with held:
        saved = os.dup(_STANDARD_ERROR)
        os.dup2(held.fileno(), _STANDARD_ERROR)
        try:
            yield
        finally:
            os.dup2(saved, _STANDARD_ERROR)
            os.close(saved)
            held.seek(0)
            kept = b"".join(line for line in held if not _NOISE.match(line))
            if kept:
                with contextlib.suppress(OSError):  # a full disk, or a pipe that nobody reads
                    os.write(_STANDARD_ERROR, kept)
