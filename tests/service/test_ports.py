"""Ports that are bound for one server alone, and may then be shared by its own processes."""

import socket

import pytest

from service import ports
from service.ports import StartError
from service.settings import Settings


@pytest.fixture
def held():
    """Return a held port."""
    with ports.hold(Settings(grpc_port=0)) as held:
        yield held


def bound_again(port):
    """Return a socket that shares a port, as gRPC's do."""
    again = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    again.bind(("127.0.0.1", port))
    again.listen()
    return again


def test_held_port_is_shared_by_those_who_say_so(held):
    """Two sockets of ours listen on it, and connections reach them, none the one that holds."""
    port = held.getsockname()[1]
    with bound_again(port) as first, bound_again(port) as second:
        for each in (first, second):
            each.setblocking(False)
        taken = 0
        for _ in range(20):
            with socket.create_connection(("127.0.0.1", port), timeout=5):
                for each in (first, second):
                    try:
                        each.accept()[0].close()
                        taken += 1
                    except BlockingIOError:
                        continue
    assert 20 == taken


def test_held_port_is_in_use_for_everybody_else(held):
    """Neither a second server of several workers nor one of a lone worker gets it: a sentence with the flag."""
    settings = Settings(grpc_port=held.getsockname()[1])
    with pytest.raises(StartError, match=r"in use.*--grpc-port"):
        ports.hold(settings)
    with pytest.raises(StartError, match=r"in use.*--grpc-port"):
        ports.check_free(settings)


def test_port_that_another_server_listens_on_cannot_be_held():
    """A listening socket is found, whether or not it would share the port."""
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(StartError, match="in use"):
        ports.hold(Settings(grpc_port=taken.getsockname()[1]))
    with socket.socket() as sharing:
        sharing.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sharing.bind(("127.0.0.1", 0))
        sharing.listen()
        with pytest.raises(StartError, match="in use"):
            ports.hold(Settings(grpc_port=sharing.getsockname()[1]))


def test_port_that_a_server_left_a_moment_ago_can_be_held():
    """Connections that linger in the system keep no server from starting again."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as client:
            accepted, _ = server.accept()
            accepted.close()  # first, so that its end lingers
            assert b"" == client.recv(1)
    ports.hold(Settings(grpc_port=port)).close()


def test_address_of_another_machine_is_told():
    """Both protocols say that the address cannot be had."""
    settings = Settings(host="192.0.2.1", rest_port=0, grpc_port=0)
    for bind in (ports.bind_rest, ports.hold):
        with pytest.raises(StartError, match=r"192\.0\.2\.1:0: .*[Cc]annot assign"):
            bind(settings)
