"""A trained network as a folder of files: the SavedModel with its signatures, `model.keras`, probe and warm-up.

Below `pipeline` and `retrain`, which certify what this stages and publish it; above `icnn`, whose network arrives here
as a plain Keras model. Everything that is written comes from the model alone: no path, time or user of this machine,
and the same weights give the same bytes.
"""

import dataclasses
import hashlib
import json
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from tensorflow.core.protobuf import fingerprint_pb2, saved_model_pb2
from tensorflow.python.saved_model.pywrap_saved_model import fingerprinting
from tensorflow_serving.apis import model_pb2, predict_pb2, prediction_log_pb2, regression_pb2

from service.program.verification import Probe
from service.signature import CONTEXT
from training.icnn import InputConvexNetwork
from training.layers.function import Function
from training.picnn import PartiallyInputConvexNetwork

PROBE_ROWS = 16
PROBE_FILE = "probe.npz"
KERAS_FILE = "model.keras"
WARMUP_FILE = "assets.extra/tf_serving_warmup_requests"
REGRESS_METHOD = "tensorflow/serving/regress"

_MEMBERS = {"metadata.json", "config.json", "model.weights.h5"}
_MAX_KERAS = 2**30
_NETWORKS = ("convex_scoring>InputConvexNetwork", "convex_scoring>PartiallyInputConvexNetwork")


class ExportError(Exception):
    """TensorFlow could not write or read the files (exit code 1): disk full, folder gone."""


def stage(model: keras.Model, folder: Path, *, name: str, rows: NDArray[np.floating]) -> Probe:
    """Write every file of a version but its report and manifest into `folder`, and return the probe.

    Signatures (contract section 2): `serving_default`: x float32 [n, dim] to score [n] and gradient [n, dim];
    `score`: x to score; `regress`: inputs, serialized `tf.Example`s with feature `x`, to outputs [n], with the method
    name of TensorFlow Serving. A network with a domain weight adds `support` [n] to the first. A partially convex one
    takes a second input, `context` float32 [n, c], in each, and feature `context` in the examples; its gradient is by
    x. The probe's answers are those of the SavedModel read back from disk.

    Args:
        model: maps float32 [n, dim], or [x, context], to scores [n]; raw features in.
        folder: an empty folder.
        name: the model's name, for the warm-up requests.
        rows: [m, dim + c], m >= 1, training rows, the context's columns last; the probe's 16 rows are taken from them
            (evenly spaced; repeated if fewer).

    Raises:
        ExportError: the files cannot be written.
        FunctionRefusedError: a user's function stands in the network without a role on the convex path.
    """
    for layer in model._flatten_layers():
        if isinstance(layer, Function):
            layer.require_role()
    chosen = rows[np.linspace(0, len(rows) - 1, PROBE_ROWS).astype(int)].astype(np.float32)
    exported = tf.Module(name="scoring")
    exported.numbers = [variable.value for variable in model.variables]  # a Keras model would bring other objects along
    try:
        options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
        signatures = _signatures(model, rows.shape[1] - context_dim(model))
        tf.saved_model.save(exported, str(folder), signatures=signatures, options=options)
        _patch(folder)
        _save_keras(model, folder / KERAS_FILE)
        reloaded = reload(folder)
        score, gradient = reloaded(chosen)
        support = reloaded.support(chosen) if has_support(model) else None
        probe = dataclasses.replace(Probe.of_rows(chosen, score, gradient), support=support)
        (folder / PROBE_FILE).write_bytes(probe.to_bytes())
        _write_warmup(folder / WARMUP_FILE, name, probe)
    except (tf.errors.OpError, OSError) as err:
        message = f"the version's files cannot be written: {_reason(err)}. Nothing was published."
        raise ExportError(message) from err
    return probe


