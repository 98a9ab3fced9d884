"""Frames that differ from their neighbours, and tokens that differ from the first of their chunk.

"LongVU: Spatiotemporal Adaptive Compression for Long Video-Language Understanding" (Shen et al.,
2024).

Legend: N rows, T frames, K kept rows, D features.
"""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from vidcomp.compress._images import frame_ranks
from vidcomp.compress.base import About, Prune
from vidcomp.compress.merge._units import frame_features
from vidcomp.errors import BudgetError
from vidcomp.functional.change import strongest
from vidcomp.functional.geometry import nearest_cells
from vidcomp.functional.grids import without_gaps
from vidcomp.functional.merge import float_rows
from vidcomp.functional.windows import first_rows, similarity_to, window_likeness
from vidcomp.registry import COMPRESSORS
from vidcomp.types import VideoTokens

__all__ = ["Longvu", "changes_in_chunks", "distinct_frames"]


@COMPRESSORS.add("longvu")
class Longvu(Prune):
    """Frames like the rest of their window go first, then tokens like those that their chunk began
    with.

    A frame is dropped if its mean cosine with the frames of its window is at least
    ``frame_threshold`` and it is not the middle one; the most redundant go first, and only as long
    as the budget can still be met.  Of the frames that are left, in chunks, the first token at each
    place stays and the others are ranked by how little they resemble it.  If the first ones alone
    are too many they are evenly spaced and leave half of the budget to the others, so that the end
    of a video is not lost.

    Mode ``published`` keeps what the original does: frames go if the frames are too many for the
    budget, whole; no more than 400 are left; tokens of a chunk with a cosine below ``threshold``
    stay; and if they are still too many, as many as needed are cut from the *end of every chunk*,
    rounded up, so that the latest content of each is lost.

    The original's third step, frames in fewer tokens unless a question asks for them, is
    ``longvu_query``.
    """

    about: ClassVar[About] = About(
        paper="LongVU: Spatiotemporal Adaptive Compression for Long Video-Language Understanding "
        "(Shen, 2024), arXiv 2410.17434",
        cost="N D",
        scaling="linear",
        accuracy="LongVU-7B, trained with it: VideoMME 60.6, MLVU 65.4, EgoSchema 67.6, MVBench "
        "66.9 (model card)",
    )

    mode: Literal["exact", "published"] = "exact"
    """``published``: thresholds and then a cut, which may leave fewer tokens than the budget."""
    frame_threshold: float = Field(0.83, ge=-1)
    """Least mean cosine with its window of a frame that may go; above 1 none does."""
    window: int = Field(16, ge=1)
    """Frames of a window."""
    frame_features: str | None = None
    """Frame extra that frames are compared by; ``None``: the mean of their tokens."""
    chunk: int = Field(8, ge=1)
    """Frames of a chunk."""
    threshold: float = Field(0.7, ge=-1, le=1)
    """Tokens below this cosine with the first of their chunk stay; only in mode ``published``."""

    @property
    def exact(self) -> bool:
        """False in mode ``published``."""
        return self.mode == "exact"

    def count(self, video: VideoTokens, budget: int) -> int:
        """The budget, or what the thresholds and the cut leave.

        Raises:
            BudgetError: ``published`` cuts everything.
            ShapeError: integer ids, or no such frame extra.
        """
        if self.mode == "published":
            return len(self.keep(video, budget))
        float_rows("tokens", video.tokens)
        frame_features(video, frame_ranks(video), self.frame_features, self.name)
        return budget

    def keep(self, video: VideoTokens, budget: int) -> Tensor:
        """[K] int64 rows that stay, ascending."""
        float_rows("tokens", video.tokens)
        frame_N = frame_ranks(video)
        frame_TD = frame_features(video, frame_N, self.frame_features, self.name)
        likeness_T = window_likeness(frame_TD, self.window)
        if self.mode == "published":
            return self._published(video, frame_N, likeness_T, budget)
        stays_T = distinct_frames(likeness_T, frame_N, budget, self.frame_threshold)
        rows = stays_T[frame_N].nonzero().squeeze(1)
        change_K = changes_in_chunks(video, rows, self.chunk)[1]
        return rows[strongest(change_K, budget)]

    def _published(
        self, video: VideoTokens, frame_N: Tensor, likeness_T: Tensor, budget: int
    ) -> Tensor:
        stays_T = torch.ones_like(likeness_T, dtype=torch.bool)
        if len(likeness_T) >= max(1, budget // video.grid.per_frame):
            stays_T = likeness_T < self.frame_threshold
            if len(left := stays_T.nonzero().squeeze(1)) > _MOST_FRAMES:
                step = len(left) / _MOST_FRAMES
                stays_T = torch.zeros_like(stays_T)
                stays_T[left[[int(step * i) for i in range(_MOST_FRAMES)]]] = True
        rows = stays_T[frame_N].nonzero().squeeze(1)
        if len(rows) <= budget:
            return rows
        chunk_K, change_K = changes_in_chunks(video, rows, self.chunk)
        kept = change_K > 1 - self.threshold
        chunks = torch.split(rows[kept], torch.bincount(chunk_K[kept]).tolist())
        if (excess := sum(map(len, chunks)) - budget) > 0:
            cut = -(-excess // len(chunks))
            chunks = tuple(chunk[: max(0, len(chunk) - cut)] for chunk in chunks)
        if not (left := torch.cat(chunks)[:budget]).numel():
            raise BudgetError(
                f"'longvu' as published cuts {cut} tokens from each of {len(chunks)} chunks for a "
                f"budget of {budget}, and none is left: raise the budget or use mode='exact'"
            )
        return left


_MOST_FRAMES = 400
"""Frames that the original keeps at most."""


def distinct_frames(likeness_T: Tensor, frame_N: Tensor, budget: int, threshold: float) -> Tensor:
    """[T] bool frames that stay: the most redundant go while ``budget`` tokens are left.

    Args:
        likeness_T: [T] from ``window_likeness``; frames below ``threshold`` stay.
        frame_N: [N] int64 frame of each row.
        budget: tokens to be left at least.
        threshold: least likeness of a frame that may go.
    """
    order_T = likeness_T.argsort(descending=True, stable=True)
    gone_T = torch.bincount(frame_N)[order_T].cumsum(0)
    goes_T = (likeness_T[order_T] >= threshold) & (gone_T <= len(frame_N) - budget)
    return torch.ones_like(goes_T).index_fill(0, order_T[goes_T], value=False)


def changes_in_chunks(video: VideoTokens, rows: Tensor, chunk: int) -> tuple[Tensor, Tensor]:
    """[K] int64 chunk of each row, and [K] how unlike it is to the first at its place in there.

    Args:
        video: N float tokens.
        rows: [K] int64 rows, ascending; frames are counted over these.
        chunk: frames of a chunk.

    Returns:
        Chunks 0, 1, ... in the order of time; one less the cosine, infinite for the first rows.
    """
    frame_K = without_gaps(frame_ranks(video)[rows])
    place_K2 = nearest_cells(video.positions[rows, 1:])
    place_K = place_K2[:, 0] * video.grid.w + place_K2[:, 1]
    chunk_K = frame_K // chunk
    first_K = first_rows(chunk_K, place_K, frame_K)
    x_KD = video.tokens[rows]
    change_K = 1 - similarity_to(x_KD, first_K)
    own_K = torch.arange(len(rows), device=rows.device)
    return chunk_K, change_K.masked_fill(first_K == own_K, torch.inf)
