"""Export: signatures, files, what is not in them, and reading them back."""

import io
import json
import resource
import signal
import zipfile
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow_serving.apis import prediction_log_pb2

from service.program.verification import Probe
from training import export
from training.config import NetworkConfig
from training.icnn import InputConvexNetwork, create_network

DIM = 3
ROOT = Path(__file__).parents[2]


def network() -> InputConvexNetwork:
    """Return an untrained network of three features."""
    rows = np.random.default_rng(1).normal(size=(50, DIM))
    return create_network(NetworkConfig(hidden=(6, 5)), rows, seed=2)


ROWS = np.random.default_rng(3).normal(size=(40, DIM))


@pytest.fixture(scope="module")
def staged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a staged folder."""
    folder = tmp_path_factory.mktemp("staged")
    export.stage(network(), folder, name="small", rows=ROWS)
    return folder


@pytest.fixture(scope="module")
def message(staged):
    """Return the parsed saved_model.pb."""
    parsed = saved_model_pb2.SavedModel()
    parsed.ParseFromString((staged / "saved_model.pb").read_bytes())
    return parsed


def test_stage_writes_the_files_of_the_contract(staged):
    """Every file but report and manifest, and no other."""
    expected = {
        "saved_model.pb", "fingerprint.pb", "variables/variables.index", "variables/variables.data-00000-of-00001",
        "model.keras", "probe.npz", "assets.extra/tf_serving_warmup_requests",
    }  # fmt: skip
    assert expected == {path.relative_to(staged).as_posix() for path in staged.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("name", "inputs", "outputs", "method"),
    [
        ("serving_default", {"x": (1, [-1, DIM])}, {"score": (1, [-1]), "gradient": (1, [-1, DIM])}, "predict"),
        ("score", {"x": (1, [-1, DIM])}, {"score": (1, [-1])}, "predict"),
        ("regress", {"inputs": (7, [-1])}, {"outputs": (1, [-1])}, "regress"),
    ],
)
def test_stage_writes_the_signatures_of_the_contract(message, name, inputs, outputs, method):
    """Names, dtypes (1 float, 7 string), shapes and method names are those of contract section 2."""

    def table(tensors: object) -> dict[str, tuple[int, list[int]]]:
        return {key: (info.dtype, [dim.size for dim in info.tensor_shape.dim]) for key, info in tensors.items()}

    signature = message.meta_graphs[0].signature_def[name]
    assert (inputs, outputs) == (table(signature.inputs), table(signature.outputs))
    assert f"tensorflow/serving/{method}" == signature.method_name


def test_stage_brings_no_object_but_variables_functions_and_lists(message):
    """No optimizer, metric, hash table or Keras object comes along."""
    kinds = {
        (node.WhichOneof("kind"), node.user_object.identifier) for node in message.meta_graphs[0].object_graph_def.nodes
    }
    allowed = {
        ("user_object", "_generic_user_object"), ("user_object", "trackable_list_wrapper"),
        ("user_object", "signature_map"), ("variable", ""), ("bare_concrete_function", ""), ("function", ""),
    }  # fmt: skip
    assert kinds <= allowed
    assert ("variable", "") in kinds


def test_stage_writes_no_gradient_work_into_score(message):
    """The function of `score` holds no op of a backward pass."""
    graph = message.meta_graphs[0].graph_def
    main = {node.name: node for node in graph.node}
    functions = {function.signature.name: function for function in graph.library.function}
    called = main[message.meta_graphs[0].signature_def["score"].outputs["score"].name.split(":")[0]]
    ops, waiting = set(), [called.attr["f"].func.name]
    while waiting:
        for node in functions[waiting.pop()].node_def:
            ops.add(node.op)
            waiting.extend(attr.func.name for attr in node.attr.values() if attr.HasField("func"))
    assert "MatMul" in ops
    assert not {op for op in ops if op.endswith("Grad")}


def test_reload_gives_the_gradient_of_the_score(staged):
    """The served gradient is that of the served score: central differences of the same file."""
    run = export.reload(staged)
    rows = ROWS[:8].astype(np.float32)
    _, gradient = run(rows)
    step = np.float32(1e-2)
    for feature in range(DIM):
        move = np.zeros(DIM, np.float32)
        move[feature] = step
        difference = (run(rows + move)[0] - run(rows - move)[0]) / (2 * step)
        np.testing.assert_allclose(gradient[:, feature], difference, atol=2e-3)


def test_regress_answers_examples_with_the_score(staged):
    """A serialized tf.Example with feature x gets the score of that row."""
    loaded = tf.saved_model.load(str(staged))
    examples = [
        tf.train.Example(
            features=tf.train.Features(feature={"x": tf.train.Feature(float_list=tf.train.FloatList(value=row))})
        ).SerializeToString()
        for row in ROWS[:5].astype(np.float32)
    ]
    answered = loaded.signatures["regress"](inputs=tf.constant(examples))["outputs"].numpy()
    expected = loaded.signatures["score"](x=tf.constant(ROWS[:5], tf.float32))["score"].numpy()
    assert expected.tolist() == answered.tolist()


def test_probe_holds_training_rows_and_what_the_savedmodel_answers(staged):
    """Sixteen of the rows given, in float32, with the answers of the file read back."""
    probe = Probe.from_bytes((staged / "probe.npz").read_bytes())
    given = {row.tobytes() for row in ROWS.astype(np.float32)}
    assert 16 == len(probe.x)
    assert {row.tobytes() for row in probe.x} <= given
    score, gradient = export.reload(staged)(probe.x)
    assert (probe.score.tolist(), probe.gradient.tolist()) == (score.tolist(), gradient.tolist())


def test_warmup_requests_run_on_their_signatures(staged):
    """Every record of the warm-up file names a signature and brings what it takes."""
    loaded = tf.saved_model.load(str(staged))
    seen = set()
    for record in tf.data.TFRecordDataset(str(staged / export.WARMUP_FILE)):
        log = prediction_log_pb2.PredictionLog.FromString(record.numpy())
        kind = log.WhichOneof("log_type")
        request = getattr(log, kind).request
        name = request.model_spec.signature_name
        seen.add(name)
        assert "small" == request.model_spec.name
        if kind == "predict_log":
            loaded.signatures[name](x=tf.make_ndarray(request.inputs["x"]))
        else:
            examples = [example.SerializeToString() for example in request.input.example_list.examples]
            loaded.signatures[name](inputs=tf.constant(examples))
    assert {"serving_default", "score", "regress"} == seen


def test_stage_gives_the_same_bytes_twice_and_no_path(tmp_path):
    """The same network makes the same files, wherever they are written; no file holds a path of the machine."""
    model = network()
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        export.stage(model, tmp_path / name, name="small", rows=ROWS)
    counted = {"saved_model.pb", "fingerprint.pb"}  # names of functions count up within one process
    for path in sorted((tmp_path / "a").rglob("*")):
        if path.is_file():
            data = path.read_bytes()
            assert path.name in counted or (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes() == data
            assert not any(str(place).encode() in data for place in (tmp_path, ROOT, Path.home()))


def test_stage_repeats_rows_when_there_are_fewer_than_sixteen(tmp_path):
    """Three training rows are enough for a probe."""
    probe = export.stage(network(), tmp_path, name="small", rows=ROWS[:3])
    assert (16, DIM) == probe.x.shape


def test_stage_tells_of_a_disk_that_is_full(tmp_path):
    """A write that fails inside TensorFlow is one clear error."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1]))
        with pytest.raises(export.ExportError, match=r"cannot be written: File too large\. N"):
            export.stage(network(), tmp_path, name="small", rows=ROWS)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, previous)


