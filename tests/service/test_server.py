"""The supervisor: what it prints, and what a signal does."""

import os
import signal
import threading

import pytest

from service.lifecycle import ModelStatus
from service.server import Supervisor, announcement
from service.settings import Settings
from service.worker import Addresses, Worker
from tests.service.fake_versions import make_version

ADDRESSES = Addresses(rest="127.0.0.1:8501", grpc="127.0.0.1:8500")


def model(name, *, dim=3, default=False):
    """Return a model's status."""
    return ModelStatus(name=name, default=default, dim=dim, features=(), labels={}, label_problem="", versions=())


def test_announcement_asks_the_default_model_with_its_dimension():
    """The curl line sends as many numbers as the default model takes, to the short path; the gRPC line names it."""
    page, curl, call = announcement(ADDRESSES, [model("a"), model("b", dim=2, default=True)], Settings()).splitlines()
    assert "http://127.0.0.1:8501/" in page
    assert "127.0.0.1:8500" in page
    assert """curl http://127.0.0.1:8501/score -d '{"instances": [[0, 0]]}'""" == curl.strip()
    assert "{'size': 2}" in call
    assert "127.0.0.1:8500" in call


def test_announcement_names_the_model_where_none_is_the_default():
    """Among several models the path names the first live one."""
    _, curl, _ = announcement(ADDRESSES, [model("a", dim=None), model("b")], Settings()).splitlines()
    assert "http://127.0.0.1:8501/models/b/score" in curl


def test_announcement_says_that_no_model_is_live():
    """On an empty folder the second line says where a version is looked for."""
    assert "under models/" in announcement(ADDRESSES, [], Settings()).splitlines()[1]


@pytest.mark.parametrize(
    ("bound", "shown"), [("0.0.0.0:1", "127.0.0.1:1"), ("[::]:1", "[::1]:1"), ("10.0.0.0:1", "10.0.0.0:1")]
)
def test_announcement_shows_an_address_that_a_client_can_use(bound, shown):
    """Where every interface is listened on, the lines use the loopback address."""
    assert f"http://{shown}/" in announcement(Addresses(bound, bound), [], Settings())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_run_ends_on_a_signal_after_draining(tmp_path, number):
    """A signal turns readiness off, then everything ends, and the old handlers are back."""
    settings = Settings(models_dir=tmp_path, rest_port=0, grpc_port=0, drain_delay_seconds=0.0)
    worker = Worker(settings, load=lambda folder: make_version(folder.model, folder.version))
    before = signal.getsignal(number)
    printed = []

    def announce(text):
        printed.append(text)
        threading.Timer(0.0, os.kill, (os.getpid(), number)).start()

    assert Supervisor(worker, announce).run() is True
    assert 1 == len(printed)
    assert worker.registry.draining is True
    assert before is signal.getsignal(number)


def test_a_second_signal_ends_the_process_at_once(tmp_path, monkeypatch):
    """The second signal does not wait for the drain: exit with 128 + its number."""
    settings = Settings(models_dir=tmp_path, rest_port=0, grpc_port=0)
    worker = Worker(settings)
    worker.start()
    exits = []
    monkeypatch.setattr(os, "_exit", exits.append)
    supervisor = Supervisor(worker, print)
    supervisor._on_signal(signal.SIGTERM, None)
    assert [] == exits
    supervisor._on_signal(signal.SIGTERM, None)
    assert [143] == exits
    worker.stop(1.0)
