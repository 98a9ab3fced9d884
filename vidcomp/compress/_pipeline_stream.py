"""The online form of a pipeline.

A stage before the last knows no budget online, only its retention: it is given blocks of a fixed
number of frames, wherever chunks end, and leaves its share of each; shares are rounded so that
their sum is that of the whole video.  As long as all shares together would leave no more than the
budget nothing is reduced, so that the result is that of the pipeline called on the whole video.

Legend: N rows of a video, K of a part of it, P source patches.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from vidcomp.budget import Budget
from vidcomp.compress._online import Seen
from vidcomp.compress.base import Compressor, Stream
from vidcomp.errors import ShapeError
from vidcomp.functional.geometry import nearest_cells
from vidcomp.functional.provenance import sparse_matrix
from vidcomp.types import Grid, VideoTokens

__all__ = ["BLOCK_FRAMES", "PipelineStream", "share"]

BLOCK_FRAMES = 32
"""Frames of the grid that stages before the last work on together."""


def share(num_tokens: int, retention: float) -> int:
    """Tokens that a stage leaves of so many."""
    return Budget(retention=retention).resolve(num_tokens, 0, 0.0) if num_tokens else 0


class PipelineStream(Stream):
    """One video on its way through inner stages, block by block, into a last one that streams."""

    def __init__(
        self,
        name: str,
        budget: int,
        grid_hw: tuple[int, int],
        inner: Sequence[tuple[Compressor, float]],
        last: Stream,
        whole: Callable[[VideoTokens], VideoTokens],
        *,
        provenance: bool,
    ) -> None:
        """A stream that has seen nothing.

        Args:
            name: of the stages, for messages.
            budget: tokens of the result.
            grid_hw: of the frames.
            inner: stages before the last, with their retentions.
            last: online form of the last stage.
            whole: all stages on all that was seen, while that is little.
            provenance: keep source patches and frame extras.
        """
        self._budget, self._inner, self._last, self._whole = budget, inner, last, whole
        self._seen = Seen(name, grid_hw, provenance)
        self._held: list[list[VideoTokens]] = [[]]  # blocks; the newest is not full
        self._is_short = True  # nothing had to be reduced yet
        self._given, self._left = [0] * len(inner), [0] * len(inner)
        self._done = 0  # frames that the last stage has been given

    def update(self, chunk: VideoTokens) -> None:
        """Take the next frames.

        Raises:
            ShapeError: a chunk of another grid, width or type, one that goes back in time, or one
                with a token that stands for patches of several frames.
        """
        first = self._seen.num_frames
        chunk = self._seen.admit(chunk)
        local = _shifted(chunk, -self._seen.first_t)
        for part in _cut(local, first, BLOCK_FRAMES):
            self._held[-1].append(part)
            if sum(p.grid.t for p in self._held[-1]) == BLOCK_FRAMES:
                self._held.append([])
        if self._is_short:
            left = self._seen.num_rows
            for _, retention in self._inner:
                left = share(left, retention)
            self._is_short = left <= self._budget
        if not self._is_short:
            while len(self._held) > 1:
                self._hand_on(self._held.pop(0))

    def result(self) -> VideoTokens:
        """The tokens of all that was seen, in raster order.

        Raises:
            BudgetError: a stage cannot reach its share of a block.
            ShapeError: nothing was seen yet.
        """
        if not self._seen.num_frames:
            return self._seen.result(None)
        if self._is_short:
            parts = [part for block in self._held for part in block]
            return self._seen.result(self._placed(self._whole(VideoTokens.cat(parts))))
        if not self._held[-1]:
            return self._placed(self._last.result())
        ahead = copy.copy(self)  # what is not a block yet is tried out on a copy
        ahead._last = copy.deepcopy(self._last)
        ahead._given, ahead._left = [*self._given], [*self._left]
        ahead._hand_on(self._held[-1])
        return self._placed(ahead._last.result())

    def _hand_on(self, block: list[VideoTokens]) -> None:
        """One block through the inner stages into the last one."""
        # Counted from the block's first frame, which provenance need not tell then.
        video = _shifted(VideoTokens.cat(block), -self._done)
        for place, (stage, retention) in enumerate(self._inner):
            self._given[place] += len(video)
            target = share(self._given[place], retention) - self._left[place]
            video = stage(video, max(1, target))
            self._left[place] += len(video)
        self._last.update(_shifted(video, self._done))
        self._done += video.grid.t

    def _placed(self, video: VideoTokens) -> VideoTokens:
        return _shifted(video, self._seen.first_t)


def _shifted(video: VideoTokens, num_frames: int) -> VideoTokens:
    """The same tokens so many frames later."""
    if not num_frames:
        return video
    offset = video.positions.new_tensor([num_frames, 0, 0])
    return replace(video, positions=video.positions + offset)


def _cut(chunk: VideoTokens, first: int, every: int) -> Iterator[VideoTokens]:
    """Copies of the parts of a chunk whose first frame is ``first``, cut at multiples."""
    frame_N = nearest_cells(chunk.positions[:, 0]) - first
    start = 0
    while start < chunk.grid.t:
        stop = min(chunk.grid.t, start + every - (first + start) % every)
        yield _frames(chunk, frame_N, start, stop)
        start = stop


def _frames(chunk: VideoTokens, frame_N: Tensor, start: int, stop: int) -> VideoTokens:
    """The frames ``start`` to ``stop - 1`` of a chunk, with their own provenance.

    Raises:
        ShapeError: a token stands for patches of these and of other frames.
    """
    row_K = ((frame_N >= start) & (frame_N < stop)).nonzero().squeeze(1)
    patches = (start * chunk.grid.per_frame, stop * chunk.grid.per_frame)
    assign, weights = chunk.assign, chunk.weights
    bare = replace(chunk, assign=None, weights=None, frame_extras={}).select(row_K)
    return replace(
        bare,
        grid=Grid(stop - start, *chunk.grid[1:]),
        assign=None if assign is None else _cut_assign(assign, len(chunk), row_K, patches),
        weights=None if weights is None else _cut_weights(weights, row_K, patches),
        frame_extras={name: v[start:stop].clone() for name, v in chunk.frame_extras.items()},
    )


def _cut_assign(assign_P: Tensor, num_rows: int, row_K: Tensor, patches: tuple[int, int]) -> Tensor:
    """[Q] int64 new row of each of the patches ``patches[0]`` to ``patches[1] - 1``."""
    new_N = assign_P.new_full((num_rows + 1,), -1)
    new_N[row_K] = torch.arange(len(row_K), device=assign_P.device)
    new_P = new_N[assign_P]  # -1 reads the last entry, which stays -1
    part_Q = new_P[slice(*patches)]
    num_inside = int((assign_P[slice(*patches)] >= 0).sum())
    _check_whole(not int((new_P >= 0).sum()) == int((part_Q >= 0).sum()) == num_inside)
    return part_Q.clone()


def _cut_weights(weights: Tensor, row_K: Tensor, patches: tuple[int, int]) -> Tensor:
    """Sparse [K, Q] shares of the patches ``patches[0]`` to ``patches[1] - 1``."""
    chosen = torch.index_select(weights.coalesce(), 0, row_K).coalesce()
    (row_Q, patch_Q), share_Q = chosen.indices(), chosen.values()
    _check_whole(bool(((patch_Q < patches[0]) | (patch_Q >= patches[1])).any()))
    size = (len(row_K), patches[1] - patches[0])
    return sparse_matrix(row_Q, patch_Q - patches[0], share_Q, size)


def _check_whole(is_torn: bool) -> None:
    if is_torn:
        raise ShapeError(
            f"stages before the last take a stream in blocks of {BLOCK_FRAMES} frames, got a token "
            f"that stands for patches of frames in two blocks: stream tokens as an encoder gives "
            f"them"
        )
