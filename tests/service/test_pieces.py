"""From requests to a batch and back: each row at its place, views where they will do."""

import numpy as np
import pytest

from service.batch_statistics import Depth
from service.pieces import Piece, Request, depth_of, join, keep, split
from tests.service.held_engine import assert_answers, caller, rows_from


def test_split_gives_each_piece_its_own_part_of_the_outputs():
    """Rows of two requests, one of them in two pieces, come back to their places whatever the order of arrival."""
    large, small = Request(rows_from(0, 5), caller(), 0.0), Request(rows_from(100, 1), caller(), 0.0)
    pieces = [Piece(large, 0, 2), Piece(small, 0, 1), Piece(large, 2, 5)]
    rows = join(pieces)
    assert [0, 1, 100, 2, 3, 4] == rows[:, 0].tolist()
    for piece, outputs in split(pieces, {"score": rows.sum(axis=1), "gradient": 2 * rows}):
        keep(piece, outputs)
        keep(piece, outputs)
    assert (5, 1) == (large.num_done, small.num_done)
    assert_answers(large.rows, large.outputs)
    assert_answers(small.rows, small.outputs)


def test_join_does_not_copy_a_single_piece():
    """A batch of one request is its own memory."""
    request = Request(rows_from(0, 5), caller(), 0.0)
    assert np.shares_memory(request.rows, join([Piece(request, 1, 4)]))


@pytest.mark.parametrize("count", [1, 3])
def test_split_refuses_outputs_of_another_length(count):
    """An engine that answers too few or too many rows would give somebody the row of another."""
    request = Request(rows_from(0, 2), caller(), 0.0)
    with pytest.raises(ValueError, match=f"answered {count} rows of score, expected 2"):
        split([Piece(request, 0, 2)], {"score": np.zeros(count, np.float32)})


def test_depth_is_what_is_there_with_the_age_of_the_oldest():
    """Rows and requests add up; nothing at all has no age."""
    requests = {Request(rows_from(0, 5), caller(), 10.0): None, Request(rows_from(0, 2), caller(), 7.0): None}
    assert (Depth(7, 2, 5.0), Depth(0, 0, 0.0)) == (depth_of(requests, 12.0), depth_of({}, 12.0))


def test_depth_is_told_without_rows_when_requests_change_under_the_copy():
    """Who looks on takes no lock: a copy that fails costs the rows and the age of one look, and nothing else."""

    class Changing(dict):
        def __iter__(self):
            raise RuntimeError("dictionary changed size during iteration")

    assert Depth(0, 1, 0.0) == depth_of(Changing(a=1), 12.0)


def test_request_notes_for_its_caller_how_long_it_waited_and_was_computed():
    """Both times are there for the access log: until the first row was computed, and from then on."""
    request = Request(rows_from(0), caller(), 10.0)
    assert (None, None) == (request.caller.queue_seconds, request.caller.compute_seconds)
    assert 2.0 == request.note_wait(12.0)
    request.note_computed(15.0)
    assert (2.0, 3.0) == (request.caller.queue_seconds, request.caller.compute_seconds)
