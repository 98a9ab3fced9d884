"""Opening a file with PyAV so that it cannot reach for others, and finding its video stream."""

from typing import TYPE_CHECKING

from vidcomp.errors import DecodeError
from vidcomp.sample.decode._container import missing_bytes
from vidcomp.sample.decode._inputs import FORMATS, Place, looks_like

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.stream import VideoStream

__all__ = ["open_video", "pick_stream"]

_REMOTE_TIMEOUT_S = 30.0


def open_video(place: Place, max_pixels: int) -> "InputContainer":
    """The container, to be closed by the caller: use it in a ``with``.

    Raises:
        DecodeError: not a container of FFmpeg, or a playlist.
    """
    import av

    protocols = "http,https,tcp,tls" if place.path is None else "file"
    options = {
        "format_whitelist": FORMATS,
        "protocol_whitelist": protocols,
        "max_pixels": str(max_pixels),
    }
    timeout = _REMOTE_TIMEOUT_S if place.path is None else None
    try:
        return av.open(place.url, "r", options=options, metadata_errors="replace", timeout=timeout)
    except av.FFmpegError as error:
        raise DecodeError(_why_not(place, error.strerror or str(error))) from error


def _why_not(place: Place, reason: str) -> str:
    kind = looks_like(place)
    if kind:
        return f"{place.name} is not a video but {kind}: pass a video file"
    lost = missing_bytes(place.path) if place.path else 0
    if lost:
        return (
            f"{place.name} cannot be opened as a video: the file is cut, {lost} bytes are missing: "
            f"copy or download it again"
        )
    return (
        f"{place.name} cannot be opened as a video ({reason}): it is damaged or in a format that "
        f"is not read; check it with a player"
    )


def pick_stream(container: "InputContainer", place: Place, max_pixels: int) -> "VideoStream":
    """The stream a player would choose, other streams switched off; never a cover picture.

    Raises:
        DecodeError: no video stream, only pictures, no decoder, frames too large.
    """
    from av.stream import Discard, Disposition

    if container.format.name.endswith("_pipe"):
        kind = looks_like(place) or "a still picture"
        raise DecodeError(f"{place.name} is not a video but {kind}: pass a video file")
    still = Disposition.attached_pic | Disposition.still_image | Disposition.timed_thumbnails
    videos = [s for s in container.streams.video if not s.disposition & still]
    if not videos:
        raise DecodeError(
            f"{place.name} has no video stream, {_instead(container)}: pass a video file"
        )
    best = container.streams.best("video")
    stream = next((s for s in videos if best is not None and s.index == best.index), videos[0])
    for other in container.streams:
        if other.index != stream.index:
            other.discard = Discard.all
    _check_decoder(stream, place, max_pixels)
    return stream


def _instead(container: "InputContainer") -> str:
    if container.streams.video:
        return "only a cover picture"
    kinds = sorted({s.type for s in container.streams})
    return f"only {' and '.join(kinds)}" if kinds else "and no other either"


def _check_decoder(stream: "VideoStream", place: Place, max_pixels: int) -> None:
    context = stream.codec_context
    if context is None:
        raise DecodeError(f"{place.name} has video of a codec without a decoder here: convert it")
    if context.width * context.height > max_pixels:
        raise DecodeError(
            f"{place.name} has frames of {context.width} x {context.height}, above the limit of "
            f"{max_pixels} pixels: raise Limits.max_pixels or scale the video down"
        )
    # One thread: errors belong to the packet that caused them, and workers do not crowd the CPU.
    context.thread_count = 1
    context.options = {"max_pixels": str(max_pixels)}
