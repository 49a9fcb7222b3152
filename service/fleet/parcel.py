"""A loaded version in memory that is shared: written once, read by every worker where it lies.

Above: `commander`, which packs, and `member`, which opens. Below: `loader`, for what a version is. A pickle of the
version comes first; the arrays lie behind it, each at the start of a cache line, and are not copied when they are
read: the weights of a version are in memory once, beside what an engine makes of them.
"""

import mmap
import os
import pickle
import struct

from service.loader import LoadedVersion

_LINE_BYTES = 64
_HEAD = struct.Struct("!QQ")
_SPAN = struct.Struct("!QQ")


def pack(loaded: LoadedVersion) -> int:
    """Return a descriptor of memory that holds a version; the caller closes it.

    Raises:
        OSError: there is no memory for it.
    """
    buffers: list[pickle.PickleBuffer] = []
    words = pickle.dumps(loaded, protocol=pickle.HIGHEST_PROTOCOL, buffer_callback=buffers.append)
    arrays = [buffer.raw() for buffer in buffers]
    place = _next_line(_HEAD.size + len(arrays) * _SPAN.size + len(words))
    spans = bytearray()
    for array in arrays:
        spans += _SPAN.pack(place, array.nbytes)
        place = _next_line(place + array.nbytes)
    descriptor = os.memfd_create("convex-version")
    try:
        os.ftruncate(descriptor, max(place, 1))
        with mmap.mmap(descriptor, max(place, 1)) as memory:
            head = _HEAD.pack(len(arrays), len(words)) + spans + words
            memory[: len(head)] = head
            for number, array in enumerate(arrays):
                begin, size = _SPAN.unpack_from(spans, number * _SPAN.size)
                memory[begin : begin + size] = array
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def unpack(descriptor: int) -> LoadedVersion:
    """Return the version in such memory; its arrays lie there, and cannot be written. The descriptor may be closed.

    Raises:
        ValueError: what lies there is no version.
    """
    memory = memoryview(mmap.mmap(descriptor, 0, prot=mmap.PROT_READ))  # lives as long as an array in it
    num_arrays, num_words = _HEAD.unpack_from(memory)
    begin = _HEAD.size + num_arrays * _SPAN.size
    spans = [_SPAN.unpack_from(memory, _HEAD.size + number * _SPAN.size) for number in range(num_arrays)]
    views = [memory[place : place + size] for place, size in spans]
    loaded = pickle.loads(memory[begin : begin + num_words], buffers=views)  # noqa: S301  (from our own commander)
    if not isinstance(loaded, LoadedVersion):
        message = f"a parcel holds {type(loaded).__name__}, expected a loaded version"
        raise ValueError(message)
    return loaded


def _next_line(place: int) -> int:
    return -(-place // _LINE_BYTES) * _LINE_BYTES
