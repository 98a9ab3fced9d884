"""Whoever sends too much, too slowly, without a token or for other files is told so, no more."""

import os
import socket
import time

import pytest
from clips import moving_square, write_clip
from serve.serve_fakes import ask, httpx, make_server, running

from vidcomp.pipelines.serve.library import Library
from vidcomp.pipelines.serve.limits import Limits, RefusedError

TOKEN = "a-token-of-many-letters"


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("clip") / "square.mp4", moving_square(8))


@pytest.fixture(scope="module")
def folder(tmp_path_factory, clip):
    """A folder of videos beside a secret, with links to it."""
    root = tmp_path_factory.mktemp("root")
    inside = root / "videos"
    (inside / "deep").mkdir(parents=True)
    (inside / "deep" / "one.mp4").write_bytes(clip.read_bytes())
    (root / "secret.mp4").write_bytes(clip.read_bytes())
    (inside / "link.mp4").symlink_to(root / "secret.mp4")
    (inside / "out").symlink_to(root)
    (inside / "near.mp4").symlink_to(inside / "deep" / "one.mp4")
    (inside / "loop.mp4").symlink_to(inside / "loop.mp4")
    os.mkfifo(inside / "pipe.mp4")
    return inside


TRICKS = [
    "../secret.mp4",
    "deep/../../secret.mp4",
    "/etc/passwd",
    "link.mp4",
    "out/secret.mp4",
    "loop.mp4",
    "pipe.mp4",
    "deep",
    ".",
    "",
    "..",
    "deep//../one.mp4",
    "./deep/one.mp4",
    "..\\secret.mp4",
    "deep/one.mp4\0",
    "file-000000000000000000000000",
    "file-../../etc/passwd",
    "a" * 5000,
    "%2e%2e/secret.mp4",
]


def test_no_name_leads_out_of_the_folder(tmp_path, folder):
    library = Library(tmp_path / "uploads", folder, Limits())
    for name in TRICKS:
        with pytest.raises(RefusedError) as refused:
            library.find(name)
        assert refused.value.status == 404
    assert library.find("deep/one.mp4").name == "one.mp4"
    assert library.find("near.mp4").path == (folder / "deep" / "one.mp4").resolve()
    assert [one.id for one in library] == ["deep/one.mp4", "near.mp4"]
    nowhere = Library(tmp_path / "uploads", None, Limits())
    with pytest.raises(RefusedError):
        nowhere.find("deep/one.mp4")


def test_no_path_of_a_request_leads_out_of_the_folder(tmp_path, folder):
    with running(make_server(tmp_path, videos=folder)) as url, httpx.Client(base_url=url) as client:
        for name in TRICKS:
            if name:
                answer = client.post("/v1/chat/completions", json=ask("?", name))
                assert answer.status_code == (404 if len(name) < 4096 else 400), name[:50]
        host, port = url.removeprefix("http://").split(":")
        for path in (
            "../secret.mp4",
            "..%2fsecret.mp4",
            "%2e%2e/secret.mp4",
            "/etc/passwd",
            "link.mp4",
            "out/secret.mp4",
            "%2Fetc%2Fpasswd",
            "deep/one.mp4%00",
        ):
            with socket.create_connection((host, int(port)), timeout=10) as raw:
                asked = f"GET /v1/files/{path}/content HTTP/1.1\r\nHost: {host}:{port}\r\n"
                raw.sendall(f"{asked}Connection: close\r\n\r\n".encode())
                assert b" 404 " in raw.recv(100), path
        good = client.get("/v1/files/deep/one.mp4/content")
        assert good.status_code == 200
        assert good.headers["content-disposition"].startswith("attachment")
        part = client.get("/v1/files/deep/one.mp4/content", headers={"range": "bytes=0-9"})
        assert (part.status_code, len(part.content)) == (206, 10)
        assert client.get("/v1/files/deep/one.mp4").json()["filename"] == "one.mp4"
        assert client.delete("/v1/files/near.mp4").status_code == 404


