"""The data plane that every transport calls: one request, one version, rows in, outputs out.

Above: `rest`, `rpc`. Below: `registry`, which lends the version. Knows no protocol.
"""

import dataclasses
import queue
from collections.abc import Callable, Generator, Sequence

import numpy as np
from numpy.typing import NDArray

from service.caller import Caller
from service.model_version import ModelVersion, Ticket
from service.pieces import Outputs, Request
from service.registry import Registry
from service.signature import Signature


@dataclasses.dataclass(frozen=True)
class Target:
    """Which version a request asks.

    Args:
        model: model name, or None for the default model.
        version: exact version, or None for the newest that is available.
        label: label, or None; not together with a version.
    """

    model: str | None = None
    version: int | None = None
    label: str | None = None


@dataclasses.dataclass(frozen=True)
class Answer:
    """What one version answered.

    Args:
        signature: of the version that answered; names model and version.
        convexity: "proved" or "unproved".
        outputs: name -> finite float32 array, in wire order: score [n], gradient [n, dim].
    """

    signature: Signature
    convexity: str
    outputs: dict[str, NDArray[np.float32]]


class Scorer:
    """Scores rows on live versions.

    Guarantee: a request is answered by exactly one version, which stays in memory until the answer is there; what it
    answers is finite.

    Args:
        registry: lends versions.
        max_request_rows: largest number of rows of one request.

    Thread safety: every method may be called from any thread.
    """

    def __init__(self, registry: Registry, max_request_rows: int) -> None:
        self._registry = registry
        self._max_request_rows = max_request_rows

    def check_room(self, model: str | None) -> None:
        """Refuse a request for a model of which every version is full, before anything of it is read.

        Raises:
            ResourceExhaustedError: too much waits already.
        """
        self._registry.check_room(model)

    def score(
        self,
        target: Target,
        rows_for: Callable[[Signature], NDArray[np.floating]],
        outputs: Sequence[str] | None = None,
        *,
        caller: Caller | None = None,
        name: str = "instances",
    ) -> Answer:
        """Return the wanted outputs of a request's rows.

        Args:
            target: which version is asked.
            rows_for: makes the rows, float [n, dim], once it is known which version answers; may raise
                InvalidArgumentError. Called at most once, and only when a version was found.
            outputs: names of the wanted outputs; None or none at all: every output of the version.
            caller: who waits, and until when; None: somebody who waits for ever.
            name: what the protocol calls the rows, for the error's location.

        Raises:
            InvalidArgumentError: unknown label or output; rows of wrong shape, or not finite in float32.
            PayloadTooLargeError: more rows than one request may have.
            OutOfRangeError: a row whose score or gradient leaves float32.
            NotFoundError: unknown model or version.
            FailedPreconditionError: no model is named and there is no default one.
            UnavailableError: the wanted version is not available yet.
            ResourceExhaustedError: too much waits for that version; then nothing was decoded, where that was known.
            DeadlineExceededError: the deadline passed; what was not computed by then never is.
            CancelledError: the caller went away; likewise.
        """
        with self._registry.acquire(target.model, target.version, target.label) as version:
            rows, wanted = self._prepare(version, rows_for, outputs, name)
            return _answer(version, wanted, version.submit(rows, wanted, caller or Caller(), name=name))

    def stages(
        self,
        target: Target,
        rows_for: Callable[[Signature], NDArray[np.floating]],
        outputs: Sequence[str] | None,
        caller: Caller,
        ended: "queue.SimpleQueue[Request]",
    ) -> Generator[Ticket, None, Answer]:
        """Do what `score` does without waiting: yield the ticket of what is waited for, and go on when it has ended.

        For one thread that waits for several requests at once. No row at all is answered without a ticket.

        Args:
            target: as for `score`.
            rows_for: as for `score`.
            outputs: as for `score`.
            caller: as for `score`.
            ended: where the ticket's request is put when its answer is there.

        Raises:
            ScoringError: as `score`.
        """
        with self._registry.acquire(target.model, target.version, target.label) as version:
            rows, wanted = self._prepare(version, rows_for, outputs, "instances")
            if rows.shape[0] == 0:
                return _answer(version, wanted, version.submit(rows, wanted, caller))
            ticket = version.begin(rows, wanted, caller, ended)
            yield ticket
            return _answer(version, wanted, ticket.result())

    def _prepare(
        self,
        version: ModelVersion,
        rows_for: Callable[[Signature], NDArray[np.floating]],
        outputs: Sequence[str] | None,
        name: str,
    ) -> tuple[NDArray[np.float32], tuple[str, ...]]:
        """Return a request's rows and the outputs that it wants of that version, both checked."""
        version.check_room()
        signature = version.signature
        rows = signature.validate(rows_for(signature), name=name, max_rows=self._max_request_rows)
        return rows, signature.select(outputs)


def _answer(version: ModelVersion, wanted: tuple[str, ...], results: Outputs) -> Answer:
    return Answer(version.signature, version.convexity, {output: results[output] for output in wanted})
