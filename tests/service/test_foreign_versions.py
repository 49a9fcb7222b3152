"""SavedModels made elsewhere: loaded without a manifest, proved, verified, and served with their program's gradient."""

import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from service import engines, loader
from service.engines.tensorflow import TensorflowEngine
from service.errors import VersionRefusedError
from service.program.certification import UNPROVED_RULES
from service.signature import FileSignature
from tests.service.program import foreign_models as foreign
from tests.service.program.programs import DIM, closed_form, draw_weights

BOTH = ("score", "gradient")
ROWS = np.random.default_rng(61).standard_normal((40, DIM)).astype(np.float32)


def load(folder: Path, **options: Any) -> loader.LoadedVersion:
    """Load the folder as version 7 of the model stranger."""
    return loader.load(folder, model="stranger", version=7, **options)


def rule_of(folder: Path, **options: Any) -> str:
    """Return the rule by which the folder is refused."""
    with pytest.raises(VersionRefusedError) as caught:
        load(folder, **options)
    return caught.value.rule


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the network as a stranger saves it: own names, a column, no gradient, and files that TensorFlow adds."""
    module, score = foreign.network()
    path = tmp_path_factory.mktemp("stranger") / "7"
    spec = tf.TensorSpec([None, DIM], tf.float32, name="row")
    foreign.save(
        path, lambda row: {"potential": tf.expand_dims(score(row), -1)}, module, spec=spec, others={"serve": score}
    )
    (path / "assets").mkdir(exist_ok=True)
    (path / "assets.extra").mkdir()
    (path / "assets.extra" / "tf_serving_warmup_requests").write_bytes(b"")
    (path / "keras_metadata.pb").write_bytes(b"notes")
    return path


@pytest.fixture(scope="module")
def loaded(folder: Path) -> loader.LoadedVersion:
    """Return it loaded."""
    return load(folder)


def test_saved_model_without_a_manifest_is_proved_and_verified(loaded: loader.LoadedVersion) -> None:
    """It comes back proved, compared on 256 rows, with the file's names for the protocols that keep them."""
    assert (None, "proved", DIM, ()) == (
        loaded.manifest,
        loaded.convexity,
        loaded.signature.dim,
        loaded.signature.features,
    )
    assert (256, "derived", ()) == (loaded.verification.rows, loaded.verification.gradient, loaded.verification.untaken)
    assert loaded.signature.made_elsewhere
    default, serve = loaded.signature.file_signatures
    assert FileSignature("serving_default", "row", "float32", "potential", "float32", is_column=True) == default
    assert FileSignature("serve", "row", "float32", "score", "float32", is_column=False) == serve
    assert {"saved_model.pb", "fingerprint.pb"} == {name for name in loaded.saved_model if "/" not in name}


def test_probe_is_made_of_rows_of_ordinary_size(loaded: loader.LoadedVersion) -> None:
    """Sixteen rows of scale 1 with the closed form's answers: what an engine must give again before it serves."""
    score, gradient = closed_form(draw_weights(), loaded.probe.x)
    assert (16, DIM) == loaded.probe.x.shape
    assert 0.5 < loaded.probe.x.std() < 2
    np.testing.assert_allclose(loaded.probe.score, score, rtol=1e-5)
    np.testing.assert_allclose(loaded.probe.gradient, gradient, rtol=0, atol=1e-5 * np.abs(gradient).max())


@pytest.mark.parametrize("name", ["program", "tensorflow"])
def test_engine_answers_score_and_gradient_of_the_closed_form(loaded: loader.LoadedVersion, name: str) -> None:
    """Both engines answer the formula; with TensorFlow the score is the file's and the gradient the program's."""
    engine = engines.create(loaded, name)
    score, gradient = closed_form(draw_weights(), ROWS)
    answer = engine.run(ROWS, BOTH)
    np.testing.assert_allclose(answer["score"], score, rtol=1e-5)
    np.testing.assert_allclose(answer["gradient"], gradient, rtol=0, atol=1e-6 * np.abs(gradient).max())
    assert engine.run(ROWS, ("gradient",))["gradient"].tobytes() == answer["gradient"].tobytes()
    assert engine.run(ROWS, ("score",))["score"].tobytes() == answer["score"].tobytes()
    if name == "tensorflow":
        program = engines.create(loaded, "program").run(ROWS, BOTH)
        assert program["gradient"].tobytes() == answer["gradient"].tobytes()


def test_loaded_version_crosses_a_process_border(loaded: loader.LoadedVersion) -> None:
    """Pickled and back it is the same signature, proof and probe."""
    copied = pickle.loads(pickle.dumps(loaded))  # noqa: S301  # our own bytes
    assert (loaded.signature, loaded.certificate) == (copied.signature, copied.certificate)
    assert loaded.probe.score.tobytes() == copied.probe.score.tobytes()


