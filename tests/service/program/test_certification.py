"""Certification: SavedModels of plain TensorFlow, proved or refused by what their signatures take and answer."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from service.errors import VersionRefusedError
from service.program import certification
from service.program.certification import certify
from service.program.evaluation import evaluate_both
from tests.service.program import foreign_models as foreign
from tests.service.program.programs import DIM, closed_form, draw_weights

TESTED = np.random.default_rng(7).standard_normal((50, DIM)) * 4


def total(x: Any) -> Any:
    """Return a convex score, [n]."""
    return tf.reduce_sum(tf.nn.softplus(x), axis=-1)


def rule_of(folder: Path) -> str:
    """Return the rule by which the folder is refused."""
    with pytest.raises(VersionRefusedError) as caught:
        certify(folder)
    return caught.value.rule


def test_network_is_proved_and_its_program_is_the_closed_form(network_folder: Path) -> None:
    """Score and gradient of the lifted program are the formula's, in float64; nothing of the model ran."""
    result = certify(network_folder)
    score, gradient = evaluate_both(result.program, TESTED)
    expected_score, expected_gradient = closed_form(draw_weights(), TESTED)
    np.testing.assert_allclose(score, expected_score, rtol=1e-12)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-12, atol=1e-12)
    assert (DIM, "x", "score", True) == (result.dim, result.input_name, result.score_name, result.has_gradient)
    assert ("score", "serving_default") == result.signatures
    assert result.program.program_sha256 == result.certificate.program_sha256


def test_strong_convexity_is_read_from_the_file(network_folder: Path) -> None:
    """The network's quadratic term gives m = min_j 2 q_j."""
    assert float(2 * np.float64(draw_weights().quadratic.min())) == certify(network_folder).certificate.strong_convexity


def test_names_and_wrapping_change_nothing(network_folder: Path, tmp_path: Path) -> None:
    """Other names of variables and nodes, name scopes and two more functions around: the same program, bit for bit."""
    weights = draw_weights()
    module = foreign.Scoring()
    for number, array in enumerate(vars(weights).values()):
        setattr(module, f"other_{9 - number}", tf.Variable(array, name=f"renamed/{number % 3}"))
    numbers = [getattr(module, f"other_{9 - number}") for number in range(9)]

    @tf.function
    def hidden(x: Any, z: Any) -> Any:
        return tf.math.softplus(tf.add(tf.add(tf.matmul(z, numbers[2]), tf.matmul(x, numbers[3])), numbers[4]))

    @tf.function
    def inside(x: Any) -> Any:
        with tf.name_scope("elsewhere"):
            z = tf.math.softplus(tf.add(tf.linalg.matmul(x, numbers[0]), numbers[1], name="sum"), name="soft")
        y = hidden(x, z)
        quadratic = tf.reduce_sum(numbers[8] * tf.square(x), axis=-1, keepdims=True)
        return tf.squeeze(tf.identity(y @ numbers[5] + x @ numbers[6] + numbers[7] + quadratic), -1)

    wrapped = tf.function(lambda x: tf.function(lambda rows: inside(tf.identity(rows)))(x))
    other = foreign.certified(wrapped, tmp_path / "other", module=module)
    expected = certify(network_folder)
    assert expected.program.program_sha256 == other.program.program_sha256
    assert expected.certificate.weights_sha256 == other.certificate.weights_sha256


def test_shape_of_the_score_changes_nothing(tmp_path: Path) -> None:
    """[n] and [n, 1] are one function of a row."""
    column = foreign.certified(lambda x: tf.reduce_sum(tf.nn.relu(x), -1, keepdims=True), tmp_path / "column")
    flat = foreign.certified(lambda x: tf.reduce_sum(tf.nn.relu(x), -1), tmp_path / "flat")
    assert flat.program.program_sha256 == column.program.program_sha256
    assert (False, "score") == (flat.has_gradient, flat.score_name)


def test_function_shared_by_two_layers_is_lifted_twice(tmp_path: Path) -> None:
    """A function called twice, two functions deep, is two layers."""

    @tf.function
    def layer(x: Any) -> Any:
        return tf.nn.softplus(2.0 * x)

    @tf.function
    def two(x: Any) -> Any:
        return layer(layer(x))

    result = foreign.certified(lambda x: tf.reduce_sum(two(x), -1), tmp_path / "model")
    expected = np.logaddexp(0, 2 * np.logaddexp(0, 2 * TESTED)).sum(axis=1)
    np.testing.assert_allclose(evaluate_both(result.program, TESTED)[0], expected, rtol=1e-13)


def test_serialized_examples_are_another_way_in(tmp_path: Path) -> None:
    """A regress signature over tf.Example is proved to be the same function."""
    regress = tf.function(
        lambda inputs: {
            "outputs": total(tf.io.parse_example(inputs, {"x": tf.io.FixedLenFeature([DIM], tf.float32)})["x"])
        },
        input_signature=[tf.TensorSpec([None], tf.string, name="inputs")],
    )
    score = tf.function(lambda x: {"score": total(x)}, input_signature=[foreign.ROWS])
    tf.saved_model.save(
        foreign.Scoring(), str(tmp_path / "model"), signatures={"serving_default": score, "regress": regress}
    )
    assert ("regress", "serving_default") == certify(tmp_path / "model").signatures


