"""Requests that the HTTP server refuses before the application sees them, answered in the form of all other errors.

Above: `server`, whose channels use it. Below: `errors`, `tracing`.
"""

from typing import Any

import orjson
from waitress.task import ErrorTask

from service import tracing
from service.errors import ErrorCode

_TOO_LARGE = 413


class RefusalTask(ErrorTask):
    """Answers a request that waitress refused: a body over the limit, or malformed HTTP.

    Waitress' own answer is plain text and may repeat what the client sent.
    """

    def execute(self) -> None:
        """Write the answer and close the connection after it."""
        request: Any = self.request  # an HTTPRequestParser, whatever the stubs say
        refusal = request.error
        request_id = tracing.request_id(request.headers.get("X_REQUEST_ID"))
        if refusal.code == _TOO_LARGE:
            limit = self.channel.server.adj.max_request_body_size - 1
            message = f"body: larger than {limit} bytes. Send fewer rows in one request."
        else:
            message = "the request is malformed HTTP. Check its head and its framing."
        code = ErrorCode.INVALID_ARGUMENT if refusal.code < 500 else ErrorCode.UNIMPLEMENTED
        body = orjson.dumps({"error": {"code": code, "message": message, "request_id": request_id}})
        self.status = f"{refusal.code} {refusal.reason}"
        self.response_headers = [("Content-Type", "application/json"), ("X-Request-ID", request_id)]
        self.set_close_on_finish()
        self.content_length = len(body)
        self.write(body)
