"""Counts of requests: one distribution of times for each code, and sums."""

from service.answered import AnsweredRequest
from service.request_statistics import RequestStatistics


def test_requests_add_up_by_code():
    """Times go to the distribution of their code; rows and bytes of all codes to the sums."""
    statistics = RequestStatistics()
    for code, seconds in (("OK", 0.25), ("OK", 0.5), ("INTERNAL", 2.0)):
        statistics.count(AnsweredRequest("rest", code, seconds, num_rows=2, bytes_in=10, bytes_out=3))
    assert {"OK": (2, 0.75), "INTERNAL": (1, 2.0)} == {
        code: (times.count, times.total) for code, times in statistics.seconds.items()
    }
    assert (6, 30, 9) == (statistics.num_rows, statistics.bytes_in, statistics.bytes_out)
