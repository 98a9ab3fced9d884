"""One list of tokens by importance for the whole video; what it leaves out is clustered.

Unified Spatiotemporal Token Compression for Video-LLMs at Ultra-Low Retention (Du et al., 2026),
the stage before the language model.  There is no code; where the text leaves things open we say
what we do.
"""

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from vidcomp.compress._parts import time_parts
from vidcomp.compress.base import About, Merge, Published, row_extra
from vidcomp.functional.allocate import shares
from vidcomp.functional.cluster import peaks_in_parts
from vidcomp.functional.diverse import distinct_first
from vidcomp.functional.geometry import frame_numbers
from vidcomp.functional.merge import float_rows
from vidcomp.functional.reduce import norms, real
from vidcomp.registry import COMPRESSORS
from vidcomp.types import VideoTokens

__all__ = ["Ustc"]


@COMPRESSORS.add("ustc")
class Ustc(Merge):
    """Important tokens unlike those kept before them stay; all others are clustered.

    From the outer stage of Unified Spatiotemporal Token Compression.  Tokens of all frames are
    visited by falling importance, and one is kept if its cosine with all kept ones is below
    ``similarity``, until ``1 - context`` of the budget is used.  The rest is clustered by density
    peaks into what is left of the budget, at least ``context`` of it, so that nothing is lost; the
    result is in the order of time.  Ours: the clusters are made in parts of whole frames, and if
    too few tokens are unlike each other, there are more clusters.
    """

    about: ClassVar[About] = About(
        paper="Unified Spatiotemporal Token Compression for Video-LLMs at Ultra-Low Retention "
        "(Du, 2026), arXiv 2603.21957",
        needs=("features", "saliency"),
        cost="N K D + N p D, parts of p tokens",
        scaling="parts",
        published=(
            Published("LLaVA-OneVision-7B", 5, 94.9, "USTC"),
            Published("LLaVA-OneVision-7B", 2, 90.1, "USTC: with its inner stage"),
            Published("LLaVA-Video-7B", 2, 83.0, "USTC: with its inner stage"),
            Published("LLaVA-Video-7B", 1, 80.6, "USTC: with its inner stage"),
            Published("Qwen2.5-VL-7B", 2, 85.5, "USTC: with its inner stage"),
        ),
    )

    importance: Literal["saliency", "norm"] = "saliency"
    """The encoder's attention, or the Euclidean norm for encoders without."""
    similarity: float = Field(0.7, ge=-1, le=1)
    """Cosine with a kept token from which a token is not kept as it is."""
    context: float = Field(0.3, ge=0, le=1)
    """Least share of the budget that is made of clusters (at least one token)."""
    segment_tokens: int = Field(4096, ge=1)
    """Tokens that are clustered at once, if a frame has no more and the budget allows it."""
    neighbours: int = Field(5, ge=1)
    """Tokens that vote on a density, the token itself included."""

    def count(self, video: VideoTokens, budget: int) -> int:
        """The budget.

        Raises:
            ShapeError: integer ids, or no ``extras["saliency"]``.
        """
        self._importance(video)
        return budget

    def groups(self, video: VideoTokens, budget: int) -> Tensor:
        """[N] int64: clusters first, then the tokens that are kept."""
        x_ND, importance_N = video.tokens, self._importance(video)
        most = budget - max(1, round(self.context * budget))
        kept_K = distinct_first(x_ND, importance_N, most, self.similarity)
        clusters = budget - len(kept_K)
        is_rest_N = torch.ones(len(video), dtype=torch.bool, device=x_ND.device)
        is_rest_N[kept_K] = False
        rest = is_rest_N.nonzero().squeeze(1)
        part_M = time_parts(frame_numbers(video)[rest], self.segment_tokens, clusters)
        size_T = torch.bincount(part_M)
        share_T = shares(size_T, clusters, size_T, 1)
        group_N = torch.empty(len(video), dtype=torch.int64, device=x_ND.device)
        group_N[rest] = peaks_in_parts(x_ND[rest], part_M, share_T, self.neighbours)
        group_N[kept_K] = torch.arange(clusters, budget, device=x_ND.device)
        return group_N

    def _importance(self, video: VideoTokens) -> Tensor:
        x_ND = float_rows("tokens", video.tokens)
        if self.importance == "norm":
            return norms(x_ND)
        return real(row_extra(video, "saliency", self.name).detach())
