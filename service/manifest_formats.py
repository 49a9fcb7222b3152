"""The formats that a manifest was ever written in, and the way from an older one to the newest.

Below `manifest`, whose schema is that of the newest format alone. Standard library only.

Of every format, for ever: the file is canonical JSON, `format_version` says the format, and `manifest_sha256` is the
hash of the rest. So that a file can be told from a damaged one, and its format be read, by servers older and newer
than itself. Everything else may change from one format to the next.

When is a new number needed? When a server of today would misunderstand the file: a field that it must know, or one that
means something else. Facts that no answer depends on need none: `certificate`, `metrics`, `data`, `config` and
`packages` are objects whose inside is free, and `run_id` may be there or not.

To write format n + 1: raise `FORMAT_VERSION`, append to `STEPS` one function that makes a document of format n + 1 of
one of format n, and put a manifest of format n, as it was published, among the golden ones of the tests.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from service.errors import VersionRefusedError

FORMAT_VERSION = 1
"""The newest format: the one that is written, and that the schema describes."""

Step = Callable[[dict[str, Any]], dict[str, Any]]
"""A document of one format in, the same facts in the next format out; pure, and blind to `format_version`."""

STEPS: tuple[Step, ...] = ()
"""The steps to the newest format, oldest first: the last one starts from `FORMAT_VERSION - 1`."""

RULE = "manifest-version"

_DAMAGED = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError)


def migrate(
    document: Mapping[str, Any], *, newest: int = FORMAT_VERSION, steps: Sequence[Step] | None = None
) -> tuple[int, dict[str, Any]]:
    """Return the format of a document and the document in the newest format.

    Nothing on disk changes: an old version is read as it lies, as often as it is read. The hash is that of the bytes
    as they are and has to be checked before; it goes along and belongs to them still.

    Args:
        document: the parsed JSON, of any format; it is not changed.
        newest: the number of the newest format.
        steps: the steps that lead there, by default `STEPS`; the oldest format that is read is `newest` less their
            number.

    Raises:
        VersionRefusedError: rule `manifest-version`: newer than `newest`, older than any step, or no number;
            `manifest-schema`: an older one that is not what its format says.
    """
    steps = STEPS if steps is None else steps
    oldest = newest - len(steps)
    found = document.get("format_version")
    if type(found) is not int:
        received = "nothing" if found is None else str(found)[:40]
        reason = f"manifest.json: format_version: expected a whole number, received {received}. Publish it again."
        raise VersionRefusedError(RULE, reason)
    reads = f"format {newest}" if oldest == newest else f"the formats {oldest} to {newest}"
    if found > newest:
        reason = (
            f"manifest.json is of format {str(found)[:40]}, this release reads {reads}. Upgrade the server, or publish "
            "with the release that it runs; what it serves already, it goes on serving."
        )
        raise VersionRefusedError(RULE, reason)
    if found < oldest:
        reason = f"manifest.json is of format {str(found)[:40]}, this release reads {reads}. Train it again."
        raise VersionRefusedError(RULE, reason)
    migrated = copy.deepcopy(dict(document))
    for number, step in enumerate(steps[found - oldest :], start=found):
        try:
            migrated = {**step(migrated), "format_version": number + 1}
        except _DAMAGED as err:
            reason = f"manifest.json is not a manifest of format {number} ({type(err).__name__}). Publish it again."
            raise VersionRefusedError("manifest-schema", reason) from err
    return found, migrated
