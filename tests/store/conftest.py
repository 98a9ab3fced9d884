"""A real S3 server for the tests of remote stores, which skip where there is none; a clock."""

import itertools

import pytest
from compacting import COMPACT, real

_numbers = itertools.count()


@pytest.fixture(scope="session")
def s3_server():
    pytest.importorskip("moto")
    pytest.importorskip("obstore")
    from s3_server import Proxy, S3Server

    server = S3Server()
    proxy = Proxy(server.port)
    yield server, proxy
    proxy.stop()
    server.stop()


@pytest.fixture
def remote(s3_server, tmp_path):
    """A bucket that no other test uses; nothing is counted or spoiled yet."""
    from s3_server import Remote

    server, proxy = s3_server
    bucket = server.make_bucket(f"bucket-{next(_numbers)}")
    proxy.clear()
    yield Remote(server, proxy, bucket, tmp_path)
    proxy.clear()


@pytest.fixture
def later(monkeypatch):
    """Moves the clock that grace periods are measured with."""
    moved = [0.0]

    def move(seconds):
        moved[0] += seconds

    monkeypatch.setattr(COMPACT, "time", lambda: real() + moved[0])
    monkeypatch.setattr("vidcomp.store.commit.time.time", lambda: real() + moved[0])
    return move
