"""An echo for Granian, by WSGI and by its own RSGI: what a request costs that server beside any work."""

from collections.abc import Iterable
from typing import Any

_TYPE = "application/octet-stream"


def wsgi(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """Answer a request with its own body."""
    body = environ["wsgi.input"].read()
    start_response("200 OK", [("Content-Type", _TYPE), ("Content-Length", str(len(body)))])
    return [body]


async def rsgi(_scope: Any, protocol: Any) -> None:
    """Answer a request with its own body, in the event loop."""
    body = await protocol()
    protocol.response_bytes(200, [("content-type", _TYPE)], body)
