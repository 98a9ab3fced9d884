"""The tokens of a video whose chunks arrive one after another: held until the end, or compressed
as they come.
"""

import fnmatch
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vidcomp.errors import ConfigError, ShapeError
from vidcomp.sample.decode import DecodeRequest
from vidcomp.sample.selectors.base import SelectorStream
from vidcomp.types import Frames, Source, VideoTokens

if TYPE_CHECKING:
    from vidcomp.api import Prepared
    from vidcomp.compress.base import Stream

__all__ = ["Arriving", "Gathered", "Streamed"]


@dataclass(slots=True, eq=False)
class Arriving(ABC):
    """A video on its way: what its chunks say, and what becomes of their tokens."""

    prepared: "Prepared"
    request: DecodeRequest
    num_frames: int = 0
    """Sampled frames so far, without those that only fill up."""
    num_tokens: int = 0
    """Tokens so far."""
    source: Source | None = None
    """As the last chunk tells it: damage adds up."""
    selection: SelectorStream | None = None
    """What chooses patches, with what it carries on."""

    def keep(self, frames: Frames) -> Tensor | None:
        """The patches of the next chunk to encode, ``None`` for all; ask once a chunk, in order.

        Raises:
            ShapeError: the chunk does not follow, or its size does not fit the encoder.
            BudgetError: what the selector is asked for cannot be kept.
        """
        if self.selection is None:
            self.selection = self.prepared.selection()
        if self.selection is None:
            return None
        encoder = self.prepared.encoder
        grid = encoder.grid(len(frames), *frames.data.shape[2:])
        return self.selection.update(frames, grid, encoder.valid(frames))

    def add(self, frames: Frames, tokens: VideoTokens) -> None:
        """The next chunk and its tokens."""
        self.source = frames.source
        self._take(frames, tokens)
        self.num_frames += len(frames) - frames.num_padded
        self.num_tokens += len(tokens)

    @property
    def num_seconds(self) -> float:
        """Length of the range that the request asks for."""
        if self.source is None:
            return 0.0
        start_s, end_s = self.request.start_s or 0.0, self.source.duration_s
        if self.request.end_s is not None:
            end_s = min(end_s, self.request.end_s)
        return max(0.0, end_s - max(0.0, start_s))

    @abstractmethod
    def _take(self, frames: Frames, tokens: VideoTokens) -> None: ...

    @abstractmethod
    def reduce(self) -> VideoTokens:
        """All tokens so far compressed to the budget and projected, as the recipe says.

        Raises:
            BudgetError: the stages cannot reach the budget.
        """


@dataclass(slots=True, eq=False)
class Gathered(Arriving):
    """A video that is compressed as a whole, once all of it is there."""

    parts: list[VideoTokens] = field(default_factory=list)

    @property
    def dense(self) -> VideoTokens:
        """All tokens so far on their grid."""
        return VideoTokens.cat(self.parts)

    def _take(self, frames: Frames, tokens: VideoTokens) -> None:  # noqa: ARG002  # tokens only
        self.parts.append(tokens)

    def reduce(self) -> VideoTokens:
        """All tokens so far compressed to the budget and projected, as the recipe says.

        Raises:
            BudgetError: the stages cannot reach the budget.
        """
        return self.prepared.reduce(self.dense, self.num_frames, self.num_seconds)


@dataclass(slots=True, eq=False)
class Streamed(Arriving):
    """A video that is compressed as it arrives (``compress.stream``).

    Memory is bounded by the budget and a chunk.  A budget that is a share or a rate counts what
    the reader says of the whole request with the first chunk, and once more what came in the end:
    should that be less, the last stage leaves fewer.
    """

    provenance: bool = False
    """Keep what every patch became, which grows with the video."""
    budget: int = 0
    """Tokens that the stream leaves; known with the first chunk."""
    _stream: "Stream | None" = None
    _frame_extras: dict[str, list[Tensor]] = field(default_factory=dict)

    def _take(self, frames: Frames, tokens: VideoTokens) -> None:
        pipeline = self.prepared.pipeline
        assert pipeline is not None  # noqa: S101  # there is a section compress, see Prepared.gather
        with torch.no_grad():
            if self._stream is None:
                self.budget = self._planned(frames)
                grid_hw = (tokens.grid.h, tokens.grid.w)
                self._stream = pipeline.stream(self.budget, grid_hw, provenance=self.provenance)
            self._stream.update(tokens)
        wanted = self.prepared.recipe.store.frame_extras
        for name, value in tokens.frame_extras.items():
            if any(fnmatch.fnmatchcase(name, pattern) for pattern in wanted):
                self._frame_extras.setdefault(name, []).append(value.clone())

    def reduce(self) -> VideoTokens:
        """What the stream has left, projected as the recipe says.

        Raises:
            ShapeError: no chunk has come yet.
            BudgetError: the stages cannot reach the budget.
        """
        prepared, stream = self.prepared, self._stream
        if stream is None or prepared.pipeline is None:
            raise ShapeError("a video is reduced once a chunk of it is there, got none: add one")
        with torch.no_grad():
            video = stream.result()
            due = prepared.budget(self.num_tokens, self.num_frames, self.num_seconds)
            if due < min(self.budget, len(video)):
                video = prepared.pipeline.last(video, due)
            extras = {name: torch.cat(parts) for name, parts in self._frame_extras.items()}
            video = replace(video, frame_extras={**video.frame_extras, **extras})
            return video if prepared.projector is None else prepared.projector(video)

    def _planned(self, frames: Frames) -> int:
        """The budget of the whole request, as far as the reader knows it; no less than in the end.

        Raises:
            ConfigError: the budget is a share or a rate of what nobody knows.
        """
        settings, source = self.prepared.recipe.compress, self.source
        assert settings is not None  # noqa: S101  # as above
        if settings.budget.tokens is not None:
            return settings.budget.tokens
        if source is None or not source.num_sampled:
            raise ConfigError(
                f"compress.stream=true with the budget {settings.budget} needs to know how long "
                f"the video is, and its reader does not say: give the budget in tokens"
            )
        num_frames, encoder = source.num_sampled, self.prepared.encoder
        grid = encoder.grid(num_frames, *frames.data.shape[2:])
        valid = encoder.valid(frames)
        share = Fraction(1) if valid is None else Fraction(int(valid.sum()), valid.numel())
        seconds = self.num_seconds
        if self.request.live is not None and self.request.end_s is not None:
            seconds = self.request.end_s - (self.request.start_s or 0.0)
        return settings.budget.resolve(math.ceil(grid.num_patches * share), num_frames, seconds)
