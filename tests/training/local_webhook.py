"""A server on the loopback interface that takes what a job tells, in every way in which one may."""

import http.server
import json
import socketserver
import threading
from contextlib import contextmanager


@contextmanager
def webhook(statuses=(200,), headers=()):
    """Run a server that answers its n-th request with the n-th status, or the last one; give address and requests.

    Each request is its path, its headers and its JSON.
    """
    taken = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            taken.append((self.path, dict(self.headers), json.loads(body)))
            self.send_response(statuses[min(len(taken), len(statuses)) - 1])
            for name, value in headers:
                self.send_header(name, value)
            self.end_headers()

        def log_message(self, *_):
            """Say nothing."""

    with _running(http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as port:
        yield f"http://127.0.0.1:{port}", taken


@contextmanager
def hanging(first_words=b"", drop=b"", *, hangs_up=False):
    """Run a server that takes every connection and never ends an answer; give its address and the connections.

    It says `first_words`, and then `drop` every 20 ms, unless it hangs up.
    """
    over = threading.Event()
    connections = []

    class Handler(socketserver.BaseRequestHandler):
        def handle(self):
            connections.append(self.client_address)
            try:
                self.request.sendall(first_words)
                while not hangs_up and not over.wait(0.02):
                    self.request.sendall(drop)
            except OSError:
                return

    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
    with _running(server) as port:
        try:
            yield f"http://127.0.0.1:{port}", connections
        finally:
            over.set()


@contextmanager
def _running(server):
    """Serve on a thread and end it; give the port."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
