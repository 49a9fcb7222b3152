"""Damaged versions beside one that serves: every flipped bit and every cut is refused, and nobody notices.

Where a saboteur has rewritten the hashes too, what is accepted must answer the very bits of the undamaged version.
"""

import json
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest

from service import manifest
from service.errors import VersionRefusedError
from service.repository import VersionFolder
from service.settings import Settings
from service.worker import VersionLoader
from tests.chaos.planting import MODEL, SHIPPED, load_here, reseal, sealed_copy
from tests.contract import version_surgery
from tests.end_to_end.server_process import ROOT

FILES = sorted(path.relative_to(SHIPPED).as_posix() for path in SHIPPED.rglob("*") if path.is_file())
AT_ONCE = 40
LONG = [pytest.mark.chaos, pytest.mark.timeout(1800)]

MANIFEST_RULES = {"manifest-schema", "manifest-hash"}


def flip(path, rng):
    """Flip one bit of a file."""
    data = bytearray(path.read_bytes())
    data[rng.integers(len(data))] ^= 1 << rng.integers(8)
    path.write_bytes(data)


def cut(path, rng):
    """Cut a file anywhere, its beginning included."""
    data = path.read_bytes()
    path.write_bytes(data[: rng.integers(len(data))])


def damaged_copy(harm, name, rng):
    """Return what makes a copy that was whole and sealed under its number, and then harmed in one file."""

    def make(folder, version):
        sealed_copy(folder, version)
        harm(folder / name, rng)

    return make


@pytest.mark.parametrize(("num_flips", "num_cuts"), [(20, 10), pytest.param(1000, 200, marks=LONG)])
def test_every_flipped_bit_and_every_cut_is_refused_beside_a_version_that_serves(num_flips, num_cuts, beside, report):
    """Each file in turn, the manifest too: all refused by their hash, no crash, the same bits throughout."""
    rng = np.random.default_rng(7)
    harms = [(flip, FILES[i % len(FILES)]) for i in range(num_flips)]
    harms += [(cut, FILES[i % len(FILES)]) for i in range(num_cuts)]
    rules = Counter()
    before = beside.refusal_seconds()
    for start in range(0, len(harms), AT_ONCE):
        planted = {beside.plant(damaged_copy(harm, name, rng)): name for harm, name in harms[start : start + AT_ONCE]}
        for version, (rule, reason) in beside.outcomes(planted).items():
            rules[rule] += 1
            assert rule in (MANIFEST_RULES if planted[version] == manifest.FILE_NAME else {"file-hash"}), reason
            assert planted[version] in reason
        beside.remove(planted)
    assert len(harms) == rules.total()
    num_answers = beside.check()
    count, seconds = beside.refusal_seconds() - before
    assert beside.accepts(sealed_copy)
    beside.check(controls=1)
    report(
        flips=num_flips, cuts=num_cuts, files=len(FILES), refused=dict(rules), answers_meanwhile=num_answers,
        mean_refusal_ms=round(1e3 * seconds / count, 2),
    )  # fmt: skip


def test_damaged_version_is_refused_before_tensorflow_is_imported(tmp_path):
    """A hash that does not hold costs no TensorFlow; a version that is whole gets as far as that."""
    folder = tmp_path / MODEL / "2"
    sealed_copy(folder, 2)
    flip(folder / "variables" / "variables.index", np.random.default_rng(1))
    code = (
        "import sys\nfrom pathlib import Path\nfrom service.errors import VersionRefusedError\n"
        "from service.loader import load\n"
        "try: load(Path(sys.argv[1]), model='tumours', version=2)\n"
        "except VersionRefusedError as err: print(err.rule, 'tensorflow' in sys.modules)"
    )
    words = [sys.executable, "-c", code, str(folder)]
    answer = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert "file-hash False" == answer.stdout.strip(), answer.stderr


@pytest.fixture
def load(request, tmp_path):
    """Return what makes a live version of a folder; in a long form a loading process does, which may crash."""
    if request.node.get_closest_marker("chaos") is None:
        yield load_here
        return
    over_there = [VersionLoader(Settings(models_dir=tmp_path, engine="program"))]
    over_there[0].start()
    yield lambda folder: over_there[0](folder)
    over_there.pop().close()


