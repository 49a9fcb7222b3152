"""What the server counts, in Prometheus' terms.

Below the scorer, the watcher and the transports, which count into it; `rest` renders it at `/metrics`. Batchers count
into `batch_statistics`, which is read when somebody asks.
"""

from collections.abc import Iterable, Iterator, Sequence

import prometheus_client
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from service.answered import AnsweredRequest
from service.batch_statistics import BatchStatistics, Distribution

CONTENT_TYPE = prometheus_client.CONTENT_TYPE_LATEST
"""The content type of `Metrics.render`."""

_LATENCY_BUCKETS_SECONDS = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025),
    *(0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)


class Metrics:
    """The counters of one server, in a registry of their own, so that two servers of one process do not mix.

    A model's name becomes a label only once a version of it was tried to load: names that callers invent are counted
    under the empty name, so that nobody can fill the memory with labels.

    Thread safety: every method may be called from any thread.
    """

    def __init__(self) -> None:
        """Create the metrics, all zero."""
        self._registry = prometheus_client.CollectorRegistry()
        self._known_models: set[str] = set()
        self._requests = prometheus_client.Counter(
            "convex_requests",
            "Requests answered, by canonical status code.",
            ("model", "protocol", "code"),
            registry=self._registry,
        )
        self._rows = prometheus_client.Counter(
            "convex_rows", "Rows scored in requests that were answered OK.", ("model",), registry=self._registry
        )
        self._latency = prometheus_client.Histogram(
            "convex_request_seconds",
            "Time from the whole request read to the answer ready.",
            ("model", "protocol"),
            buckets=_LATENCY_BUCKETS_SECONDS,
            registry=self._registry,
        )
        self._loads = prometheus_client.Counter(
            "convex_version_loads",
            "Attempts to load a version: available, refused (with the rule) or failed.",
            ("model", "outcome", "rule"),
            registry=self._registry,
        )
        self._swaps = prometheus_client.Counter(
            "convex_swaps",
            "Times that the newest live version of a model changed.",
            ("model",),
            registry=self._registry,
        )
        self._refusals = prometheus_client.Counter(
            "convex_refusals",
            "Requests that found the queue of their version full.",
            ("model",),
            registry=self._registry,
        )
        self._batches = _BatchCollector()
        self._registry.register(self._batches)
        prometheus_client.ProcessCollector(registry=self._registry)

    def count_request(self, answered: AnsweredRequest) -> None:
        """Count one answered request, whoever answered it."""
        label = answered.model if answered.model in self._known_models else ""
        self._requests.labels(label, answered.protocol, answered.code).inc()
        self._latency.labels(label, answered.protocol).observe(answered.seconds)
        if answered.num_rows:
            self._rows.labels(label).inc(answered.num_rows)

    def count_load(self, model: str, outcome: str, rule: str = "") -> None:
        """Count one attempt to load a version.

        Args:
            model: the model's name, which becomes known by this.
            outcome: "available", "refused" or "failed" (an error that is retried).
            rule: the rule that refused it, or "".
        """
        self._known_models.add(model)
        self._loads.labels(model, outcome, rule).inc()

    def count_swap(self, model: str) -> None:
        """Count one change of the model's newest live version."""
        self._swaps.labels(model).inc()

    def count_refusal(self, model: str) -> None:
        """Count a request that found the queue of a version of `model` full."""
        self._refusals.labels(model).inc()

    def batch_statistics(self, model: str, outputs: Sequence[str]) -> BatchStatistics:
        """Return the numbers that the batchers of a model for a set of outputs count into; the same each time."""
        return self._batches.statistics.setdefault((model, ",".join(outputs)), BatchStatistics())

    def render(self) -> bytes:
        """Return everything in Prometheus' text format (`CONTENT_TYPE`)."""
        return prometheus_client.generate_latest(self._registry)


class _BatchCollector(prometheus_client.registry.Collector):
    """Reads the plain numbers of the batchers when they are asked for."""

    def __init__(self) -> None:
        self.statistics: dict[tuple[str, str], BatchStatistics] = {}

    def collect(self) -> Iterable[Metric]:
        """Return one family for each number."""
        labels = ("model", "outputs")
        waiting = GaugeMetricFamily("convex_queue_rows", "Rows that wait or are computed.", labels=labels)
        batches = HistogramMetricFamily("convex_batch_rows", "Rows of a batch.", labels=labels)
        waits = HistogramMetricFamily(
            "convex_queue_seconds", "Time that a request waited until its first row was computed.", labels=labels
        )
        dropped = CounterMetricFamily(
            "convex_dropped_rows",
            "Rows that were not computed: the deadline passed, the caller went away, the version was closed.",
            labels=(*labels, "reason"),
        )
        failed = CounterMetricFamily("convex_failed_batches", "Batches that the engine failed on.", labels=labels)
        replaced = CounterMetricFamily(
            "convex_batch_threads_replaced", "Batch threads that died and got a successor.", labels=labels
        )
        for key, statistics in list(self.statistics.items()):
            waiting.add_metric(key, statistics.waiting_rows)
            batches.add_metric(key, list(_cumulative(statistics.batch_rows)), statistics.batch_rows.total)
            waits.add_metric(key, list(_cumulative(statistics.wait_seconds)), statistics.wait_seconds.total)
            for reason, num_rows in statistics.dropped_rows.items():
                dropped.add_metric((*key, reason), num_rows)
            failed.add_metric(key, statistics.num_failed_batches)
            replaced.add_metric(key, statistics.num_threads_replaced)
        return (waiting, batches, waits, dropped, failed, replaced)


def _cumulative(distribution: Distribution) -> Iterator[tuple[str, float]]:
    """Yield (upper bound, how many values are not above it), as Prometheus counts."""
    reached = 0
    for bound, count in zip((*distribution.bounds, float("inf")), list(distribution.counts), strict=True):
        reached += count
        yield "+Inf" if bound == float("inf") else str(bound), reached
