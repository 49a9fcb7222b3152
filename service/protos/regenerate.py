"""Writes `tensorflow_serving.desc` from the stock stubs: `python -m service.protos.regenerate`.

A step by hand, once for each release of tensorflow-serving-api; it needs TensorFlow, which the stock stubs import. A
contract test compares the committed file with what this module returns. `tensorflow_serving` (this package) reads it.
"""

import importlib
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2

DESCRIPTOR_SET = Path(__file__).with_name("tensorflow_serving.desc")
"""The committed file."""

_MODULES = ("prediction_service_pb2", "model_service_pb2")


def descriptor_set() -> bytes:
    """Return the serialized `FileDescriptorSet` of the stock stubs' files, dependencies first, without comments."""
    files = descriptor_pb2.FileDescriptorSet()
    seen: set[str] = set()

    def add(file: Any) -> None:
        if file.name in seen:
            return
        seen.add(file.name)
        for dependency in file.dependencies:
            add(dependency)
        file.CopyToProto(files.file.add())

    for module in _MODULES:
        # By name: this step alone touches the stubs, and the service must not depend on them.
        add(importlib.import_module(f"tensorflow_serving.apis.{module}").DESCRIPTOR)
    return files.SerializeToString(deterministic=True)


if __name__ == "__main__":
    DESCRIPTOR_SET.write_bytes(descriptor_set())
