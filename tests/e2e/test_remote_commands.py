"""The commands and the guide on an object store, as in a folder."""

import re
from pathlib import Path

import pytest

DOC = Path(__file__).resolve().parents[2] / "docs" / "remote.md"


@pytest.fixture(scope="module")
def server():
    pytest.importorskip("moto")
    pytest.importorskip("obstore")
    from s3_server import S3Server

    started = S3Server()
    started.make_bucket("bucket")
    yield started
    started.stop()


@pytest.fixture
def s3(server, monkeypatch, tmp_path):
    """Credentials and endpoint as users have them, staging of its own."""
    for name, value in server.environment(tmp_path / "state").items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    return server


def test_extract_and_the_cache_commands_take_urls(s3, clips, extract, vidcomp, tmp_path):
    url = "s3://bucket/job"
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    first = extract(clips, tmp_path / "bad.mp4", "--out", url)
    assert first.code == 3
    assert "5 done" in first.out
    again = extract(clips, tmp_path / "bad.mp4", "--out", url)
    assert "5 already cached" in again.out
    assert "1 failed before" in again.out
    assert "clip0.mp4" in vidcomp("cache", "ls", url).out
    assert vidcomp("cache", "show", url, "--json").json["records"] == 5
    assert vidcomp("cache", "verify", url).code == 0
    assert "bad.mp4" in vidcomp("errors", url).out
    (run,) = vidcomp("cache", "runs", url, "--json").json
    assert (run["state"], run["summary"]["done"], run["store"]["path"]) == ("done", 5, url)
    assert not Path("s3:").exists()


def test_recompress_between_urls_and_not_onto_itself(s3, clips, extract, vidcomp):
    extract(clips, "--out", "s3://bucket/one")
    done = vidcomp("recompress", "s3://bucket/one", "--out", "s3://bucket/two", "--budget", "4")
    assert done.code == 0
    assert vidcomp("cache", "show", "s3://bucket/two", "--json").json["records"] == 5
    same = vidcomp("recompress", "s3://bucket/one", "--out", "s3://bucket/one/", "--budget", "4")
    assert same.code == 2


def test_a_record_is_shown_from_a_url(s3, clips, extract, vidcomp, tmp_path):
    extract(clips, "--out", "s3://bucket/shown", "--set", "store.assign=true")
    done = vidcomp("show", "s3://bucket/shown#clip1.mp4", "--out", tmp_path / "map.png")
    assert done.code == 0
    assert (tmp_path / "map.png").stat().st_size > 500


@pytest.mark.parametrize("command", [("cache", "ls"), ("cache", "verify"), ("errors",)])
def test_no_store_and_no_bucket_are_one_line(s3, vidcomp, command):
    for url, reason in (("s3://bucket/none", "no token cache"), ("s3://nowhere/x", "no bucket")):
        done = vidcomp(*command, url)
        assert done.code == 5
        assert reason in done.err
        assert done.err.count("\n") == 1


def test_the_python_of_the_page_runs(s3, clips, extract):
    extract(clips, "--out", "s3://bucket/cache")
    for code in re.findall(r"^```python\n(.*?)^```", DOC.read_text(), re.MULTILINE | re.DOTALL):
        exec(compile(code.replace("http://localhost:9000", s3.endpoint), "remote.md", "exec"), {})
    assert Path("kept").is_dir()
