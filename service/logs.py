"""How the server writes lines: for people on a console, or one JSON object a line.

Below everything that logs. Bodies, rows, scores and headers of requests are never logged.
"""

import contextlib
import io
import logging
import os
import re
import tempfile
from collections.abc import Iterator
from typing import TextIO

import structlog

_STANDARD_ERROR = 2
_NOISE = re.compile(
    rb"WARNING: All log messages before absl::InitializeLog|[IW]\d{4} \d\d:\d\d:\d+\.\d+ +\d+ \S+:\d+\] "
)


class _Unfailing(io.TextIOWrapper):
    """A text file that loses what it cannot write: a log that is full or that nobody reads must not end the service."""

    def write(self, text: str) -> int:
        """Write, or lose, `text`."""
        with contextlib.suppress(OSError):
            super().write(text)
        return len(text)


def configure(log_format: str, log_level: str, stream: TextIO | None = None) -> None:
    """Set up structlog, and the standard library's loggers of waitress and grpc, once at the start of the process.

    Args:
        log_format: "console" or "json".
        log_level: "debug", "info", "warning" or "error": the least important line that is written.
        stream: where lines go; standard error by default, so that standard output stays a command's answer.
    """
    out = stream if stream is not None else _own_standard_error()
    level = logging.getLevelNamesMapping()[log_level.upper()]
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
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
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)  # one line for every request that waits its turn


def _own_standard_error() -> TextIO:
    # A descriptor of its own: lines are written also while `without_native_noise` holds standard error back.
    raw = io.FileIO(os.dup(_STANDARD_ERROR), "w")
    return _Unfailing(raw, encoding="utf-8", errors="backslashreplace", write_through=True)


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
                with contextlib.suppress(OSError):  # as `_Unfailing`
                    os.write(_STANDARD_ERROR, kept)
