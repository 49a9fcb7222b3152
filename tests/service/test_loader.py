"""Loading a version: files, proof and comparison, each of which refuses by its own rule."""

import dataclasses
import itertools
import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from service import loader, manifest
from service.engines.program import ProgramEngine
from service.errors import VersionRefusedError
from service.program.certification import certify
from service.program.evaluation import evaluate_both
from service.program.verification import Probe
from tests.oracle import icnn
from tests.oracle.falsifier import falsify
from tests.service.program import foreign_models as foreign
from tests.service.program.programs import DIM, closed_form, draw_weights

SHIPPED = Path(__file__).parents[2] / "models" / "tumours" / "1"
SUFFIX = "/.ATTRIBUTES/VARIABLE_VALUE"
Edit = Callable[[dict[str, Any]], None]


def contents(folder: Path) -> dict[str, bytes]:
    """Return the folder's files, the manifest excepted."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != "manifest.json"]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def seal(folder: Path, change: Edit | None = None, *, hashes: tuple[str, str] = ("0" * 64, "0" * 64)) -> Path:
    """Write a manifest that fits the files in `folder`, with these hashes of program and weights, after a change."""
    document = json.loads((SHIPPED / "manifest.json").read_text())
    document.pop("manifest_sha256")
    document.update(model="small", version=1)
    document["input"].update(dim=DIM, features=[])
    document["certificate"].update(program_sha256=hashes[0], weights_sha256=hashes[1])
    document["files"] = {
        name: {"bytes": len(data), "sha256": manifest.sha256_hex(data)} for name, data in contents(folder).items()
    }
    if change is not None:
        change(document)
    (folder / "manifest.json").write_bytes(manifest.seal(document))
    return folder


def write_probe(folder: Path, score_share: float = 0.0) -> None:
    """Write the probe of the network's closed form, its first score off by a share of the largest."""
    x = np.random.default_rng(41).standard_normal((16, DIM)).astype(np.float32)
    score, gradient = (array.astype(np.float32) for array in closed_form(draw_weights(), x))
    score[0] += np.float32(score_share) * np.abs(score).max()
    (folder / "probe.npz").write_bytes(Probe(x, score, gradient).to_bytes())


