"""How the server writes lines: for people on a console, or one JSON object a line.

Below everything that logs. Bodies, rows, scores and headers of requests are never logged.
"""

import logging
import sys
from typing import TextIO

import structlog


def configure(log_format: str, log_level: str, stream: TextIO | None = None) -> None:
    """Set up structlog, and the standard library's loggers of waitress and grpc, once at the start of the process.

    Args:
        log_format: "console" or "json".
        log_level: "debug", "info", "warning" or "error": the least important line that is written.
        stream: where lines go; standard error by default, so that standard output stays a command's answer.
    """
    out = stream if stream is not None else sys.stderr
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
