"""A disk that is full from some operation on, without one: what takes space below a folder fails with ENOSPC.

It sees what Python does: opening for writing, writing, making folders, syncing, renaming. TensorFlow writes by itself:
for that there are limits of the file size, and a file system that is small in truth.
"""

import builtins
import contextlib
import errno
import io
import os
import resource
import signal


class FullDisk:
    """Counts the operations that take space below a folder, and fails those from a number on.

    Args:
        folder: where.
        fails_at: the operation that fails, from 0; None: none does, they are counted.
        lasting: whether all later ones fail too. A rename in a folder takes no space that it had not before: it fails
            only where it is the first to fail.
    """

    def __init__(self, folder, fails_at=None, *, lasting=True):
        self.folder = f"{folder}{os.sep}"
        self.fails_at = fails_at
        self.lasting = lasting
        self.count = 0
        self.num_failed = 0

    def take(self, path, *, only_first=False):
        """Count an operation on a path, and fail it if the disk is full by then."""
        if not f"{path}{os.sep}".startswith(self.folder):
            return
        number, self.count = self.count, self.count + 1
        if number == self.fails_at or (self.fails_at is not None and self._is_after(number) and not only_first):
            self.num_failed += 1
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    def _is_after(self, number):
        return self.lasting and number > self.fails_at

    @contextlib.contextmanager
    def over(self, monkeypatch):
        """Put it over the operations of the system while the block runs."""
        with monkeypatch.context() as patch:
            for module, name in ((os, "mkdir"), (os, "rename"), (os, "replace")):
                patch.setattr(module, name, self._before(getattr(module, name), only_first=name != "mkdir"))
            patch.setattr(os, "open", self._open_descriptor(os.open))
            patch.setattr(os, "fsync", self._sync(os.fsync))
            opener = self._open_file(io.open)
            patch.setattr(io, "open", opener)
            patch.setattr(builtins, "open", opener)
            yield self

    def _before(self, original, *, only_first):
        def operate(path, *arguments, **named):
            if only_first or not os.path.lexists(path):  # a folder that is there takes no space
                self.take(os.fspath(path), only_first=only_first)
            return original(path, *arguments, **named)

        return operate

    def _open_descriptor(self, original):
        def operate(path, flags, *arguments, **named):
            if flags & os.O_CREAT and isinstance(path, str | os.PathLike) and not os.path.lexists(path):
                self.take(os.fspath(path))
            return original(path, flags, *arguments, **named)

        return operate

    def _sync(self, original):
        def operate(descriptor):
            self.take(os.readlink(f"/proc/self/fd/{descriptor}"))
            return original(descriptor)

        return operate

    def _open_file(self, original):
        def operate(file, mode="r", *arguments, **named):
            writes = isinstance(file, str | os.PathLike) and set(mode) & set("wxa+")
            if not writes or not f"{os.fspath(file)}".startswith(self.folder):
                return original(file, mode, *arguments, **named)
            if not os.path.lexists(file):
                self.take(os.fspath(file))
            if set(mode) <= set("wxb") and "b" in mode:
                return io.BufferedWriter(_FullFile(os.fspath(file), mode.replace("b", ""), self))
            return original(file, mode, *arguments, **named)

        return operate


class _FullFile(io.FileIO):
    """A file whose writes are counted by the disk."""

    def __init__(self, path, mode, disk):
        super().__init__(path, mode)
        self._path = path
        self._disk = disk

    def write(self, data):
        """Write, if there is space."""
        self._disk.take(self._path)
        return super().write(data)


@contextlib.contextmanager
def largest_file(num_bytes):
    """Let no file grow beyond a size while the block runs: whatever writes it gets EFBIG."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, previous)
