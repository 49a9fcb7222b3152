"""The TensorFlow engine: fixed tiles, agreement with the program, devices and their settings."""

import contextlib
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from service import engines
from service.engines import tensorflow as engine_module
from service.engines.program import ProgramEngine
from service.engines.tensorflow import TensorflowEngine, configure_devices
from service.program.certification import certify
from service.program.graph import call, restore
from service.program.verification import verify
from service.signature import Signature
from tests.service.program import foreign_models as foreign

BOTH = ("score", "gradient")
DIM = 30
ROWS = np.random.default_rng(22).standard_normal((100, DIM)).astype(np.float32)
ROOT = Path(__file__).parents[3]


def files_of(folder: Path) -> Mapping[str, bytes]:
    """Return the SavedModel's files."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def servable(folder: Path, *, proved: bool = True) -> Any:
    """Return what an engine needs of the SavedModel in `folder`."""
    program = certify(folder).program if proved else None
    return SimpleNamespace(
        signature=Signature("m", 1, DIM),
        program=program,
        probe=None,
        support=None,
        kernel_agrees=True,
        saved_model=files_of(folder),
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a SavedModel of a network of thirty features, with a score signature."""
    module, score = foreign.network(foreign.draw_weights(9, DIM, (64, 32)))
    path = tmp_path_factory.mktemp("engine") / "model"
    rows = tf.TensorSpec([None, DIM], tf.float32, name="x")
    return foreign.save(path, foreign.with_gradient(score), module, spec=rows, others={"score": score})


@pytest.fixture(scope="module")
def loaded(folder: Path) -> Any:
    """Return the proved network."""
    return servable(folder)


@pytest.fixture(scope="module")
def engine(loaded: Any) -> TensorflowEngine:
    """Return the network's engine on the CPU."""
    return TensorflowEngine(loaded, device="/CPU:0")


def test_bits_do_not_change_with_batch_place_or_neighbours(engine: TensorflowEngine) -> None:
    """Alone, in batches of seven sizes and at other places of a tile: the same bits."""
    expected = engine.run(ROWS, BOTH)
    for size in (1, 2, 5, 31, 32, 33, 99):
        for start in (0, 1, 100 - size):
            part = engine.run(ROWS[start : start + size], BOTH)
            for name in BOTH:
                assert expected[name][start : start + size].tobytes() == part[name].tobytes()
    for place in (0, 3, 16, 31):
        batch = 1e4 * ROWS[:32]
        batch[place] = ROWS[50]
        assert expected["gradient"][50].tobytes() == engine.run(batch, BOTH)["gradient"][place].tobytes()


def test_score_alone_has_the_bits_of_both(engine: TensorflowEngine) -> None:
    """Asking for the score alone runs the score signature and changes no bit."""
    alone = engine.run(ROWS, ("score",))
    assert {"score"} == set(alone)
    assert engine.run(ROWS, BOTH)["score"].tobytes() == alone["score"].tobytes()


def test_no_rows_are_answered_with_no_scores(engine: TensorflowEngine) -> None:
    """[0, dim] in, [0] and [0, dim] out."""
    received = engine.run(np.empty((0, DIM), np.float32), BOTH)
    assert ((0,), (0, DIM)) == (received["score"].shape, received["gradient"].shape)


def test_engines_agree_within_the_contract(loaded: Any, engine: TensorflowEngine) -> None:
    """Scores within 1e-6 S and gradients within 1e-6 G of each other, on rows of four scales."""
    rows = np.concatenate([ROWS * np.float32(scale) for scale in (0.01, 1, 100, 1e4)])
    one, other = engine.run(rows, BOTH), ProgramEngine(loaded.program).run(rows, BOTH)
    for name in BOTH:
        assert np.abs(one[name] - other[name]).max() <= 1e-6 * np.abs(other[name]).max()


def test_engine_verifies_as_the_program(loaded: Any, engine: TensorflowEngine) -> None:
    """What the engine answers in tiles passes the verification of the loader."""

    def run(rows: Any) -> Any:
        answer = engine.run(rows, BOTH)
        return answer["score"], answer["gradient"]

    assert "checked" == verify(loaded.program, run, None).gradient


