"""HTTP/1.1 by hand: a request as bytes, sent over a connection that is kept alive, and the answer to it."""

import socket


class Connection:
    """One connection at a time; another one is opened where the server closed the last.

    Args:
        address: host and port.
        timeout_seconds: of every wait.
    """

    def __init__(self, address, timeout_seconds=30.0):
        host, _, port = address.rpartition(":")
        self.address = (host, int(port))
        self.timeout_seconds = timeout_seconds
        self.num_opened = 0
        self.stream = None

    def __enter__(self):
        return self

    def __exit__(self, *_error):
        self.close()

    def close(self):
        """Close what is open."""
        if self.stream is not None:
            self.stream.close()
            self.stream = None

    def ask(self, path, headers, body):
        """Send a POST; return status, headers by lower-case name, body."""
        lines = [f"POST {path} HTTP/1.1", "Host: localhost", f"Content-Length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        data = "\r\n".join([*lines, "", ""]).encode("latin-1") + body
        if self.stream is None:
            sock = socket.create_connection(self.address, self.timeout_seconds)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.stream = sock.makefile("rwb", buffering=1 << 16)
            sock.close()  # the file holds it open
            self.num_opened += 1
        self.stream.write(data)
        self.stream.flush()
        return self._answer()

    def _answer(self):
        status = int(self.stream.readline().split(b" ", 2)[1])
        headers = {}
        while line := self.stream.readline().strip():
            name, _, value = line.decode("latin-1").partition(":")
            headers[name.lower()] = value.strip()
        body = self.stream.read(int(headers["content-length"]))
        if headers.get("connection", "").lower() == "close":
            self.close()
        return status, headers, body
