"""Garbage collection of the server's processes: what does not happen during imports, and happens again afterwards."""

import gc

import pytest

from service.garbage import uncollected


@pytest.fixture
def collections():
    """Return a function that makes cycles by the thousand and says whether any collection happened."""

    def happen():
        before = sum(generation["collections"] for generation in gc.get_stats())
        kept = [[] for _ in range(20_000)]
        for each in kept:
            each.append(each)
        return sum(generation["collections"] for generation in gc.get_stats()) > before

    return happen


def test_nothing_is_collected_while_it_lasts(collections):
    """Objects pile up inside, and are looked through again outside."""
    assert collections()
    with uncollected():
        assert not collections()
    assert collections()


def test_collections_go_on_after_an_exception():
    """An import that fails inside leaves the collector as it was."""
    with pytest.raises(ImportError, match="inside"), uncollected():
        raise ImportError("inside")
    assert gc.isenabled()


def test_collector_stays_off_when_it_was_off_before():
    """Whoever turned it off is not surprised."""
    gc.disable()
    try:
        with uncollected():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
