"""Bad versions by the hundred beside one that serves: each refused by its rule, none run, nobody notices."""

import json
import os
import shutil
import time
import urllib.request
import zipfile

import numpy as np
import pytest

from tests.chaos.bad_models import BAD, NEEDS_TENSORFLOW, ODD
from tests.chaos.planting import MODEL, sealed_copy

WRITTEN = "executed.txt"
"""As in tests.foreign.hostile, which imports TensorFlow."""

LONG = [pytest.mark.chaos, pytest.mark.timeout(1800)]


def check_refused(outcomes, rules):
    """Require a rule that fits and a reason of each refusal; return how many there were."""
    wrong = {name: outcome for name, outcome in outcomes.items() if outcome[0] not in rules[name]}
    assert {} == wrong
    assert [] == [name for name, (_, reason) in outcomes.items() if len(reason) < 10]
    return len(outcomes)


def makers(*, with_tensorflow):
    """Return name -> (make, rules), with what this user can make."""
    found = dict(BAD) if os.geteuid() != 0 else BAD | ODD
    return {name: each for name, each in found.items() if with_tensorflow or name not in NEEDS_TENSORFLOW}


def test_every_bad_version_is_refused_by_its_rule_beside_a_version_that_serves(beside, report):
    """Files, manifests, probes and graphs, all at once: each by a rule that fits and with a reason, nothing run."""
    bad = makers(with_tensorflow=False)
    planted = {name: beside.plant(make) for name, (make, _) in bad.items()}
    found = beside.outcomes(planted.values())
    outcomes = {name: found[version] for name, version in planted.items()}
    refused = check_refused(outcomes, {name: rules for name, (_, rules) in bad.items()})
    beside.remove(planted.values())
    assert not list(beside.models_dir.rglob(WRITTEN))
    answers = beside.check()
    assert beside.accepts(sealed_copy)
    beside.check(controls=1)
    report(refused=refused, of=len(bad), answers_meanwhile=answers)
    assert refused > 80


@pytest.fixture
def foreign(tmp_path):
    """Return name -> (make, rules) of hostile and of not convex SavedModels, plain and under a manifest of ours."""
    from tests.foreign.hostile import HOSTILE, build_all
    from tests.foreign.zoo import REFUSED

    folders = {name: (folder, HOSTILE[name][1]) for name, folder in build_all(tmp_path / "hostile").items()}
    for specimen in REFUSED:
        if not specimen.convex:
            folders[specimen.name] = (specimen.save(tmp_path / "zoo" / specimen.name), specimen.rules)
    found = {}
    for name, (folder, rules) in folders.items():
        found[name] = (lambda target, _, folder=folder: copied(folder, target), rules | {"special-file"})
        if (folder / "saved_model.pb").is_file():
            found[f"{name}, sealed"] = (lambda target, version, folder=folder: sealed(folder, target, version), rules)
    return found


def copied(source, target):
    """Copy a folder with what is no file in it."""

    def copy(path, place):
        return shutil.copy(path, place) if os.path.isfile(path) else os.mkfifo(place)

    shutil.copytree(source, target, copy_function=copy)


def sealed(source, target, version):
    """Put a SavedModel in the place of the shipped one, with its manifest, all hashes of files rewritten."""

    def exchange(folder):
        for name in ("saved_model.pb", "fingerprint.pb"):
            (folder / name).unlink()
        shutil.rmtree(folder / "variables")
        shutil.copytree(source, folder, dirs_exist_ok=True)

    sealed_copy(target, version, change=exchange)


