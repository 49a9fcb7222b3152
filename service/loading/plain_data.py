"""Reading what the loading process sends: plain data of known classes, and nothing that could run.

Above: `process`. Below: nothing. That process runs TensorFlow on files that somebody else wrote. Should one of
them take it over, it shall not have this one too: a pickle may otherwise call whatever it names.
"""

import io
import pickle
from typing import Any

_ARRAYS = frozenset(
    {
        ("numpy", "dtype"),
        ("numpy", "ndarray"),
        ("numpy._core.multiarray", "_reconstruct"),
        ("numpy._core.numeric", "_frombuffer"),
    }
)
_NUMBERS = frozenset({("fractions", "Fraction")})
_FAILURES = frozenset({("service.loading.fork_server", "LoadFailure")})
_MAKERS = frozenset({("service.program.selections", "selection")})
"""Functions that make an object of a version out of plain data."""

_PROGRAM = (
    *(
        "atoms",
        "convolutions",
        "curvature",
        "curves",
        "domain_weight",
        "operators",
        "partial_atoms",
        "piecewise",
        "piecewise_atom",
        "probe",
    ),
    *("program", "selections", "squashing_atoms", "verification", "windows"),
)
_MODULES = frozenset(
    {
        *("service.errors", "service.loader", "service.manifest", "service.signature"),
        *(f"service.program.{name}" for name in _PROGRAM),
    }
)


class NotPlainError(Exception):
    """A pickle names something that is no class of plain data."""


def read(data: bytes | bytearray) -> Any:
    """Return what was pickled: arrays, and objects of the classes that a loaded version is made of.

    Args:
        data: of `pickle`, from a process that need not be trusted.

    Raises:
        NotPlainError: it names anything else.
        Exception: it is no pickle; of any kind.
    """
    return _Reader(io.BytesIO(data)).load()


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """Return a class by its name, which is all that a pickle may ask for."""
        if (module, name) in _ARRAYS | _NUMBERS | _MAKERS | _FAILURES:
            return super().find_class(module, name)
        if module in _MODULES and "." not in name:
            found = super().find_class(module, name)
            if isinstance(found, type) and found.__module__ == module:  # no function, and nothing imported there
                return found
        message = f"the loading process sent {module}.{name}, expected plain data of a version"
        raise NotPlainError(message)
