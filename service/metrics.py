"""What the server counts, in Prometheus' terms.

Below the scorer, the watcher and the transports, which count into it; `rest` renders it at `/metrics`. Batchers count
into `batch_statistics`, which is read when somebody asks. The families and their labels are in `metric_families`.
"""

import threading
import time
from collections.abc import Callable, Mapping, Sequence

import prometheus_client

from service import metric_families as families
from service.answered import AnsweredRequest
from service.batch_statistics import BatchStatistics, Distribution
from service.errors import Refusal
from service.exposition import CONTENT_TYPE, Page, Sheet
from service.installed import count_threads, installed_versions
from service.lifecycle import ModelStatus, VersionState
from service.numbers import Numbers
from service.request_statistics import RequestStatistics
from service.tensorflow_metrics import TensorflowMetrics

__all__ = ["CONTENT_TYPE", "Metrics"]

KEPT_SECONDS = 600.0
"""How long the numbers of a version stay on the page after it has gone: several scrapes, so that the last count."""

MOST_GONE = 16
"""How many of those that have gone stay at most."""

LOAD_BUCKETS_SECONDS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 60.0, 150.0, 300.0)
"""Upper bounds of the times that loads take, in seconds."""

_SIGNATURES = frozenset({"serving_default", "score"})
_SCORING_METHODS = frozenset({"POST", "Predict"})
_MOST_REFUSED = 16
_RequestKey = tuple[str, int | None, str, str]
_BatchKey = tuple[str, int, str]
_Gone = tuple[str, int | None]


