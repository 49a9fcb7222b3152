"""Servers as processes of their own, on the shipped models or on others, ended whatever happens."""

import pytest

from tests.end_to_end.server_process import ROOT, ServerProcess

START_SECONDS = 60.0


@pytest.fixture(scope="module")
def start_server(wait_until):
    """Return a function that starts a server with these flags, waits until it is ready and returns its process.

    Without a folder of models it serves the shipped ones, `colours` by default.
    """
    servers = []

    def start(*flags, models_dir=None):
        usual = ("--default-model", "colours") if models_dir is None else ()
        servers.append(ServerProcess(models_dir or ROOT / "models", *usual, *flags))
        wait_until(servers[-1].is_ready, START_SECONDS)
        return servers[-1]

    yield start
    for server in servers:
        server.kill()


def errors_of(server):
    """Return the lines of a server's log that tell of an error, and those that are no JSON."""
    return [line for line in server.lines if '"level":"error"' in line.replace(" ", "") or not line.startswith("{")]


def address_of(server):
    """Return host and port of a server's REST."""
    host, _, port = server.address("rest").rpartition(":")
    return host, int(port)
