"""Tokens of videos, made once for every budget and method: in memory, and on disk if wanted."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from vidcomp.config import StoreSettings
from vidcomp.errors import StoreError
from vidcomp.store import CacheWriter, SourceId, TokenCache
from vidcomp.types import VideoTokens

from ..inputs import source_id
from .library import Stored
from .limits import Recent, RefusedError

__all__ = ["Choice", "Shelf", "Tokens"]

_DTYPES: dict[torch.dtype, Literal["float16", "float32"]] = {
    torch.float16: "float16",
    torch.float32: "float32",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """How a video is compressed."""

    method: str | None = None
    """A compressor with settings, as ``tome:scope=frame``; ``None``: all tokens."""
    budget: str | None = None
    """Tokens of the language model, as ``196`` or ``10%``."""

    @property
    def label(self) -> str:
        """Names it in keys."""
        return "dense" if self.method is None else f"{self.method}@{self.budget}"


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Tokens:
    """A video's tokens, and where they come from."""

    video: VideoTokens
    key: str
    """Of the video, its state and the choice."""
    path: Path
    is_cached: bool
    """Whether they had been made before."""


class Shelf:
    """Asks the encoder only for what is not there.

    Args:
        encode: makes tokens of a file.
        most: videos that stay in memory.
    """

    def __init__(self, encode: Callable[[Path, Choice], VideoTokens], most: int) -> None:
        self._encode = encode
        self._memory: Recent[str, Tokens] = Recent(most)
        self._lock = threading.Lock()
        self._writer: CacheWriter | None = None
        self._reader: TokenCache | None = None

    def keep_in(self, folder: Path, identity: dict[str, Any], dtype: torch.dtype) -> None:
        """Keep tokens in a cache, and read from it what an earlier run had made.

        Raises:
            StoreError: the folder holds tokens of another model, or cannot be written.
        """
        settings = StoreSettings(
            dtype=_DTYPES.get(dtype, "bfloat16"),
            assign=True,
            extras=tuple(identity["extras"]),
            frame_extras=tuple(identity["frame_extras"]),
        )
        self._writer = CacheWriter(folder, identity=identity, settings=settings)
        self._reader = TokenCache.open(folder)

    def get(self, stored: Stored, choice: Choice) -> Tokens:
        """Tokens of a video; called by the model's thread only.

        Raises:
            RefusedError: the file is gone.
            DecodeError: it does not give its frames.
            BudgetError: the budget cannot be reached.
        """
        source = source_id(str(stored.path))
        if source is None:
            raise RefusedError(f"{stored.id!r} is gone: upload it again", status=404)
        record = f"{stored.id}/{choice.label}"
        key = f"{record}/{source.size}/{source.mtime_ns}"
        found = self.seen(key)
        if found is not None:
            return found
        video = self._read(record, source)
        made = video is None
        if video is None:
            video = self._encode(stored.path, choice)
            self._write(record, video, source)
        with self._lock:
            tokens = Tokens(video=video, key=key, path=stored.path, is_cached=True)
            self._memory.add(key, tokens)
        return Tokens(video=video, key=key, path=stored.path, is_cached=not made)

    def seen(self, key: str) -> Tokens | None:
        """Tokens that are in memory; from any thread."""
        with self._lock:
            return self._memory.get(key)

    def close(self) -> None:
        """End the cache."""
        for part in (self._writer, self._reader):
            if part is not None:
                part.close()

    def _read(self, record: str, source: SourceId) -> VideoTokens | None:
        if self._reader is None or record not in self._reader:
            return None
        then = self._reader.info(record).source
        if then is None or not source.matches(then):
            return None
        try:
            return self._reader[record]
        except StoreError:
            return None  # damaged: made anew, which replaces it

    def _write(self, record: str, video: VideoTokens, source: SourceId) -> None:
        """What overlapping sources cannot be said of hard provenance stays in memory."""
        if self._writer is None or self._reader is None or video.weights is not None:
            return
        self._writer.add(record, video, {}, source)
        self._writer.seal()
        self._reader.refresh()
