"""One number in memory that several processes share: written by one, read by all.

Above: `commander`, which writes which state holds, and `mirror`, which reads it before every request. Below: nothing.
"""

import mmap
import os

_BYTES = 8


class Moment:
    """A number that only grows.

    Guarantee: an aligned word of memory, which the processor writes in one store: who reads sees the old number or the
    new one, and whoever was told of the new one by any way sees it.

    Args:
        descriptor: of the memory; owned from now on.

    Thread safety: any number of readers, one writer.
    """

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._memory = mmap.mmap(descriptor, _BYTES)
        self._words = memoryview(self._memory).cast("Q")

    @classmethod
    def create(cls) -> "Moment":
        """Return one that reads 0."""
        descriptor = os.memfd_create("convex-moment")
        os.ftruncate(descriptor, _BYTES)
        return cls(descriptor)

    def read(self) -> int:
        """Return the number as it is now."""
        return self._words[0]

    def write(self, number: int) -> None:
        """Let everybody read this number from now on."""
        self._words[0] = number

    def close(self) -> None:
        """Let go of the memory."""
        self._words.release()
        self._memory.close()
        os.close(self.descriptor)
