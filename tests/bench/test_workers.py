"""The measurement of workers: the processes that answer are the ones whose time is counted."""

import os

from bench import workers


def test_process_without_workers_answers_by_itself():
    """Other children, such as the loading process, answer no request."""
    assert [os.getpid()] == workers.serving_processes(os.getpid())


def test_first_server_is_what_the_others_are_compared_with():
    """One worker comes first, so that its ratios are 1 and those of two say what the second one brings."""
    assert (1, 2) == workers.Plan().num_workers
