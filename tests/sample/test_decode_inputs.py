"""What may be opened: regular local files and named URLs, nothing that those point to."""

import http.server
import os
import shutil
import threading
from functools import partial
from pathlib import Path

import pytest
import torch
from clips import moving_square, write_clip
from decode_oracle import Every, Rows, Spread
from PIL import Image

from vidcomp.errors import ConfigError, DecodeError, MissingExtraError
from vidcomp.functional.resize import Resize
from vidcomp.sample.decode import DecodeRequest, Limits, read_frames, stream_frames
from vidcomp.sample.decode.probe import probe


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return write_clip(tmp_path_factory.mktemp("inputs") / "clip.mp4", moving_square(12))


def refused(path, match):
    for on_damage in ("raise", "keep"):
        with pytest.raises(DecodeError, match=match):
            read_frames(path, Spread(), on_damage=on_damage)
    with pytest.raises(DecodeError, match=match):
        probe(path)


def test_paths_that_are_no_files(tmp_path):
    refused("", "empty string")
    refused(tmp_path / "nowhere.mp4", "there is no file .*nowhere.mp4: check the path")
    refused(tmp_path, "is a folder")
    refused("null\0byte.mp4", "cannot be opened")
    refused("x" * 5000, "cannot be opened")
    loop = tmp_path / "loop.mp4"
    loop.symlink_to(loop)
    refused(loop, "cannot be opened .*symbolic links")
    dangling = tmp_path / "dangling.mp4"
    dangling.symlink_to(tmp_path / "gone.mp4")
    refused(dangling, "there is no file")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")
def test_a_pipe_is_refused_without_waiting_for_a_writer(tmp_path):
    os.mkfifo(tmp_path / "pipe.mp4")
    refused(tmp_path / "pipe.mp4", "is a pipe, not a regular file")
    refused("/dev/zero", "is a device")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root reads all")
def test_permissions(clip, tmp_path):
    path = Path(shutil.copy(clip, tmp_path / "secret.mp4"))
    path.chmod(0)
    refused(path, "may not be read: change its permissions")


def test_permission_errors_are_told_as_such(clip, monkeypatch):
    def deny(*_args, **_kwargs):
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", deny)
        refused(clip, "may not be read: change its permissions")


@pytest.mark.parametrize("format", ["PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF"])
def test_pictures_are_not_videos(tmp_path, format):  # noqa: A002
    path = tmp_path / "picture.mp4"
    Image.new("RGB", (64, 48), "red").save(path, format=format)
    refused(path, "not a video|cannot be opened as a video|no video stream")


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"<!DOCTYPE html><html><body>404</body></html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "git lfs pull"),
        (b"PK\x03\x04" + bytes(100), "a zip archive"),
        (b"some words\n" * 20, "text"),
        (bytes(5000), "cannot be opened as a video"),
    ],
)
def test_other_files_are_named_for_what_they_seem_to_be(tmp_path, content, match):
    path = tmp_path / "clip.mp4"
    path.write_bytes(content)
    refused(path, match)


@pytest.mark.parametrize("name", ["list.m3u8", "list.txt", "list.mp4", "list.sdp", "list.mpd"])
def test_lists_never_open_what_they_name(tmp_path, name):
    write_clip(tmp_path / "real.ts", moving_square(12), codec="mpeg2video")
    url = f"file://{tmp_path}/real.ts"
    lists = [
        f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:5,\n{url}\n#EXT-X-ENDLIST\n",
        f"ffconcat version 1.0\nfile '{tmp_path}/real.ts'\n",
        "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nm=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n",
        f'<?xml version="1.0"?><MPD><BaseURL>{url}</BaseURL></MPD>',
    ]
    for text in lists:
        (tmp_path / name).write_text(text)
        refused(tmp_path / name, "not a video but|cannot be opened as a video")


@pytest.mark.parametrize(
    "name",
    [
        "concat:a|b.mp4",
        "pipe:0",
        "-",
        "frame%03d.mp4",
        "x.png",
        "Ü ☃ '\".mp4",
        "no_suffix",
        "x.txt",
    ],
)
def test_strange_names_of_good_files_are_only_names(clip, tmp_path, monkeypatch, name):
    shutil.copy(clip, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    assert len(read_frames(name, Every())) == 12
    assert len(read_frames(tmp_path / name, Every())) == 12


def test_names_that_are_no_text(clip, tmp_path):
    path = os.fsdecode(os.fsencode(tmp_path) + b"/\xff.mp4")
    try:
        shutil.copy(clip, path)
    except OSError:
        pytest.skip("this file system wants text")
    assert len(read_frames(path, Every())) == 12


def test_a_named_address_is_read_and_other_schemes_are_not(clip):
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    handler = partial(Quiet, directory=str(clip.parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        frames = read_frames(f"{address}/clip.mp4", Every())
        assert torch.equal(frames.data, read_frames(clip, Every(), backend="pyav").data)
        assert (frames.source.backend, frames.source.path) == ("pyav", f"{address}/clip.mp4")
        refused(f"{address}/missing.mp4", "cannot be opened as a video")
        server.shutdown()
    refused("rtsp://127.0.0.1/x", "only local files and http")
    refused("s3://bucket/x.mp4", "not s3://: download the file first")
    assert len(read_frames(clip.as_uri(), Every())) == 12


def test_limits_are_errors_of_the_file_that_say_what_to_raise(clip):
    with pytest.raises(DecodeError, match=r"96 x 64, above the limit of 6000 pixels: raise Limits"):
        read_frames(clip, Every(), limits=Limits(max_pixels=6000))
    with pytest.raises(DecodeError, match="12 frames were asked for, above the limit of 11"):
        read_frames(clip, Every(), limits=Limits(max_frames=11))
    twice = Rows(rows=tuple(range(12)) * 4)
    with pytest.raises(DecodeError, match="more than 600000 bytes"):
        read_frames(clip, twice, limits=Limits(max_bytes=600_000))
    request = DecodeRequest(
        path=str(clip), sampler=Every(), limits=Limits(max_bytes=10**6), resize=Resize()
    )
    with pytest.raises(DecodeError, match="a chunk of 12 frames of 224 x 224 holds 1806336 bytes"):
        list(stream_frames(request))
    with pytest.raises(ConfigError, match="max_frames"):
        Limits(max_frames=0)


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"start_s": -1.0}, "start_s"),
        ({"end_s": float("nan")}, "end_s"),
        ({"start_s": 2.0, "end_s": 2.0}, "start_s < end_s"),
        ({"chunk_frames": 0}, "chunk_frames"),
        ({"on_damage": "ignore"}, "raise, keep"),
        ({"backend": "opencv"}, "auto, decord, pyav, torchcodec"),
    ],
)
def test_requests_that_fit_no_file(settings, match):
    with pytest.raises(ConfigError, match=match):
        DecodeRequest(path="x.mp4", sampler=Every(), **settings)


def test_a_backend_that_is_not_installed_says_how_to_get_it(clip):
    try:
        from torchcodec.decoders import VideoDecoder  # noqa: F401
    except (ImportError, RuntimeError, OSError):
        with pytest.raises(MissingExtraError, match=r"vidcomp\[torchcodec\]"):
            read_frames(clip, Every(), backend="torchcodec")
    else:
        assert len(read_frames(clip, Every(), backend="torchcodec")) == 12
