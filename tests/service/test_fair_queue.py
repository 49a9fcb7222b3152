"""Whose turn it is: bounds of a batch, turns of clients and requests, nobody forgotten."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.fair_queue import FairQueue
from service.pieces import Request
from tests.service.held_engine import caller, rows_from


def waiting(queue, sizes, client="a"):
    """Let requests of these sizes wait; return them."""
    requests = [Request(rows_from(0, size), caller(client), 0.0) for size in sizes]
    for request in requests:
        queue.add(request)
    return requests


def take(queue, is_wanted=lambda _: True):
    """Return the next batch as (request, start, stop)."""
    return [(piece.request, piece.start, piece.stop) for piece in queue.take(is_wanted)]


REQUESTS = st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 40)), max_size=12)


@given(REQUESTS, st.integers(1, 20), st.integers(1, 30))
def test_every_row_is_taken_once_and_in_order_within_the_bound(drawn, max_batch_rows, turn_rows):
    """Whatever waits: batches within the bound, each request's rows from the first to the last without a gap."""
    queue = FairQueue(max_batch_rows, turn_rows)
    requests = [waiting(queue, [size], client)[0] for client, size in drawn]
    reached = dict.fromkeys(requests, 0)
    while queue:
        batch = take(queue)
        assert 1 <= sum(stop - start for _, start, stop in batch) <= max_batch_rows
        for request, start, stop in batch:
            assert reached[request] == start < stop
            reached[request] = stop
    assert {request: request.num_rows for request in requests} == reached
    assert [] == take(queue)


@given(REQUESTS.filter(len), st.integers(1, 20), st.integers(1, 30), st.integers(0, 11))
def test_newcomer_is_served_within_a_round_whatever_waits(drawn, max_batch_rows, turn_rows, taken):
    """A new client's one row is taken before any other client gets a second turn."""
    queue = FairQueue(max_batch_rows, turn_rows)
    for client, size in drawn:
        waiting(queue, [size], client)
    for _ in range(taken):
        take(queue)
    (newcomer,) = waiting(queue, [1], "newcomer")
    turns = dict.fromkeys("abc", 0)
    while True:
        for request, _, _ in take(queue):
            if request is newcomer:
                assert all(count <= 1 for count in turns.values())
                return
            turns[request.caller.client] += 1


def test_clients_take_turns_however_many_requests_one_has():
    """One request of a quiet client comes right after the first of a client with many, and is not last."""
    queue = FairQueue(max_batch_rows=2, turn_rows=2)
    many = waiting(queue, [1] * 5, "many")
    (quiet,) = waiting(queue, [1], "quiet")
    assert [(many[0], 0, 1), (quiet, 0, 1)] == take(queue)


def test_large_request_does_not_keep_its_clients_others_waiting():
    """A request of a hundred rows leaves room in each batch for those that fit, and has its turns between them."""
    queue = FairQueue(max_batch_rows=8, turn_rows=4)
    large, small = waiting(queue, [100, 1])
    assert [(small, 0, 1), (large, 0, 7)] == take(queue)
    first, *others = waiting(queue, [2, 2, 2, 2])
    assert [(first, 0, 2), (others[0], 0, 2), (large, 7, 11)] == take(queue)
    assert [(others[1], 0, 2), (others[2], 0, 2), (large, 11, 15)] == take(queue)


def test_large_requests_of_a_client_are_computed_one_after_the_other():
    """The second is not begun before the first is done: else both would be late where one need be."""
    queue = FairQueue(max_batch_rows=8, turn_rows=4)
    first, second = waiting(queue, [12, 9])
    assert [[(first, 0, 8)], [(first, 8, 12), (second, 0, 4)], [(second, 4, 9)]] == [take(queue) for _ in range(3)]


def test_large_requests_of_two_clients_share_each_batch():
    """Neither waits behind all of the other's."""
    queue = FairQueue(max_batch_rows=8, turn_rows=4)
    (first,), (second,) = waiting(queue, [100], "a"), waiting(queue, [100], "b")
    assert [(first, 0, 4), (second, 0, 4)] == take(queue)


def test_lone_request_fills_whole_batches():
    """Without anybody to be fair to, a turn is a batch."""
    queue = FairQueue(max_batch_rows=8, turn_rows=2)
    (large,) = waiting(queue, [20])
    assert [[(large, 0, 8)], [(large, 8, 16)], [(large, 16, 20)]] == [take(queue) for _ in range(3)]


def test_request_marked_alone_shares_no_batch():
    """One that was in a batch that failed is computed by itself; the others are not kept from theirs."""
    queue = FairQueue(max_batch_rows=8, turn_rows=4)
    requests = waiting(queue, [1, 1, 1])
    requests[1].is_alone = True
    batches = [[request for request, _, _ in take(queue)] for _ in range(3)]
    assert [[requests[0]], [requests[1]], [requests[2]]] == batches


def test_unwanted_request_is_forgotten_when_its_turn_comes():
    """Nothing of it is taken, and it does not come again."""
    queue = FairQueue(max_batch_rows=8, turn_rows=4)
    unwanted, wanted = waiting(queue, [3, 2])
    assert [(wanted, 0, 2)] == take(queue, lambda request: request is wanted)
    assert not queue
    assert 0 == unwanted.num_taken


@pytest.mark.parametrize("sizes", [[2], [2, 3]])
def test_removed_request_is_not_taken(sizes):
    """Removing forgets one request, and removing it again does nothing."""
    queue = FairQueue(max_batch_rows=8, turn_rows=4)
    requests = waiting(queue, sizes)
    queue.remove(requests[0])
    queue.remove(requests[0])
    assert requests[1:] == list(queue)
    assert [(request, 0, request.num_rows) for request in requests[1:]] == take(queue)


def test_requests_that_fit_into_a_batch_are_computed_one_after_the_other():
    """None is begun while another is half done, so that the first has its answer as early as it can."""
    queue = FairQueue(max_batch_rows=8, turn_rows=2)
    first, second, third = waiting(queue, [6, 6, 8])
    expected = [[(first, 0, 6), (second, 0, 2)], [(second, 2, 6), (third, 0, 4)], [(third, 4, 8)]]
    assert expected == [take(queue) for _ in range(3)]
