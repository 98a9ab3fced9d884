"""What a video file holds, without decoding it."""

from dataclasses import dataclass
from os import PathLike

from vidcomp.sample.base import Timeline
from vidcomp.sample.decode._backends import backends_for
from vidcomp.sample.decode._inputs import locate
from vidcomp.sample.decode._request import Backend, Limits
from vidcomp.sample.decode._timeline import Thumbnails, remembered_scan, timeline_of
from vidcomp.types import Source

__all__ = ["Probe", "probe"]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Probe:
    """Facts of one file."""

    source: Source
    """Codec, size, length; ``backend`` is the one that would be asked first."""
    timeline: Timeline
    """Real presentation times and key flags of all frames."""
    container: str
    """FFmpeg's name of the container, e.g. ``matroska,webm``."""


def probe(
    path: str | PathLike[str],
    *,
    backend: Backend = "auto",
    limits: Limits = Limits(),  # noqa: B008  # frozen
) -> Probe:
    """Scans the packets of a file; at most its first few frames are decoded.

    Files without presentation times (AVI, raw streams) are the exception: only decoding tells how
    many frames they hold.

    Raises:
        DecodeError: not a video, or not one that ``backend`` reads rightly.
    """
    scan = remembered_scan(locate(path), limits.max_pixels, _nothing)
    rows = range(len(scan))
    thumbnails = Thumbnails(scan, rows, limits.max_pixels, "raise", _nothing)
    return Probe(
        source=scan.source(backends_for(scan, backend)[0], scan.damage),
        timeline=timeline_of(scan, rows, None, scan.end_s, thumbnails),
        container=scan.container,
    )


def _nothing() -> None:
    pass
