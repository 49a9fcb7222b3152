"""The worker: one process' parts wired together, with a fake load in place of TensorFlow."""

import dataclasses
import errno
import json
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from service import engines
from service import worker as worker_module
from service.errors import VersionRefusedError
from service.model_version import ModelVersion
from service.repository import VersionFolder
from service.settings import Settings
from service.worker import StartError, VersionLoader, Worker
from tests.end_to_end.clients import predict, predict_request
from tests.service.fake_versions import LinearEngine, make_version
from tests.service.samples import total


def load(folder):
    """Return a fake version of the folder."""
    return make_version(folder.model, folder.version)


@pytest.fixture
def settings(tmp_path):
    """Return settings over an empty models folder, on any free ports."""
    return Settings(models_dir=tmp_path, rest_port=0, grpc_port=0, poll_interval_seconds=0.05)


@pytest.fixture
def worker(settings):
    """Return a started worker over an empty models folder."""
    worker = Worker(settings, load=load)
    worker.start()
    yield worker
    worker.stop(5.0)


def add_version(models_dir, model="m", version=1):
    """Put a version's folder there whole."""
    staging = models_dir / model / ".staging"
    staging.mkdir(parents=True)
    (staging / "manifest.json").write_text("{}")
    staging.rename(models_dir / model / str(version))


def get(worker, path):
    """Return status and body of a GET."""
    try:
        with urllib.request.urlopen(f"http://{worker.addresses.rest}{path}", timeout=10) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def score(worker, number):
    """Return status and document of the answer to the row [number, number, number]."""
    body = json.dumps({"instances": [[number] * 3]}).encode()
    try:
        with urllib.request.urlopen(f"http://{worker.addresses.rest}/score", body, timeout=20) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def health(worker):
    """Return the overall gRPC health."""
    with grpc.insecure_channel(worker.addresses.grpc) as channel:
        request = health_pb2.HealthCheckRequest()
        return health_pb2_grpc.HealthStub(channel).Check(request, timeout=10, wait_for_ready=True).status


def test_worker_becomes_ready_when_a_version_appears(worker, settings, wait_until):
    """Alive at once, not ready on an empty folder, and ready on both protocols once a version is there."""
    assert 200 == get(worker, "/healthz")[0]
    assert worker.watcher.first_scan_over.wait(10)
    assert 503 == get(worker, "/readyz")[0]
    assert health_pb2.HealthCheckResponse.NOT_SERVING == health(worker)
    add_version(settings.models_dir)
    wait_until(lambda: get(worker, "/readyz")[0] == 200)
    assert health_pb2.HealthCheckResponse.SERVING == health(worker)


def test_worker_scores_with_the_newest_version(worker, settings, wait_until):
    """The whole way of a request is wired: body to score, by the version that was published last."""
    for version in (1, 2):
        add_version(settings.models_dir, version=version)
    wait_until(lambda: get(worker, "/readyz")[0] == 200)
    body = json.dumps({"instances": [[1, 2, 3]]}).encode()

    def answer():
        with urllib.request.urlopen(f"http://{worker.addresses.rest}/score", body, timeout=10) as response:
            return json.load(response)

    wait_until(lambda: answer()["version"] == 2)
    assert {"model": "m", "version": 2, "score": [8.0], "gradient": [[1.0, 1.0, 1.0]]} == answer()
    counted = {"code": "OK", "model": "m", "version": "2", "signature": "serving_default", "protocol": "rest"}
    assert 1 <= total(get(worker, "/metrics")[1], "convex_requests_total", **counted)


