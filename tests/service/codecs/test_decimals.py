"""The one decimal of float32 that readers take for its neighbour."""

import numpy as np

from service.codecs.decimals import settle_tie, unambiguous

TIE = np.uint32(0x15AE43FD).view(np.float32)


def test_shortest_decimal_of_the_tie_is_read_as_its_neighbour_without_help():
    """The float64 nearest to 7.038531e-26 casts to another float32 than the one that prints so: the case is real."""
    assert np.float32(float("7.038531e-26")) != TIE
    assert np.float32(float("7.0385309e-26")) == TIE


def test_tie_comes_back_by_either_way():
    """What is printed reads back anywhere, and what others print reads back here, of either sign."""
    for sign, mark in ((1, b""), (-1, b"-")):
        value = np.float32(sign) * TIE
        assert mark + b"7.0385309e-26" == unambiguous(mark + b"7.038531e-26", [np.array([1.0, value], np.float32)])
        read = settle_tie(np.array([float(mark + b"7.038531e-26"), 2.5]))
        assert [value, np.float32(2.5)] == list(read.astype(np.float32))


def test_other_numbers_are_left_as_they_are():
    """Where the tie is not among the numbers, the text stays, even where it holds the same digits."""
    assert b"17.038531e-26" == unambiguous(b"17.038531e-26", [np.array([1.7e-25], np.float32)])