def test_only_videos_are_kept(tmp_path, clip):
    server = make_server(tmp_path)
    whole = clip.read_bytes()
    with running(server) as url, httpx.Client(base_url=url, timeout=60) as client:
        for name, body in {
            "text.mp4": b"hello",
            "empty.mp4": b"",
            "cut.mp4": whole[: len(whole) // 20],
            "noise.webm": os.urandom(5000),
            "page.html": b"<script>alert(1)</script>",
        }.items():
            answer = client.post("/v1/files", files={"file": (name, body)})
            assert answer.status_code == 400, name
            assert answer.json()["error"]["code"] == "invalid_file"
        assert list((tmp_path / "uploads").iterdir()) == []
        made = client.post("/v1/files", files={"file": ("../../x/évil<b>\n.MP4", whole)}).json()
        assert "/" not in made["filename"]
        assert "\n" not in made["filename"]
        names = sorted(path.name for path in (tmp_path / "uploads").iterdir())
        assert names == [f"{made['id']}.json", f"{made['id']}.mp4"]


def test_forms_that_are_none_are_refused(tmp_path):
    kind = {"content-type": "multipart/form-data; boundary=x"}
    with running(make_server(tmp_path)) as url, httpx.Client(base_url=url) as client:
        for headers, body in [
            ({}, b"hello"),
            ({"content-type": "multipart/form-data"}, b"--x\r\n"),
            (kind, b""),
            (kind, b"--y\r\n"),
            (kind, b"--x\r\nno header\r\n\r\n"),
            (kind, b'--x\r\ncontent-disposition: form-data; name="file"\r\n\r\ntext\r\n--x--'),
            (kind, b'--x\r\ncontent-disposition: form-data; name="file"; filename="a"\r\n\r\n'),
            (kind, b"\x00" * 4000),
        ]:
            answer = client.post("/v1/files", headers=headers, content=body)
            assert answer.status_code == 400, body[:40]
            assert answer.json()["error"]["message"]
        twice = [("file", ("a.mp4", b"a")), ("file", ("b.mp4", b"b"))]
        assert client.post("/v1/files", files=twice).status_code == 400
        assert list((tmp_path / "uploads").iterdir()) == []


def test_too_large_bodies_are_cut_off(tmp_path, clip):
    limits = Limits(body_bytes=1000, upload_bytes=20_000, stored_bytes=30_000)
    server = make_server(tmp_path, limits=limits, check=lambda path: None)
    with running(server) as url, httpx.Client(base_url=url) as client:

        def endless(pieces):
            for _ in range(pieces):
                yield b"x" * 1000

        for body in (b"x" * 2000, endless(100)):
            answer = client.post("/v1/chat/completions", content=body)
            assert answer.status_code == 413
        head = b'--x\r\ncontent-disposition: form-data; name="file"; filename="a.mp4"\r\n\r\n'

        def form(pieces):
            yield head
            yield from endless(pieces)
            yield b"\r\n--x--\r\n"

        kind = {"content-type": "multipart/form-data; boundary=x"}
        for pieces in (21, 200):
            answer = client.post("/v1/files", headers=kind, content=form(pieces))
            assert answer.status_code == 413, pieces
        assert list((tmp_path / "uploads").iterdir()) == []
        first = client.post("/v1/files", headers=kind, content=form(18))
        assert first.status_code == 200
        full = client.post("/v1/files", headers=kind, content=form(18))
        assert (full.status_code, full.json()["error"]["code"]) == (413, "storage_full")
        client.delete(f"/v1/files/{first.json()['id']}")
        assert client.post("/v1/files", headers=kind, content=form(18)).status_code == 200


def test_whoever_sends_nothing_is_let_go(tmp_path):
    server = make_server(tmp_path, limits=Limits(idle_s=0.3))
    with running(server) as url, httpx.Client(base_url=url) as client:
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=10) as raw:
            head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}:{port}\r\n"
            raw.sendall(f"{head}Content-Length: 100\r\n\r\n{{".encode())
            started_s = time.monotonic()
            assert b" 408 " in raw.recv(100)
            assert time.monotonic() - started_s < 5
        assert client.get("/health").status_code == 200


def test_without_the_token_nothing_is_told(tmp_path):
    server = make_server(tmp_path, token=TOKEN)
    with running(server) as url, httpx.Client(base_url=url) as client:
        for header in (
            "",
            TOKEN,
            f"Basic {TOKEN}",
            "Bearer",
            f"Bearer {TOKEN}x",
            f"Bearer {TOKEN[:-1]}",
            "Bearer \xff\xfe",
        ):
            headers = {"authorization": header.encode("latin-1")} if header else {}
            for path in (
                "/v1/models",
                "/v1/files",
                "/v1/files/x/content",
                "/v1/maps/x/0",
                "/nothing",
            ):
                answer = client.get(path, headers=headers)
                assert answer.status_code == 401, (header, path)
                assert answer.headers["www-authenticate"] == "Bearer"
            answer = client.post("/v1/chat/completions", json=ask(), headers=headers)
            assert answer.status_code == 401
        right = {"authorization": f"bearer {TOKEN}"}
        assert client.post("/v1/chat/completions", json=ask(), headers=right).status_code == 200
        assert client.get("/").status_code == 200
        assert client.get("/health").json()["needs_token"]


def test_pages_of_others_cannot_ask(tmp_path):
    server = make_server(tmp_path, hosts=frozenset({"127.0.0.1", "::1"}))
    with running(server) as url, httpx.Client(base_url=url) as client:
        assert client.get("/v1/models", headers={"host": "evil.example"}).status_code == 421
        assert (
            client.get("/v1/models", headers={"host": "127.0.0.1.evil.example"}).status_code == 421
        )
        assert client.get("/v1/models", headers={"host": "[::1]:80"}).status_code == 200
        away = client.post(
            "/v1/chat/completions", json=ask(), headers={"origin": "http://evil.example"}
        )
        assert away.status_code == 403
        assert "access-control-allow-origin" not in away.headers
        assert client.get("/v1/models", headers={"origin": "null"}).status_code == 403
        assert client.get("/v1/models", headers={"origin": url}).status_code == 200


def test_the_page_runs_only_its_own_script(tmp_path):
    with running(make_server(tmp_path)) as url, httpx.Client(base_url=url) as client:
        page = client.get("/")
        policy = page.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "script-src 'sha256-" in policy
        assert "http://" not in page.text
        assert "https://" not in page.text
        assert "innerHTML" not in page.text
