"""The domain weight of a model, from its configuration to every protocol: trained, published, loaded and served.

One small version with `[network] support = true` is trained once; the service around it runs in this process.
"""

import io
import itertools
import json
import shutil
from pathlib import Path

import keras
import numpy as np
import orjson
import pytest
import tensorflow as tf
from tensorflow_serving.apis import get_model_metadata_pb2, predict_pb2, prediction_service_pb2_grpc

from service import engines, loader
from service.caller import Caller
from service.errors import InvalidArgumentError, VersionRefusedError
from service.model_version import Batching, ModelVersion
from service.rest.app import create_app
from service.signature import WIRE_ORDER
from tests.contract.version_surgery import reseal
from tests.oracle import bumps
from tests.service.quadratic_servers import serve
from tests.service.quadratic_versions import make_service
from tests.training.conftest import CONFIG, write_job
from training import export, pipeline
from training.config import load_config
from training.layers.domain_weight import DomainWeight

OCTETS, NPY = "application/octet-stream", "application/x-npy"
ALL = ("score", "gradient", "support")


@pytest.fixture(scope="module")
def version(tmp_path_factory):
    """Return the folder of a trained version with a domain weight; nobody changes it."""
    text = CONFIG.replace("[trainer]\nsteps = 200", "support = true\n[trainer]\nsteps = 30")
    return pipeline.train(load_config(write_job(tmp_path_factory.mktemp("support"), config=text)))


@pytest.fixture(scope="module")
def loaded(version):
    """Return what the loader makes of it."""
    return loader.load(version, model="small", version=1)


@pytest.fixture(scope="module")
def rows():
    """Return rows inside, at the edge and far outside of the training data, as float32 [200, 3]."""
    generator = np.random.default_rng(0)
    size = 10.0 ** generator.uniform(-2, 1.5, (199, 1))
    inside = [0.0, 100.0, 3.0] + size * generator.normal(size=(199, 3)) * [1.0, 20.0, 0.1]
    return np.concatenate([inside, [[3e38, -3e38, 3e38]]]).astype(np.float32)


@pytest.fixture(scope="module")
def expected(version, rows):
    """Return the weights of the rows, in float64 NumPy from the numbers in `model.keras`."""
    network = keras.models.load_model(version / "model.keras")
    mean, scale = (np.asarray(part, np.float64) for part in network.standardization.weights)
    distance = np.linalg.norm((rows.astype(np.float64) - mean) / scale, axis=1)
    return bumps.bump(distance, float(network.domain_weight.radius), peak=1.0)[0]


@pytest.fixture(scope="module", params=["program", "tensorflow"])
def live(request, loaded):
    """Return the version on each engine."""
    version = ModelVersion(loaded, engines.create(loaded, request.param), Batching(max_batch_rows=16))
    yield version
    version.close()


def test_manifest_certificate_and_probe_tell_of_the_support(version, loaded):
    """The manifest lists the output, the certificate its program's hash, the probe sixteen weights in [0, 1]."""
    document = json.loads((version / "manifest.json").read_bytes())
    assert list(ALL) == document["outputs"]
    assert loaded.support.program_sha256 == document["certificate"]["support_sha256"]
    assert "domain_weight(" in loaded.support.text
    assert (16,) == loaded.probe.support.shape
    assert (True, True) == ((loaded.probe.support >= 0).all(), (loaded.probe.support <= 1).all())
    assert "domain_weight" not in loaded.program.text


def test_support_is_the_unit_peak_bump_of_the_distance_on_either_engine(live, rows, expected):
    """Every weight equals the float64 formula within 1e-5: near 1 in the middle of the data, 0 far outside."""
    found = live.run(rows[:-1], ("support",))["support"]
    np.testing.assert_allclose(expected[:-1], found, atol=1e-5)
    assert (0.0, True, True) == (found.min(), found.max() > 0.99, ((found > 0.01) & (found < 0.99)).sum() > 50)
    assert 0.0 == live.run(rows[-1:], ("support",))["support"][0] == expected[-1]


def test_row_has_the_same_bits_alone_in_any_company_and_with_any_outputs(live, rows):
    """Alone, backwards, through the batcher and beside any other outputs a row's answers have the same bits."""
    rows, version = rows[:-1], ModelVersion(live.loaded, live.engine, Batching(max_batch_rows=16))
    together = live.run(rows, ALL)
    assert list(ALL) == list(together)
    for count in (1, 2, 3):
        for chosen in itertools.combinations(ALL, count):
            for found, order in (
                (live.run(rows[::-1], chosen), slice(None, None, -1)),
                (version.submit(rows, chosen, Caller(1e12)), slice(None)),
            ):
                assert chosen == tuple(found)
                assert all(found[name].tobytes() == together[name][order].tobytes() for name in chosen)
    alone = [live.run(rows[index : index + 1], ("support",))["support"][0] for index in range(0, 199, 7)]
    np.testing.assert_array_equal(together["support"][::7], alone)
    assert version.close()


