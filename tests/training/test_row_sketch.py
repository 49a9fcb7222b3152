"""Sketches of rows: which rows an earlier night had, whatever the order, and which of them have another target."""

import json

import numpy as np
import pytest

from training import row_sketch
from training.datasets import Table


def table_of(count: int, seed: int = 0) -> Table:
    """Return distinct rows of three columns with a target of two classes."""
    generator = np.random.default_rng(seed)
    return Table(tuple("abc"), generator.normal(size=(count, 3)), (generator.random(count) < 0.5).astype(float))


def grown(first: Table, second: Table, order: np.ndarray) -> Table:
    """Return the rows of both in another order."""
    x, y = np.concatenate([first.x, second.x]), np.concatenate([first.y, second.y])
    return Table(first.features, x[order], y[order])


def test_look_finds_the_new_rows_of_a_grown_file_in_any_order():
    """Of 300 rows and 40 more, shuffled, exactly the 40 are new."""
    first, second = table_of(300), table_of(40, seed=1)
    order = np.random.default_rng(2).permutation(340)
    seen = row_sketch.look(row_sketch.take(first), grown(first, second, order))
    assert set(np.flatnonzero(order >= 300)) == set(seen.new.tolist())
    assert (300, 0, 0) == (len(seen.known), len(seen.relabelled), seen.gone)


def test_look_finds_rows_whose_target_changed_and_rows_that_are_gone():
    """Seven flipped labels are relabelled rows, not new ones; ten rows left out are gone."""
    first = table_of(200)
    y = first.y.copy()
    y[:7] = 1.0 - y[:7]
    seen = row_sketch.look(row_sketch.take(first), Table(first.features, first.x[:190], y[:190]))
    assert (183, list(range(7)), [], 10) == (len(seen.known), seen.relabelled.tolist(), seen.new.tolist(), seen.gone)


def test_copies_of_a_known_row_are_new():
    """A row that was there twice is known twice; its third and fourth copies are new."""
    first = table_of(100)
    twice = Table(first.features, np.vstack([first.x, first.x[:1]]), np.append(first.y, first.y[0]))
    more = Table(first.features, np.vstack([first.x, *[first.x[:1]] * 3]), np.append(first.y, [first.y[0]] * 3))
    seen = row_sketch.look(row_sketch.take(twice), more)
    assert (101, 2, 0) == (len(seen.known), len(seen.new), len(seen.relabelled))
    assert (2, 4) == (row_sketch.take(twice).heaviest, row_sketch.take(more).heaviest)


def test_sketch_of_many_rows_keeps_the_same_part_of_any_night():
    """Of 20,000 rows one hash in 8 is kept, and of 4,000 new ones about 500 are seen to be new, none that is not."""
    first, second = table_of(20_000), table_of(4000, seed=1)
    sketch = row_sketch.take(first)
    seen = row_sketch.look(sketch, grown(first, second, np.arange(24_000)))
    assert (8, True) == (sketch.every, len(sketch.entries) <= row_sketch.MAX_ROWS)
    assert (len(sketch.entries), 0, 0) == (len(seen.known), len(seen.relabelled), seen.gone)
    assert 4000 / 8 == pytest.approx(len(seen.new), abs=5 * np.sqrt(4000 / 8))
    assert (seen.new >= 20_000).all()


def test_sketch_of_one_row_again_and_again_keeps_none():
    """Rows that cannot be thinned by their hash are left out, not kept without bound."""
    same = Table(("a",), np.ones((9000, 1)), np.ones(9000))
    sketch = row_sketch.take(same)
    assert ((), 9000) == (sketch.entries, sketch.heaviest)
    assert 0 == len(row_sketch.look(sketch, same).new)


def test_rows_without_a_target_are_told_by_their_features():
    """A transport's rows have none, and none of them is ever relabelled."""
    rows = np.random.default_rng(0).normal(size=(60, 2))
    before, after = (Table(("a", "b"), x, np.empty((len(x), 0))) for x in (rows[:50], rows))
    seen = row_sketch.look(row_sketch.take(before), after)
    assert (50, 0, list(range(50, 60))) == (len(seen.known), len(seen.relabelled), seen.new.tolist())


def test_document_is_json_of_eight_characters_a_row_and_reads_back():
    """Six bytes a row in base64: 300 rows are 2,400 characters."""
    sketch = row_sketch.take(table_of(300))
    document = json.loads(json.dumps(sketch.to_document()))
    assert (2400, sketch) == (len(document["hashes"]), row_sketch.from_document(document))


@pytest.mark.parametrize("change", [{"hashes": "abc"}, {"hashes": "AAAA"}, {"every": 0}, {"count": "3"}, {"hashes": 3}])
def test_document_that_is_no_sketch_is_refused(change):
    """No base64, half a row, and counts that are none are errors."""
    document = {**row_sketch.take(table_of(3)).to_document(), **change}
    with pytest.raises((ValueError, TypeError)):
        row_sketch.from_document(document)