@pytest.mark.parametrize("allowed", [False, True])
def test_worker_serves_a_version_of_another_width_only_when_told_to(settings, wait_until, allowed):
    """By default the version that serves goes on and the newcomer ends refused; with the switch it takes over."""

    def make(folder):
        return make_version(folder.model, folder.version, dim=2 + folder.version)

    worker = Worker(dataclasses.replace(settings, allow_schema_change=allowed), load=make)
    worker.start()
    try:
        add_version(settings.models_dir)
        wait_until(lambda: get(worker, "/readyz")[0] == 200)
        add_version(settings.models_dir, version=2)
        wait_until(lambda: any(status.version == 2 for status in worker.registry.statuses("m")))
        states = (
            {1: ("END", ""), 2: ("AVAILABLE", "")} if allowed else {1: ("AVAILABLE", ""), 2: ("END", "schema-change")}
        )
        wait_until(lambda: states == {each.version: (each.state, each.rule) for each in worker.registry.statuses("m")})
    finally:
        worker.stop(5.0)


def test_worker_follows_the_link_of_a_model_only_when_told_to(settings):
    """A model's folder that is a link below the root is served with the switch, and ignored without it."""
    add_version(settings.models_dir, model="plain")
    add_version(settings.models_dir / ".releases" / "7", model="linked")
    (settings.models_dir / "linked").symlink_to(".releases/7/linked")
    for follows, expected in ((False, {"plain"}), (True, {"plain", "linked"})):
        worker = Worker(dataclasses.replace(settings, follow_model_links=follows), load=load)
        worker.start()
        try:
            assert worker.watcher.first_scan_over.wait(10)
            assert expected == {status.name for status in worker.registry.models()}
        finally:
            worker.stop(5.0)


def test_worker_is_not_ready_and_still_answers_while_draining(worker, settings, wait_until):
    """Draining turns readiness and health off; requests are still answered."""
    add_version(settings.models_dir)
    wait_until(lambda: get(worker, "/readyz")[0] == 200)
    worker.drain()
    assert 503 == get(worker, "/readyz")[0]
    assert health_pb2.HealthCheckResponse.NOT_SERVING == health(worker)
    with worker.registry.acquire() as live:
        assert 1 == live.signature.version


def test_stop_ends_everything(settings):
    """After a stop nobody listens, and every thread has ended."""
    worker = Worker(settings, load=load)
    worker.start()
    assert worker.stop(5.0) is True
    for address in (worker.addresses.rest, worker.addresses.grpc):
        host, _, port = address.rpartition(":")
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((host, int(port)), timeout=5)


def test_stop_answers_what_waits_and_finishes_what_is_computed(settings, wait_until, monkeypatch):
    """When the time is nearly over, the queue of either protocol reads UNAVAILABLE; the row in the engine its score."""
    monkeypatch.setattr(worker_module, "_LAST_CALL_SECONDS", 20.0)  # of the 20 below: at once, and then time enough
    monkeypatch.setattr(worker_module, "_LAST_CALL_SHARE", 1.0)
    add_version(settings.models_dir)
    worker = Worker(settings, load=load)
    worker.start()
    wait_until(lambda: get(worker, "/readyz")[0] == 200)
    with (
        ThreadPoolExecutor(4) as pool,
        worker.registry.acquire() as live,
        grpc.insecure_channel(worker.addresses.grpc) as channel,
    ):
        live.engine.gate.clear()
        computed = pool.submit(score, worker, 1.0)
        wait_until(live.engine.entered.is_set)
        waiting = pool.submit(score, worker, 2.0)
        call = predict(channel).future(predict_request("m", np.ones((1, 3), np.float32)), timeout=20)
        wait_until(lambda: live._room.num_rows == 3)
        end = pool.submit(worker.stop, 20.0)
        assert (503, "UNAVAILABLE") == (waiting.result(20)[0], waiting.result(20)[1]["error"]["code"])
        assert grpc.StatusCode.UNAVAILABLE is call.code()
        assert not computed.done()
        live.engine.gate.set()
        assert (200, [4.0]) == (computed.result(20)[0], computed.result(20)[1]["score"])
        assert end.result(20) is True


