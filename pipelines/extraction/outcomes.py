"""A video that is being made into a record, and what becomes of it."""

import time
from dataclasses import dataclass, field, replace

from vidcomp.api import Arriving
from vidcomp.errors import VidcompError
from vidcomp.types import Source, VideoTokens

from ..inputs import Item
from .batches import is_out_of_memory, release_memory

__all__ = ["Done", "Failed", "Followed", "Open", "finish"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """An item that gave no record."""

    item: Item
    stage: str
    """decode, encode, compress or write."""
    error: Exception


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """An item's tokens, ready to be written."""

    item: Item
    video: VideoTokens
    num_frames: int
    num_seconds: float
    """Length of the sampled range."""
    num_tokens_in: int
    seconds: float
    """Of work: decoding, its share of passes of the encoder, compressing."""
    source: Source | None
    """What was read, and how."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Followed:
    """A live source that has come to its end; its windows have outcomes of their own."""

    item: Item


@dataclass(slots=True, eq=False)
class Open:
    """A video whose chunks are arriving."""

    item: Item
    tokens: Arriving
    started: float = field(default_factory=time.perf_counter)
    waited_s: float = 0.0
    """Time that its reader waited for the encoder."""
    read_s: float = 0.0
    """Time that its reader worked."""
    encode_s: float = 0.0
    """Its share of the time of the encoder's passes."""
    is_over: bool = False
    """Its outcome is known, or another attempt takes its place: what still arrives is dropped."""
    damage: str = ""
    """What its reader was not told by the frames: why a window of a live source ended early."""

    def end_reading(self) -> None:
        """Its last frame has been handed on."""
        self.read_s = time.perf_counter() - self.started - self.waited_s

    def fail(self, stage: str, error: Exception) -> Failed:
        """The video is over, and has no record."""
        self.is_over = True
        return Failed(item=self.item, stage=stage, error=error)


def finish(opened: Open, error: Exception | None) -> Done | Failed:
    """Compress a video whose last chunk has been encoded; ``error`` is why its reader stopped."""
    item, video = opened.item, opened.tokens
    if error is not None:
        return opened.fail("decode", error)
    if not video.num_frames:
        empty = VidcompError(f"{item.path} gave no frames: check the file and the time range")
        return opened.fail("decode", empty)
    started = time.perf_counter()
    try:
        small = _reduced(video)
    except Exception as problem:  # noqa: BLE001  # any failure of a video is its outcome
        return opened.fail("compress", problem)
    opened.is_over = True
    return Done(
        item=item,
        video=small,
        num_frames=video.num_frames,
        num_seconds=video.num_seconds,
        num_tokens_in=video.num_tokens,
        seconds=opened.read_s + opened.encode_s + time.perf_counter() - started,
        source=_source(video.source, opened.damage),
    )


def _source(source: Source | None, damage: str) -> Source | None:
    if source is None or not damage:
        return source
    return replace(source, damage="; ".join(filter(None, [source.damage, damage])))


def _reduced(video: Arriving) -> VideoTokens:
    """Compressed, on the CPU; tried twice if the device's memory is full of other things."""
    try:
        return video.reduce().to("cpu")
    except Exception as error:
        if not is_out_of_memory(error):
            raise
    release_memory()
    try:
        return video.reduce().to("cpu")
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise VidcompError(
            f"memory ran out while {video.num_tokens} tokens were compressed: set "
            f"compress.stream=true, sample fewer frames, or use a device with more memory"
        ) from error
