"""What libraries and servers differ in: HTTP folders, fsspec, credentials, staging, no obstore."""

import errno
import functools
import http.server
import sys
import threading
from pathlib import Path

import pytest
from store_builders import same, tiny, write

from vidcomp.errors import ConfigError, MissingExtraError, StoreError
from vidcomp.store import CacheWriter, TokenCache, verify
from vidcomp.store.remote import ObjectStorage, RemoteDeniedError, default_staging
from vidcomp.store.remote.credentials import aws_defaults
from vidcomp.store.remote.fsspec_client import FsspecClient
from vidcomp.store.remote.http_listing import list_folders, list_page
from vidcomp.store.remote.make import make_client
from vidcomp.store.remote.obstore_client import ObstoreClient
from vidcomp.store.remote.staging import staging_folder, store_slug

VIDEO = tiny(n=6, seed=1, assign=None)


class Ranges(http.server.SimpleHTTPRequestHandler):
    """A web server as they are: pages for folders, and ranges, which Python's leaves out."""

    protocol_version = "HTTP/1.1"
    pages = True

    def do_GET(self):
        path = Path(self.translate_path(self.path))
        wanted = self.headers.get("Range")
        if not path.is_file() or wanted is None:
            return super().do_GET()
        first, last = wanted.removeprefix("bytes=").split("-")
        data = path.read_bytes()
        body = data[int(first) : int(last) + 1]
        self.send_response(206 if body else 416)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Range", f"bytes {first}-{int(first) + len(body) - 1}/{len(data)}")
        self.send_header("Last-Modified", self.date_time_string(path.stat().st_mtime))
        self.end_headers()
        self.wfile.write(body)
        return None

    def list_directory(self, path):
        if not self.pages:
            self.send_error(403)
            return None
        return super().list_directory(path)

    def log_message(self, *_): ...


@pytest.fixture
def web(tmp_path):
    """Serves a folder at a URL."""
    servers = []

    def serve(folder, pages=True):
        handler = type("Handler", (Ranges,), {"pages": pages})
        server = http.server.ThreadingHTTPServer(
            ("127.0.0.1", 0), functools.partial(handler, directory=str(folder))
        )
        server.daemon_threads = True
        server.block_on_close = False
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        servers.append((server, thread))
        return f"http://127.0.0.1:{server.server_address[1]}"

    yield serve
    for server, thread in servers:
        server.shutdown()
        server.server_close()
        thread.join()


def test_a_store_that_a_web_server_shows_is_read(web, tmp_path):
    pytest.importorskip("obstore")
    write(tmp_path / "my cache", {"a": VIDEO, "b": tiny(n=3, seed=2, assign=None)})
    cache = TokenCache(web(tmp_path) + "/my%20cache/")
    assert cache.keys() == ["a", "b"]
    assert same(cache["a"], VIDEO)
    assert len(cache.get_many(["a", "b"])) == 2
    assert verify(cache.path).ok


def test_the_web_is_for_reading(web, tmp_path):
    pytest.importorskip("obstore")
    write(tmp_path / "c", {"a": VIDEO})
    url = web(tmp_path) + "/c"
    with pytest.raises(StoreError, match="for reading"):
        CacheWriter(url, identity={"sample": 1})
    storage = ObjectStorage(url)
    for write_it in (
        lambda: storage.create("x", b""),
        lambda: storage.replace("x", b""),
        lambda: storage.remove("store.json"),
        lambda: storage.adopt("x", tmp_path / "x"),
    ):
        with pytest.raises(OSError, match="for reading") as caught:
            write_it()
        assert caught.value.errno == errno.EROFS
    assert (tmp_path / "c" / "store.json").exists()


def test_a_web_server_that_shows_no_folders_says_what_it_needs(web, tmp_path):
    pytest.importorskip("obstore")
    write(tmp_path / "c", {"a": VIDEO})
    with pytest.raises(StoreError, match=r"access denied|index"):
        TokenCache(ObjectStorage(web(tmp_path, pages=False) + "/c", retry_s=0.2))


@pytest.mark.parametrize(
    "page",
    [
        b'<html><body><a href="../">up</a><a href="a.x">a.x</a> 5\n<a href="b%20b.x">b</a></body>',
        b'<pre><a href="/cache/shards/a.x">a</a><a href="b%20b.x?size=1">b</a><a href="sub/">s</a>',
    ],
)
def test_links_of_a_page_are_names(page):
    assert {n for n in list_page(page, "http://h/x") if n.endswith(".x")} == {"a.x", "b b.x"}


def test_links_of_a_page_with_a_slash_are_folders():
    page = b'<pre><a href="/up/">u</a><a href="../">u</a><a href="a.x">a</a><a href="b%20b/">b</a>'
    assert list_folders(page, "http://h/x") == {"b b"}


def test_what_is_no_page_lists_nothing():
    with pytest.raises(OSError, match="lists no folders"):
        list_page(b'{"error": "no"}', "http://h/x")


