"""The HTTP edge alone, as a process: `python -m bench.edge_server` writes its port, and serves until its input ends.

It counts and logs what it refuses as the whole server does. Model `echo` gives the body back; `refused` has no room.
"""

import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

from service import logs
from service.access_log import AccessLog
from service.errors import ResourceExhaustedError
from service.metrics import Metrics
from service.rest.server import HttpServer
from service.settings import Settings

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

ECHO, REFUSED = "echo", "refused"
_REFUSED_PATH = f"/models/{REFUSED}/score".encode()


def echo(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
    """Answer a request with its own body."""
    body = environ["wsgi.input"].read()
    start_response("200 OK", [("Content-Type", "application/octet-stream"), ("Content-Length", str(len(body)))])
    return [body]


def check_room(path: bytes) -> None:
    """Refuse the requests that are to be refused.

    Raises:
        ResourceExhaustedError: for them.
    """
    if path == _REFUSED_PATH:
        message = "the queue is full: 4096 rows (1048576 bytes) wait, at most 4096 rows may. Try again in 1 s."
        raise ResourceExhaustedError(message, 0.5, model=REFUSED)


def main() -> None:
    """Serve until standard input ends."""
    logs.configure("json", "info")
    metrics = Metrics(AccessLog(logs.write_later, "json").log)
    server = HttpServer(echo, Settings(rest_port=0), check_room=check_room, tell=metrics.count_request)
    server.start()
    sys.stdout.write(f"{server.port}\n")
    sys.stdout.flush()
    sys.stdin.read()
    server.stop(5.0)


if __name__ == "__main__":
    main()