class Reloaded:
    """The `serving_default` function of a SavedModel, which it keeps alive.

    Args:
        folder: holds the SavedModel.
    """

    def __init__(self, folder: Path) -> None:
        self._loaded = tf.saved_model.load(str(folder))  # the function alone would not keep its variables alive
        self._serve = self._loaded.signatures["serving_default"]

    def __call__(self, rows: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return score [n] and gradient [n, dim]."""
        answer = self._serve(**self._inputs(rows))
        return answer["score"].numpy(), answer["gradient"].numpy()

    def support(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the domain weights [n] of a model that answers them."""
        weights: NDArray[np.float32] = self._serve(**self._inputs(rows))["support"].numpy()
        return weights

    def _inputs(self, rows: NDArray[np.float32]) -> dict[str, tf.Tensor]:
        """Return the function's inputs: rows, or x and the context that stands behind it."""
        taken = self._serve.structured_input_signature[1]
        if CONTEXT not in taken:
            return {"x": tf.constant(rows, dtype=tf.float32)}
        x, context = np.split(rows, [taken["x"].shape[1]], axis=1)
        return {"x": tf.constant(x, dtype=tf.float32), CONTEXT: tf.constant(context, dtype=tf.float32)}


def reload(folder: Path) -> Reloaded:
    """Return the `serving_default` function of the SavedModel in `folder`, as a server would load it."""
    return Reloaded(folder)


def has_support(model: keras.Model) -> bool:
    """Whether a model answers a domain weight beside its score."""
    return getattr(model, "domain_weight", None) is not None


def context_dim(model: keras.Model) -> int:
    """Return the number of features of a model's context, 0 for one without."""
    return int(getattr(model, "context_dim", 0))


def _reason(err: Exception) -> str:
    """Return what the system said: TensorFlow puts it last, after its node's name and the path of a temporary file."""
    words = re.sub(r"\{\{.*?\}\}|\[Op:.*?\]", "", str(getattr(err, "strerror", None) or err))
    return " ".join(words.rsplit(";", 1)[-1].split())[:200]


def load_network(path: Path) -> InputConvexNetwork | PartiallyInputConvexNetwork:
    """Return the network in a `model.keras` whose hash was checked, for a warm start.

    Keras builds what the archive's config names, so the archive is looked at first: the three members that Keras
    writes, of bounded size, and a config that names our network and no other class.

    Raises:
        ValueError: the archive is not one that `stage` writes, or Keras cannot read it.
    """
    if not zipfile.is_zipfile(path):
        message = "model.keras: expected a zip archive."
        raise ValueError(message)
    with zipfile.ZipFile(path) as archive:
        sizes = {member.filename: member.file_size for member in archive.infolist()}
        if len(archive.infolist()) != len(_MEMBERS) or sizes.keys() != _MEMBERS or sum(sizes.values()) > _MAX_KERAS:
            message = f"model.keras: expected {', '.join(sorted(_MEMBERS))}, received {', '.join(sizes)[:200]}."
            raise ValueError(message)
        config = json.loads(archive.read("config.json"))
    if config.get("registered_name") not in _NETWORKS or _names_a_class(config.get("config")):
        message = "model.keras: expected an input-convex network of this package and no other class."
        raise ValueError(message)
    model = keras.models.load_model(path, compile=False, safe_mode=True)
    if not isinstance(model, InputConvexNetwork | PartiallyInputConvexNetwork):
        message = f"model.keras: expected an input-convex network, received {type(model).__name__}."
        raise ValueError(message)
    return model


def _names_a_class(value: Any) -> bool:
    """Say whether a config holds a serialized object anywhere."""
    if isinstance(value, dict):
        return "class_name" in value or any(_names_a_class(item) for item in value.values())
    return isinstance(value, list) and any(_names_a_class(item) for item in value)


def _signatures(model: keras.Model, dim: int) -> dict[str, Any]:
    """Return the functions to export, by signature name."""
    if context_dim(model):
        return _context_signatures(model, dim)
    rows = tf.TensorSpec([None, dim], tf.float32, name="x")
    examples = tf.TensorSpec([None], tf.string, name="inputs")

    @tf.function(input_signature=[rows])
    def score(x: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"score": model(x, training=False)}

    @tf.function(input_signature=[rows])
    def score_and_gradient(x: tf.Tensor) -> dict[str, tf.Tensor]:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(x)
            value = model(x, training=False)
        weight = {"support": model.support(x)} if has_support(model) else {}
        return {"score": value, "gradient": tape.gradient(value, x), **weight}

    @tf.function(input_signature=[examples])
    def regress(inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        parsed = tf.io.parse_example(inputs, {"x": tf.io.FixedLenFeature([dim], tf.float32)})
        return {"outputs": model(parsed["x"], training=False)}

    return {"serving_default": score_and_gradient, "score": score, "regress": regress}


def _context_signatures(model: keras.Model, dim: int) -> dict[str, Any]:
    """Return the functions to export of a model with a context, by signature name."""
    rows = tf.TensorSpec([None, dim], tf.float32, name="x")
    contexts = tf.TensorSpec([None, context_dim(model)], tf.float32, name=CONTEXT)
    features = {
        CONTEXT: tf.io.FixedLenFeature([context_dim(model)], tf.float32),
        "x": tf.io.FixedLenFeature([dim], tf.float32),
    }

    @tf.function(input_signature=[rows, contexts])
    def score(x: tf.Tensor, context: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"score": model([x, context], training=False)}

    @tf.function(input_signature=[rows, contexts])
    def score_and_gradient(x: tf.Tensor, context: tf.Tensor) -> dict[str, tf.Tensor]:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(x)
            value = model([x, context], training=False)
        return {"score": value, "gradient": tape.gradient(value, x)}

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="inputs")])
    def regress(inputs: tf.Tensor) -> dict[str, tf.Tensor]:
        parsed = tf.io.parse_example(inputs, features)
        return {"outputs": model([parsed["x"], parsed[CONTEXT]], training=False)}

    return {"serving_default": score_and_gradient, "score": score, "regress": regress}


