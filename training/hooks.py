"""What a job tells others when a night is over: a command is run, or a webhook is posted to.

At the bottom of training: `config` reads what is to be told, `night` tells it. Standard library only. Whatever becomes
of a hook, it is an answer of `tell` and never an error: a night is not lost for a listener.

A webhook's address may hold a secret (a token in its path or query, a password) and so may a command's arguments.
`Hook.shown` leaves both out; it alone goes into logs, manifests and reports.
"""

import base64
import contextlib
import dataclasses
import http.client
import json
import os
import re
import signal
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any
from urllib.parse import SplitResult, unquote, urlsplit, urlunsplit

ATTEMPTS = 3
"""How often a webhook is tried; a command is run once: whether it may run twice only it knows."""

TIMEOUT_SECONDS = 20.0
"""How long one attempt may take, from the first byte to the last, and how long a command may run."""

EXPECTED = "'', an http(s) address, '$NAME' (a variable of the environment that holds one), or a list: a command"

EVENTS = ("published", "refused", "failed")
"""What may be told of: each has a key `on_<event>`."""

_PAUSE_SECONDS = 1.0
_TAIL_BYTES = 300
_VARIABLE = re.compile(r"\$([A-Za-z_][A-Za-z0-9_]*)|\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_AGAIN = frozenset({408, 425, 429})


@dataclasses.dataclass(frozen=True)
class Hook:
    """Whom to tell; at most one of the three is there, and without any of them the hook is false.

    Args:
        url: http(s) address that takes a POST.
        variable: name of an environment variable that holds such an address.
        command: a program and its arguments; no shell reads them.
    """

    url: str = dataclasses.field(default="", repr=False)
    variable: str = ""
    command: tuple[str, ...] = dataclasses.field(default=(), repr=False)

    def __bool__(self) -> bool:
        """Whether there is anybody to tell."""
        return bool(self.url or self.variable or self.command)

    @property
    def shown(self) -> str | list[str]:
        """The hook without its secrets, in the form in which it is configured."""
        if self.url:
            parts = urlsplit(self.url)
            host = parts.netloc.rpartition("@")[2]
            more = "/..." if parts.path.strip("/") or parts.query or "@" in parts.netloc else parts.path
            return f"{parts.scheme}://{host}{more}"
        if self.command:
            return [self.command[0], *(["..."] if len(self.command) > 1 else [])]
        return f"${self.variable}" if self.variable else ""

    @property
    def words(self) -> str:
        """The same in one text, for a line of the log."""
        return self.shown if isinstance(self.shown, str) else " ".join(self.shown)

    def located(self, folder: Path) -> "Hook":
        """Return the hook with its program below `folder`, if it is named by a relative path with a slash."""
        program, *arguments = self.command or ("",)
        if "/" not in program or program.startswith("/"):
            return self
        return dataclasses.replace(self, command=(str(folder / program), *arguments))

    def resolved(self, environment: Mapping[str, str]) -> "Hook | None":
        """Return the hook with its address from the environment, or None where no address is there."""
        if not self.variable:
            return self
        found = read(environment.get(self.variable, ""))
        return found if found is not None and found.url else None


@dataclasses.dataclass(frozen=True)
class Told:
    """What became of a hook.

    Args:
        told: whether the listener took it: a status from 200 to 299, or an exit code of 0.
        attempts: how often it was tried.
        said: the last status, exit code or error; nothing of the address.
    """

    told: bool
    attempts: int
    said: str


def read(value: Any) -> Hook | None:
    """Return the hook that a value of the configuration means, None for what means none."""
    if value == "":
        return Hook()
    if isinstance(value, str) and (found := _VARIABLE.fullmatch(value)):
        return Hook(variable=found[1] or found[2])
    if isinstance(value, str):
        return Hook(url=value) if _is_address(value) else None
    if isinstance(value, list) and value and value[0] and all(_is_argument(part) for part in value):
        return Hook(command=tuple(value))
    return None


def without_secrets(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration's document with its hooks as they may be shown: for manifests and reports."""
    publish = {key: _recorded(key, value) for key, value in document.get("publish", {}).items()}
    return {**document, **({"publish": publish} if "publish" in document else {})}


def _recorded(key: str, value: Any) -> Any:
    hook = read(value) if key.startswith("on_") else None
    return value if hook is None else hook.shown


def _is_address(value: str) -> bool:
    try:
        parts = urlsplit(value)
        return parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0 and value.isprintable()
    except ValueError:  # the port is no number
        return False


def _is_argument(value: Any) -> bool:
    return isinstance(value, str) and "\0" not in value


def tell(  # whom, what, the environment, and how long
    hook: Hook,
    document: Mapping[str, Any],
    *,
    environment: Mapping[str, str],
    timeout_seconds: float = TIMEOUT_SECONDS,
    pause_seconds: float = _PAUSE_SECONDS,
    stop: Callable[[], bool] = lambda: False,
) -> Told:
    """Tell a listener and return what became of it; never raises, and never takes longer than its attempts may.

    A webhook gets the document as the body of a POST. No connection, no answer in time, 408, 425, 429 and 5xx are
    tried again, after a pause that doubles; redirects are not followed. A command gets the document on its standard
    input and each of its texts and numbers as a variable `RETRAIN_<KEY>`; when its time is over, it and all that it
    started in its session are killed.

    Args:
        hook: with an address or a command.
        document: JSON values.
        environment: of the job.
        timeout_seconds: of one attempt.
        pause_seconds: before the second attempt.
        stop: asked before an attempt is repeated; true ends it.
    """
    body = json.dumps(document).encode()
    if hook.command:
        return _run(hook.command, body, {**environment, **_variables(document)}, timeout_seconds)
    told = Told(False, 0, "there is no address")
    for attempt in range(1, ATTEMPTS + 1) if hook.url else ():
        again, said = _post_in_time(hook.url, body, timeout_seconds)
        told = Told(said.isdigit() and 200 <= int(said) < 300, attempt, said)
        if told.told or not again or attempt == ATTEMPTS or _is_over(stop, pause_seconds * 2.0 ** (attempt - 1)):
            break
    return told


def _is_over(stop: Callable[[], bool], seconds: float) -> bool:
    """Wait before the next attempt; return whether there should be none."""
    deadline = time.monotonic() + seconds
    while not stop():
        left = deadline - time.monotonic()
        if left <= 0:
            return False
        time.sleep(min(left, 0.1))
    return True


def _variables(document: Mapping[str, Any]) -> dict[str, str]:
    """Return the document's texts and numbers as variables of the environment."""
    plain = {key: value for key, value in document.items() if isinstance(value, str | int | float)}
    return {f"RETRAIN_{key.upper()}": str(value).replace("\0", "") for key, value in plain.items()}


# ------------------------------------------------------------------------------------------------------------ webhook
class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A POST that is redirected would become a GET: the redirect itself is the answer."""

    def redirect_request(self, *_: Any) -> None:
        """Follow none."""


def _post_in_time(url: str, body: bytes, seconds: float) -> tuple[bool, str]:
    """Return whether to try again, and the status or the error; on a thread, as an answer may come drop by drop."""
    answers: list[tuple[bool, str]] = []
    thread = threading.Thread(target=lambda: answers.append(_post(url, body, seconds)), name="webhook", daemon=True)
    thread.start()
    thread.join(seconds)
    return answers[0] if answers else (True, f"no answer within {seconds:g} s")


def _post(url: str, body: bytes, seconds: float) -> tuple[bool, str]:
    opener = urllib.request.build_opener(_NoRedirect)
    try:
        with opener.open(_request(url, body), timeout=seconds) as answer:
            return False, str(answer.status)
    except urllib.error.HTTPError as err:
        with err:
            return err.code >= 500 or err.code in _AGAIN, str(err.code)
    except (OSError, http.client.HTTPException, ValueError) as err:
        return True, _kind(err)


def _request(url: str, body: bytes) -> urllib.request.Request:
    """Return the POST; a user and a password of the address go into its header, as they do with curl."""
    parts = urlsplit(url)
    user, _, host = parts.netloc.rpartition("@")
    headers = {"Content-Type": "application/json", "User-Agent": "convex-scoring"}
    if user:
        headers["Authorization"] = "Basic " + base64.b64encode(unquote(user).encode()).decode()
    address = urlunsplit(SplitResult(parts.scheme, host, parts.path or "/", parts.query, ""))
    return urllib.request.Request(address, body, headers, method="POST")  # noqa: S310  # http(s) alone, see `read`


def _kind(err: Exception) -> str:
    """Return what may be told of an error: its class, and what the system says; an address may stand in the rest."""
    reason = err.reason if isinstance(err, urllib.error.URLError) else err
    words = os.strerror(reason.errno) if isinstance(reason, OSError) and reason.errno and reason.errno > 0 else ""
    return f"{type(reason).__name__} ({words})" if words else type(reason).__name__


# ------------------------------------------------------------------------------------------------------------ command
def _run(command: tuple[str, ...], body: bytes, environment: Mapping[str, str], seconds: float) -> Told:
    """Run a command in a session of its own and return its end; of its output, the last words if it failed."""
    with contextlib.ExitStack() as open_files:
        output: IO[bytes] | int = subprocess.DEVNULL
        with contextlib.suppress(OSError):  # a full disk: then its words are lost
            output = open_files.enter_context(tempfile.TemporaryFile())
        try:
            process = subprocess.Popen(  # noqa: S603  # the operator's own command, from the configuration
                command, stdin=subprocess.PIPE, stdout=output, stderr=output, env=environment, start_new_session=True
            )
        except (OSError, ValueError) as err:
            return Told(False, 1, _kind(err))
        try:
            process.communicate(body, timeout=seconds)
            said = f"exit {process.returncode}"
        except subprocess.TimeoutExpired:
            said = f"killed after {seconds:g} s"
        finally:
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)  # it, and what it started in its session
                process.wait()
        told = said == "exit 0"
        return Told(told, 1, said if told else f"{said}{_tail(output)}")


def _tail(output: IO[bytes] | int) -> str:
    """Return the last words of a command's output after a colon."""
    if isinstance(output, int):
        return ""
    size = output.seek(0, os.SEEK_END)
    output.seek(max(0, size - _TAIL_BYTES))
    words = " ".join(output.read().decode("utf-8", "replace").split())
    return f": {words}" if words else ""
