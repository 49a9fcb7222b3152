"""The metrics of TensorFlow Serving, under its names, so that its dashboards and alerts work.

Above: `metrics`, which shows them at TensorFlow Serving's path alone. Below: `exposition`, `batch_statistics`. Names,
labels and buckets are those of its sources (`servables/tensorflow/util.cc`), times are microseconds, and the latency is
that of requests answered OK.
"""

import threading

from service.answered import OK, AnsweredRequest
from service.batch_statistics import Distribution
from service.exposition import Family, Sheet

REQUEST_COUNT = Family(
    ":tensorflow:serving:request_count", "counter", ("model_name", "status"), "The total number of requests."
)
REQUEST_LATENCY = Family(
    ":tensorflow:serving:request_latency",
    "histogram",
    ("model_name", "API", "entrypoint"),
    "Distribution of wall time in microseconds.",
)
EXAMPLE_COUNTS = Family(
    ":tensorflow:serving:request_example_counts", "histogram", ("model",), "The number of examples of a request."
)
EXAMPLE_COUNT_TOTAL = Family(
    ":tensorflow:serving:request_example_count_total", "counter", ("model",), "The total number of examples."
)

ALL = (REQUEST_COUNT, REQUEST_LATENCY, EXAMPLE_COUNTS, EXAMPLE_COUNT_TOTAL)

LATENCY_BUCKETS_MICROSECONDS = tuple(10.0 * 1.8**power for power in range(33))
EXAMPLE_BUCKETS = tuple(float(1 << power) for power in range(15))

_NAMES = {"rest": ("predict", "REST"), "grpc": ("Predict", "GRPC")}


class TensorflowMetrics:
    """What TensorFlow Serving counts of requests for scores; it knows no versions.

    Thread safety: every method may be called from any thread; `add_to` takes no lock.
    """

    def __init__(self) -> None:
        """Begin with nothing counted."""
        self._lock = threading.Lock()
        self._counts: dict[tuple[str, str], int] = {}
        self._microseconds: dict[tuple[str, str], Distribution] = {}
        self._examples: dict[str, Distribution] = {}

    def count(self, model: str, answered: AnsweredRequest) -> None:
        """Count one request for scores, under the label that `metrics` gives its model."""
        with self._lock:
            key = (model, answered.code)
            self._counts[key] = self._counts.get(key, 0) + 1
            if answered.code != OK:
                return
            microseconds = self._microseconds.get((model, answered.protocol))
            if microseconds is None:
                microseconds = Distribution(LATENCY_BUCKETS_MICROSECONDS)
                self._microseconds[model, answered.protocol] = microseconds
            examples = self._examples.get(model)
            if examples is None:
                examples = self._examples[model] = Distribution(EXAMPLE_BUCKETS)
            microseconds.add(1e6 * answered.seconds)
            examples.add(answered.num_rows)

    def forget(self, models: set[str]) -> None:
        """Drop what was counted of models that have gone."""
        with self._lock:
            self._counts = {key: count for key, count in self._counts.items() if key[0] not in models}
            self._microseconds = {key: times for key, times in self._microseconds.items() if key[0] not in models}
            self._examples = {model: counts for model, counts in self._examples.items() if model not in models}

    def add_to(self, page: Sheet) -> None:
        """Write everything."""
        for key, count in self._counts.copy().items():
            page.add(REQUEST_COUNT, key, count)
        for (model, protocol), microseconds in self._microseconds.copy().items():
            page.add_distribution(REQUEST_LATENCY, (model, *_NAMES[protocol]), microseconds)
        for model, examples in self._examples.copy().items():
            page.add_distribution(EXAMPLE_COUNTS, (model,), examples)
            page.add(EXAMPLE_COUNT_TOTAL, (model,), examples.total)
