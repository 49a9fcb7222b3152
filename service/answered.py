"""What is known of one request once it has its answer: what is counted, and what is written into the access log.

Above: the transports, which make one of each request; `metrics` and `access_log`, which take it. Below: `errors`.
"""

import dataclasses
from collections.abc import Sequence

from service.errors import Refusal

OK = "OK"
"""The code of a request that got what it asked for."""


def signature_name(outputs: Sequence[str] | None) -> str:
    """Return the name that TensorFlow Serving's clients have for a set of outputs; None: all of them.

    Native REST names outputs and no signature. The score alone is `score`, with no gradient work; anything else is a
    part of `serving_default`.
    """
    return "score" if outputs is not None and tuple(outputs) == ("score",) else "serving_default"


@dataclasses.dataclass(slots=True)
class AnsweredRequest:
    """One request and its answer; no body, no header and no query is in it.

    Args:
        protocol: "rest" or "grpc".
        code: canonical status, "OK" or one of `ErrorCode`.
        seconds: time from the whole request read to the answer ready.
        request_id: the caller's or a new one, as `tracing.request_id` returned it.
        method: HTTP's verb, or the name of the gRPC method.
        path: HTTP's path without its query, or gRPC's with the service in it; any text: who writes it bounds it.
        status: HTTP's status; None over gRPC.
        model: the model that was asked, as far as known; any text: an unknown name is never a label.
        version: the version that answered or refused; None where none was found.
        signature: `serving_default` (all outputs) or `score` (the score alone); "" where no version was found.
        num_rows: rows scored.
        bytes_in: size of the body, or of the message.
        bytes_out: size of the answer's body, or message.
        queue_seconds: time until the first row was computed; None where none was.
        compute_seconds: time from then on until all rows were; None where they were not.
        peer: address of the client.
        refusal: why a sound request was turned away; None where it was not.
    """

    protocol: str
    code: str
    seconds: float
    request_id: str = ""
    method: str = ""
    path: str = ""
    status: int | None = None
    model: str = ""
    version: int | None = None
    signature: str = ""
    num_rows: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    queue_seconds: float | None = None
    compute_seconds: float | None = None
    peer: str = ""
    refusal: Refusal | None = None
