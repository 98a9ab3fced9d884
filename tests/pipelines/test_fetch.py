"""Videos on object stores: listed, recognised, copied for the time they are read, and gone."""

import json
import os
import shutil
import threading
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from click.testing import CliRunner
from clips import moving_square, write_clip
from hypothesis import given
from hypothesis import strategies as st

from vidcomp.errors import ConfigError, DecodeError, MissingExtraError
from vidcomp.pipelines.cli import main
from vidcomp.pipelines.extraction import fetch
from vidcomp.pipelines.inputs import expand, source_id
from vidcomp.store import open_cache
from vidcomp.store.remote.client import ObjectInfo

SMALL = [
    *("--set", "encode.resize={mode: stretch, height: 56, width: 56}", "--budget", "20"),
    *("--workers", "2", "-q", "--json"),
]


@pytest.fixture(scope="module")
def server():
    pytest.importorskip("moto")
    pytest.importorskip("obstore")
    from s3_server import S3Server

    started = S3Server()
    yield started
    started.stop()


@pytest.fixture
def bucket(server, monkeypatch, tmp_path):
    """A new bucket, credentials as users have them, and a folder for copies that can be watched."""
    for name, value in server.environment(tmp_path / "state").items():
        monkeypatch.setenv(name, value)
    (tmp_path / "copies").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "copies"))
    return server.make_bucket(f"videos-{tmp_path.name.replace('_', '-').lower()[-40:]}")


def put(server, bucket, name, data):
    server.request("PUT", f"/{bucket}/{name}", data)


@pytest.fixture
def clip(tmp_path):
    return write_clip(tmp_path / "clip.mp4", moving_square(9)).read_bytes()


def extract(*args):
    done = CliRunner().invoke(main, ["extract", *map(str, args), *SMALL])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return SimpleNamespace(code=done.exit_code, err=done.stderr, **json.loads(done.stdout or "{}"))


def test_folders_patterns_and_single_objects_are_listed(server, bucket):
    names = ["a.mp4", "b.txt", "in/c.MKV", "in/deep/d e.mp4", "in/.hid.mp4", ".no/x.mp4", "in.mp4"]
    for name in names:
        put(server, bucket, name.replace(" ", "%20"), b"x")
    url = f"s3://{bucket}"

    def keys(text):
        return {item.key: item.path.removeprefix(url) for item in expand([text])}

    videos = {"a.mp4", "in.mp4", "in/c.MKV", "in/deep/d e.mp4"}
    assert keys(url) == keys(f"{url}/") == {name: f"/{name}" for name in videos}
    assert (
        keys(f"{url}/in/")
        == keys(f"{url}/in")
        == {
            "c.MKV": "/in/c.MKV",
            "deep/d e.mp4": "/in/deep/d e.mp4",
        }
    )
    assert keys(f"{url}/*.mp4") == {"a.mp4": "/a.mp4", "in.mp4": "/in.mp4"}
    assert set(keys(f"{url}/**/*.mp4")) == videos - {"in/c.MKV"}
    assert set(keys(f"{url}/in/*/[a-d]*.mp?")) == {"deep/d e.mp4"}
    assert keys(f"{url}/b.txt") == {f"{bucket}/b.txt": "/b.txt"}  # named explicitly
    assert keys(f"{url}/none.mp4") == {f"{bucket}/none.mp4": "/none.mp4"}  # its own error, later
    assert all(item.source is not None and item.source.size == 1 for item in expand([url]))
    with pytest.raises(ConfigError, match="no videos found"):
        expand([f"{url}/empty/"])
    with pytest.raises(ConfigError, match="no bucket 'nowhere'"):
        expand(["s3://nowhere/in/"])


@pytest.mark.parametrize("isolation", ["process", "thread"])
def test_objects_give_the_tokens_of_files_and_leave_nothing(
    server, bucket, clip, tmp_path, isolation
):
    for name in ("one.mp4", "two.mp4"):
        put(server, bucket, f"in/{name}", clip)
    put(server, bucket, "in/bad.mp4", b"no video at all" * 100)
    told = extract(
        *(f"s3://{bucket}/in/", f"s3://{bucket}/gone.mp4", "--out", tmp_path / "cache"),
        *("--isolation", isolation),
    )
    assert (told.code, told.done, told.failed) == (3, 2, 2)
    reasons = {failure["key"]: failure["error"] for failure in told.failures}
    assert f"s3://{bucket}/in/bad.mp4" in reasons["bad.mp4"]
    assert "no such object" in reasons[f"{bucket}/gone.mp4"]
    assert "/proc/" not in str(reasons)
    assert not list((tmp_path / "copies").iterdir())
    extract(tmp_path / "clip.mp4", "--out", tmp_path / "local", "--isolation", "thread")
    remote, local = open_cache(tmp_path / "cache"), open_cache(tmp_path / "local")
    assert torch.equal(remote["one.mp4"].tokens, local["clip.mp4"].tokens)
    assert remote.meta("one.mp4")["source"]["path"] == f"s3://{bucket}/in/one.mp4"


