"""Peers: which configuration counts, what an answer is, and processes that end with all that they have started."""

import os
import subprocess
import sys
import time

import numpy as np
import orjson
import pytest

from bench import forms, peer_environment, peers
from bench.peer_environment import MissingPeerError
from bench.peer_processes import end, free_port, lives, peer_serving
from bench.processors import family, family_seconds, pinned

ROW = np.array([[1.5, -2.0, 0.25]], dtype=np.float32)
PARENT = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print(child.pid, flush=True)
time.sleep(60)
"""


def pair(peer, variant, rate, ours=900.0):
    """Return a measured pair."""
    return {
        "peer": peer,
        "variant": variant,
        "form": forms.JSON,
        "theirs": {"requests_per_second": rate},
        "ours": {"requests_per_second": ours},
    }


def test_best_configuration_of_each_peer_counts():
    """Of two configurations the faster one counts, beside what was ours in the same turns; a missing one says why."""
    missing = {"peer": "BentoML", "variant": "no batches", "form": forms.JSON, "missing": "pip: no"}
    found = peers.best(
        [pair("LitServe", "a", 300.0), pair("LitServe", "b", 450.0, 1800.0), pair("LitServe", "c", 1.0), missing]
    )
    assert ("b", 4.0, 3.0) == tuple(found["LitServe"][name] for name in ("variant", "times_theirs", "goal"))
    assert {"BentoML": {"missing": "pip: no"}} == {name: found[name] for name in found if name != "LitServe"}


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (np.array([7.0, 1.0, 2.0], "<f4").tobytes(), forms.OCTETS),
        (b'{"score": [7.0], "gradient": [[1.0, 2.0]]}', forms.JSON),
        (b"[[7.0, 1.0, 2.0]]", forms.JSON),
        (b'{"outputs": [{"name": "score", "data": [7.0]}, {"name": "gradient", "data": [1.0, 2.0]}]}', forms.JSON),
    ],
)
def test_answer_is_read_however_it_is_written(body, content_type):
    """Score and gradient are found in each form that a peer answers in."""
    assert [7.0, 1.0, 2.0] == peers.columns(body, content_type).tolist()


@pytest.mark.parametrize("theirs", [b'{"score": [7.1], "gradient": [[1, 2]]}', b'{"score": [7.0], "gradient": [[1]]}'])
def test_peer_with_another_answer_is_not_measured(theirs):
    """A peer that serves something else, or less of it, is no peer."""
    ours, peer = b'{"score": [7.0], "gradient": [[1.0, 2.0]]}', peers.PEERS[2]
    peers._check_agreement(ours, ours, peer)
    with pytest.raises(RuntimeError, match="not that of the model"):
        peers._check_agreement(ours, theirs, peer)


@pytest.mark.parametrize("content_type", forms.FORMS.values())
def test_body_holds_the_rows_in_each_form(content_type):
    """What is sent is the rows themselves, read back by other code."""
    body = forms.body(content_type, ROW)
    if content_type == forms.JSON:
        assert {"instances": ROW.tolist()} == orjson.loads(body)
    elif content_type == forms.CSV:
        assert b"1.5,-2.0,0.25\n" == body
    else:
        assert body.endswith(ROW.tobytes())
        assert content_type != forms.OCTETS or len(body) == 12


def test_unknown_form_is_refused_by_name():
    """A form that nobody serves is an error."""
    with pytest.raises(ValueError, match="received text/html"):
        forms.body("text/html", ROW)


def test_environment_that_cannot_be_made_is_a_reason(tmp_path, monkeypatch):
    """What pip says is why the peer is missing, and nothing is taken for whole afterwards."""
    requirements = tmp_path / "requirements"
    requirements.mkdir()
    (tmp_path / "made" / "other").mkdir(parents=True)
    (tmp_path / "made" / "other" / "half").touch()
    (requirements / "other.txt").write_text("./nowhere/at/all\n")
    monkeypatch.setattr(peer_environment, "REQUIREMENTS", requirements)
    monkeypatch.setattr(peer_environment, "_run", only_pip(peer_environment._run))
    with pytest.raises(MissingPeerError, match="pip: "):
        peer_environment.prepared("other", tmp_path / "made")
    assert [] == list(tmp_path.glob("made/other/*"))


def only_pip(run):
    """Return `_run` that makes no environment, and takes the present one's pip."""

    def run_pip(*words):
        if "pip" in words[0]:
            run(sys.executable, "-m", "pip", *words[1:])

    return run_pip


def test_every_peer_has_pinned_requirements():
    """Each environment is made of exact versions."""
    for peer in peers.PEERS:
        lines = (peer_environment.REQUIREMENTS / f"{peer.environment}.txt").read_text().splitlines()
        assert [] == [line for line in lines if not line.startswith("#") and "==" not in line]


def test_end_ends_what_a_server_has_started():
    """Neither the process nor its child lives on."""
    process = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True)
    with process:
        child = int(process.stdout.readline())
        assert {process.pid, child} <= family(process.pid)
        assert lives(child)
        end(process)
    assert not lives(child)


def test_processor_time_of_a_family_is_what_its_members_have_taken():
    """Of this very process, to a hundredth of a second, and of what it has started besides."""
    before = time.process_time()
    assert before - 0.02 <= family_seconds(os.getpid())


def test_server_that_ends_at_once_is_missing_with_its_words(tmp_path):
    """A peer that does not start is told with the end of what it wrote."""
    words = [sys.executable, "-c", "raise SystemExit('no such module: nothing')"]
    with (
        pytest.raises(MissingPeerError, match="no such module: nothing"),
        peer_serving(words, {}, tmp_path, lambda: False),
    ):
        pytest.fail("it does not serve")


def test_children_of_a_pinned_process_have_one_core():
    """Whatever is started in the block has that core alone, and the process itself gets its own back."""
    word = "import os; print(len(os.sched_getaffinity(0)))"
    with pinned(0):
        assert "1" == subprocess.check_output([sys.executable, "-c", word], text=True).strip()
    assert str(len(os.sched_getaffinity(0))) == subprocess.check_output([sys.executable, "-c", word], text=True).strip()


def test_free_port_can_be_bound_by_another():
    """The port is given back."""
    assert 1024 < free_port() < 65536
