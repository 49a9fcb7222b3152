"""A copy of a version's folder that nobody else writes to, made of the bytes that were checked.

Above: `champion`, `evaluation` and `proof`, which read it; below: the service's repository. TensorFlow is not needed.
"""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from service.manifest import Manifest
from service.repository import materialize, read_version


@contextlib.contextmanager
def opened(path: Path) -> Iterator[tuple[Path, Manifest | None]]:
    """Give a private copy of a version's folder, made of the bytes that were checked against its manifest.

    Yields:
        The copy, which is removed at the end, and the manifest, or None for a SavedModel made elsewhere.

    Raises:
        VersionRefusedError: the rules of `service.repository.read_version`.
    """
    files = read_version(path)
    manifest = files.manifest
    with tempfile.TemporaryDirectory(prefix="convex-scoring-") as name:
        materialize(files.contents, Path(name))
        del files  # as large as the model
        yield Path(name), manifest