@pytest.fixture(scope="module")
def version(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a small version as its publisher left it."""
    module, score = foreign.network()
    folder = foreign.save(
        tmp_path_factory.mktemp("small") / "1", foreign.with_gradient(score), module, others={"score": score}
    )
    write_probe(folder)
    proved = certify(folder)
    return seal(folder, hashes=(proved.certificate.program_sha256, proved.certificate.weights_sha256))


@pytest.fixture
def copy(version: Path, tmp_path: Path) -> Path:
    """Return a copy of the small version."""
    return Path(shutil.copytree(version, tmp_path / "1"))


def recorded(folder: Path) -> tuple[str, str]:
    """Return the hashes in the folder's manifest."""
    certificate = json.loads((folder / "manifest.json").read_text())["certificate"]
    return certificate["program_sha256"], certificate["weights_sha256"]


def refusal(folder: Path, **options: Any) -> VersionRefusedError:
    """Return the refusal of the version in `folder`."""
    with pytest.raises(VersionRefusedError) as caught:
        loader.load(folder, model="small", version=1, **options)
    return caught.value


def test_version_is_loaded_proved_and_verified(version: Path) -> None:
    """A sound version comes back with its program, proof and comparison, and answers the closed form."""
    loaded = loader.load(version, model="small", version=1)
    assert ("proved", "", DIM) == (loaded.convexity, loaded.unproved_reason, loaded.signature.dim)
    assert (256, "checked") == (loaded.verification.rows, loaded.verification.gradient)
    rows = np.random.default_rng(1).standard_normal((20, DIM))
    np.testing.assert_allclose(evaluate_both(loaded.program, rows)[0], closed_form(draw_weights(), rows)[0], rtol=1e-12)
    assert {"saved_model.pb", "fingerprint.pb"} == {name for name in loaded.saved_model if "/" not in name}


def test_loaded_version_crosses_a_process_border(version: Path) -> None:
    """Pickled and back: the same hashes and the same bits of score and gradient."""
    loaded = loader.load(version, model="small", version=1)
    copied = pickle.loads(pickle.dumps(loaded))  # noqa: S301  # our own bytes
    assert loaded.certificate == copied.certificate
    assert loaded.program.program_sha256 == copied.program.program_sha256
    rows = np.random.default_rng(2).standard_normal((20, DIM)).astype(np.float32)
    one, other = (ProgramEngine(each.program).run(rows, ("score", "gradient")) for each in (loaded, copied))
    assert one["gradient"].tobytes() == other["gradient"].tobytes()


def flips() -> list[tuple[str, tuple[int, ...]]]:
    """Return each weight of the network that must not be negative."""
    weights = draw_weights()
    return [
        (name, place)
        for name in ("kernel", "last_kernel", "quadratic")
        for place in itertools.product(*(range(size) for size in getattr(weights, name).shape))
    ]


@pytest.mark.parametrize(("name", "place"), flips())
def test_each_hidden_weights_sign_flipped_is_refused_by_the_proof(
    version: Path, tmp_path: Path, name: str, place: tuple[int, ...]
) -> None:
    """One sign flipped in the checkpoint, all hashes rewritten to match: the proof refuses it, naming the variable."""
    tensors, graph = foreign.checkpoint(version)
    tensors[name + SUFFIX][place] *= -1
    folder = seal(foreign.with_checkpoint(version, tmp_path / "1", tensors, graph), hashes=recorded(version))
    error = refusal(folder)
    assert error.rule in {"nonneg-matmul", "nonneg-scale"}
    assert f"{name} has 1 negative entries" in error.reason


def test_free_weights_sign_flipped_needs_a_new_manifest_only(version: Path, tmp_path: Path) -> None:
    """A passthrough's sign is free: the proof passes, the manifest's hash of the weights then refuses."""
    tensors, graph = foreign.checkpoint(version)
    tensors["passthrough" + SUFFIX][0, 0] *= -1
    folder = seal(foreign.with_checkpoint(version, tmp_path / "1", tensors, graph), hashes=recorded(version))
    assert "certificate-hash" == refusal(folder).rule
    proved = certify(folder).certificate
    seal(folder, hashes=(proved.program_sha256, proved.weights_sha256))
    assert "probe" == refusal(folder).rule


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (lambda d: d.update(model="other"), "manifest-identity"),
        (lambda d: d.update(version=2), "manifest-identity"),
        (lambda d: d["input"].update(dim=4), "manifest-signature"),
        (lambda d: d.update(outputs=["score", "gradient", "support"]), "manifest-signature"),
        (lambda d: d["certificate"].update(proved=False), "certificate-hash"),
        (lambda d: d["certificate"].update(program_sha256="1" * 64), "certificate-hash"),
        (lambda d: d["certificate"].update(weights_sha256="1" * 64), "certificate-hash"),
        (lambda d: d["files"]["saved_model.pb"].update(sha256="1" * 64), "file-hash"),
        (lambda d: d["files"].pop("probe.npz"), "file-unlisted"),
    ],
)
def test_manifest_of_something_else_is_refused(copy: Path, change: Edit, rule: str) -> None:
    """The manifest must name the folder, the width, the very program and the very files."""
    hashes = recorded(copy)
    assert rule == refusal(seal(copy, change, hashes=hashes)).rule


def test_damaged_files_are_refused(copy: Path) -> None:
    """A file that changed after publication is refused by its hash, before anything reads it."""
    path = copy / "saved_model.pb"
    path.write_bytes(path.read_bytes() + b"\x00")
    assert "file-hash" == refusal(copy).rule