class Metrics:
    """The counters of one server.

    A model's name becomes a label only once a version of it was tried to load: names that callers invent are counted
    under the empty name, so that nobody can fill the memory with labels. The numbers of a version that has gone leave
    the page ten minutes later, those of a model that has gone too.

    Args:
        tell: told of each answered request after it was counted; must not wait. The access log.
        clock: monotonic seconds.
        wall_clock: seconds since 1970.

    Thread safety: every method may be called from any thread. Counting waits for no scrape.
    """

    def __init__(
        self,
        tell: Callable[[AnsweredRequest], None] | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._tell = tell
        self._clock = clock
        self._wall_clock = wall_clock
        self._lock = threading.Lock()  # of the watcher and of scrapes; no request takes it
        self._counting = threading.Lock()  # of requests; held for one addition
        self._known_models: set[str] = set()
        self._requests: dict[_RequestKey, RequestStatistics] = {}
        self._batches: dict[_BatchKey, BatchStatistics] = {}
        self._tensorflow = TensorflowMetrics()
        self._refusals: dict[tuple[str, str, Refusal], int] = {}
        self._loads: dict[tuple[str, str, str], int] = {}
        self._load_seconds: dict[tuple[str, str], Distribution] = {}
        self._swaps: dict[str, tuple[int, float]] = {}
        self._gone_since: dict[_Gone, float] = {}
        self._in_flight: dict[str, int] = {"rest": 0, "grpc": 0}
        self._read_http: Callable[[], tuple[int, int]] = lambda: (0, 0)
        self._process = prometheus_client.CollectorRegistry()
        prometheus_client.ProcessCollector(registry=self._process)

    # ----------------------------------------------------------------------------------------------------- counting
    def count_request(self, answered: AnsweredRequest) -> None:
        """Count one answered request, whoever answered it, and pass it on to the access log."""
        model, version, signature = "", None, ""
        if answered.model in self._known_models:
            model, version = answered.model, answered.version
            signature = answered.signature if answered.signature in _SIGNATURES else ""
        key = (model, version, signature, answered.protocol)
        statistics = self._requests.get(key)
        if statistics is None:
            statistics = self._requests.setdefault(key, RequestStatistics())
        statistics.count(answered)
        if answered.method in _SCORING_METHODS:
            self._tensorflow.count(model, answered)
        if answered.refusal is not None:
            refusal = (model, answered.protocol, answered.refusal)
            with self._counting:
                self._refusals[refusal] = self._refusals.get(refusal, 0) + 1
        if self._tell is not None:
            self._tell(answered)

    def watch_http(self, read: Callable[[], tuple[int, int]]) -> None:
        """Let `read` say how many connections are open and how many requests were read, whenever somebody asks."""
        self._read_http = read

    def begin(self, protocol: str) -> None:
        """Count one more request of that protocol that is being answered."""
        with self._counting:
            self._in_flight[protocol] += 1

    def end(self, protocol: str) -> None:
        """Count one less."""
        with self._counting:
            self._in_flight[protocol] -= 1

    def know_models(self, models: Sequence[str]) -> None:
        """Let these names be labels, where another process loads their versions and counts that."""
        with self._lock:
            self._known_models.update(models)

    def count_load(self, model: str, outcome: str, rule: str = "", seconds: float = 0.0) -> None:
        """Count one attempt to load a version.

        Args:
            model: the model's name, which becomes known by this.
            outcome: "available", "refused" or "failed" (an error that is retried).
            rule: the rule that refused it, or "".
            seconds: time that it took.
        """
        with self._lock:
            self._known_models.add(model)
            self._loads[model, outcome, rule] = self._loads.get((model, outcome, rule), 0) + 1
            self._load_seconds.setdefault((model, outcome), Distribution(LOAD_BUCKETS_SECONDS)).add(seconds)

    def count_swap(self, model: str) -> None:
        """Count one change of the model's newest live version, and note the time."""
        with self._lock:
            count, _ = self._swaps.get(model, (0, 0.0))
            self._swaps[model] = (count + 1, self._wall_clock())

    def batch_statistics(self, model: str, version: int, outputs: Sequence[str]) -> BatchStatistics:
        """Return the numbers that the batcher of a version for a set of outputs counts into; the same each time."""
        with self._lock:
            return self._batches.setdefault((model, version, ",".join(outputs)), BatchStatistics())

    # --------------------------------------------------------------------------------------------------- forgetting
    def forget_gone(self, models: Sequence[ModelStatus]) -> None:
        """Drop the numbers of versions and models that have been gone for `KEPT_SECONDS`, or are too many.

        Args:
            models: what is there now.
        """
        there: set[_Gone] = {(model.name, None) for model in models}
        there |= {
            (model.name, version.version)
            for model in models
            for version in model.versions
            if version.state is not VersionState.END
        }
        now = self._clock()
        with self._lock:
            seen: set[_Gone] = {(model, version) for model, version, *_ in list(self._requests) if model}
            seen |= {(model, version) for model, version, _ in self._batches}
            seen |= {(model, None) for model in self._known_models}
            since = {pair: self._gone_since.get(pair, now) for pair in seen - there}
            longest_first = sorted(since, key=lambda pair: (since[pair], pair[0], pair[1] or 0))
            too_many = longest_first[: max(0, len(longest_first) - MOST_GONE)]
            dropped = {pair for pair in longest_first if now - since[pair] >= KEPT_SECONDS}.union(too_many)
            self._gone_since = {pair: start for pair, start in since.items() if pair not in dropped}
            self._drop(dropped)

    def _drop(self, dropped: set[_Gone]) -> None:
        for request in [key for key in list(self._requests) if key[:2] in dropped]:
            del self._requests[request]
        for batch in [key for key in self._batches if key[:2] in dropped]:
            del self._batches[batch]
        models = {model for model, version in dropped if version is None}
        self._known_models -= models
        self._tensorflow.forget(models)
        for refusal in [key for key in list(self._refusals) if key[0] in models]:
            del self._refusals[refusal]
        self._loads = {key: count for key, count in self._loads.items() if key[0] not in models}
        self._load_seconds = {key: counts for key, counts in self._load_seconds.items() if key[0] not in models}
        self._swaps = {model: swaps for model, swaps in self._swaps.items() if model not in models}

    # ---------------------------------------------------------------------------------------------------- rendering
    def render(
        self,
        models: Sequence[ModelStatus] | None = None,
        num_dropped_lines: int = 0,
        *,
        with_tensorflow_names: bool = False,
    ) -> bytes:
        """Return everything in Prometheus' text format (`CONTENT_TYPE`).

        Args:
            models: what is live at this moment; None: nothing is told of it, and nothing forgotten.
            num_dropped_lines: log lines that were lost.
            with_tensorflow_names: what TensorFlow Serving counts stands there too, under its names.
        """
        if models is not None:
            self.forget_gone(models)
        page = Page()
        self._write(page, models or (), num_dropped_lines)
        num_requests = sum(
            seconds.count for each in self._requests.copy().values() for seconds in each.seconds.values()
        )
        write_workers(page, 1, dict.fromkeys(families.ENDINGS, 0), {"0": num_requests})
        if with_tensorflow_names:
            self._tensorflow.add_to(page)
        return page.text().encode() + prometheus_client.generate_latest(self._process)

    def numbers(self, models: Sequence[ModelStatus] = (), num_dropped_lines: int = 0) -> Numbers:
        """Return everything as numbers that can be added up with those of other processes.

        Args:
            models: what is live, as far as this process tells of it.
            num_dropped_lines: as for `render`.
        """
        numbers = Numbers()
        self._write(numbers, models, num_dropped_lines)
        self._tensorflow.add_to(numbers)
        process = {family.name: family for family in families.PROCESS}
        for found in self._process.collect():
            for sample in found.samples:
                if sample.name in process:
                    numbers.add(process[sample.name], (), sample.value)
        return numbers

    def _write(self, page: Sheet, models: Sequence[ModelStatus], num_dropped_lines: int) -> None:
        self._add_requests(page)
        for (model, version, outputs), statistics in sorted(self._batches.copy().items()):
            _add_batches(page, (model, version, outputs), statistics)
        _add_versions(page, models)
        self._add_loads(page)
        page.add(families.DROPPED_LINES, (), num_dropped_lines)
        page.add(families.BUILD, installed_versions(families.BUILD.labels), 1)
        page.add(families.THREADS, (), count_threads())

    def _add_requests(self, page: Sheet) -> None:
        for (model, version, signature, protocol), statistics in self._requests.copy().items():
            labels = (model, "" if version is None else version, signature, protocol)
            for code, seconds in statistics.seconds.copy().items():
                page.add(families.REQUESTS, (*labels, code), seconds.count)
                page.add_distribution(families.REQUEST_SECONDS, (*labels, code), seconds)
            page.add(families.ROWS, labels, statistics.num_rows)
            page.add(families.REQUEST_BYTES, labels, statistics.bytes_in)
            page.add(families.RESPONSE_BYTES, labels, statistics.bytes_out)
        for protocol, count in self._in_flight.items():
            page.add(families.IN_FLIGHT, (protocol,), count)
        num_connections, num_requests = self._read_http()
        page.add(families.HTTP_CONNECTIONS, (), num_connections)
        page.add(families.HTTP_REQUESTS, (), num_requests)
        for refusal, count in self._refusals.copy().items():
            page.add(families.REFUSALS, refusal, count)

    def _add_loads(self, page: Sheet) -> None:
        for load, count in self._loads.copy().items():
            page.add(families.LOADS, load, count)
        for outcome, seconds in self._load_seconds.copy().items():
            page.add_distribution(families.LOAD_SECONDS, outcome, seconds)
        for model, (count, when) in self._swaps.copy().items():
            page.add(families.SWAPS, (model,), count)
            page.add(families.LAST_SWAP, (model,), when)


def write_workers(page: Sheet, num_workers: int, endings: Mapping[str, int], requests: Mapping[str, float]) -> None:
    """Write what is told of the processes that serve: how many, how others ended, and what each answered."""
    page.add(families.WORKERS, (), num_workers)
    for reason, count in endings.items():
        page.add(families.WORKERS_ENDED, (reason,), count)
    for worker, num_requests in requests.items():
        page.add(families.WORKER_REQUESTS, (worker,), num_requests)


def _add_batches(page: Sheet, labels: tuple[object, ...], statistics: BatchStatistics) -> None:
    depth = statistics.depth
    page.add(families.QUEUE_ROWS, labels, depth.num_rows)
    page.add(families.QUEUE_REQUESTS, labels, depth.num_requests)
    page.add(families.QUEUE_OLDEST, labels, depth.oldest_seconds)
    for family, distribution in (
        (families.BATCH_ROWS, statistics.batch_rows),
        (families.QUEUE_SECONDS, statistics.wait_seconds),
        (families.COMPUTE_SECONDS, statistics.compute_seconds),
    ):
        if any(distribution.counts):  # what was never asked for is not worth 17 lines
            page.add_distribution(family, labels, distribution)
    for reason, num_rows in statistics.dropped_rows.items():
        page.add(families.DROPPED_ROWS, (*labels, reason), num_rows)
    page.add(families.FAILED_BATCHES, labels, statistics.num_failed_batches)
    page.add(families.THREADS_REPLACED, labels, statistics.num_threads_replaced)


def _add_versions(page: Sheet, models: Sequence[ModelStatus]) -> None:
    for model in models:
        available = [version.version for version in model.versions if version.state is VersionState.AVAILABLE]
        if available:
            page.add(families.NEWEST_VERSION, (model.name,), max(available))
        for label, version in model.labels.items():
            page.add(families.LABEL_VERSION, (model.name, label), version)
        for about, problem in (("labels", model.label_problem), ("policy", model.policy_problem)):
            page.add(families.PROBLEMS, (model.name, about), int(bool(problem)))
        num_refused = 0
        for status in model.versions:  # newest first
            if status.state is VersionState.END:
                # One that served and went is no news; of the refused ones the newest are enough.
                num_refused += bool(status.rule)
                if not status.rule or num_refused > _MOST_REFUSED:
                    continue
            page.add(families.VERSION_STATE, (model.name, status.version, status.state), 1)