def test_column_of_scores_is_served_flat(tmp_path: Path) -> None:
    """A model that answers [n, 1], or float64, serves float32 [n]."""
    rows = tf.TensorSpec([None, DIM], tf.float32, name="x")

    def score(x: Any) -> Any:
        return tf.cast(tf.reduce_sum(tf.square(x), -1, keepdims=True), tf.float64)

    path = foreign.save(tmp_path / "model", foreign.with_gradient(score), spec=rows)
    received = TensorflowEngine(servable(path), device="/CPU:0").run(ROWS, BOTH)
    assert (((100,), np.float32), ((100, DIM), np.float32)) == tuple(
        (received[name].shape, received[name].dtype) for name in BOTH
    )
    np.testing.assert_allclose(received["score"], np.square(ROWS.astype(np.float64)).sum(axis=1), rtol=1e-6)


@pytest.mark.parametrize("name", ["other output", "unproved"])
def test_score_signature_is_used_only_where_it_is_the_same(tmp_path: Path, name: str) -> None:
    """A `score` that names its output otherwise, or that nobody proved, is left alone: serving_default answers."""
    rows = tf.TensorSpec([None, DIM], tf.float32, name="x")

    def score(x: Any) -> Any:
        return tf.reduce_sum(tf.square(x), -1)

    def other(x: Any) -> Any:
        return {"value": score(x)} if name == "other output" else score(x) + 1.0

    path = foreign.save(tmp_path / "model", foreign.with_gradient(score), spec=rows, others={"score": other})
    engine = TensorflowEngine(servable(path, proved=name != "unproved"), device="/CPU:0")
    assert engine.run(ROWS, BOTH)["score"].tobytes() == engine.run(ROWS, ("score",))["score"].tobytes()


def test_tf32_is_off_unless_it_is_allowed(loaded: Any) -> None:
    """An engine switches TF32 off, and on only when it is told to."""
    switched = tf.config.experimental.tensor_float_32_execution_enabled
    try:
        TensorflowEngine(loaded, device="/CPU:0", allow_tf32=True)
        assert switched()
        TensorflowEngine(loaded, device="/CPU:0")
        assert not switched()
    finally:
        tf.config.experimental.enable_tensor_float_32_execution(False)


def test_memory_of_every_gpu_grows_as_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory growth is set for each GPU that does not have it yet, and TF32 is switched off."""
    gpus = ["first GPU", "second GPU", "grown GPU"]
    grown = {"grown GPU"}
    calls: list[tuple[str, bool]] = []
    monkeypatch.setattr(engine_module, "gpus", lambda: gpus)
    monkeypatch.setattr(tf.config.experimental, "get_memory_growth", lambda gpu: gpu in grown)
    monkeypatch.setattr(tf.config.experimental, "set_memory_growth", lambda gpu, on: calls.append((gpu, on)))
    configure_devices(allow_tf32=False, intra_op_threads=tf.config.threading.get_intra_op_parallelism_threads())
    assert [("first GPU", True), ("second GPU", True)] == calls
    assert not tf.config.experimental.tensor_float_32_execution_enabled()


PLACEMENT = """
import json, sys
import numpy as np
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from pathlib import Path
from types import SimpleNamespace
from service.engines.tensorflow import TensorflowEngine
from service.signature import Signature
folder = Path(sys.argv[1])
files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
loaded = SimpleNamespace(signature=Signature("m", 1, 30), program=None, probe=None, saved_model=files)
rows = np.random.default_rng(22).standard_normal((100, 30)).astype(np.float32)
answers = {}
for device in ("/CPU:0", "/CPU:1"):
    engine = TensorflowEngine(loaded, device=device)
    variables = engine._model.signatures["serving_default"].variables
    answers[device] = {
        "variables": sorted({variable.handle.device for variable in variables}),
        "score": engine.run(rows, ("score", "gradient"))["score"].tobytes().hex(),
        "device": engine.device,
    }