def test_load_network_gives_the_network_that_was_staged(staged):
    """A warm start has the very weights."""
    loaded = export.load_network(staged / "model.keras")
    for expected, actual in zip(network().get_weights(), loaded.get_weights(), strict=True):
        assert expected.tolist() == actual.tolist()


def changed_archive(staged: Path, place: Path, **members: bytes) -> Path:
    """Write a copy of the staged `model.keras` with members replaced or added; `__` in a name stands for a dot."""
    with zipfile.ZipFile(staged / "model.keras") as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    contents.update({name.replace("__", "."): data for name, data in members.items()})
    with zipfile.ZipFile(place, "w") as archive:
        for name, data in contents.items():
            archive.writestr(name, data)
    return place


def test_load_network_refuses_a_member_that_keras_does_not_write(staged, tmp_path):
    """An archive with anything more is not opened by Keras."""
    with pytest.raises(ValueError, match=r"expected config\.json"):
        export.load_network(changed_archive(staged, tmp_path / "a.keras", assets__txt=b""))


@pytest.mark.parametrize("place", ["top", "inside"])
def test_load_network_refuses_another_class(staged, tmp_path, place):
    """A config that names any other class is not given to Keras, wherever the name stands."""
    with zipfile.ZipFile(staged / "model.keras") as archive:
        config = json.loads(archive.read("config.json"))
    if place == "top":
        config |= {"registered_name": "Lambda", "class_name": "Lambda", "module": "keras.layers"}
    else:
        config["config"]["activation"] = {"class_name": "function", "config": "os.system", "module": "builtins"}
    path = changed_archive(staged, tmp_path / "a.keras", config__json=json.dumps(config).encode())
    with pytest.raises(ValueError, match="no other class"):
        export.load_network(path)


def test_load_network_refuses_a_bomb(staged, monkeypatch):
    """Members are weighed before they are unpacked."""
    monkeypatch.setattr(export, "_MAX_KERAS", 100)
    with pytest.raises(ValueError, match=r"expected config\.json"):
        export.load_network(staged / "model.keras")


def test_keras_archive_holds_no_time(staged):
    """Neither zip nor Keras says when it was written."""
    with zipfile.ZipFile(io.BytesIO((staged / "model.keras").read_bytes())) as archive:
        assert {(1980, 1, 1, 0, 0, 0)} == {member.date_time for member in archive.infolist()}
        assert "date_saved" not in json.loads(archive.read("metadata.json"))
