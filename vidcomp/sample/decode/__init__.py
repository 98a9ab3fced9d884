"""Frames of a video file: the right ones, with real times, in bounded memory.

What "right" means here: frame ``i`` is the ``i``-th decodable frame of the best video stream in
order of presentation, whatever the container; times are those of the file, the first frame at 0;
rotation stored in the file is applied.  The sample aspect ratio is *not* applied: the collections
that encoders are trained on are read as stored pixels (decord, torchvision, PyAV all do so), so
encoders know such pictures slightly narrow or wide.

Each file is scanned once (packets only), then decoded by the backend that is right for it.
``auto`` asks PyAV, which costs the least CPU on every kind of file (see docs/benchmarks.md), and
decord where PyAV fails and decord's own table of frames agrees with the scan; ``Source.backend``
says which it was.  Only the file that was named is opened:
playlists and references to other files are refused.

With ``DecodeRequest.live`` a source without an end is followed instead, see ``_live``.
"""

import dataclasses
from collections.abc import Iterator
from os import PathLike, fspath
from typing import NamedTuple

from vidcomp.errors import DecodeError
from vidcomp.functional.resize import Resize, ResizeRule
from vidcomp.sample.base import Sampler
from vidcomp.sample.decode._assemble import Room
from vidcomp.sample.decode._inputs import locate
from vidcomp.sample.decode._live import check_sampler, follow_frames
from vidcomp.sample.decode._live_open import LIVE_SCHEMES, is_address, shown_address
from vidcomp.sample.decode._request import Backend, DecodeRequest, Limits, Live, OnDamage
from vidcomp.sample.decode._scan import Pulse
from vidcomp.sample.decode._stream import Stream
from vidcomp.sample.decode._timeline import MiscountError, cut, remembered_scan
from vidcomp.types import Frames

__all__ = [
    "LIVE_SCHEMES",
    "Backend",
    "DecodeRequest",
    "Limits",
    "Live",
    "OnDamage",
    "Outline",
    "check_sampler",
    "is_address",
    "outline",
    "read_frames",
    "shown_address",
    "stream_frames",
]


class Outline(NamedTuple):
    """What a request will give, known before any frame is decoded."""

    num_frames: int
    """Frames that the sampler picks."""
    height: int
    """Pixels as displayed, before any resize."""
    width: int
    """Pixels as displayed, before any resize."""
    num_seconds: float
    """Length of the range."""
    resize: Resize | None
    """The request's, or what its rule makes of the above."""


def outline(request: DecodeRequest) -> Outline:
    """The size of what ``stream_frames`` would give; reads packets, decodes nothing.

    Content-based samplers do look at thumbnails.

    Raises:
        DecodeError: the file cannot be read, or the range shows no frame.
        ConfigError: the sampler picks frames that do not exist.
        ShapeError: the request's rule of sizes refuses the video.
    """
    scan = remembered_scan(locate(request.path), request.limits.max_pixels, _nothing)
    part = cut(scan, request, _nothing)
    selection = request.sampler(part.timeline)
    num_frames = len(selection.indices) - selection.num_padded
    resize = request.resize_of(scan.height, scan.width, num_frames)
    return Outline(num_frames, scan.height, scan.width, part.timeline.seconds, resize)


def read_frames(
    path: str | PathLike[str],
    sampler: Sampler,
    *,
    size: int | Resize | ResizeRule | None = None,
    start_s: float | None = None,
    end_s: float | None = None,
    on_damage: OnDamage = "raise",
    backend: Backend = "auto",
    limits: Limits = Limits(),  # noqa: B008  # frozen
) -> Frames:
    """The frames that ``sampler`` picks, all at once.

    Args:
        path: a local file, or an http(s) address.
        sampler: which frames.
        size: pixels of a square to stretch to, a policy, a rule that gives one, or ``None`` for the
            stored size.
        start_s: with ``end_s``: only frames shown within this range; times stay those of the file.
        end_s: see ``start_s``.
        on_damage: ``keep`` returns what can be decoded and says in ``source.damage`` what cannot.
        backend: the library that decodes.
        limits: guards of memory.

    Returns:
        [T, 3, H, W] uint8 RGB with times, durations and source.

    Raises:
        DecodeError: the file does not give the frames, or they exceed the limits.
        ConfigError: settings that fit no file, or a sampler that picks frames that do not exist.
        MissingExtraError: the backend is not installed.
    """
    request = DecodeRequest(
        path=fspath(path),
        sampler=sampler,
        resize=Resize(height=size, width=size) if isinstance(size, int) else size,
        start_s=start_s,
        end_s=end_s,
        on_damage=on_damage,
        backend=backend,
        limits=limits,
    )
    chunks: list[Frames] = []
    num_bytes = 0
    for chunk in stream_frames(request):
        chunks.append(chunk)
        num_bytes += chunk.data.numel()
        if num_bytes > limits.max_bytes:
            raise DecodeError(
                f"{request.path}: the frames asked for hold more than {limits.max_bytes} bytes: "
                f"pass a size, ask for fewer, stream them or raise Limits.max_bytes"
            )
    # Damage is known in full only by the last chunk.
    return dataclasses.replace(Frames.cat(chunks), source=chunks[-1].source)


def stream_frames(
    request: DecodeRequest, *, on_progress: Pulse | None = None, room: Room | None = None
) -> Iterator[Frames]:
    """The frames of a request in chunks of ``chunk_frames``, never more than two at a time.

    ``Frames.first_index`` counts on through the chunks.  ``Source.damage`` of the last chunk holds
    all that was found.

    Args:
        request: file, range, sampler and policy.
        on_progress: called often while work goes on, for a watchdog.
        room: asked for memory for the pixels of a chunk; default: newly made.

    Raises:
        DecodeError: the file does not give the frames, or they exceed the limits.
        ConfigError: the sampler picks frames that do not exist.
        MissingExtraError: the backend is not installed.
    """
    pulse = on_progress or _nothing
    if request.live is not None:
        yield from follow_frames(request, pulse)
        return
    place = locate(request.path)
    try:
        scan = remembered_scan(place, request.limits.max_pixels, pulse)
        yield from Stream(request, scan, pulse, room).chunks()
    except MiscountError:  # raised before the first chunk only
        scan = remembered_scan(place, request.limits.max_pixels, pulse, decode_all=True)
        yield from Stream(request, scan, pulse, room).chunks()


def _nothing() -> None:
    pass