def test_both_engines_agree_and_the_probe_is_reproduced(loaded, rows):
    """The weights of the two engines differ by 1e-6 at most, and each gives the probe's again."""
    found = []
    for engine in ("program", "tensorflow"):
        version = ModelVersion(loaded, engines.create(loaded, engine))
        version.warm_up()
        version.reproduce(loaded.probe)
        found.append(version.run(rows[:-1], ("support",))["support"])
        version.close()
    np.testing.assert_allclose(*found, atol=1e-6)


@pytest.fixture(scope="module")
def service(loaded):
    """Return a service with the version, live."""
    service = make_service()
    service.registry.begin("small", 1)
    service.registry.publish(ModelVersion(loaded, engines.create(loaded, "program")))
    service.registry.scanned()
    return service


def test_rest_answers_support_in_each_form(service, loaded, rows):
    """JSON has it by name, the tables as their last column; it comes by default, alone, and with some of the others."""
    client = create_app(service.scorer, service.registry, service.metrics, service.settings).test_client()
    rows = rows[:5]
    exact = ModelVersion(loaded, engines.create(loaded, "program")).run(rows, ALL)
    body = orjson.dumps({"instances": rows.tolist()})
    document = client.post("/models/small/score", data=body).json
    assert list(ALL) == [name for name in document if name in WIRE_ORDER]
    np.testing.assert_array_equal(exact["support"], np.float32(document["support"]))
    alone = client.post("/models/small/score?outputs=support", data=body).json
    assert ["support"] == [name for name in alone if name in WIRE_ORDER]
    for outputs in ("score,gradient,support", "support", "score,support"):
        table = np.concatenate([exact[name].reshape(5, -1) for name in outputs.split(",")], axis=1)
        raw = client.post(f"/models/small/score?outputs={outputs}", data=body, headers={"Accept": OCTETS}).data
        assert table.astype("<f4").tobytes() == raw
        npy = client.post(f"/models/small/score?outputs={outputs}", data=body, headers={"Accept": NPY}).data
        np.testing.assert_array_equal(table, np.load(io.BytesIO(npy)))


def test_grpc_answers_support_to_a_stock_client(service, loaded, rows):
    """Predict returns it with serving_default and by filter, `score` does not have it, and the metadata says so."""
    rows = rows[:4]
    exact = ModelVersion(loaded, engines.create(loaded, "program")).run(rows, ALL)
    with serve(service) as channel:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        request = predict_pb2.PredictRequest(inputs={"x": tf.make_tensor_proto(rows)})
        request.model_spec.name = "small"
        answer = stub.Predict(request, timeout=10)
        assert set(ALL) == set(answer.outputs)
        np.testing.assert_array_equal(exact["support"], tf.make_ndarray(answer.outputs["support"]))
        request.output_filter.append("support")
        assert {"support"} == set(stub.Predict(request, timeout=10).outputs)
        asked = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
        asked.model_spec.name = "small"
        table = get_model_metadata_pb2.SignatureDefMap()
        stub.GetModelMetadata(asked, timeout=10).metadata["signature_def"].Unpack(table)
    shapes = {
        name: {output: len(info.tensor_shape.dim) for output, info in definition.outputs.items()}
        for name, definition in table.signature_def.items()
    }
    assert {"score": 1, "gradient": 2, "support": 1} == shapes["serving_default"]
    assert {"score": 1} == shapes["score"]


def test_model_without_support_refuses_to_answer_it():
    """Where a model has no domain weight, asking for it is the caller's error, which names what there is."""
    service = make_service()
    live = service.publish("m", 1)
    with pytest.raises(InvalidArgumentError, match=r"unknown output 'support' .* Ask for some of: score, gradient"):
        live.signature.select(["support"])
    live.close()


@pytest.fixture
def copy(version, tmp_path):
    """Return a copy of the version."""
    return Path(shutil.copytree(version, tmp_path / "small" / "1"))


def refusal(folder):
    """Return the rule that refuses a version."""
    with pytest.raises(VersionRefusedError) as refused:
        loader.load(folder, model="small", version=1)
    return refused.value.rule