def test_the_library_is_chosen_by_scheme_and_by_what_is_there(monkeypatch):
    pytest.importorskip("obstore")
    options = {"access_key_id": "x", "secret_access_key": "x"}
    assert isinstance(make_client("s3://b/x", options, 1.0), ObstoreClient)
    assert isinstance(make_client("memory://b/x", {}, 1.0), FsspecClient)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(MissingExtraError, match=r"vidcomp\[s3\]"):
        make_client("s3://b/x", options, 1.0)


def test_a_scheme_that_nobody_knows_is_refused():
    with pytest.raises(ConfigError, match="nosuch"):
        TokenCache("nosuch://b/x")


def test_a_chain_of_file_systems_is_a_store(tmp_path):
    url = f"simplecache::local://{tmp_path}/s"
    write(ObjectStorage(f"local://{tmp_path}/s", staging=tmp_path / "w"), {"a": VIDEO})
    assert same(TokenCache(ObjectStorage(url))["a"], VIDEO)
    assert same(TokenCache(url)["a"], VIDEO)


def test_a_broken_upload_to_a_plain_file_system_is_not_seen(tmp_path, monkeypatch):
    client = FsspecClient(f"local://{tmp_path}/s", {})

    def torn(path, data):
        Path(path).write_bytes(data[:3])
        raise OSError(errno.ECONNRESET, "reset")

    monkeypatch.setattr(client._fs, "pipe_file", torn)
    with pytest.raises(OSError, match="reset"):
        client.put("shards/a", b"abcdef")
    assert list((tmp_path / "s" / "shards").iterdir()) == []


@pytest.fixture
def no_keys(monkeypatch, tmp_path):
    import os

    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    (tmp_path / ".aws").mkdir()
    return tmp_path / ".aws"


def test_without_credentials_it_says_so_at_once(no_keys):
    pytest.importorskip("obstore")
    with pytest.raises(StoreError, match=r"no AWS credentials were found.*AWS_ACCESS_KEY_ID"):
        TokenCache("s3://bucket/x")


def test_keys_of_a_profile_are_used(no_keys, monkeypatch):
    (no_keys / "credentials").write_text(
        "[default]\naws_access_key_id = one\naws_secret_access_key = s1\n"
        "[work]\naws_access_key_id = two\naws_secret_access_key = s2\naws_session_token = t\n"
    )
    (no_keys / "config").write_text("[profile work]\nregion = eu-west-1\noutput = json\n")
    assert aws_defaults({}) == {"access_key_id": "one", "secret_access_key": "s1"}
    monkeypatch.setenv("AWS_PROFILE", "work")
    assert aws_defaults({}) == {
        "access_key_id": "two",
        "secret_access_key": "s2",
        "session_token": "t",
        "region": "eu-west-1",
    }


@pytest.mark.parametrize("said", [{"access_key_id": "x"}, {"skip_signature": "true"}])
def test_what_is_said_comes_before_profiles(no_keys, said):
    (no_keys / "credentials").write_text("[default]\naws_access_key_id = one\n")
    assert aws_defaults(said) == {}


def test_a_profile_that_leads_elsewhere_needs_boto3(no_keys, monkeypatch):
    (no_keys / "config").write_text("[default]\nsso_start_url = https://example.com\n")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(RemoteDeniedError) as caught:
        aws_defaults({})
    assert "boto3" in caught.value.advice


def test_an_endpoint_without_tls_is_taken_as_it_is_given(no_keys, monkeypatch):
    keys = {"access_key_id": "x"}
    assert aws_defaults({**keys, "endpoint": "http://h:9"}) == {"allow_http": "true"}
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://h:9")
    assert aws_defaults(keys) == {"allow_http": "true"}


def test_credentials_of_the_environment_reach_the_server(remote, no_keys, monkeypatch):
    write(remote.storage(), {"a": VIDEO})
    for name, value in {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_ENDPOINT_URL": remote.proxy.endpoint,
        "AWS_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    assert same(TokenCache(remote.url)["a"], VIDEO)


def test_staging_is_one_folder_a_store_and_the_same_every_time(tmp_path, monkeypatch):
    assert staging_folder("s3://b/x", tmp_path) == staging_folder("s3://b/x", tmp_path)
    urls = ["s3://b/x", "s3://c/x", "s3://b/x y", "s3://b/" + "k" * 500, "gs://b/x", "s3://b"]
    folders = {staging_folder(url, tmp_path) for url in urls}
    assert len(folders) == len(urls)
    assert all(len(folder.name) < 80 and folder.parent == tmp_path for folder in folders)
    assert store_slug("s3://b/ü/../") not in ("", ".", "..")
    assert ObjectStorage("s3://b/x/").wal == ObjectStorage("s3://b/x").wal


@pytest.mark.skipif(sys.platform in ("win32", "darwin"), reason="their own places")
def test_staging_lies_with_the_state_of_the_user_unless_told(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert default_staging() == tmp_path / "vidcomp" / "staging"
    assert tmp_path in ObjectStorage("s3://b/x").wal.parents
    assert ObjectStorage("s3://b/x", staging=tmp_path / "own").wal.is_relative_to(tmp_path / "own")
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_staging() == tmp_path / ".local" / "state" / "vidcomp" / "staging"
