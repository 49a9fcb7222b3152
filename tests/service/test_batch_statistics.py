"""Counts of batches: what falls into which bucket."""

import gc

import pytest

from service.batch_statistics import BatchStatistics, Depth, Distribution


def test_distribution_counts_a_bound_in_its_own_bucket():
    """A value at a bound is below it, one above the last bound is counted too, and the total is their sum."""
    distribution = Distribution((1.0, 2.0, 4.0))
    for value in (1.0, 1.5, 2.0, 4.0, 5.0):
        distribution.add(value)
    assert ([1, 2, 1, 1], 13.5, 5) == (distribution.counts, distribution.total, distribution.count)


def test_statistics_count_what_batchers_tell_them():
    """Rows, waits, drops, failures and replaced threads each have their own number."""
    statistics = BatchStatistics()
    waiting = [lambda: Depth(1, 1, 0.5), lambda: Depth(2, 1, 2.5), lambda: Depth(4, 1, 9.0)]
    for read in waiting:
        statistics.watch(read)
    for _ in range(2):
        statistics.forget(waiting[2])
    statistics.count_batch(3, (0.0, 0.3))
    statistics.count_dropped("deadline", 2)
    statistics.count_failed_batch()
    statistics.count_thread_replaced()
    assert (3, Depth(3, 2, 2.5)) == (statistics.waiting_rows, statistics.depth)
    assert (1, 3.0) == (statistics.batch_rows.count, statistics.batch_rows.total)
    assert (2, 0.3) == (statistics.wait_seconds.count, statistics.wait_seconds.total)
    assert {"deadline": 2, "cancelled": 0, "closed": 0} == statistics.dropped_rows
    assert (1, 1) == (statistics.num_failed_batches, statistics.num_threads_replaced)


def test_depth_is_nothing_where_nobody_is_watched():
    """Without a batcher nothing waits, and the oldest has no age."""
    assert Depth(0, 0, 0.0) == BatchStatistics().depth


def test_timed_run_is_the_run_with_its_time_counted():
    """Answer and failure pass through, and both took a time."""
    statistics = BatchStatistics()

    def run(rows):
        if rows < 0:
            raise ValueError(rows)
        return rows + 1

    timed = statistics.timed(run)
    assert 8 == timed(7)
    with pytest.raises(ValueError, match="-1"):
        timed(-1)
    assert 2 == statistics.compute_seconds.count


def test_watched_object_is_not_kept_alive():
    """A batcher that is let go without a word, with its engine, is asked no more."""

    class Watched:
        def depth(self):
            return Depth(5, 1, 0.0)

    statistics, watched = BatchStatistics(), Watched()
    statistics.watch(watched.depth)
    assert 5 == statistics.waiting_rows
    del watched
    gc.collect()
    assert 0 == statistics.waiting_rows
