"""Spherical k-means over the tokens of all frames, which know where they are.

SimpleCluster, of Rethinking Visual Token Compression for Video Large Language Models: A Simple Yet
Strong Baseline (Zhang et al., 2026): one clustering of all tokens instead of structure by frames or
segments.  Its code begins with one token and then always takes the one least like those before,
and moves the centres up to ten times; here they begin where tokens differ, many at a time, and all
tokens are assigned ``rounds`` times.
"""

from dataclasses import replace
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from vidcomp.compress._online import Seen
from vidcomp.compress.base import About, Merge, Published, Stream
from vidcomp.functional.geometry import in_raster_order, nearest_cells
from vidcomp.functional.kmeans import spherical_kmeans, two_level_kmeans
from vidcomp.functional.merge import float_rows, merge
from vidcomp.functional.reduce import real
from vidcomp.functional.rotary import rotated
from vidcomp.functional.similarity import unit
from vidcomp.registry import COMPRESSORS
from vidcomp.types import VideoTokens

__all__ = ["SimpleCluster"]

_BLOCK = 1 << 22
"""Numbers of rows that are prepared at a time."""


@COMPRESSORS.add("simple_cluster")
class SimpleCluster(Merge):
    """Tokens that look alike and lie near each other, in any frames, become their mean.

    From SimpleCluster: features turned by their patch's (t, h, w), for the comparison only, are
    grouped by spherical k-means into exactly as many groups as the budget, each of which becomes
    the mean of its tokens.  Only directions are compared: where the length of a token matters, as
    with pixels or ``dct``, other methods lose less.

    With more than ``direct`` products of a token and a group, coarse groups come first and each is
    then split alone, so that an hour of video takes minutes instead of days.

    The online form keeps at most ``coreset`` times the budget of tokens: when it holds more, it
    clusters them to half of that, masses as weights, and in the end to the budget.  As long as all
    tokens fit it is the offline form; where they were 8 to 25 times as many as it may hold (and 60
    to 200 times the budget), its squared error was at most 1.15 times the offline one in our tests.
    Where chunks end plays no part.
    """

    about: ClassVar[About] = About(
        paper="Rethinking Visual Token Compression for Video Large Language Models: A Simple Yet "
        "Strong Baseline (Zhang, 2026), arXiv 2609.35394",
        cost="rounds N K D; rounds N sqrt(K) D for long video",
        scaling="linear",
        published=(
            Published("LLaVA-OneVision-7B", 25, 100.3, "SimpleCluster"),
            Published("LLaVA-OneVision-7B", 10, 98.1, "SimpleCluster"),
            Published("LLaVA-OneVision-7B", 5, 95.3, "SimpleCluster"),
            Published("LLaVA-OneVision-7B", 1, 88.3, "SimpleCluster"),
            Published("LLaVA-Video-7B", 25, 98.0, "SimpleCluster"),
            Published("LLaVA-Video-7B", 10, 95.2, "SimpleCluster"),
            Published("LLaVA-Video-7B", 5, 92.3, "SimpleCluster"),
            Published("LLaVA-Video-7B", 1, 84.8, "SimpleCluster"),
        ),
    )
    streaming: ClassVar[bool] = True

    rounds: int = Field(6, ge=1)
    """Times that all tokens are assigned, at most."""
    theta: float | None = Field(1e4, ge=1)
    """Ratio of the slowest to the fastest turn of the features; ``None``: places play no part."""
    direct: int = Field(1 << 27, ge=1)
    """Products of tokens and groups above which coarse groups come first."""
    coreset: int = Field(8, ge=2)
    """Tokens that the online form holds, in budgets; has no effect offline."""

    def groups(self, video: VideoTokens, budget: int) -> Tensor:
        """[N] int64 cluster of each row."""
        x_ND = float_rows("tokens", video.tokens)

        def rows_of(row_M: Tensor) -> Tensor:
            size = max(1, _BLOCK // max(1, x_ND.shape[1]))
            parts = [self._turned(x_ND, video.positions, rows) for rows in torch.split(row_M, size)]
            return torch.cat(parts)

        if len(video) * budget > self.direct:
            return two_level_kmeans(rows_of, video.mass, budget, self.rounds)
        every_N = torch.arange(len(video), device=x_ND.device)
        return spherical_kmeans(rows_of(every_N), video.mass, budget, self.rounds)

    def _turned(self, x_ND: Tensor, positions_N3: Tensor, row_M: Tensor) -> Tensor:
        """[M, D] rows of length 1, in float32 or better, turned by their places."""
        unit_MD = unit(x_ND[row_M].detach())
        if self.theta is not None:
            unit_MD = rotated(unit_MD, positions_N3[row_M], self.theta)
        return unit_MD.to(real(x_ND[:0]).dtype)

    def _stream(self, budget: int, grid_hw: tuple[int, int], provenance: bool) -> Stream:
        return _Coreset(self, budget, Seen(self.name, grid_hw, provenance))


class _Coreset(Stream):
    """Tokens and means of tokens of all that was seen, a few budgets of them."""

    def __init__(self, stage: SimpleCluster, budget: int, seen: Seen) -> None:
        self._stage, self._budget, self._seen = stage, budget, seen
        self._kept: VideoTokens | None = None
        self._like: VideoTokens | None = None
        self._merged = False
        self._most = stage.coreset * budget

    def update(self, chunk: VideoTokens) -> None:
        """Take the next frames.

        Raises:
            ShapeError: a chunk of another grid, width or type, or one that goes back in time.
        """
        float_rows("tokens", chunk.tokens)
        chunk = self._seen.admit(chunk)
        self._like = chunk.select(torch.zeros(0, dtype=torch.int64))
        held = self._seen.join(self._kept, _precise(chunk) if self._merged else chunk)
        num_kept = 0 if self._kept is None else len(self._kept)
        # Frames are let in one by one, so that it does not matter where chunks end.
        frame_N = nearest_cells(held.positions[num_kept:, 0])
        while (frame := self._overflow(num_kept, frame_N)) is not None:
            waiting_M = frame_N > frame
            held = self._shrink(held, num_kept, waiting_M)
            num_kept, frame_N = len(held) - int(waiting_M.sum()), frame_N[waiting_M]
        self._kept = held

    def _overflow(self, num_kept: int, frame_N: Tensor) -> int | None:
        """The frame with which there is more than may be held."""
        frames, counts = torch.unique(frame_N, return_counts=True)
        over = (num_kept + counts.cumsum(0) > self._most).nonzero()
        return int(frames[over[0, 0]]) if len(over) else None

    def _shrink(self, held: VideoTokens, num_kept: int, waiting_M: Tensor) -> VideoTokens:
        """Half of what may be held, and the rows of frames that are not let in yet."""
        waiting_N = torch.cat([waiting_M.new_zeros(num_kept), waiting_M])
        inside = (~waiting_N).nonzero().squeeze(1)
        count = self._most // 2
        group_N = torch.empty_like(waiting_N, dtype=torch.int64)
        group_N[inside] = self._stage.groups(held.select(inside), count)
        later = torch.arange(int(waiting_N.sum()), device=group_N.device)
        group_N[waiting_N] = count + later
        self._merged = True
        # Means are rounded to the type of the tokens once, in the end.
        return merge(_precise(held), group_N)

    def result(self) -> VideoTokens:
        """The clusters of all that was seen, in raster order.

        Raises:
            ShapeError: nothing was seen yet.
        """
        kept = self._seen.result(self._kept)
        out = in_raster_order(self._stage(kept, self._budget))
        assert self._like is not None  # noqa: S101  # the result of nothing is refused above
        return _as(out, self._like)


def _precise(video: VideoTokens) -> VideoTokens:
    """Tokens and extras in float32 or better."""
    extras = {name: real(float_rows(name, value)) for name, value in video.extras.items()}
    return replace(video, tokens=real(video.tokens), extras=extras)


def _as(video: VideoTokens, like: VideoTokens) -> VideoTokens:
    """Tokens and extras in the types of ``like``."""
    extras = {name: value.to(like.extras[name].dtype) for name, value in video.extras.items()}
    return replace(video, tokens=video.tokens.to(like.tokens.dtype), extras=extras)
