"""Versions in shared memory: the same numbers, where they lie, for any number of readers."""

import os

import numpy as np
import pytest

from service.fleet import parcel
from tests.service.fleet.loaded_versions import loaded_version


@pytest.fixture
def packed():
    """Return a descriptor of a packed version."""
    descriptor = parcel.pack(loaded_version("m", 7))
    yield descriptor
    os.close(descriptor)


def test_version_is_read_back_as_it_was_packed(packed):
    """Signature, files and every array are the same, however often it is read."""
    expected = loaded_version("m", 7)
    for _ in range(2):
        found = parcel.unpack(packed)
        assert expected.signature == found.signature
        assert expected.saved_model == found.saved_model
        np.testing.assert_array_equal(expected.probe.x, found.probe.x)
        np.testing.assert_array_equal(expected.probe.score, found.probe.score)


def test_arrays_lie_in_the_shared_memory_and_cannot_be_written(packed):
    """None is copied: two readers have the same pages, each array at the start of a cache line."""
    found = parcel.unpack(packed)
    for array in (found.probe.x, found.probe.score, found.probe.gradient):
        assert not array.flags.writeable
        assert not array.flags.owndata
        assert 0 == array.ctypes.data % 64


def test_parcel_that_holds_no_version_is_refused():
    """Something else in such memory is an error that names what it is."""
    descriptor = parcel.pack({"a": 1})
    with pytest.raises(ValueError, match="holds dict, expected a loaded version"):
        parcel.unpack(descriptor)
    os.close(descriptor)
