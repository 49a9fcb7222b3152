"""Waiting until a running server serves what was published.

Below `retrain`, which prunes older versions only then. Standard library only.
"""

import http.client
import json
import time
import urllib.request
from collections.abc import Callable

from service.repository import VersionFolder

WAIT_SECONDS = 120.0
_POLL_SECONDS = 0.25
_ANSWER_SECONDS = 5.0
_MAX_ANSWER_BYTES = 2**24
_PIECE_BYTES = 2**16
_PASSING = ("load-error:", "file-unreadable:")
"""How the reasons of failures begin that are no verdict: the server tries again."""


class WaitError(Exception):
    """The version is published, but the server did not say AVAILABLE in time (exit code 1)."""


def wait_available(
    server: str,
    version: VersionFolder,
    seconds: float,
    *,
    stop: Callable[[], bool] = lambda: False,
    poll_seconds: float = _POLL_SECONDS,
) -> None:
    """Return when the server says that the version is AVAILABLE.

    Args:
        server: http(s) address of the REST port, e.g. `http://127.0.0.1:8501`.
        version: the published version.
        seconds: how long to wait.
        stop: asked between two looks; true ends the wait.
        poll_seconds: between two looks.

    Raises:
        WaitError: the time is over, the server has refused the version, or `stop` said so. The server's reason is in
            it. A load that failed without a verdict on the version is waited for: the server tries it again.
    """
    who = f"{version.model} version {version.version}"
    deadline = time.monotonic() + seconds
    state, reason = "", "no look yet"
    while True:
        state, reason = _state(f"{server}/models", version)
        if state == "AVAILABLE":
            return
        if state == "END" and reason and not reason.startswith(_PASSING):
            message = f"{who} is published, but {server} refused it: {reason}. Nothing was pruned."
            raise WaitError(message)
        if stop() or time.monotonic() > deadline:
            last = ", ".join(word for word in (state, reason) if word)
            why = "the job was interrupted" if stop() else f"not within {seconds:g} s"
            message = f"{who} is published, but {server} does not say AVAILABLE ({why}; last answer: {last})."
            raise WaitError(f"{message} Nothing was pruned.")
        time.sleep(poll_seconds)


def _state(address: str, version: VersionFolder) -> tuple[str, str]:
    """Return the state that a server's `GET /models` gives a version and its reason; no state where it does not say."""
    try:
        with urllib.request.urlopen(address, timeout=_ANSWER_SECONDS) as answer:  # noqa: S310  # config: http(s) only
            models = json.loads(_read(answer))["models"]
            for model in models:
                for entry in model["versions"] if model["name"] == version.model else ():
                    if entry["version"] == version.version:
                        return str(entry["state"]), str(entry["reason"])
            return "", "it does not list the version yet"
    except (OSError, ValueError, LookupError, TypeError, http.client.HTTPException) as err:
        return "", (str(err) or type(err).__name__)[:200]


def _read(answer: http.client.HTTPResponse) -> bytes:
    """Return the body; one that comes drop by drop, or never ends, is a TimeoutError or ValueError."""
    deadline, body = time.monotonic() + _ANSWER_SECONDS, bytearray()
    while piece := answer.read1(_PIECE_BYTES):
        body += piece
        if len(body) > _MAX_ANSWER_BYTES:
            message = f"its answer is longer than {_MAX_ANSWER_BYTES} bytes"
            raise ValueError(message)
        if time.monotonic() > deadline:
            message = f"its answer took more than {_ANSWER_SECONDS:g} s"
            raise TimeoutError(message)
    return bytes(body)
