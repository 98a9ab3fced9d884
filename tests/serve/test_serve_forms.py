"""Uploads are the same bytes however the network cuts them, and nothing is left of broken ones."""

import asyncio
import contextlib
import itertools
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

starlette = pytest.importorskip("starlette.requests")
pytest.importorskip("python_multipart")

from vidcomp.pipelines.serve.forms import receive  # noqa: E402
from vidcomp.pipelines.serve.library import Library  # noqa: E402
from vidcomp.pipelines.serve.limits import Limits, RefusedError  # noqa: E402

KIND = b"multipart/form-data; boundary=cut-here"


def body_of(name, data, purpose=b"vision"):
    """A form as clients write it."""
    parts = [
        b'--cut-here\r\nContent-Disposition: form-data; name="purpose"\r\n\r\n' + purpose + b"\r\n",
        b'--cut-here\r\nContent-Disposition: form-data; name="file"; filename="'
        + name
        + b'"\r\nContent-Type: video/mp4\r\n\r\n'
        + data
        + b"\r\n--cut-here--\r\n",
    ]
    return b"".join(parts)


def send(body, cuts, folder, ends=True):
    """What is kept of a body that comes in pieces; a client that goes does not end it."""
    places = [0, *sorted(place % (len(body) + 1) for place in cuts), len(body)]
    pieces = [body[a:b] for a, b in itertools.pairwise(places)]
    messages = [{"type": "http.request", "body": one, "more_body": True} for one in pieces]
    last = {"type": "http.request", "body": b"", "more_body": False}
    messages.append(last if ends else {"type": "http.disconnect"})

    async def next_message():
        return messages.pop(0)

    library = Library(folder, None, Limits(), check=lambda path: None)

    async def run():
        scope = {"type": "http", "method": "POST", "headers": [(b"content-type", KIND)]}
        request = starlette.Request(scope, next_message)
        return await receive(request, library, asyncio.Semaphore(1))

    return asyncio.run(run())


@settings(deadline=None, max_examples=60)
@given(
    data=st.binary(max_size=300) | st.just(b"\r\n--cut-her" * 20) | st.just(b"--cut-here" * 9),
    cuts=st.lists(st.integers(0, 2000), max_size=12),
)
def test_cuts_change_nothing(data, cuts):
    with tempfile.TemporaryDirectory() as folder:
        stored = send(body_of(b"a clip.webm", data), cuts, Path(folder))
        assert stored.path.read_bytes() == data
        assert (stored.name, stored.path.suffix) == ("a clip.webm", ".webm")
        assert stored.num_bytes == len(data)


@settings(deadline=None, max_examples=60)
@given(
    length=st.integers(0, 400),
    noise=st.dictionaries(st.integers(0, 400), st.integers(0, 255), max_size=4),
    cuts=st.lists(st.integers(0, 2000), max_size=4),
)
def test_broken_forms_leave_nothing(length, noise, cuts):
    body = bytearray(body_of(b"a.mp4", b"x" * 200)[:length])
    for place, value in noise.items():
        if place < len(body):
            body[place] = value
    with tempfile.TemporaryDirectory() as folder:
        expected: set[str] = set()
        with contextlib.suppress(RefusedError):  # and nothing else
            stored = send(bytes(body), cuts, Path(folder))
            expected = {stored.path.name, f"{stored.id}.json"}
        assert {path.name for path in Path(folder).iterdir()} == expected


def test_a_client_that_goes_leaves_nothing(tmp_path):
    with pytest.raises(starlette.ClientDisconnect):
        send(body_of(b"a.mp4", b"x" * 1000)[:900], [400], tmp_path, ends=False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (b"../../etc/passwd", "passwd"),
        (b"C:\\\\videos\\\\a.mp4", "a.mp4"),
        ("für.mp4".encode(), "für.mp4"),
        (b"\xff.mp4", "\ufffd.mp4"),
        (b"a\x01\x7f.mp4", "a.mp4"),
        (b"a" * 500, "a" * 200),
        (b"", "video"),
        (b"/", "video"),
    ],
)
def test_names_are_shown_and_never_used(tmp_path, name, shown):
    stored = send(body_of(name, b"x"), [], tmp_path)
    assert stored.name == shown
    assert stored.path.parent == tmp_path
    assert stored.path.stem == stored.id