print(json.dumps(answers))
"""


def test_engine_runs_on_the_device_it_is_given(folder: Path) -> None:
    """On the second of two logical CPUs the variables lie there, and the answers have the same bits."""
    done = subprocess.run(
        [sys.executable, "-c", PLACEMENT, str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert 0 == done.returncode, done.stderr[-2000:]
    answers = json.loads(done.stdout.splitlines()[-1])
    for device, answer in answers.items():
        assert device == answer["device"]
        assert all(place.endswith(device.replace("/CPU", "/device:CPU")) for place in answer["variables"])
        assert answer["variables"]
    assert answers["/CPU:0"]["score"] == answers["/CPU:1"]["score"]


def test_engine_is_chosen_by_name_and_by_what_there_is(
    loaded: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`auto` is the program on a CPU, TensorFlow on a GPU or without a proof; others are an error."""
    unproved = servable(folder, proved=False)
    assert "program" == engines.create(loaded).name
    assert "program" == engines.create(loaded, "program").name
    assert "tensorflow" == engines.create(loaded, "tensorflow").name
    assert "tensorflow" == engines.create(unproved).name
    with pytest.raises(ValueError, match="no program"):
        engines.create(unproved, "program")
    with pytest.raises(ValueError, match="expected one of"):
        engines.create(loaded, "torch")
    monkeypatch.setattr(engine_module, "gpus", lambda: ["a GPU"])
    devices = []

    spec = tf.TensorSpec([None, DIM], tf.float32, name="x")
    function = tf.function(lambda x: {"score": x[:, 0], "gradient": x}).get_concrete_function(x=spec)

    def restore_nothing(_: Any, device: str) -> Any:
        devices.append(device)
        return SimpleNamespace(signatures={"serving_default": function})

    monkeypatch.setattr(engine_module, "restore", restore_nothing)
    monkeypatch.setattr(tf, "device", lambda _: contextlib.nullcontext())
    chosen = engines.create(unproved)
    assert ("tensorflow", "/GPU:0", ["/GPU:0"]) == (chosen.name, chosen.device, devices)
    assert engine_module.GPU_SIZES == chosen.tile_rows
    assert "program" == engines.create(loaded, "program").name


def test_direct_call_answers_what_the_signature_does(loaded: Any) -> None:
    """Each output under its own name, to the agreement of two engines, by one operation alone."""
    model = restore(loaded.saved_model, "/CPU:0")
    function, own = model.signatures["serving_default"], loaded.signature.file_signatures[0]
    expected = call(function, own, ROWS)
    received = engine_module._call_directly(function, own, ROWS)
    assert set(expected) == set(received) == set(BOTH)
    for name in BOTH:
        scale = np.abs(expected[name]).max()
        assert np.abs(expected[name] - received[name]).max() <= 1e-6 * scale


class Odd:
    """A function that takes more than is captured and given."""

    captured_inputs, inputs, outputs, structured_outputs = (), (None, None), (None,), ("score",)

    def __call__(self, x: Any) -> dict[str, Any]:
        """Return the first feature."""
        return {"score": x[:, 0]}


def test_function_with_an_order_that_is_not_told_is_called_by_names(loaded: Any) -> None:
    """A function of more inputs than one goes through the signature's own call."""
    received = engine_module._call_directly(Odd(), loaded.signature.file_signatures[0], ROWS)
    np.testing.assert_array_equal(ROWS[:, 0], received["score"])


def test_program_engine_needs_no_tensorflow() -> None:
    """A process that serves programs alone never imports TensorFlow: it costs half a gigabyte and three seconds."""
    code = (
        "import sys, numpy as np\n"
        "from types import SimpleNamespace\n"
        "from service import engines\n"
        "from tests.service.program.programs import build, draw_weights\n"
        "loaded = SimpleNamespace(program=build(draw_weights()), probe=None, support=None, kernel_agrees=True)\n"
        "engine = engines.create(loaded, 'program')\n"
        "engine.run(np.ones((2, 3), np.float32), ('score', 'gradient'))\n"
        "print('tensorflow' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert "False" == done.stdout.strip()