def rewrite(folder, change):
    """Change a manifest's document and seal it again."""
    path = folder / "manifest.json"
    document = json.loads(path.read_bytes())
    change(document)
    path.write_text(json.dumps(document))
    reseal(folder)


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (lambda document: document.update(outputs=["score", "gradient"]), "manifest-signature"),
        (lambda document: document["certificate"].update(support_sha256="1" * 64), "certificate-hash"),
        (lambda document: document["certificate"].pop("support_sha256"), "certificate-hash"),
    ],
)
def test_manifest_that_tells_otherwise_of_the_support_is_refused(copy, change, rule):
    """A manifest without the output, with another hash or without one does not fit the model."""
    rewrite(copy, change)
    assert rule == refusal(copy)


@pytest.mark.parametrize("kind", ["absent", "wrong", "above one"])
def test_probe_with_other_weights_is_refused(copy, kind):
    """A probe without weights, with others or with impossible ones does not fit the model."""
    with np.load(copy / "probe.npz") as archive:
        arrays = {name: archive[name] for name in archive.files}
    support = arrays.pop("support")
    if kind != "absent":
        arrays["support"] = support * np.float32(0.9 if kind == "wrong" else 9.0)
    np.savez(copy / "probe.npz", **arrays)
    reseal(copy)
    assert {"absent": "support", "wrong": "support", "above one": "probe"}[kind] == refusal(copy)


class OddNetwork(keras.Model):
    """A convex score beside something that calls itself a domain weight."""

    def __init__(self, weigh):
        super().__init__()
        self.domain_weight = DomainWeight()
        self.domain_weight.build((None, 2))
        self.support = weigh
        self.built = True

    def call(self, x):
        """Return the squared norm."""
        return keras.ops.sum(keras.ops.square(x), axis=-1)


@pytest.mark.parametrize("kind", ["sigmoid", "radius below the limit", "of a difference", "score"])
def test_support_that_is_no_domain_weight_is_refused_by_its_rule(kind, tmp_path):
    """What need not lie in [0, 1], or is not understood, is no support: refused before it could be served."""
    weight = DomainWeight()
    weight.build((None, 2))

    def below(x):
        distance = keras.ops.sqrt(keras.ops.sum(keras.ops.square(x), axis=-1))
        ratio = keras.ops.where(distance < 3.0, distance, 0.0) / 2.0
        inner = keras.ops.exp(1.0 - 1.0 / ((1.0 - ratio) * (1.0 + ratio)))
        return keras.ops.where(distance < 3.0, inner, 0.0)

    def of_difference(x):
        difference = x[:, 0] - x[:, 1]
        ratio = keras.ops.where(difference < 1.9, difference, 0.0) / 2.0
        inner = keras.ops.exp(1.0 - 1.0 / ((1.0 - ratio) * (1.0 + ratio)))
        return keras.ops.where(difference < 1.9, inner, 0.0)

    weigh = {
        "sigmoid": lambda x: keras.ops.sigmoid(x[:, 0]),
        "radius below the limit": below,
        "of a difference": of_difference,
        "score": lambda x: keras.ops.sum(keras.ops.square(x), axis=-1),
    }[kind]
    model = OddNetwork(weigh)
    signatures = export._signatures(model, 2)  # `stage` would refuse to save such a class
    exported = tf.Module()
    exported.numbers = [model.domain_weight.radius.value]
    tf.saved_model.save(exported, str(tmp_path), signatures=signatures)
    with pytest.raises(VersionRefusedError) as refused:
        pipeline.certify(tmp_path)
    assert refused.value.rule == ("not-lifted" if kind == "sigmoid" else "support")


def test_sound_support_of_the_same_odd_network_is_certified(tmp_path):
    """The control of the test above: with the layer's own function the same export is proved."""
    weight = DomainWeight()
    weight.build((None, 2))
    model = OddNetwork(weight)
    exported = tf.Module()
    exported.numbers = [weight.radius.value]
    tf.saved_model.save(exported, str(tmp_path), signatures=export._signatures(model, 2))  # as above
    assert pipeline.certify(tmp_path).support is not None


def test_saved_model_made_elsewhere_may_bring_a_support(version, tmp_path):
    """Without manifest and probe the same SavedModel is proved and answers the same weights."""
    folder = tmp_path / "small" / "2"
    shutil.copytree(version / "variables", folder / "variables")
    for name in ("saved_model.pb", "fingerprint.pb"):
        shutil.copy(version / name, folder / name)
    loaded = loader.load(folder, model="small", version=2)
    assert (ALL, True) == (loaded.signature.outputs, loaded.signature.made_elsewhere)
    rows = loader.load(version, model="small", version=1).probe
    for engine in ("program", "tensorflow"):
        found = engines.create(loaded, engine).run(rows.x, ("support",))["support"]
        np.testing.assert_allclose(rows.support, found, atol=1e-6)
