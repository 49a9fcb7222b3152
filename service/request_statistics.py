"""What is counted of requests: plain numbers, so that a request pays about a microsecond for them.

Above: `metrics`, which has one for each set of labels. Below: `answered`, `batch_statistics`.
"""

import threading

from service.answered import AnsweredRequest
from service.batch_statistics import Distribution

LATENCY_BUCKETS_SECONDS = (
    *(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025),
    *(0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0),
)
"""Upper bounds of the times that requests take, in seconds."""


class RequestStatistics:
    """The counts of requests of one model, version, signature and protocol.

    Thread safety: `count` may be called from any thread; who reads takes no lock, and sees numbers of a moment ago.
    """

    def __init__(self) -> None:
        """Begin with nothing counted."""
        self._lock = threading.Lock()
        self.seconds: dict[str, Distribution] = {}  # by code
        self.num_rows = 0
        self.bytes_in = 0
        self.bytes_out = 0

    def count(self, answered: AnsweredRequest) -> None:
        """Count one answered request."""
        with self._lock:
            seconds = self.seconds.get(answered.code)
            if seconds is None:
                seconds = self.seconds[answered.code] = Distribution(LATENCY_BUCKETS_SECONDS)
            seconds.add(answered.seconds)
            self.num_rows += answered.num_rows
            self.bytes_in += answered.bytes_in
            self.bytes_out += answered.bytes_out
