"""A client that speaks HTTP/2 by its frames, so that it can do what no gRPC library does."""

import socket
import struct

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY = 0, 1, 3, 4, 6, 7
END_STREAM, ACK, END_HEADERS = 1, 1, 4
CANCEL = struct.pack(">I", 8)


def frame(kind, flags, stream, payload=b""):
    """Return one frame."""
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def head(path):
    """Return the header block of a gRPC call: literals and entries of the static table, no Huffman code."""
    block = b"\x83\x86" + b"\x04" + _text(path) + b"\x01" + _text("localhost")
    return (
        block + b"\x00" + _text("content-type") + _text("application/grpc") + b"\x00" + _text("te") + _text("trailers")
    )


def _text(text):
    return bytes([len(text)]) + text.encode()


class Http2Client:
    """One connection; streams are numbered as they are opened.

    Args:
        address: host and port.
        timeout_seconds: of every wait.
    """

    def __init__(self, address, timeout_seconds=20.0):
        host, _, port = address.rpartition(":")
        self.socket = socket.create_connection((host, int(port)), timeout_seconds)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.stream = -1
        self.buffer = b""
        self.went_away = False
        self.socket.sendall(PREFACE + frame(SETTINGS, 0, 0))

    def __enter__(self):
        return self

    def __exit__(self, *_error):
        self.socket.close()

    def open(self, path, *more):
        """Return the bytes that open the next stream, each of `more` being (kind, flags, payload) on it."""
        self.stream += 2
        frames = frame(HEADERS, END_HEADERS, self.stream, head(path))
        return frames + b"".join(frame(kind, flags, self.stream, payload) for kind, flags, payload in more)

    def send(self, data):
        """Send bytes, and answer what has come meanwhile: settings and pings."""
        self.socket.sendall(data)
        self.receive(0.0)

    def receive(self, timeout_seconds):
        """Return the frames that have come, as (kind, flags, stream, payload); None once the server has closed."""
        timeout = self.socket.gettimeout()
        self.socket.settimeout(max(timeout_seconds, 1e-6))
        try:
            data = self.socket.recv(1 << 20)
            if not data:
                return None
            self.buffer += data
        except TimeoutError:
            pass
        finally:
            self.socket.settimeout(timeout)
        return list(self._frames())

    def _frames(self):
        while len(self.buffer) >= 9:
            size = int.from_bytes(self.buffer[:3], "big")
            if len(self.buffer) < 9 + size:
                return
            kind, flags, stream = struct.unpack(">BBI", self.buffer[3:9])
            payload, self.buffer = self.buffer[9 : 9 + size], self.buffer[9 + size :]
            if kind in (SETTINGS, PING) and not flags & ACK:
                self.socket.sendall(frame(kind, ACK, 0, payload if kind == PING else b""))
            self.went_away |= kind == GOAWAY
            yield kind, flags, stream, payload
