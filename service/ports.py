"""The two ports: bound before anything else is done, for ourselves alone, with a sentence where that cannot be.

Above: `worker`, which serves on them alone, and `fleet`, whose workers share them. Below: `settings`.

Several processes on one port: REST has one socket that listens, of which every worker accepts. What a dead worker had
not accepted is accepted by another, and another server cannot listen beside us. gRPC makes its sockets itself, each
worker one, with SO_REUSEPORT; a process that does not ask for that, and one of another user, is kept away by them. The
socket of `hold` keeps the place for them: it was bound first, alone, and never listens.
"""

import dataclasses
import socket

from service.settings import Settings

_BACKLOG = 1024


class StartError(Exception):
    """The server cannot start; the text says what to do and is all that a person needs to read."""


@dataclasses.dataclass(frozen=True)
class Addresses:
    """Where the two protocols are bound: `host:port`, the port being the one that was got where 0 was asked for."""

    rest: str
    grpc: str


def listen(settings: Settings) -> socket.socket:
    """Return the socket of REST, which listens: connections that come wait in it until somebody accepts them.

    Raises:
        OSError: the address cannot be listened on.
    """
    # "::" is every address, as it is for gRPC: of IPv4 too.
    takes_both = settings.host == "::" and socket.has_dualstack_ipv6()
    return socket.create_server(
        (settings.host, settings.rest_port), family=_family(settings), backlog=_BACKLOG, dualstack_ipv6=takes_both
    )


def bind_rest(settings: Settings) -> socket.socket:
    """Return what `listen` returns.

    Raises:
        StartError: the address cannot be listened on.
    """
    try:
        return listen(settings)
    except OSError as error:
        raise cannot_listen("--rest-port", settings.host, settings.rest_port, error) from error


def check_free(settings: Settings) -> None:
    """Try the gRPC port with a plain socket first: gRPC's own complaint is five lines of its internals.

    Raises:
        StartError: the address cannot be listened on.
    """
    if settings.grpc_port == 0:
        return
    try:
        socket.create_server((settings.host, settings.grpc_port), family=_family(settings)).close()
    except OSError as error:
        raise cannot_listen("--grpc-port", settings.host, settings.grpc_port, error) from error


def hold(settings: Settings) -> socket.socket:
    """Return a socket that holds the gRPC port for processes of ours, which then bind it with SO_REUSEPORT.

    Bound as a server is that shares its port with nobody, so that a port in use is refused, a port that a server left
    a moment ago is not, and of two servers that start at once one has it. Only then may others share it.

    Raises:
        StartError: the address cannot be bound.
    """
    held = socket.socket(_family(settings), socket.SOCK_STREAM)
    try:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind((settings.host, settings.grpc_port))
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)  # else a second one could be bound beside it
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    except OSError as error:
        held.close()
        raise cannot_listen("--grpc-port", settings.host, settings.grpc_port, error) from error
    return held


def cannot_listen(flag: str, host: str, port: int, error: Exception) -> StartError:
    """Return the error that says which address cannot be had, why, and what to do."""
    why = (error.strerror or str(error)) if isinstance(error, OSError) else "the address cannot be bound"
    return StartError(
        f"cannot listen on {address(host, port)}: {why}. "
        f"Stop the server that uses it, or choose another with {flag} (0: any free one)."
    )


def address(host: str, port: int) -> str:
    """Return `host:port`, an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _family(settings: Settings) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in settings.host else socket.AF_INET
