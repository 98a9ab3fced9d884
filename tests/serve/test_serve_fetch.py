"""Links are followed only where the server may, and never into its own network."""

import http.server
import threading

import pytest
from clips import moving_square, write_clip
from serve.serve_fakes import ask, httpx, make_server, running

from vidcomp.pipelines.serve import app as app_module
from vidcomp.pipelines.serve.fetch import fetch, is_public
from vidcomp.pipelines.serve.limits import Limits, RefusedError


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "127.8.8.8",
        "10.0.0.1",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",
        "255.255.255.255",
        "224.0.0.1",
        "::1",
        "::",
        "fe80::1",
        "fc00::1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "2002:7f00:1::",
    ],
)
def test_addresses_of_private_networks_are_known(address):
    assert not is_public(address)


def test_public_addresses_are_known():
    assert is_public("8.8.8.8")
    assert is_public("2606:4700:4700::1111")


@pytest.fixture(scope="module")
def web(tmp_path_factory):
    """A machine with a clip, a text, links that move, and an answer without end."""
    clip = write_clip(tmp_path_factory.mktemp("web") / "square.mp4", moving_square(8)).read_bytes()

    class Handler(http.server.BaseHTTPRequestHandler):
        asked: list[str] = []  # noqa: RUF012

        def do_GET(self):
            self.asked.append(self.path)
            name = self.path.strip("/")
            if name in ("moved", "round", "away", "file"):
                place = {
                    "moved": "/square.mp4",
                    "round": "/round",
                    "away": "http://169.254.169.254/latest",
                    "file": "file:///etc/passwd",
                }[name]
                self.send_response(302)
                self.send_header("location", place)
                self.end_headers()
                return
            body = {"square.mp4": clip, "text.mp4": b"hello"}.get(name)
            self.send_response(404 if body is None and name != "endless" else 200)
            self.end_headers()
            try:
                if name == "endless":
                    for _ in range(100_000):
                        self.wfile.write(b"x" * 10_000)
                elif body is not None:
                    self.wfile.write(body)
            except OSError:
                pass

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", Handler.asked, clip
    server.shutdown()
    server.server_close()
    thread.join()


def read(url, **settings):
    source, name = fetch(url, Limits(**settings), allowed=lambda address: address == "127.0.0.1")
    with source:
        parts = []
        while piece := source.read(1 << 16):
            parts.append(piece)
    return b"".join(parts), name


def test_a_video_is_fetched_where_it_moved(web):
    url, _, clip = web
    assert read(f"{url}/square.mp4") == (clip, "square.mp4")
    assert read(f"{url}/moved") == (clip, "square.mp4")


def test_what_is_no_file_of_another_machine_is_refused(web):
    url, asked, _ = web
    for wrong in (
        "/round",
        "/away",
        "/file",
        "/nothing",
    ):
        with pytest.raises(RefusedError, match="upload it instead"):
            read(url + wrong)
    for wrong in (
        "ftp://host/a",
        "http://",
        "http://[",
        "http://user:word@127.0.0.1/a",
        "http://h:99999/",
    ):
        with pytest.raises(RefusedError, match="upload it instead"):
            read(wrong)
    with pytest.raises(RefusedError, match="too large"):
        read(f"{url}/endless", upload_bytes=100_000)
    with pytest.raises(RefusedError, match="too long"):
        read(f"{url}/endless", fetch_s=0.1)
    before = len(asked)
    for name in ("127.0.0.1", "localhost", "0.0.0.0", "[::ffff:127.0.0.1]", "2130706433", "0x7f.1"):
        with pytest.raises(RefusedError, match=r"private|no address|no connection"):
            fetch(f"http://{name}:{url.rsplit(':', 1)[1]}/square.mp4", Limits())
    assert len(asked) == before


def test_links_need_the_server_s_leave(tmp_path, web, monkeypatch):
    url, asked, _ = web
    body = ask("?", f"{url}/square.mp4")
    before = len(asked)
    with running(make_server(tmp_path / "a")) as here, httpx.Client(base_url=here) as client:
        answer = client.post("/v1/chat/completions", json=body)
        assert answer.status_code == 400
        assert "--allow-fetch" in answer.json()["error"]["message"]
        for other in ("file:///etc/passwd", "data:video/mp4;base64,AAAA", "ftp://host/a.mp4"):
            assert client.post("/v1/chat/completions", json=ask("?", other)).status_code == 400
    server = make_server(tmp_path / "b", may_fetch=True)
    with running(server) as here, httpx.Client(base_url=here) as client:
        answer = client.post("/v1/chat/completions", json=body)
        assert "private" in answer.json()["error"]["message"]
        assert client.post("/v1/chat/completions", json=ask("?", "file:///a")).status_code == 400
    assert len(asked) == before
    monkeypatch.setattr(
        app_module, "fetch", lambda url, limits: fetch(url, limits, allowed=lambda _: True)
    )
    server = make_server(tmp_path / "c", may_fetch=True)
    with running(server) as here, httpx.Client(base_url=here, timeout=60) as client:
        for _ in range(2):
            assert client.post("/v1/chat/completions", json=body).status_code == 200
        wrong = client.post("/v1/chat/completions", json=ask("?", f"{url}/text.mp4"))
        assert wrong.status_code == 400
    assert asked[before:].count("/square.mp4") == 1
