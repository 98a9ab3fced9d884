"""A real S3 server in its own process, and a proxy that counts and spoils the requests to it."""

import http.client
import os
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.request
import uuid
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

from store_builders import write

from vidcomp.store.remote import ObjectStorage

KEYS = {"access_key_id": "test", "secret_access_key": "test", "region": "us-east-1"}

_SERVE = """
import logging, sys, threading
from moto.server import ThreadedMotoServer
logging.getLogger("werkzeug").setLevel(logging.ERROR)
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()  # until the parent is gone
"""


class S3Server:
    """moto's server; stopped when this process ends or ``stop`` is called."""

    def __init__(self) -> None:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("AWS_")}
        self._process = subprocess.Popen(
            [sys.executable, "-c", _SERVE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            text=True,
        )
        assert self._process.stdout is not None
        self.port = int(self._process.stdout.readline())
        self.endpoint = f"http://127.0.0.1:{self.port}"

    def environment(self, state: Path) -> dict[str, str]:
        """Variables by which users name this server, and the folder of their commits' staging."""
        return {
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": self.endpoint,
            "XDG_STATE_HOME": str(state),
        }

    def request(self, method: str, path: str, body: bytes | None = None) -> bytes:
        request = urllib.request.Request(self.endpoint + path, data=body, method=method)
        request.add_header("Content-Type", "text/plain")
        request.add_header("Authorization", "AWS4-HMAC-SHA256 Credential=test/x/us-east-1/s3/x")
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.read()

    def make_bucket(self, name: str) -> str:
        self.request("PUT", f"/{name}")
        return name

    @contextmanager
    def strict(self) -> Iterator[None]:
        """Check keys and signatures as AWS does; otherwise all are taken."""
        self.request("POST", "/moto-api/reset-auth", b"0")
        try:
            yield
        finally:
            self.request("POST", "/moto-api/reset-auth", b"1000000000")

    def stop(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()


Kind = Literal[
    "status",  # answer with a status, the server sees nothing
    "lose answer",  # the server acts, the client hears nothing
    "hang",  # the client waits for ever
    "cut answer",  # the answer breaks off after some bytes of its body
    "cut request",  # the request breaks off after some bytes of its body
]


@dataclass
class Fault:
    """What befalls the next ``times`` requests of a method whose path holds ``part``."""

    kind: Kind
    method: str
    part: str = ""
    times: int = 1
    status: int = 500
    code: str = "InternalError"
    after: int = 1000
    seconds: float = 20.0
    hits: int = 0
    done: threading.Event = field(default_factory=threading.Event)


@dataclass(frozen=True)
class Seen:
    method: str
    path: str
    bytes_range: str | None


class Proxy:
    """Passes requests on to a server; lists them, and spoils those that are asked for."""

    def __init__(self, port: int) -> None:
        self.seen: list[Seen] = []
        self.faults: list[Fault] = []
        self.delay_s = 0.0
        self.at_once = self.most_at_once = 0
        self._lock = threading.Lock()
        self._closing = threading.Event()
        handler = type("Handler", (_Handler,), {"proxy": self, "upstream": port})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self._server.block_on_close = False
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"

    def stop(self) -> None:
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def spoil(self, kind: Kind, method: str, part: str = "", **more: object) -> Fault:
        fault = Fault(kind, method, part, **more)  # type: ignore[arg-type]
        self.faults.append(fault)
        return fault

    def clear(self) -> None:
        self.seen.clear()
        self.faults.clear()
        self.delay_s = 0.0
        self.most_at_once = 0

    def count(self, method: str | None = None, part: str = "") -> int:
        return sum(part in s.path and method in (None, s.method) for s in list(self.seen))

    def note(self, method: str, path: str, bytes_range: str | None) -> Fault | None:
        with self._lock:
            self.seen.append(Seen(method, path, bytes_range))
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
            for fault in self.faults:
                if fault.method == method and fault.part in path and fault.hits < fault.times:
                    fault.hits += 1
                    return fault
        return None

    def end(self) -> None:
        with self._lock:
            self.at_once -= 1

    def wait(self, seconds: float) -> None:
        self._closing.wait(seconds)


class _Handler(BaseHTTPRequestHandler):
    proxy: Proxy
    upstream: int
    protocol_version = "HTTP/1.1"

    def handle_any(self) -> None:
        fault = self.proxy.note(self.command, self.path, self.headers.get("Range"))
        try:
            time.sleep(self.proxy.delay_s)
            self._pass_on(fault)
        except (ConnectionError, http.client.HTTPException, TimeoutError):
            self.close_connection = True  # a client that gave up, or a cut
        finally:
            self.proxy.end()
            if fault:
                fault.done.set()

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = handle_any  # noqa: N815

    def log_message(self, *_: object) -> None: ...

    def handle(self) -> None:
        with suppress(ConnectionError):
            super().handle()

    def finish(self) -> None:
        with suppress(ConnectionError, ValueError):
            super().finish()

    def _pass_on(self, fault: Fault | None) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        if fault and fault.kind == "cut request":
            self.rfile.read(min(fault.after, length))
            self._forward_torn(length, fault.after)
            return self._break()
        body = self.rfile.read(length)
        if fault and fault.kind == "status":
            return self._answer(fault)
        if fault and fault.kind == "hang":
            self.proxy.wait(fault.seconds)
            return self._break()
        status, reason, headers, data = self._forward(body)
        if fault and fault.kind == "lose answer":
            return self._break()
        self.send_response_only(status, reason)
        for name, value in headers:
            if name.lower() not in ("connection", "transfer-encoding", "content-length"):
                self.send_header(name, value)
        declared = next((v for n, v in headers if n.lower() == "content-length"), str(len(data)))
        self.send_header("Content-Length", declared)
        self.end_headers()
        if fault and fault.kind == "cut answer":
            self.wfile.write(data[: fault.after])
            self.wfile.flush()
            return self._break()
        if self.command != "HEAD":
            self.wfile.write(data)
        return None

    def _forward(self, body: bytes) -> tuple[int, str, list[tuple[str, str]], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.upstream, timeout=60)
        try:
            connection.putrequest(
                self.command, self.path, skip_host=True, skip_accept_encoding=True
            )
            for name, value in self.headers.items():
                if name.lower() not in ("connection", "expect"):
                    connection.putheader(name, value)
            connection.endheaders(body)
            answer = connection.getresponse()
            return answer.status, answer.reason, answer.getheaders(), answer.read()
        finally:
            connection.close()

    def _forward_torn(self, length: int, after: int) -> None:
        """Send the server less than was announced, then hang up."""
        with socket.create_connection(("127.0.0.1", self.upstream), 10) as raw:
            lines = [f"{self.command} {self.path} HTTP/1.1"]
            lines += [f"{name}: {value}" for name, value in self.headers.items()]
            raw.sendall(("\r\n".join(lines) + "\r\n\r\n").encode() + b"x" * min(after, length))

    def _answer(self, fault: Fault) -> None:
        data = f"<Error><Code>{fault.code}</Code><Message>asked for</Message></Error>".encode()
        self.send_response_only(fault.status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _break(self) -> None:
        """Reset the connection: no orderly end that could be taken for a short answer."""
        self.wfile.flush()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True


def keys_of(server: S3Server, bucket: str) -> list[str]:
    """All object names of a bucket."""
    found: list[str] = []
    token = ""
    while True:
        page = ET.fromstring(server.request("GET", f"/{bucket}?list-type=2{token}"))
        names = {one.tag.rsplit("}", 1)[-1]: one for one in page}
        found += [
            item.text or ""
            for one in page
            if one.tag.endswith("Contents")
            for item in one
            if item.tag.endswith("Key")
        ]
        following = names.get("NextContinuationToken")
        if following is None or not following.text:
            return found
        token = f"&continuation-token={quote(following.text)}"


def uploads_of(server: S3Server, bucket: str) -> int:
    """Uploads in parts that were begun and not ended."""
    return server.request("GET", f"/{bucket}?uploads").count(b"<UploadId>")


@dataclass(frozen=True)
class Remote:
    """A bucket of its own behind the proxy, and staging of its own."""

    server: S3Server
    proxy: Proxy
    bucket: str
    folder: Path

    @property
    def url(self) -> str:
        return f"s3://{self.bucket}/cache"

    def storage(self, url: str | None = None, **settings: Any) -> ObjectStorage:
        """Through the proxy; quick to give up, so that tests end."""
        said = settings.pop("client_options", {})
        settings.setdefault("staging", self.folder / "staging")
        settings.setdefault("retry_s", 10.0)
        options = {**KEYS, "endpoint": self.proxy.endpoint, "read_timeout": "2s", **said}
        return ObjectStorage(url or self.url, client_options=options, **settings)

    def objects(self) -> list[str]:
        return keys_of(self.server, self.bucket)

    def fill(self, videos: dict[str, Any]) -> None:
        """A store, written to a folder and copied as it is: quicker, and what users may do."""
        folder = write(self.folder / uuid.uuid4().hex, videos)
        for path in sorted(folder.rglob("*.*")):
            self.put(f"cache/{path.relative_to(folder).as_posix()}", path.read_bytes())

    def put(self, key: str, data: bytes) -> None:
        """Past the proxy."""
        self.server.request("PUT", f"/{self.bucket}/{key}", data)

    def get(self, key: str) -> bytes:
        """Past the proxy."""
        return self.server.request("GET", f"/{self.bucket}/{key}")

    def only(self, folder: str) -> str:
        """The key of the one object in a folder of the store."""
        (key,) = [k for k in self.objects() if k.startswith(f"cache/{folder}/")]
        return key