@pytest.mark.chaos
@pytest.mark.timeout(1800)
def test_hundreds_of_bad_models_are_refused_one_by_one_within_a_second(beside, foreign, tmp_path, report):
    """Each alone, timed from its rename to its refusal: by its rule, nothing run, and the same bits throughout."""
    bad = makers(with_tensorflow=True) | foreign
    outcomes, seconds = {}, {}
    for name, (make, _) in bad.items():
        staged = time.monotonic()
        version = beside.plant(make)
        started = time.monotonic()
        (outcomes[name],) = beside.outcomes([version]).values()
        seconds[name] = time.monotonic() - started
        beside.remove([version])
        assert staged <= started
    refused = check_refused(outcomes, {name: rules for name, (_, rules) in bad.items()})
    assert not [path for folder in (tmp_path, beside.models_dir) for path in folder.rglob(WRITTEN)]
    answers = beside.check()
    assert beside.accepts(sealed_copy)
    beside.check(controls=1)
    taken = np.array(list(seconds.values()))
    slowest = sorted(seconds, key=seconds.get)[-3:]
    report(
        refused=refused, of=len(bad), answers_meanwhile=answers, median_ms=round(1e3 * float(np.median(taken))),
        p99_ms=round(1e3 * float(np.percentile(taken, 99))), slowest_ms={n: round(1e3 * seconds[n]) for n in slowest},
    )  # fmt: skip
    assert refused == len(bad) > 200


def bomb(folder):
    """Put a zip that would fill the memory where the network is kept."""
    with zipfile.ZipFile(folder / "model.keras", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model.weights.h5", bytes(64 << 20))


def unread(folder):
    """Spoil all that a server never opens."""
    bomb(folder)
    (folder / "report.html").write_text("<script>alert(1)</script>")
    (folder / "report.json").write_text("[" * 100_000)
    (folder / "assets.extra" / "tf_serving_warmup_requests").write_bytes(b"\xff" * 100_000)


def test_version_is_served_when_only_what_the_server_never_opens_is_spoilt(beside):
    """A zip bomb for a network, a script for a report, noise for warm-up requests: the next version answers as ever."""
    assert beside.accepts(lambda folder, version: sealed_copy(folder, version, change=unread))
    beside.check(controls=1)


LABELS = {
    "pipe": os.mkfifo,
    "link": lambda path: path.symlink_to("/etc/passwd"),
    "link to nothing": lambda path: path.symlink_to("nowhere"),
    "folder": lambda path: path.mkdir(),
    "terabyte of nothing": lambda path: (path.write_bytes(b""), os.truncate(path, 2**40)),
    "second name": lambda path: os.link(path.parent / "1" / "manifest.json", path),
    "noise": lambda path: path.write_bytes(b"\xff\x00" * 50),
    "without end": lambda path: path.write_bytes(b"[" * 60_000),
    "label twice": lambda path: path.write_bytes(b'{"stable": 1, "stable": 1}'),
    "version that is none": lambda path: path.write_bytes(b'{"stable": "../1"}'),
    "no name": lambda path: path.write_bytes(b'{"../stable": 1}'),
}


def label_problem(server):
    """Return labels of the model and what is wrong with them."""
    (model,) = [each for each in json.loads(server.get("/models")[1])["models"] if each["name"] == MODEL]
    return model["labels"], model.get("label_problem", "")


def test_labels_stay_when_their_file_becomes_anything_else(beside, wait_until):
    """A pipe, a link, a folder, a terabyte, noise: the label means what it meant, and the status says why."""
    path = beside.models_dir / MODEL / "labels.json"
    place(path, lambda staged: staged.write_text('{"stable": 1}'))
    wait_until(lambda: label_problem(beside.server) == ({"stable": 1}, ""))
    for kind, make in LABELS.items():
        place(path, make)
        labels, problem = wait_until(lambda: (found := label_problem(beside.server))[1] and found)
        assert {"stable": 1} == labels, kind
        assert "labels.json" in problem
        url = f"http://{beside.server.address('rest')}/models/{MODEL}/score?label=stable&outputs=score"
        request = urllib.request.Request(url, beside.rows.tobytes(), {"Content-Type": "application/octet-stream"})
        with urllib.request.urlopen(request, timeout=10) as response:
            assert "1" == response.headers["X-Model-Version"]
        place(path, lambda staged: staged.write_text('{"stable": 1}'))
        wait_until(lambda: label_problem(beside.server) == ({"stable": 1}, ""))
    path.unlink()
    wait_until(lambda: label_problem(beside.server) == ({}, ""))
    beside.check()


def place(path, make):
    """Put something under the labels' name."""
    if path.is_dir():
        path.rmdir()
    else:
        path.unlink(missing_ok=True)
    make(path)