@pytest.mark.parametrize("name", ["probe.npz", "saved_model.pb"])
def test_missing_part_is_refused(copy: Path, name: str) -> None:
    """A version without probe or graph is refused, although its manifest fits."""
    hashes = recorded(copy)
    (copy / name).unlink()
    assert {"probe.npz": "probe", "saved_model.pb": "saved-model"}[name] == refusal(seal(copy, hashes=hashes)).rule


def test_unfinished_version_is_refused(copy: Path) -> None:
    """A version of ours without its manifest is not taken for one made elsewhere."""
    (copy / "manifest.json").unlink()
    assert "manifest-missing" == refusal(copy).rule


def test_probe_off_by_a_thousandth_is_refused(copy: Path) -> None:
    """What the publisher saw must come out again."""
    hashes = recorded(copy)
    write_probe(copy, score_share=1e-3)
    assert "probe" == refusal(seal(copy, hashes=hashes)).rule


def wrong_gradient(kind: str, score: foreign.Function) -> foreign.Function:
    """Return a function that answers a gradient that is not the score's."""

    def answer(x: Any) -> dict[str, Any]:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(x)
            value = score(x)
            watched = value + tf.stop_gradient(0.0 * value)
            if kind == "stopped":
                watched = score(tf.stop_gradient(x)) + tf.reduce_sum(0.0 * x, -1)
        gradient = tape.gradient(watched, x)
        if kind == "scaled":
            gradient = 1.01 * gradient
        if kind == "custom":
            gradient = tf.nn.relu(gradient)
        return {"score": value, "gradient": gradient}

    return answer


@pytest.mark.parametrize("kind", ["scaled", "stopped", "custom"])
def test_model_whose_gradient_is_not_its_own_is_refused(tmp_path: Path, kind: str) -> None:
    """The score is proved, the gradient is compared: a scaled, stopped or custom one is refused."""
    module, score = foreign.network()
    folder = foreign.save(tmp_path / "1", wrong_gradient(kind, score), module)
    x = np.random.default_rng(41).standard_normal((16, DIM)).astype(np.float32)
    answer = tf.saved_model.load(str(folder)).signatures["serving_default"](x=tf.constant(x))
    probe = Probe(x, answer["score"].numpy(), answer["gradient"].numpy())
    (folder / "probe.npz").write_bytes(probe.to_bytes())
    proved = certify(folder).certificate
    assert "gradient" == refusal(seal(folder, hashes=(proved.program_sha256, proved.weights_sha256))).rule


def unproved(folder: Path, score: foreign.Function, *, gradient: bool = True) -> Path:
    """Publish a model whatever it computes, with an honest probe; without a gradient it answers the row."""
    foreign.save(folder, foreign.with_gradient(score) if gradient else lambda x: {"score": score(x), "gradient": x})
    x = np.random.default_rng(41).standard_normal((16, DIM)).astype(np.float32)
    answer = tf.saved_model.load(str(folder)).signatures["serving_default"](x=tf.constant(x))
    probe = Probe(x, answer["score"].numpy(), answer["gradient"].numpy())
    (folder / "probe.npz").write_bytes(probe.to_bytes())
    return seal(folder)


def test_unproved_model_is_loaded_only_when_that_is_allowed(tmp_path: Path) -> None:
    """A model that is not proved is refused; with `allow_uncertified` it is loaded, and says so."""
    folder = unproved(tmp_path / "1", lambda x: -tf.reduce_sum(tf.square(x), -1))
    assert "nonneg-scale" == refusal(folder).rule
    loaded = loader.load(folder, model="small", version=1, allow_uncertified=True)
    assert ("unproved", None, None) == (loaded.convexity, loaded.program, loaded.certificate)
    assert loaded.unproved_reason.startswith("nonneg-scale")


