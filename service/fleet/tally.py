"""The numbers of all workers, those that ended too, as one page.

Above: `commander`. Below: `numbers`, `metrics`. Pure: time is a parameter.
"""

import time
from collections.abc import Callable, Mapping, Sequence

from service import metric_families as families
from service import tensorflow_metrics
from service.exposition import Page
from service.lifecycle import ModelStatus, VersionState
from service.metrics import KEPT_SECONDS, write_workers
from service.numbers import Numbers

_BY_NAME = {family.name: family for family in (*families.ALL, *families.PROCESS, *tensorflow_metrics.ALL)}

_OF_LIVES = (("model",), ("model", "version"))


class Tally:
    """Keeps what each worker told last, and what ended workers counted.

    Guarantee: a counter of the page never goes back when a worker ends. What belongs to a model that is gone leaves the
    page like the living workers' numbers of it.

    Args:
        num_workers: places of workers.
        clock: monotonic seconds.

    Thread safety: none; the commander's lock is held.
    """

    def __init__(self, num_workers: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._latest: dict[int, Numbers] = {}
        self._departed = Numbers()
        self._requests = dict.fromkeys(range(num_workers), 0.0)  # of departed workers, by place
        self._endings = dict.fromkeys(families.ENDINGS, 0)
        self._gone_since: dict[tuple[str, ...], float] = {}

    def note(self, slot: int, numbers: Numbers) -> None:
        """Take what the worker in a place told, instead of what it told before."""
        self._latest[slot] = numbers

    def note_end(self, slot: int, reason: str = "") -> None:
        """Keep what the worker in a place counted, for it has ended.

        Args:
            slot: its place.
            reason: one of `ENDINGS`, counted; empty: it was asked to end.
        """
        if reason:
            self._endings[reason] += 1
        numbers = self._latest.pop(slot, None)
        if numbers is not None:
            self._departed.gather(numbers, _BY_NAME, is_gone=True)
            self._requests[slot] += numbers.total(families.REQUESTS.name)

    def page(
        self, own: Numbers, num_workers: int, models: Sequence[ModelStatus], *, with_tensorflow_names: bool = False
    ) -> bytes:
        """Return the page.

        Args:
            own: the commander's numbers.
            num_workers: workers that serve now.
            models: what is there now.
            with_tensorflow_names: what TensorFlow Serving counts stands there too, under its names.
        """
        self._forget(models)
        gathered = Numbers()
        for numbers in (own, *self._latest.values()):
            gathered.gather(numbers, _BY_NAME)
        gathered.gather(self._departed, _BY_NAME)
        write_workers(gathered, num_workers, self._endings, self._answered())
        page = Page()
        shown = tensorflow_metrics.ALL if with_tensorflow_names else ()
        gathered.write(page, (*families.ALL, *families.PROCESS, *shown))
        return page.text().encode()

    def _answered(self) -> Mapping[str, float]:
        name = families.REQUESTS.name
        living = {slot: numbers.total(name) for slot, numbers in self._latest.items()}
        return {str(slot): count + living.get(slot, 0.0) for slot, count in sorted(self._requests.items())}

    def _forget(self, models: Sequence[ModelStatus]) -> None:
        """Drop what ended workers counted of versions and models that are gone, as `Metrics` drops what it counts."""
        there = {(model.name,) for model in models} | {
            (model.name, str(version.version))
            for model in models
            for version in model.versions
            if version.state is not VersionState.END
        }
        now = self._clock()
        seen = {labels for names in _OF_LIVES for labels in self._departed.values_of(names, _BY_NAME)}
        named = {labels for labels in seen - there if all(labels)}  # what is counted under "" belongs to nobody
        self._gone_since = {labels: self._gone_since.get(labels, now) for labels in named}
        for labels, since in self._gone_since.items():
            if now - since >= KEPT_SECONDS:
                self._departed.drop(_OF_LIVES[len(labels) - 1], labels, _BY_NAME)
