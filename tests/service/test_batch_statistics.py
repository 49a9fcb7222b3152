"""Counts of batches: what falls into which bucket."""

from service.batch_statistics import BatchStatistics, Distribution


def test_distribution_counts_a_bound_in_its_own_bucket():
    """A value at a bound is below it, one above the last bound is counted too, and the total is their sum."""
    distribution = Distribution((1.0, 2.0, 4.0))
    for value in (1.0, 1.5, 2.0, 4.0, 5.0):
        distribution.add(value)
    assert ([1, 2, 1, 1], 13.5, 5) == (distribution.counts, distribution.total, distribution.count)


def test_statistics_count_what_batchers_tell_them():
    """Rows, waits, drops, failures and replaced threads each have their own number."""
    statistics = BatchStatistics()
    waiting = [lambda: 1, lambda: 2, lambda: 4]
    for read in waiting:
        statistics.watch(read)
    for _ in range(2):
        statistics.forget(waiting[2])
    statistics.count_batch(3, (0.0, 0.3))
    statistics.count_dropped("deadline", 2)
    statistics.count_failed_batch()
    statistics.count_thread_replaced()
    assert 3 == statistics.waiting_rows
    assert (1, 3.0) == (statistics.batch_rows.count, statistics.batch_rows.total)
    assert (2, 0.3) == (statistics.wait_seconds.count, statistics.wait_seconds.total)
    assert {"deadline": 2, "cancelled": 0, "closed": 0} == statistics.dropped_rows
    assert (1, 1) == (statistics.num_failed_batches, statistics.num_threads_replaced)
