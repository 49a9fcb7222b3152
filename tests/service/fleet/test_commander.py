"""The commander without a worker that lives: ports, and when it gives up."""

import signal
import socket

import pytest

from service.fleet import patience, worker_process
from service.fleet.commander import Commander
from service.ports import StartError
from service.server import Supervisor
from service.settings import Settings
from tests.chaos.fleets import LoadsHere

FAILING = "import os; os._exit(3)"


@pytest.fixture
def settings(tmp_path):
    """Return settings of two workers over an empty models folder."""
    return Settings(
        models_dir=tmp_path, rest_port=0, grpc_port=0, workers=2, drain_delay_seconds=0.0, drain_seconds=1.0
    )


@pytest.mark.parametrize(("name", "flag"), [("rest_port", "--rest-port"), ("grpc_port", "--grpc-port")])
def test_commander_says_which_port_is_in_use(tmp_path, name, flag):
    """One sentence with the address and the flag, before any process is started."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ports = {"rest_port": 0, "grpc_port": 0} | {name: taken.getsockname()[1]}
        with pytest.raises(StartError, match=f"cannot listen on 127.0.0.1:{ports[name]}: .*in use.*{flag}"):
            Commander(Settings(models_dir=tmp_path, workers=2, **ports), LoadsHere())


def test_ports_of_a_commander_are_its_own_before_a_worker_runs(settings):
    """A second server on either port is refused, and both are announced."""
    commander = Commander(settings, LoadsHere())
    try:
        for name, address in (("rest_port", commander.addresses.rest), ("grpc_port", commander.addresses.grpc)):
            ports = {"rest_port": 0, "grpc_port": 0} | {name: int(address.rpartition(":")[2])}
            with pytest.raises(StartError, match="in use"):
                Commander(Settings(models_dir=settings.models_dir, workers=2, **ports), LoadsHere())
    finally:
        assert commander.stop(0.0)


def test_server_whose_workers_cannot_be_kept_gives_up_and_says_why(settings, monkeypatch):
    """Workers that end as soon as they start are replaced a few times; then the run is over, with a sentence."""
    monkeypatch.setattr(worker_process, "_PROGRAM", FAILING)
    monkeypatch.setattr(patience, "FIRST_PAUSE_SECONDS", 0.001)
    commander, printed = Commander(settings, LoadsHere()), []
    before = signal.getsignal(signal.SIGTERM)
    Supervisor(commander, printed.append).run()
    assert "no worker can be kept: the last one ended with 3 after 0.0 s" == commander.lost()
    assert [] == printed
    assert before is signal.getsignal(signal.SIGTERM)
    assert patience.MOST_FAILURES <= commander._tally._endings["exit"]
