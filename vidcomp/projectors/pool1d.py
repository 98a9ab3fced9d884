"""The baseline of pooling along the sequence: means of rows that follow each other, then an MLP.

It knows no places: neighbours in raster order are a strip of one row of patches, which wraps over
to the next.  So it takes any tokens, merged or dropped before too.

Legend: B videos, N rows, M tokens out, E entries of a matrix [M, N], D features.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from typing import Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from vidcomp.errors import BudgetError, ShapeError
from vidcomp.functional.merge import resample
from vidcomp.functional.provenance import sparse_matrix
from vidcomp.projectors.base import Projector, ProjectorAbout
from vidcomp.projectors.blocks import apart, end_to_end, mlp, untraced
from vidcomp.projectors.pooled import PooledConfig
from vidcomp.projectors.pooling import mean_cells
from vidcomp.registry import PROJECTORS
from vidcomp.types import Grid, Query, VideoTokens

__all__ = ["AvgPool1d", "AvgPool1dConfig"]


@PROJECTORS.add("avg_pool1d")
class AvgPool1dConfig(PooledConfig):
    """Means of consecutive rows, then an MLP: the baseline that ignores where rows lie."""

    about = ProjectorAbout(tokens="`out_tokens`, rows / `group`, or what a budget allows")

    out_tokens: int | None = Field(None, ge=1)
    """Tokens that come out of any video: the bins of ``adaptive_avg_pool1d``, which overlap where
    they do not divide the rows, and repeat them where there are more bins."""
    group: int | None = Field(None, ge=1)
    """Rows of a mean instead, as ``avg_pool1d`` with kernel and stride of that."""
    ceil_mode: bool = True
    """Whether rows that are left over make a shorter group; if not, they are left out."""

    @model_validator(mode="after")
    def _check_one(self) -> Self:
        if (self.out_tokens is None) == (self.group is None):
            raise ValueError(
                f"'avg_pool1d' has either out_tokens or group, got {self.out_tokens} and "
                f"{self.group}: set one of them"
            )
        return self

    def module(self) -> "AvgPool1d":
        """An ``AvgPool1d`` with torch's default initial weights."""
        return AvgPool1d(self)


class AvgPool1d(Projector):
    """All rows count alike, whatever their mass.  A budget asks for that many tokens, or for as
    many as there are rows.
    """

    config: AvgPool1dConfig
    is_elastic = True
    reference_names = ((r"^layers\.", ""),)

    def __init__(self, config: AvgPool1dConfig) -> None:
        super().__init__(config)
        self.layers = mlp(config.dim_in, *[config.dim_out] * config.depth)

    def num_tokens(self, grid: Grid, budget: int | None = None) -> int:
        """As the settings or the budget say."""
        return self._count(grid.num_patches, budget)

    def project(
        self,
        videos: Sequence[VideoTokens],
        budgets: Sequence[int | None],
        queries: Sequence[Query | None],  # noqa: ARG002
    ) -> list[VideoTokens]:
        """Videos of equal numbers of rows in one pool, the rows of all in one MLP."""
        counts = [self._count(len(v), b) for v, b in zip(videos, budgets, strict=True)]
        kinds = [(len(v), m, b is None) for v, m, b in zip(videos, counts, budgets, strict=True)]
        order = sorted(range(len(videos)), key=kinds.__getitem__)
        pooled: dict[int, Tensor] = {}
        for (_, count, fixed), group in groupby(order, key=kinds.__getitem__):
            index = list(group)
            x_BND = end_to_end([videos[i].tokens.unsqueeze(0) for i in index])
            means = self._pooled(x_BND, count, fixed).flatten(0, 1)
            pooled |= zip(index, apart(means, [count] * len(index)), strict=True)
        rows = self.layers(end_to_end([pooled[i] for i in range(len(videos))]))
        parts = apart(rows, counts)
        return [
            _follow(video, self._edges(len(video), count, fixed), part)
            for video, (_, count, fixed), part in zip(videos, kinds, parts, strict=True)
        ]

    def _count(self, num_rows: int, budget: int | None) -> int:
        config = self.config
        if budget is not None:
            if budget < 1:
                raise BudgetError(
                    f"the projector 'avg_pool1d' needs at least 1 token, got a budget of "
                    f"{budget}: raise it"
                )
            return min(num_rows, budget)
        if config.group is None:
            return config.out_tokens or 0
        if num_rows < config.group and not config.ceil_mode:
            raise ShapeError(
                f"the projector 'avg_pool1d' makes a token of {config.group} rows, got "
                f"{num_rows}: lower group or set ceil_mode"
            )
        return (-(-num_rows // config.group)) if config.ceil_mode else num_rows // config.group

    def _pooled(self, x_BND: Tensor, count: int, fixed: bool) -> Tensor:
        """[B, M, D] means in the type that came in."""
        size = self.config.group if fixed else None
        if size is None:
            return _means(x_BND, count)
        whole = x_BND.shape[1] // size
        parts = [_means(x_BND[:, : whole * size], whole)] if whole else []
        if whole < count:
            parts.append(_means(x_BND[:, whole * size :], 1))
        return torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]

    def _edges(self, num_rows: int, count: int, fixed: bool) -> tuple[Tensor, Tensor]:
        """[M] int64 first row of each mean, and the one behind its last."""
        bin_M = torch.arange(count)
        if fixed and self.config.group is not None:
            start_M = bin_M * self.config.group
            return start_M, (start_M + self.config.group).clamp(max=num_rows)
        return bin_M * num_rows // count, -(-(bin_M + 1) * num_rows // count)


def _means(x_BND: Tensor, count: int) -> Tensor:
    """[B, M, D] means of adaptive bins."""
    x_B1N1D = x_BND[:, None, :, None]
    return mean_cells(x_B1N1D, Grid(1, count, 1)).flatten(1, 3)


@untraced
def _follow(video: VideoTokens, edges: tuple[Tensor, Tensor], tokens: Tensor) -> VideoTokens:
    """``tokens`` with all else of the rows that they are means of."""
    start_M, stop_M = edges
    length_M = stop_M - start_M
    if len(tokens) == len(video) and bool((length_M == 1).all()):
        return replace(video, tokens=tokens)  # hard provenance stays hard
    new_E = torch.repeat_interleave(length_M)
    place_E = torch.arange(len(new_E)) - (length_M.cumsum(0) - length_M)[new_E]
    share_E = 1 / length_M.double()[new_E]
    shape = (len(tokens), len(video))
    weights = sparse_matrix(new_E, start_M[new_E] + place_E, share_E, shape)
    return resample(video, weights.to(tokens.device), tokens)
