"""What may be read as a video: regular local files, and http(s) URLs that were named explicitly."""

import os
import stat
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from vidcomp.errors import DecodeError

__all__ = ["FORMATS", "Place", "locate", "looks_like"]

# Demuxers that read the file they are given and nothing else.  Playlists and scripts (hls, dash,
# concat, sdp, image2 ...) open other files or addresses and are left out on purpose.  Audio and
# single pictures are in, only to be refused by name.
FORMATS = (
    "mov,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,asf,ogg,nut,mxf,gxf,dv,ivf,obu,av1,h264,hevc,"
    "m4v,mjpeg,vc1,rm,wtv,nsv,gif,yuv4mpegpipe,wav,mp3,flac,aac,ac3,aiff,au,amr,caf,png_pipe,"
    "jpeg_pipe,bmp_pipe,webp_pipe,tiff_pipe,gif_pipe,jpegxl_pipe,j2k_pipe,psd_pipe,svg_pipe"
)

_MAGIC = (
    (b"\x89PNG", "a PNG picture"),
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"BM", "a BMP picture"),
    (b"PK\x03\x04", "a zip archive"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"%PDF", "a PDF document"),
    (b"#EXTM3U", "a playlist, and files named in it are never opened"),
    (b"ffconcat", "a list of files, and files named in it are never opened"),
    (b"version https://git-lfs", "a Git LFS pointer: run 'git lfs pull'"),
)


class Place(NamedTuple):
    """An input that may be opened."""

    name: str
    """As the caller wrote it, for messages."""
    url: str
    """What FFmpeg opens."""
    path: Path | None
    """Absolute path of a local file; ``None`` for a URL."""


def locate(path: str | os.PathLike[str]) -> Place:
    """Checks that ``path`` is a readable regular file, without opening anything that could block.

    Raises:
        DecodeError: empty, missing, a folder, a pipe or device, not readable, an unknown scheme.
    """
    name = os.fspath(path)
    if not name:
        raise DecodeError("the path of a video was wanted, got an empty string: name a file")
    scheme = name.partition("://")[0] if "://" in name else ""
    if scheme in ("http", "https"):
        return Place(name, name, None)
    if scheme == "file":
        name = unquote(urlsplit(name).path)
    elif scheme and not os.path.lexists(name):
        raise DecodeError(
            f"{name}: only local files and http(s) addresses are read, not {scheme}://: "
            f"download the file first"
        )
    _check_file(name)
    absolute = Path(name).absolute()
    # The prefix keeps FFmpeg from reading a protocol or a pattern into a strange file name.
    return Place(name, f"file:{absolute}", absolute)


def _check_file(name: str) -> None:
    try:
        # stat before open: opening a FIFO would wait for a writer.
        mode = Path(name).stat().st_mode
        if stat.S_ISDIR(mode):
            raise DecodeError(f"{name} is a folder, not a video file: name a file in it")
        if not stat.S_ISREG(mode):
            kind = "pipe" if stat.S_ISFIFO(mode) else "device or socket"
            raise DecodeError(f"{name} is a {kind}, not a regular file: save the video to a file")
        with Path(name).open("rb") as file:
            empty = not file.read(1)
    except FileNotFoundError as error:
        raise DecodeError(f"there is no file {name}: check the path") from error
    except PermissionError as error:
        raise DecodeError(f"{name} may not be read: change its permissions") from error
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        reason = getattr(error, "strerror", None) or error
        raise DecodeError(f"{name!r} cannot be opened ({reason}): check the path") from error
    if empty:
        raise DecodeError(f"{name} is empty (0 bytes): copy or download it again")


def looks_like(place: Place) -> str:
    """What a file that is no video seems to be, as ``"a PNG picture"``; empty if unknown."""
    if place.path is None:
        return ""
    with place.path.open("rb") as file:
        head = file.read(512)
    for magic, kind in _MAGIC:
        if head.startswith(magic):
            return kind
    if head[:256].lstrip().lower().startswith((b"<!doctype html", b"<html")):
        return "a web page (a failed download?)"
    if all(byte >= 32 or byte in b"\t\r\n\f" for byte in head) and head.isascii():
        return "text"
    return ""