@pytest.mark.parametrize(
    "features",
    [
        {"x": tf.io.FixedLenFeature([DIM], tf.float32, default_value=[1.0, 2.0, 3.0])},
        {"x": tf.io.FixedLenFeature([2 * DIM], tf.float32)},
        {"x": tf.io.VarLenFeature(tf.float32)},
        {"x": tf.io.FixedLenFeature([DIM], tf.int64)},
    ],
)
def test_examples_parsed_in_another_way_are_refused(tmp_path: Path, features: dict[str, Any]) -> None:
    """A default, another width, sparse or integer features: not the row that is proved."""

    def answer(inputs: Any) -> dict[str, Any]:
        x = tf.io.parse_example(inputs, features)["x"]
        x = tf.sparse.to_dense(x) if isinstance(x, tf.SparseTensor) else tf.cast(x, tf.float32)
        return {"outputs": total(tf.reshape(x, [-1, DIM]))}

    regress = tf.function(answer, input_signature=[tf.TensorSpec([None], tf.string, name="inputs")])
    score = tf.function(lambda x: {"score": total(x)}, input_signature=[foreign.ROWS])
    tf.saved_model.save(
        foreign.Scoring(), str(tmp_path / "model"), signatures={"serving_default": score, "regress": regress}
    )
    assert rule_of(tmp_path / "model") in {"not-lifted", "op-not-allowed"}


def test_signatures_that_differ_are_refused(tmp_path: Path) -> None:
    """`score` proved and `serving_default` served would be a hole: both must be one function, to the last bit."""
    folder = foreign.save(tmp_path / "model", total, others={"score": lambda x: total(x) * np.float32(1.0000001)})
    assert "signatures-differ" == rule_of(folder)


def test_model_without_a_default_signature_is_refused(tmp_path: Path) -> None:
    """Servers ask `serving_default`."""
    score = tf.function(lambda x: {"score": total(x)}, input_signature=[foreign.ROWS])
    tf.saved_model.save(foreign.Scoring(), str(tmp_path / "model"), signatures={"score": score})
    assert "signature-missing" == rule_of(tmp_path / "model")


@pytest.mark.parametrize(
    "spec",
    [
        tf.TensorSpec([4, DIM], tf.float32, name="x"),
        tf.TensorSpec([None, None], tf.float32, name="x"),
        tf.TensorSpec([None], tf.float32, name="x"),
        tf.TensorSpec([None, DIM, DIM], tf.float32, name="x"),
        tf.TensorSpec(None, tf.float32, name="x"),
        tf.TensorSpec([None, DIM], tf.float16, name="x"),
        tf.TensorSpec([None, DIM], tf.int32, name="x"),
        tf.TensorSpec([None, 0], tf.float32, name="x"),
    ],
)
def test_input_that_is_not_rows_is_refused(tmp_path: Path, spec: tf.TensorSpec) -> None:
    """A fixed batch, an unknown width, another rank or type: no float32 or float64 [n, dim]."""

    def answer(x: Any) -> Any:
        return tf.reduce_sum(tf.cast(tf.reshape(x, [-1, DIM]), tf.float32), -1)

    assert "signature-inputs" == rule_of(foreign.save(tmp_path / "model", answer, spec=spec))


def test_two_inputs_are_refused(tmp_path: Path) -> None:
    """The claim is about one row."""
    specs = [foreign.ROWS, tf.TensorSpec([None, DIM], tf.float32, name="y")]
    assert "signature-inputs" == rule_of(foreign.save(tmp_path / "model", lambda x, y: total(x + y), spec=specs))


@pytest.mark.parametrize(
    "answer",
    [
        lambda x: {"score": total(x), "other": total(x)},
        lambda x: {"gradient": x},
        lambda x: {"score": tf.nn.softplus(x)},
        lambda x: {"score": tf.reduce_sum(x)},
        lambda x: {"score": total(x), "gradient": total(x)},
        lambda x: {"score": total(x), "gradient": tf.cast(x, tf.int32)},
    ],
)
def test_answer_that_is_not_one_score_is_refused(tmp_path: Path, answer: foreign.Function) -> None:
    """Two scores, none, a vector, one number for all rows, or a gradient of another shape or type."""
    assert "signature-outputs" == rule_of(foreign.save(tmp_path / "model", answer))


def test_unforeseen_damage_is_a_refusal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A defect that raises anything else ends in a refusal, too: one model must not stop the others."""

    def broken(_: Path, **__: Any) -> Any:
        return [][0]

    monkeypatch.setattr(certification.graph, "read", broken)
    assert "malformed" == rule_of(tmp_path)


def test_certifying_runs_no_function_of_the_model(network_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The proof comes from the files: TensorFlow's loader and its runtime are not asked."""

    def forbidden(*_: Any, **__: Any) -> Any:
        pytest.fail("the model was loaded or run")

    monkeypatch.setattr(tf.saved_model, "load", forbidden)
    monkeypatch.setattr(tf, "function", forbidden)
    certify(network_folder)
