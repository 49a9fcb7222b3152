"""How many connections each worker has, in memory that all of them share, so that each takes its share of the next.

Above: `commander`, which makes it, and `member`, whose acceptor asks it. Below: nothing.
"""

import mmap
import os

_WORD_BYTES = 8
_ABSENT = (1 << 64) - 1
_SLACK = 16


class Connections:
    """A number for each worker; one that is not there has none, and nobody leaves a connection to it.

    Args:
        descriptor: of the memory; owned from now on.
        slot: of the worker that tells its number here; None: nobody does.

    Thread safety: each number is written by one thread, and read by any.
    """

    def __init__(self, descriptor: int, slot: int | None = None) -> None:
        self.descriptor = descriptor
        self._slot = slot
        self._memory = mmap.mmap(descriptor, os.fstat(descriptor).st_size)
        self._words = memoryview(self._memory).cast("Q")

    @classmethod
    def create(cls, num_workers: int) -> "Connections":
        """Return those of so many workers, none of which is there."""
        descriptor = os.memfd_create("convex-connections")
        os.ftruncate(descriptor, num_workers * _WORD_BYTES)
        connections = cls(descriptor)
        for slot in range(num_workers):
            connections.forget(slot)
        return connections

    def tell(self, num_connections: int) -> None:
        """Tell how many are open in this worker."""
        if self._slot is not None:
            self._words[self._slot] = num_connections

    def is_my_turn(self) -> bool:
        """Whether no other worker has fewer than this one; of many, a sixteenth fewer is no difference."""
        if self._slot is None:
            return True
        fewest = min(self._words)
        return self._words[self._slot] <= fewest + fewest // _SLACK

    def forget(self, slot: int) -> None:
        """Let a worker be absent: it has ended."""
        self._words[slot] = _ABSENT

    def close(self) -> None:
        """Let go of the memory."""
        self._words.release()
        self._memory.close()
        os.close(self.descriptor)
