"""One section of a configuration, read into its dataclass, and the error that names the key.

Below `config`, whose sections are dataclasses with the rule of each key in its field.
"""

import dataclasses
import difflib
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from training import hooks

_Section = TypeVar("_Section")


class ConfigError(Exception):
    """A training configuration that cannot be used (exit code 2).

    Args:
        key: what is wrong, as `section.key`, a section's name, or the file's name.
        expected: what belongs there.
        received: what was found.
    """

    def __init__(self, key: str, expected: str, received: str) -> None:
        """Keep the three parts; the text is one sentence of them."""
        super().__init__(f"{key}: expected {expected}, received {received}.")
        self.key = key
        self.expected = expected
        self.received = received


def read_section(section: str, kind: type[_Section], keys: Mapping[str, Any], task: str) -> _Section:
    """Return the dataclass of one section, each key checked by its field, and by whether the task has it."""
    everywhere = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]  # a dataclass
    fields = {
        name: field
        for name, field in everywhere.items()
        if task in field.metadata["tasks"] or not field.metadata["tasks"]
    }
    for key in keys:
        if key not in everywhere:
            raise ConfigError(f"{section}.{key}", nearest(key, fields, f"key of [{section}]"), "an unknown key")
        if key not in fields:
            expected = f"a key of [{section}] for task {task} ({', '.join(fields) or 'it has none'})"
            others = " and ".join(everywhere[key].metadata["tasks"])
            raise ConfigError(f"{section}.{key}", expected, f"a key of {others} alone")
    values = {}
    for name, field in fields.items():
        if name in keys:
            values[name] = field.metadata["read"](keys[name])
            if values[name] is None:
                secret = field.metadata["read"] is hooks.read  # what is no address may hold a secret all the same
                received = "another value" if secret else shown(keys[name])
                raise ConfigError(f"{section}.{name}", field.metadata["expected"], received)
        elif field.metadata["required"] or field.default is dataclasses.MISSING:
            raise ConfigError(f"{section}.{name}", field.metadata["expected"], "nothing")
    return kind(**values)


def nearest(word: str, known: Iterable[str], what: str) -> str:
    """Return the sentence part that names what is known, and the nearest of it."""
    names = list(known)
    if not names:
        return f"no {what}"
    nearest = difflib.get_close_matches(word, names, n=1, cutoff=0.0)[0]
    return f"a known {what} ({', '.join(names)}; nearest: '{nearest}')"


def shown(value: object) -> str:
    """Return a value much as TOML writes it, cut to 60 characters; a password of an address is left out."""
    shown = re.sub(r"//[^/\s]*@", "//...@", json.dumps(value, ensure_ascii=False, default=str))
    return shown if len(shown) <= 60 else shown[:57] + "..."