def answers(load, folder):
    """Return score and gradient of the probe's rows by a version, or the rule by which it is refused."""
    try:
        live = load(VersionFolder(MODEL, int(folder.name), folder))
    except VersionRefusedError as refusal:
        return refusal.rule, None
    try:
        probe = live.loaded.probe
        return "served", tuple(values.copy() for values in live.score_and_gradient(probe.x))
    finally:
        live.close()


RESEALED = [name for name in FILES if name != manifest.FILE_NAME]


@pytest.mark.parametrize("num_flips", [len(RESEALED), pytest.param(270, marks=LONG)])
def test_flip_under_rewritten_hashes_is_refused_or_changes_no_bit_of_an_answer(num_flips, load, tmp_path, report):
    """The table of files rewritten, not the certificate: what is served then has the program that was certified."""
    rng = np.random.default_rng(8)
    whole = tmp_path / MODEL / "1"
    sealed_copy(whole, 1)
    rule, expected = answers(load, whole)
    assert "served" == rule
    found = {name: Counter() for name in RESEALED}
    for number in range(num_flips):
        name = RESEALED[number % len(RESEALED)]
        folder = tmp_path / MODEL / str(number + 2)
        sealed_copy(folder, number + 2, change=lambda folder, name=name: flip(folder / name, rng))
        rule, values = answers(load, folder)
        found[name][rule] += 1
        if values is not None:
            for value, other in zip(expected, values, strict=True):
                assert value.tobytes() == other.tobytes(), name
    for name in ("model.keras", "report.html", "report.json", "assets.extra/tf_serving_warmup_requests"):
        assert {"served"} == set(found[name]), "the server reads none of it"
    assert 0 == found["variables/variables.data-00000-of-00001"]["served"]
    report(flips=num_flips, **{name.rpartition("/")[2]: dict(rules) for name, rules in found.items()})


@pytest.mark.parametrize("num_flips", [2, pytest.param(100, marks=LONG)])
def test_flip_of_a_weight_under_all_hashes_is_refused_or_stays_within_the_probe(num_flips, load, tmp_path, report):
    """The certificate rewritten too: proof or probe refuse, or the answers are within 1e-5 of the undamaged ones."""
    rng = np.random.default_rng(9)
    whole = tmp_path / MODEL / "1"
    sealed_copy(whole, 1)
    _, expected = answers(load, whole)
    tensors = version_surgery.read_tensors(whole)
    keys = sorted(version_surgery.variable_keys(tensors).values())
    found = Counter()
    for number in range(num_flips):
        key = keys[number % len(keys)]
        changed = np.array(tensors[key])
        bits = changed.reshape(-1).view(np.uint32)
        bits[rng.integers(bits.size)] ^= np.uint32(1 << rng.integers(32))
        folder = tmp_path / MODEL / str(number + 2)
        sealed_copy(folder, number + 2)
        version_surgery.write_tensors(folder, {**tensors, key: changed})
        if np.isfinite(changed).all():
            version_surgery.reseal(folder)
        else:
            reseal(folder)
        rule, values = answers(load, folder)
        found[rule] += 1
        if values is not None:
            for value, other in zip(expected, values, strict=True):
                assert np.abs(value - other).max() <= 1e-5 * np.abs(value).max()
    assert 0 < found["served"] < num_flips
    report(flips=num_flips, outcomes=dict(found))


def test_shipped_version_has_every_kind_of_file_that_is_damaged_here():
    """The control of the subject: graph, weights, probe, network, report, warm-up requests and manifest are there."""
    expected = {"saved_model.pb", "fingerprint.pb", "probe.npz", "model.keras", "report.html", "report.json",
                "assets.extra/tf_serving_warmup_requests", "manifest.json", "variables/variables.index",
                "variables/variables.data-00000-of-00001"}  # fmt: skip
    assert expected == set(FILES)
    assert expected - {manifest.FILE_NAME} == json.loads((SHIPPED / manifest.FILE_NAME).read_bytes())["files"].keys()
