"""Sources that send a video little by little: a file that is written, a pipe, servers."""

import os
import socket
import threading
import time
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

__all__ = ["broadcast", "grows", "piped", "sends"]

_STEP = 50
"""Pieces in which something is sent."""


def _pieces(data):
    size = -(-len(data) // _STEP)
    return [data[i : i + size] for i in range(0, len(data), size)]


@contextmanager
def _running(work):
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    yield thread
    thread.join(timeout=20)
    assert not thread.is_alive()


def grows(path, data, seconds, *, first=0, pause_at=1.0, until=lambda: True):
    """Writes ``data`` to a file within so many seconds.

    Args:
        path: of the file, made anew.
        data: its bytes.
        seconds: time it takes.
        first: bytes that are there at once.
        pause_at: share after which nothing is written ...
        until: ... until this is true.
    """
    path.write_bytes(data[:first])
    pieces = _pieces(data[first:])

    def write():
        with path.open("ab", buffering=0) as file:
            for number, piece in enumerate(pieces):
                while number >= pause_at * len(pieces) and not until():
                    time.sleep(0.05)
                file.write(piece)
                time.sleep(seconds / _STEP)

    return _running(write)


def piped(path, data, seconds=0.0):
    """Writes ``data`` to a new named pipe once somebody reads it."""
    os.mkfifo(path)

    def write():
        with path.open("wb", buffering=0) as pipe:
            for piece in _pieces(data):
                pipe.write(piece)
                time.sleep(seconds / _STEP)

    return _running(write)


@contextmanager
def sends(*parts, linger_s=0.0, seconds=0.0):
    """An address that sends one part to each caller in turn, then closes; nobody is there after
    the last part.
    """
    server = socket.create_server(("127.0.0.1", 0))
    server.settimeout(20)

    def serve():
        with server:
            for data in parts:
                caller, _ = server.accept()
                with caller:
                    for piece in _pieces(data):
                        caller.sendall(piece)
                        time.sleep(seconds / _STEP)
                    if linger_s:  # or until the caller has gone
                        caller.settimeout(linger_s)
                        with suppress(OSError):
                            caller.recv(1)

    with _running(serve):
        yield f"tcp://127.0.0.1:{server.getsockname()[1]}"


@contextmanager
def broadcast(data, *, chunked):
    """The address of a web server that sends a video in chunks, or with its length."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Type", "video/mp2t")
            if chunked:
                self.send_header("Transfer-Encoding", "chunked")
            else:
                self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            for piece in _pieces(data):
                self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece) if chunked else piece)
            if chunked:
                self.wfile.write(b"0\r\n\r\n")

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/live.ts"
    finally:
        server.shutdown()
        server.server_close()