@pytest.mark.parametrize(
    ("score", "rule"),
    [
        (lambda x: tf.reduce_sum(x - tf.reduce_mean(x, 0), -1), "row-axis"),
        (lambda x: tf.reduce_sum(tf.cumsum(x), -1), "op-not-allowed"),
    ],
)
def test_dangerous_model_is_refused_in_any_case(tmp_path: Path, score: foreign.Function, rule: str) -> None:
    """`allow_uncertified` waives the proof, not the rules that keep strangers' rows apart and files untouched."""
    assert rule == refusal(unproved(tmp_path / "1", score, gradient=False), allow_uncertified=True).rule


def test_model_that_does_not_run_is_refused(tmp_path: Path) -> None:
    """What is proved may still fail in TensorFlow (a weight of another type, say): refused, not raised."""
    folder = foreign.save(tmp_path / "source", foreign.with_gradient(lambda x: tf.reduce_sum(tf.nn.relu(x), -1)))

    def spoil(message: Any) -> None:
        for function in message.meta_graphs[0].graph_def.library.function:
            for node in function.node_def:
                if node.op == "Relu":
                    node.attr["T"].type = tf.float64.as_datatype_enum

    spoilt = foreign.edited(folder, tmp_path / "1", spoil)
    write_probe(spoilt)
    proved = certify(spoilt).certificate
    assert "saved-model" == refusal(seal(spoilt, hashes=(proved.program_sha256, proved.weights_sha256))).rule


@pytest.fixture(scope="module")
def shipped() -> loader.LoadedVersion:
    """Return the version that is part of the project."""
    return loader.load(SHIPPED, model="tumours", version=1)


@pytest.fixture(scope="module")
def anchors(shipped: loader.LoadedVersion) -> Any:
    """Return rows spread as the training data are, the probe's among them."""
    data = shipped.manifest.document["data"]
    means, deviations = (np.asarray(data[name]) for name in ("feature_means", "feature_deviations"))
    drawn = means + deviations * np.random.default_rng(51).standard_normal((300, means.size))
    return np.concatenate([drawn, shipped.probe.x.astype(np.float64)])


def test_shipped_version_is_refuted_nowhere(shipped: loader.LoadedVersion, anchors: Any) -> None:
    """100,000 midpoints, as many supporting hyperplanes, and lines: no counterexample in the float64 program."""
    program = shipped.program
    assert falsify(lambda x: evaluate_both(program, x)[0], lambda x: evaluate_both(program, x)[1], anchors) is None


def test_shipped_version_is_refuted_once_it_is_broken(anchors: Any) -> None:
    """The control: the network with its output weights negated, in the oracle's float64, has a counterexample."""
    network = icnn.read_checkpoint(SHIPPED / "model.keras")
    *hidden, (kernel, passthrough, bias) = network.constrained
    broken = dataclasses.replace(network, constrained=(*hidden, (-kernel, passthrough, bias)), quadratic=0.0)
    assert falsify(lambda x: icnn.score(network, x), None, anchors, pairs=5000) is None
    assert falsify(lambda x: icnn.score(broken, x), None, anchors, pairs=5000) is not None


def test_shipped_version_with_a_turned_weight_is_refused_by_the_proof(tmp_path: Path) -> None:
    """Ten hidden weights of the shipped version, one at a time, hashes rewritten: refused by name, value and place."""
    tensors, graph = foreign.checkpoint(SHIPPED)
    kernels = [name for name, array in tensors.items() if array.ndim == 2 and (array >= 0).all() and array.size > 100]
    assert kernels
    generator = np.random.default_rng(52)
    for number in range(10):
        name = kernels[number % len(kernels)]
        place = tuple(int(index) for index in generator.choice(np.argwhere(tensors[name] > 0)))
        turned = {**tensors, name: tensors[name].copy()}
        turned[name][place] *= -1
        folder = foreign.with_checkpoint(SHIPPED, tmp_path / str(number), turned, graph)
        error = refusal(seal(folder, hashes=recorded(folder)))
        assert "nonneg-matmul" == error.rule
        assert f"{float(turned[name][place])!r} at [{', '.join(map(str, place))}]" in error.reason
