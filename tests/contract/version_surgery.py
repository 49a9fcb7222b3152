"""A published version taken apart and put together again: weights changed, every hash rewritten to match.

What a saboteur with write access would do. The hashes then agree, so that only the proof can refuse.
"""

import json
from pathlib import Path

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from tensorflow.core.protobuf import trackable_object_graph_pb2

from service import manifest
from service.program import graph
from service.program.lifting import lift

Tensors = dict[str, NDArray[np.generic]]

_OBJECTS = "_CHECKPOINTABLE_OBJECT_GRAPH"


def read_tensors(folder: Path) -> Tensors:
    """Return every tensor of a version's checkpoint by its key."""
    reader = tf.train.load_checkpoint(str(folder / "variables" / "variables"))
    values = {key: reader.get_tensor(key) for key in reader.get_variable_to_shape_map()}
    # As an object: NumPy's own byte strings lose the zeros at their end.
    return {key: np.asarray(value, object if isinstance(value, bytes) else None) for key, value in values.items()}


def write_tensors(folder: Path, tensors: Tensors) -> None:
    """Write a checkpoint with these tensors in the place of the version's own."""
    keys = sorted(tensors)
    tf.raw_ops.SaveV2(
        prefix=str(folder / "variables" / "variables"),
        tensor_names=keys,
        shape_and_slices=[""] * len(keys),
        tensors=[tf.constant(tensors[key]) for key in keys],
    )
    for path in (folder / "variables").glob("*_temp*"):
        path.rmdir()


def variable_keys(tensors: Tensors) -> dict[str, str]:
    """Return {variable's name: checkpoint key}."""
    objects = trackable_object_graph_pb2.TrackableObjectGraph()
    objects.ParseFromString(tensors[_OBJECTS].item())
    return {
        attribute.full_name: attribute.checkpoint_key
        for node in objects.nodes
        for attribute in node.attributes
        if attribute.name == "VARIABLE_VALUE"
    }


def constrained_keys(tensors: Tensors) -> dict[str, str]:
    """Return the kernels that must not be negative: those of every layer but the first."""
    return {
        name: key
        for name, key in variable_keys(tensors).items()
        if name.endswith("/kernel") and not name.split("/")[-2].startswith("first")
    }


def flipped(tensors: Tensors, key: str, index: tuple[int, ...]) -> Tensors:
    """Return the tensors with one number's sign flipped."""
    changed = tensors[key].copy()
    changed[index] = -changed[index]
    return {**tensors, key: changed}


def reseal(folder: Path, *, version: int | None = None) -> None:
    """Rewrite all hashes of the manifest to what the folder now holds; give it another version number if asked."""
    path = folder / manifest.FILE_NAME
    document = json.loads(path.read_bytes())
    document.pop("manifest_sha256")
    if version is not None:
        document["version"] = version
    document["files"] = {
        name: {"bytes": len(data), "sha256": manifest.sha256_hex(data)} for name, data in sorted(_files(folder).items())
    }
    signatures = {signature.name: signature for signature in graph.read(folder, outputs=frozenset({"gradient"}))}
    program = lift(signatures["score"].outputs["score"][2], document["input"]["dim"])
    document["certificate"]["weights_sha256"] = program.weights_sha256
    document["certificate"]["program_sha256"] = program.program_sha256
    path.write_bytes(manifest.seal(document))


def _files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != manifest.FILE_NAME
    }
