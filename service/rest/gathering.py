"""Small requests for scores that come together are answered together, by one thread.

A thread for each would have to be woken for it, wait for the batch and be woken again: with many callers of single rows
that costs more than their answers. Above: `server`, which gathers. Below: `native`, whose stages these are, `wsgi`.
"""

import contextlib
import dataclasses
import math
import queue
import time
from collections.abc import Callable, Generator, Sequence
from typing import TYPE_CHECKING

from service.batcher import WATCH_SECONDS
from service.model_version import Ticket
from service.pieces import Request as Waiting
from service.rest import wsgi
from service.rest.bodies import NPY, OCTETS
from service.rest.request import Request
from service.rest.wsgi import Answer, Place

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

MOST_TOGETHER = 64
"""Requests that one thread answers together."""

SMALL_BYTES = 1 << 13
"""Largest body of such a request: reading it must keep the others waiting for microseconds only."""

SMALL_PLAIN_BYTES = 1 << 15
"""Largest body of one whose rows lie in it as they are computed."""

_PLAIN = frozenset({OCTETS.encode(), NPY.encode()})

Stages = Generator[Ticket, None, Answer]
Begin = Callable[["WSGIEnvironment", "queue.SimpleQueue[Waiting]"], Stages]


@dataclasses.dataclass(frozen=True, eq=False, slots=True)
class Member:
    """One of several requests.

    Args:
        request: the whole request.
        place: where it came in.
        arrival_seconds: monotonic time at which it was there whole.
        fail: error -> the answer to a request that ended in a defect.
        finish: takes its answer; on the loop's thread.
    """

    request: Request
    place: Place
    arrival_seconds: float
    fail: Callable[[BaseException], Answer]
    finish: Callable[[Answer], None]


Answered = list[tuple[Member, Answer]]


def is_small(request: Request) -> bool:
    """Whether a whole request may be answered beside others: nothing of its first stage may block or take long."""
    head = request.head
    most_bytes = SMALL_PLAIN_BYTES if head.first.get(b"content-type") in _PLAIN else SMALL_BYTES
    return (
        head.method == "POST"
        and head.path.endswith(b"/score")
        and 0 < request.num_body_bytes <= most_bytes
        and b"content-encoding" not in head.first
        and wsgi.SCORED.fullmatch(head.path) is not None
    )


def answer_together(begin: Begin, members: Sequence[Member], deliver: Callable[[Answered], None]) -> None:
    """Answer some requests, each as soon as it can be; none waits for another one's engine, queue or deadline.

    Args:
        begin: `ScoreRoutes.begin`.
        members: the requests.
        deliver: takes answers, several at once where they are there at once. It raises nothing.
    """
    _Together(begin, deliver).run(members)


class _Together:
    def __init__(self, begin: Begin, deliver: Callable[[Answered], None]) -> None:
        self._begin = begin
        self._deliver = deliver
        self._ended: queue.SimpleQueue[Waiting] = queue.SimpleQueue()
        self._open: dict[Waiting, tuple[Ticket, Stages, Member]] = {}
        self._answered: Answered = []
        self._look_seconds = math.inf  # when the next of them is to be looked at

    def run(self, members: Sequence[Member]) -> None:
        for member in members:
            self._start(member)
        self._note_deadline()
        while self._open:
            self._wait()
        self._flush()

    def _start(self, member: Member) -> None:
        try:
            environ = wsgi.environment(member.request, member.place, member.arrival_seconds)
            stages = self._begin(environ, self._ended)
            ticket = next(stages)
        except StopIteration as end:
            self._answered.append((member, end.value))
        except BaseException as error:  # noqa: BLE001  # the transport's border: log and convert, whatever it was
            self._answered.append((member, member.fail(error)))
        else:
            self._open[ticket.request] = (ticket, stages, member)

    def _wait(self) -> None:
        """Go on with a request that has ended, or look at those that have not."""
        now = time.monotonic()
        if self._answered and self._ended.empty():
            self._flush()
        if now < self._look_seconds:
            with contextlib.suppress(queue.Empty):
                self._go_on(self._ended.get(timeout=min(self._look_seconds - now, WATCH_SECONDS)))
                return
        for request, (ticket, *_) in list(self._open.items()):
            ticket.look()
            if request.is_over:  # given up now; or whoever answered it died before he could say so
                self._go_on(request)
        self._note_deadline()

    def _go_on(self, request: Waiting) -> None:
        if request not in self._open:
            return
        _, stages, member = self._open.pop(request)
        try:
            next(stages)
        except StopIteration as end:
            self._answered.append((member, end.value))
        except BaseException as error:  # noqa: BLE001  # as above
            self._answered.append((member, member.fail(error)))

    def _note_deadline(self) -> None:
        self._look_seconds = min((ticket.deadline_seconds for ticket, *_ in self._open.values()), default=math.inf)

    def _flush(self) -> None:
        answered, self._answered = self._answered, []
        if answered:
            self._deliver(answered)