def _patch(folder: Path) -> None:
    """Give `regress` its method name, analytic gradients no name, and the folder the fingerprint of the changed file.

    `tf.saved_model.save` writes `predict` on every signature and offers no way to say otherwise. The exported gradient
    is made of operations already; a counter that once named its function means nothing to whoever loads the file.
    """
    path = folder / "saved_model.pb"
    message = saved_model_pb2.SavedModel()
    message.ParseFromString(path.read_bytes())
    message.meta_graphs[0].signature_def["regress"].method_name = REGRESS_METHOD
    for function in message.meta_graphs[0].graph_def.library.function:
        for node in function.node_def:
            node.attr.pop("_gradient_op_type", None)
    data = message.SerializeToString(deterministic=True)
    path.write_bytes(data)
    fingerprint = fingerprint_pb2.FingerprintDef()
    fingerprint.ParseFromString(fingerprinting.CreateFingerprintDef(str(folder)))
    fingerprint.uuid = str(int.from_bytes(hashlib.sha256(data).digest()[:16], "big"))  # TensorFlow draws it by chance
    (folder / "fingerprint.pb").write_bytes(fingerprint.SerializeToString(deterministic=True))
    assets = folder / "assets"
    if assets.is_dir() and not any(assets.iterdir()):
        assets.rmdir()


def _save_keras(model: keras.Model, path: Path) -> None:
    """Save the model for warm starts, without the times that Keras and zip write into the archive."""
    model.save(path)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in sorted(archive.namelist())}
    metadata = json.loads(members["metadata.json"])
    metadata.pop("date_saved", None)
    members["metadata.json"] = json.dumps(metadata, sort_keys=True).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name), data)


def _write_warmup(path: Path, name: str, probe: Probe) -> None:
    """Write warm-up requests in TensorFlow Serving's format: each signature, with one row and with all of them."""
    path.parent.mkdir()
    with tf.io.TFRecordWriter(str(path)) as writer:
        for count in (1, len(probe.x)):
            inputs = {"x": probe.x[:count]} | ({} if probe.context is None else {CONTEXT: probe.context[:count]})
            for signature in ("serving_default", "score"):
                writer.write(_predict_log(name, signature, inputs).SerializeToString(deterministic=True))
            writer.write(_regress_log(name, inputs).SerializeToString(deterministic=True))


def _predict_log(name: str, signature: str, inputs: Mapping[str, NDArray[np.float32]]) -> Any:
    request = predict_pb2.PredictRequest(model_spec=model_pb2.ModelSpec(name=name, signature_name=signature))
    for input_name, rows in inputs.items():
        request.inputs[input_name].CopyFrom(tf.make_tensor_proto(rows, dtype=tf.float32))
    return prediction_log_pb2.PredictionLog(predict_log=prediction_log_pb2.PredictLog(request=request))


def _regress_log(name: str, inputs: Mapping[str, NDArray[np.float32]]) -> Any:
    request = regression_pb2.RegressionRequest(model_spec=model_pb2.ModelSpec(name=name, signature_name="regress"))
    for number in range(len(inputs["x"])):
        example = request.input.example_list.examples.add()
        for input_name, rows in inputs.items():
            example.features.feature[input_name].float_list.value.extend(rows[number])
    return prediction_log_pb2.PredictionLog(regress_log=prediction_log_pb2.RegressLog(request=request))
