"""The error tree: one class per decision a caller can take.

The bottom of the service: every other module may raise these, and only the transports (`rest`, `rpc`) turn them
into status codes.
"""

import enum


class ErrorCode(enum.StrEnum):
    """Canonical RPC status names. Stable: clients match on them; the words of a message may change."""

    CANCELLED = "CANCELLED"
    INVALID_ARGUMENT = "INVALID_ARGUMENT"
    DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED"
    NOT_FOUND = "NOT_FOUND"
    PERMISSION_DENIED = "PERMISSION_DENIED"
    UNAUTHENTICATED = "UNAUTHENTICATED"
    RESOURCE_EXHAUSTED = "RESOURCE_EXHAUSTED"
    FAILED_PRECONDITION = "FAILED_PRECONDITION"
    OUT_OF_RANGE = "OUT_OF_RANGE"
    UNIMPLEMENTED = "UNIMPLEMENTED"
    INTERNAL = "INTERNAL"
    UNAVAILABLE = "UNAVAILABLE"


class Refusal(enum.StrEnum):
    """Why a request that may be sound was turned away: the label of a metric, so that there are only these."""

    QUEUE_FULL = "queue_full"
    TOO_MANY_WAITING = "too_many_waiting"
    DEADLINE = "deadline"
    DRAINING = "draining"
    CONNECTION_LIMIT = "connection_limit"
    SLOW_CLIENT = "slow_client"


class ScoringError(Exception):
    """An answer that is not a score.

    A message says what was received, what was expected and what to do, and never holds a path, a weight or more
    than 40 characters of the client's data.
    """

    code = ErrorCode.INTERNAL
    refusal: Refusal | None = None
    """Why the request was turned away whatever it asks; None where it is the request that is wrong, or we are."""
    model: str = ""
    """The model that it is about, where only the error knows."""

    def __init__(self, message: str) -> None:
        """Keep the sentence that the caller will read."""
        super().__init__(message)
        self.message = message


class InvalidArgumentError(ScoringError):
    """The request is malformed or does not fit the model: the caller must change it."""

    code = ErrorCode.INVALID_ARGUMENT


class PayloadTooLargeError(InvalidArgumentError):
    """The body or its number of rows is over a limit (HTTP 413): the caller must split it."""


class UnsupportedMediaTypeError(InvalidArgumentError):
    """The content type or encoding is not offered (HTTP 415)."""


class OutOfRangeError(ScoringError):
    """A finite row whose score or gradient leaves float32; only the request that owns the row fails."""

    code = ErrorCode.OUT_OF_RANGE


class NotFoundError(ScoringError):
    """There is no such model or version."""

    code = ErrorCode.NOT_FOUND


class FailedPreconditionError(ScoringError):
    """The request is sound but the server's set-up does not allow it (unknown signature, no default model)."""

    code = ErrorCode.FAILED_PRECONDITION


class ResourceExhaustedError(ScoringError):
    """There are too many requests (HTTP 429): the caller may try again, later.

    Args:
        message: the sentence that the caller will read.
        retry_after_seconds: estimate of the time until there is room again.
        refusal: which bound was reached.
        model: whose bound it is; "" where it is the server's.
    """

    code = ErrorCode.RESOURCE_EXHAUSTED

    def __init__(
        self,
        message: str,
        retry_after_seconds: float = 1.0,
        *,
        refusal: Refusal = Refusal.QUEUE_FULL,
        model: str = "",
    ) -> None:
        """Keep the sentence, the estimate and the bound."""
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds
        self.refusal = refusal
        self.model = model


class DeadlineExceededError(ScoringError):
    """The deadline passed before there was an answer; rows that were not computed by then never are."""

    code = ErrorCode.DEADLINE_EXCEEDED
    refusal = Refusal.DEADLINE


class CancelledError(ScoringError):
    """The caller went away; its rows are not computed."""

    code = ErrorCode.CANCELLED


class UnavailableError(ScoringError):
    """No version is available, or the server is draining: the caller may try again.

    Args:
        message: the sentence that the caller will read.
        refusal: why the server takes no requests; None where it does.
    """

    code = ErrorCode.UNAVAILABLE

    def __init__(self, message: str, *, refusal: Refusal | None = None) -> None:
        """Keep the sentence and the reason."""
        super().__init__(message)
        self.refusal = refusal


class UnimplementedError(ScoringError):
    """A form that is not offered."""

    code = ErrorCode.UNIMPLEMENTED


class InternalError(ScoringError):
    """A defect of ours. The log has the traceback under the request id; the caller sees only that id."""


class VersionRefusedError(Exception):
    """A version that must not be served.

    Args:
        rule: stable kebab-case name of the rule that refused it, e.g. `nonneg-matmul`. Tests match on it.
        reason: what was found, what was expected, what to do. Holds no path of this machine.
    """

    def __init__(self, rule: str, reason: str) -> None:
        """Keep rule and reason; the text is `rule: reason`."""
        super().__init__(f"{rule}: {reason}")
        self.rule = rule
        self.reason = reason

    def __reduce__(self) -> tuple[type["VersionRefusedError"], tuple[str, str]]:
        """Pickle by rule and reason, so that a refusal crosses a process border whole."""
        return (type(self), (self.rule, self.reason))


class LoadFailedError(Exception):
    """A version could not be loaded now, which is no verdict on it: to be tried again.

    Args:
        told: why, for everybody to read: no path, no traceback.
        details: what the log has beside it.
    """

    def __init__(self, told: str, details: str = "") -> None:
        """Keep both; the text is both."""
        super().__init__(f"{told}: {details}" if details else told)
        self.told = told
