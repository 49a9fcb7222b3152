"""The name of one request, the same in the answer and the log of both transports.

A layer below the codecs; `rest` and `rpc` stand above.
"""

import random
import re

_RANDOM = random.Random()  # noqa: S311  (a name need not be unguessable)
_USABLE = re.compile(r"[A-Za-z0-9._:/+=-]{1,64}")


def request_id(received: str | None) -> str:
    """Return the caller's request id where it is usable, else a new one.

    Args:
        received: what came as `X-Request-ID` (REST) or `x-request-id` (gRPC metadata). Usable are 1 to 64 letters,
            digits and `._:/+=-`: nothing that could break a header or a log line.
    """
    if received is not None and _USABLE.fullmatch(received):
        return received
    # Not uuid4: it asks the system for each, and gives up Python's lock meanwhile, in the midst of many refusals.
    return f"{_RANDOM.getrandbits(128):032x}"
