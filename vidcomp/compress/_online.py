"""What online forms share: checks of the chunks, and tokens of all that was seen.

A stream keeps at most a budget of rows, so that its memory does not grow with the video.  What
belongs to frames and patches (frame extras, provenance) does grow: it is kept on request only.

Legend: N rows of a chunk, T its frames.
"""

from abc import abstractmethod
from dataclasses import replace

import torch
from torch import Tensor

from vidcomp.compress.base import Stream
from vidcomp.errors import ShapeError
from vidcomp.functional.geometry import first_patches, first_t, nearest_cells, raster_order
from vidcomp.functional.select import stable_topk
from vidcomp.types import VideoTokens

__all__ = ["Seen", "TopRows", "frame_rows"]


class Seen:
    """The frames that a stream has seen: whether the next chunk fits, and how to keep its rows."""

    def __init__(self, name: str, grid_hw: tuple[int, int], provenance: bool) -> None:
        self._name, self._grid_hw, self._provenance = name, grid_hw, provenance
        self.num_frames = 0
        """Frames so far."""
        self.num_rows = 0
        """Rows so far, kept or not."""
        self.first_t = 0
        """Index of the first frame in the whole video."""
        self._kind: dict[str, object] | None = None

    def admit(self, chunk: VideoTokens) -> VideoTokens:
        """The chunk without what is not kept; its frames count as seen.

        Detached from gradients, whose graph would grow with the video.  Without provenance (and
        frame extras) unless they were asked for.

        Raises:
            ShapeError: another grid, width, type or set of extras than before, no provenance
                although it was asked for, or frames that do not follow those seen.
        """
        self._check_kind(chunk)
        start = self._start(chunk)
        if self._kind is None:
            self.first_t, self._kind = start, _kind(chunk, self._provenance)
        self.num_frames += chunk.grid.t
        self.num_rows += len(chunk)
        chunk = replace(chunk, tokens=chunk.tokens.detach())
        if self._provenance:
            return chunk
        return replace(chunk, assign=None, weights=None, frame_extras={})

    def join(self, kept: VideoTokens | None, chunk: VideoTokens) -> VideoTokens:
        """The rows of ``kept``, then those of an admitted ``chunk``, as a copy.

        Call it for every chunk, also for one without rows: the grid grows with it.
        """
        return VideoTokens.cat([chunk] if kept is None else [kept, chunk])

    def result(self, kept: VideoTokens | None) -> VideoTokens:
        """A copy of ``kept`` in raster order.

        Raises:
            ShapeError: nothing was seen.
        """
        if kept is None:
            raise ShapeError(
                f"the result of a stream of {self._name!r} needs at least one chunk, got none: "
                f"call update first"
            )
        return kept.select(raster_order(kept.positions, first_patches(kept)))

    def _check_kind(self, chunk: VideoTokens) -> None:
        if tuple(chunk.grid[1:]) != tuple(self._grid_hw):
            raise ShapeError(
                f"a stream of {self._name!r} for frames of {tuple(self._grid_hw)} patches got a "
                f"chunk of {tuple(chunk.grid[1:])}: make one stream a video and resolution"
            )
        if self._provenance and chunk.assign is None and chunk.weights is None:
            raise ShapeError(
                f"a stream of {self._name!r} that keeps provenance got a chunk without: keep it "
                f"in the chunks, or leave out provenance=True"
            )
        new = _kind(chunk, self._provenance)
        old = new if self._kind is None else self._kind
        for what in old:
            if old[what] != new[what]:
                raise ShapeError(
                    f"chunks of one stream of {self._name!r} have the same {what}, got "
                    f"{new[what]} after {old[what]}: encode one video with one encoder"
                )

    def _start(self, chunk: VideoTokens) -> int:
        """Index of the chunk's first frame, which follows the last one seen."""
        due = self.first_t + self.num_frames
        if not len(chunk):
            return due
        if chunk.assign is not None or chunk.weights is not None:
            start = first_t(chunk)
        elif self._kind is None:
            low, high = (float(v) for v in chunk.positions[:, 0].aminmax())
            start = 0 if high <= chunk.grid.t - 1 else int(low)
        else:
            low, high = (float(v) for v in chunk.positions[:, 0].aminmax())
            start = due if due <= low and high <= due + chunk.grid.t - 1 else int(low)
        if self._kind is not None and start != due:
            raise ShapeError(
                f"a stream of {self._name!r} that has seen frames {self.first_t} to {due - 1} "
                f"goes on at t={due}, got a chunk that starts at t={start}: pass all chunks in "
                f"order, made with first_t"
            )
        return start


class TopRows(Stream):
    """Keeps the rows with the highest scores of all that were seen; ties to the earlier row.

    Equal to pruning the whole video by the same scores, as long as a row's score needs nothing of
    later frames and does not depend on where chunks end.
    """

    def __init__(
        self, name: str, budget: int, grid_hw: tuple[int, int], *, provenance: bool = False
    ) -> None:
        self._budget = budget
        self._seen = Seen(name, grid_hw, provenance)
        self._kept: VideoTokens | None = None
        self._score_K = torch.zeros(0)

    @abstractmethod
    def score(self, chunk: VideoTokens) -> Tensor:
        """[N] float scores of the rows of the next chunk; carries on what the next one needs."""

    def update(self, chunk: VideoTokens) -> None:
        """Take the next frames.

        Raises:
            ShapeError: a chunk of another grid, width or type, or one that goes back in time.
        """
        chunk = self._seen.admit(chunk)
        score_N = self.score(chunk).detach()
        if self._kept is None:
            self._score_K = score_N.new_zeros(0)
        score = torch.cat([self._score_K, score_N])
        kept = self._seen.join(self._kept, chunk)
        row_K = stable_topk(score, self._budget)
        self._kept, self._score_K = kept.select(row_K), score[row_K]

    def result(self) -> VideoTokens:
        """The rows kept so far, in raster order.

        Raises:
            ShapeError: nothing was seen yet.
        """
        return self._seen.result(self._kept)


def frame_rows(video: VideoTokens, first: int) -> list[Tensor]:
    """T times the [n] int64 rows of a frame, ascending; a row between two belongs to the nearer.

    Args:
        video: N rows in T frames.
        first: index of the grid's first frame in the whole video.
    """
    frame_N = nearest_cells(video.positions[:, 0] - first)
    order_N = frame_N.argsort(stable=True)
    counts = torch.bincount(frame_N, minlength=video.grid.t).tolist()
    return list(torch.split(order_N, counts))


def _kind(chunk: VideoTokens, provenance: bool) -> dict[str, object]:
    kind: dict[str, object] = {
        "width": tuple(chunk.tokens.shape[1:]),
        "type": chunk.tokens.dtype,
        "device": chunk.tokens.device,
        "extras": {n: (tuple(v.shape[1:]), v.dtype) for n, v in sorted(chunk.extras.items())},
    }
    if provenance:
        kind["frame extras"] = {
            n: (tuple(v.shape[1:]), v.dtype) for n, v in sorted(chunk.frame_extras.items())
        }
        kind["provenance"] = "assign" if chunk.assign is not None else "weights"
    return kind