@pytest.mark.parametrize(("name", "flag"), [("rest_port", "--rest-port"), ("grpc_port", "--grpc-port")])
def test_worker_says_which_port_is_in_use(tmp_path, name, flag):
    """A port in use is one sentence with the address and the flag, before anything is started."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ports = {"rest_port": 0, "grpc_port": 0} | {name: taken.getsockname()[1]}
        with pytest.raises(StartError, match=f"cannot listen on 127.0.0.1:{ports[name]}: .*in use.*{flag}"):
            Worker(Settings(models_dir=tmp_path, **ports), load=load)


def test_worker_says_that_an_address_is_not_of_this_machine(tmp_path):
    """A foreign address is the same kind of sentence."""
    with pytest.raises(StartError, match=r"cannot listen on 192\.0\.2\.1:0: .*[Cc]annot assign"):
        Worker(Settings(models_dir=tmp_path, host="192.0.2.1", rest_port=0, grpc_port=0), load=load)


class FakeProcess:
    """What a loading process gives, without one."""

    def __init__(self, loaded):
        self.loaded = loaded
        self.orders = []

    def load(self, order):
        """Return the version."""
        self.orders.append(order)
        return self.loaded

    def sees_gpu(self):
        """There is none."""
        return False


FOLDER = VersionFolder("m", 1, Path("m/1"))


def fake_loaded(**changes):
    """Return what a loading process makes of a folder; its program is no program."""
    return SimpleNamespace(**(vars(make_version().loaded) | {"program": object(), "probe": None} | changes))


def test_version_loader_refuses_the_program_engine_without_a_proof():
    """`--allow-uncertified --engine program` cannot serve what has no program: refused, not a defect."""
    settings = Settings(engine="program", allow_uncertified=True)
    with pytest.raises(VersionRefusedError) as caught:
        VersionLoader(settings, process=FakeProcess(fake_loaded(program=None)))(FOLDER)
    assert caught.value.rule == "engine"


def test_version_loader_closes_a_version_that_is_refused_while_it_is_made_warm(monkeypatch):
    """Nothing of it stays behind: its batchers are closed, so that no thread and no statistics keep it."""
    monkeypatch.setattr(engines, "create", lambda *_, **__: LinearEngine())
    loader = VersionLoader(Settings(engine="program"), process=FakeProcess(fake_loaded()))
    closed = []
    monkeypatch.setattr(ModelVersion, "close", lambda version: closed.append(version) is None)
    monkeypatch.setattr(ModelVersion, "warm_up", lambda _: (_ for _ in ()).throw(VersionRefusedError("warm-up", "no")))
    with pytest.raises(VersionRefusedError):
        loader(FOLDER)
    assert [1] == [version.signature.version for version in closed]


def test_version_loader_lets_later_loads_stand_back_once_a_version_is_served(monkeypatch):
    """The first load has the processor for itself, for nobody is answered before it; the others are gentle."""
    monkeypatch.setattr(engines, "create", lambda *_, **__: LinearEngine())
    monkeypatch.setattr(ModelVersion, "reproduce", lambda *_: None)
    process = FakeProcess(fake_loaded())
    loader = VersionLoader(Settings(engine="program"), process=process)
    for _ in range(3):
        loader(FOLDER).close()
    assert [False, True, True] == [order.gently for order in process.orders]


def test_version_loader_lets_requests_in_between_while_an_engine_is_made(monkeypatch):
    """Python's lock changes hands ten times as often meanwhile, and as before afterwards, whatever happened."""
    before, meanwhile = sys.getswitchinterval(), []
    monkeypatch.setattr(engines, "create", lambda *_, **__: meanwhile.append(sys.getswitchinterval()) or LinearEngine())
    loader = VersionLoader(Settings(engine="program"), process=FakeProcess(fake_loaded()))
    with pytest.raises(AttributeError):  # there is no probe
        loader(FOLDER)
    assert [before / 10] == pytest.approx(meanwhile)
    assert before == sys.getswitchinterval()


def test_loader_starts_without_its_process_when_the_system_gives_none_now(settings, monkeypatch):
    """A limit of processes that is reached at the start ends no server: the first load tries again."""
    loader = VersionLoader(settings)

    def refuse(*_, **__):
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    with monkeypatch.context() as patch:
        patch.setattr(subprocess, "Popen", refuse)
        loader.start()
    loader.start()
    loader.close()