def test_an_object_that_is_replaced_is_made_anew(server, bucket, clip, tmp_path):
    put(server, bucket, "a.mp4", clip)
    put(server, bucket, "b.mp4", clip)
    out = ("--out", tmp_path / "cache", "--isolation", "thread")
    assert extract(f"s3://{bucket}/", *out).done == 2
    assert extract(f"s3://{bucket}/", *out).cached == 2
    other = write_clip(tmp_path / "other.mp4", moving_square(12, seed=3)).read_bytes()
    put(server, bucket, "a.mp4", other)
    told = extract(f"s3://{bucket}/", *out)
    assert (told.done, told.cached) == (1, 1)
    assert open_cache(tmp_path / "cache")["a.mp4"].grid.t == 12


class Client:
    """An object of ``size`` bytes, whose tag changes after ``until`` questions."""

    def __init__(self, size, until=99):
        self.data = os.urandom(size)
        self.until, self.asked, self.pieces = until, 0, []

    def info(self, name):
        self.asked += 1
        return ObjectInfo(len(self.data), "new" if self.asked > self.until else "old")

    def get_range(self, name, start, stop):
        self.pieces.append(stop - start)
        return memoryview(self.data)[start:stop]


@pytest.fixture
def client(monkeypatch):
    """``client(size)`` puts a made-up object behind every URL."""

    def put(*args, **kwargs):
        made = Client(*args, **kwargs)
        monkeypatch.setattr(fetch, "_client_of", lambda url: (made, "x"))
        monkeypatch.setattr(fetch, "_PIECE", 1000)
        return made

    return put


@pytest.mark.parametrize("nameless", [True, False])
def test_a_copy_is_whole_made_in_pieces_and_gone_afterwards(
    client, nameless, monkeypatch, tmp_path
):
    if not nameless:
        monkeypatch.setattr(fetch, "_nameless", lambda: None)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    made = client(3500)
    with fetch.fetched("s3://bucket/x.mp4") as place:
        assert Path(place).read_bytes() == made.data
        if nameless and hasattr(os, "O_TMPFILE"):
            assert not list(tmp_path.iterdir())
    assert not list(tmp_path.iterdir())
    assert not Path(place).exists() or not place.startswith(str(tmp_path))
    assert made.pieces == [1000, 1000, 1000, 500]
    with pytest.raises(RuntimeError), fetch.fetched("s3://bucket/x.mp4"):
        raise RuntimeError
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_copied_is_an_error_of_that_object(client, monkeypatch):
    client(3000, until=1)
    with pytest.raises(DecodeError, match="changed while"), fetch.fetched("s3://bucket/x.mp4"):
        pass
    made = client(3000)
    with (
        pytest.raises(DecodeError, match="not copied to its end"),
        fetch.fetched("s3://bucket/x.mp4", lambda: len(made.pieces) < 2),
    ):
        pass
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=2999))
    with pytest.raises(DecodeError, match="set TMPDIR"), fetch.fetched("s3://bucket/x.mp4"):
        pass


def test_a_url_without_its_package_names_the_extra(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    fetch._client.cache_clear()
    with (
        pytest.raises(MissingExtraError, match=r"vidcomp\[s3\]"),
        fetch.fetched("gs://bucket/x.mp4"),
    ):
        pass


class Web(BaseHTTPRequestHandler):
    def __init__(self, headers, asked, *args):
        self.said, self.asked = headers, asked
        super().__init__(*args)

    def do_HEAD(self):
        self.asked.append(self.path)
        if self.path == "/refused":
            self.send_error(403)
            return
        self.send_response(200)
        for name, value in self.said.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *args):
        pass


@pytest.fixture
def web():
    """A server with headers that can be changed; its address, them, and the paths asked for."""
    headers, asked = {"Content-Length": "5"}, []
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Web, headers, asked))
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield SimpleNamespace(
        url=f"http://127.0.0.1:{server.server_address[1]}", headers=headers, asked=asked
    )
    server.shutdown()
    server.server_close()
    thread.join()


def test_files_of_web_servers_are_known_by_etag_or_time(web):
    assert source_id(f"{web.url}/a").size == 5
    web.headers["Last-Modified"] = "Wed, 21 Oct 2015 07:28:00 GMT"
    web.headers["ETag"] = 'W/"weak"'
    dated = source_id(f"{web.url}/a")
    assert (dated.mtime_ns, dated.content) == (1445412480 * 10**9, "")
    web.headers["ETag"] = '"one"'
    one = source_id(f"{web.url}/a")
    web.headers["ETag"] = '"two"'
    assert not one.matches(source_id(f"{web.url}/a"))
    del web.headers["Content-Length"]
    assert source_id(f"{web.url}/a") is None
    assert source_id(f"{web.url}/refused") is None


def test_a_web_server_that_is_silent_is_not_asked_for_ever(monkeypatch):
    asked = []

    def refuse(request, timeout):
        asked.append(request.full_url)
        raise TimeoutError

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    assert [source_id(f"http://silent.test/{i}") for i in range(50)] == [None] * 50
    assert len(asked) == 8
    fetch._refusals.clear()


@given(st.text(alphabet="ab/*?.[]!-", max_size=12))
def test_every_pattern_is_understood(text):
    pattern = fetch._pattern(text)
    assert pattern.fullmatch(text) or any(c in text for c in "*?[")
