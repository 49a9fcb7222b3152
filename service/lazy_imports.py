"""Modules that are imported when something of theirs is first asked for, such as most of TensorFlow's public ones.

Above: `loader`, which asks for few of those: without the others 2,013 modules are imported of 2,593. Below: nothing.
"""

import contextlib
import importlib.machinery
import importlib.util
import sys
from collections.abc import Iterator, Sequence
from types import ModuleType


@contextlib.contextmanager
def lazily(prefix: str) -> Iterator[None]:
    """Let the modules whose names begin so, imported while this lasts, run at the first look at an attribute of theirs.

    By `importlib.util.LazyLoader`, with what its documentation says of it: an error of such a module comes late.
    Thread safety: none; nor may two threads look at the same module for the first time (before Python 3.12).
    """
    finder = _LazyFinder(prefix)
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


class _LazyFinder:
    def __init__(self, prefix: str) -> None:
        self._prefix = prefix

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if not name.startswith(self._prefix):
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = importlib.util.LazyLoader(spec.loader)
        return spec