def test_numbers_of_64_bits_go_in_and_out(tmp_path: Path) -> None:
    """A float64 model is proved, and both engines answer its formula in float32."""
    spec = tf.TensorSpec([None, DIM], tf.float64, name="x")
    path = foreign.save(tmp_path / "7", lambda x: tf.reduce_sum(tf.nn.softplus(x) + x * x, -1), spec=spec)
    loaded = load(path)
    assert (
        FileSignature("serving_default", "x", "float64", "score", "float64", gradient_dtype="float64")
        == (loaded.signature.file_signatures[0])
    )
    wide = ROWS.astype(np.float64)
    for name in ("program", "tensorflow"):
        answer = engines.create(loaded, name).run(ROWS, BOTH)
        np.testing.assert_allclose(answer["score"], (np.logaddexp(0, wide) + wide**2).sum(axis=1), rtol=1e-5)
        np.testing.assert_allclose(answer["gradient"], 1 / (1 + np.exp(-wide)) + 2 * wide, rtol=1e-5, atol=1e-6)


def test_own_gradient_is_checked(tmp_path: Path) -> None:
    """A gradient output of the file's own is compared with the program's: the right one passes, a halved one not."""
    module, score = foreign.network()
    assert "checked" == load(foreign.save(tmp_path / "7", foreign.with_gradient(score), module)).verification.gradient

    def halved(x: Any) -> dict[str, Any]:
        answer = foreign.with_gradient(score)(x)
        return {**answer, "gradient": 0.5 * answer["gradient"]}

    assert "gradient" == rule_of(foreign.save(tmp_path / "8", halved, module))


def test_unproved_model_is_served_only_when_that_is_allowed(tmp_path: Path) -> None:
    """A concave model is refused; where it is allowed TensorFlow answers score and derived gradient, unproved."""
    path = foreign.save(tmp_path / "7", lambda x: {"y": -tf.reduce_sum(x * x, -1, keepdims=True)})
    assert "nonneg-scale" == rule_of(path)
    loaded = load(path, allow_uncertified=True)
    assert ("unproved", None) == (loaded.convexity, loaded.program)
    engine = engines.create(loaded, "auto")
    assert isinstance(engine, TensorflowEngine)
    answer = engine.run(ROWS, BOTH)
    np.testing.assert_allclose(answer["score"], -(ROWS.astype(np.float64) ** 2).sum(axis=1), rtol=1e-5)
    np.testing.assert_allclose(answer["gradient"], -2 * ROWS, rtol=1e-6)


def test_model_that_answers_no_number_is_refused_in_any_case(tmp_path: Path) -> None:
    """Where every row is answered by NaN there is nothing that an engine could be held to."""
    path = foreign.save(tmp_path / "7", lambda x: tf.reduce_sum(tf.tanh(x) * x, -1) / tf.reduce_sum(0.0 * x, -1))
    assert rule_of(path) in UNPROVED_RULES
    assert "probe" == rule_of(path, allow_uncertified=True)


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    """Return a copy of the stranger's folder."""
    return Path(shutil.copytree(folder, tmp_path / "7"))


@pytest.mark.parametrize("name", ["probe.npz", "model.keras", "report.json"])
def test_folder_with_a_file_of_ours_is_unfinished(copy: Path, name: str) -> None:
    """A folder with a file that only our publisher writes, and no manifest, is one of ours that is not whole."""
    (copy / name).write_bytes(b"")
    assert "manifest-missing" == rule_of(copy)


def test_link_and_second_form_of_the_model_are_refused(copy: Path) -> None:
    """A symbolic link is not followed, and a model in two forms is one for some readers and another for others."""
    (copy / "saved_model.pbtxt").write_bytes(b"")
    assert "saved-model" == rule_of(copy)
    (copy / "saved_model.pbtxt").unlink()
    (copy / "fingerprint.pb").unlink()
    os.symlink("saved_model.pb", copy / "fingerprint.pb")
    assert "symlink" == rule_of(copy)


def test_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    """A folder with anything else in it is no SavedModel."""
    (tmp_path / "notes.txt").write_text("to do")
    assert "saved-model" == rule_of(tmp_path)


def test_signature_of_another_function_is_refused(tmp_path: Path) -> None:
    """No signature is served that was not proved: one beside serving_default must be the same function."""
    module, score = foreign.network()
    path = foreign.save(tmp_path / "7", score, module, others={"serve": lambda x: 2.0 * score(x)})
    assert "signatures-differ" == rule_of(path)
