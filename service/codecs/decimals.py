"""Decimals of float32 that every reader takes back for the same float32.

Of all 2^31 positive float32, one prints a shortest decimal that a reader which goes through float64 rounds to its
neighbour: the float64 nearest to 7.038531e-26 is the midpoint of two float32. (Found by trying all.)
Above: `json` and `csv`. Below: NumPy.
"""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

_TIE = 7.038531e-26
_TIE_FLOAT32 = float(np.uint32(0x15AE43FD).view(np.float32))
_TIE_SHORTEST = b"7.038531e-26"
_LONG_TEXT = 1 << 14
_TIE_UNAMBIGUOUS = b"7.0385309e-26"


def settle_tie(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return numbers read from decimals, in place, such that a cast to float32 gives those that were printed."""
    ties = np.abs(values) == _TIE
    if ties.any():
        values[ties] = np.copysign(_TIE_FLOAT32, values[ties])
    return values


def unambiguous(text: bytes, arrays: Iterable[NDArray[np.float32]]) -> bytes:
    """Return printed float32 with one digit more where the shortest decimal would be read as another number."""
    is_possible = len(text) > _LONG_TEXT or _TIE_SHORTEST in text  # in a long text it is quicker to look at the numbers
    if is_possible and any((np.abs(array) == np.float32(_TIE_FLOAT32)).any() for array in arrays):
        return text.replace(_TIE_SHORTEST, _TIE_UNAMBIGUOUS)
    return text
