"""What is measured of a projector."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from bench_compress_parts.features import drifting_video
from torch import Tensor

from bench_projectors_parts.weights import Weights
from vidcomp.projectors.base import Projector, ProjectorConfig
from vidcomp.registry import PROJECTORS
from vidcomp.types import Grid, Query, QueryFeatures, QueryIds, VideoTokens

__all__ = ["Case", "Task", "question"]

_GRID = Grid(8, 24, 24)


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """What an oracle reads."""

    weights: Weights
    """Ours."""
    config: Any
    """Our settings."""
    maps: Tensor
    """[T, H, W, D] the video."""
    query: Query | None
    others: Mapping[str, Tensor]
    """[T, H, W, D] of further encoders by name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A projector at the size of its checkpoint, and its original's arithmetic."""

    oracle: Callable[[Task], Tensor]
    """Rows [M, dim_out], in any shape, that equal our tokens."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    cpu: Mapping[str, Any] = field(default_factory=dict)
    """Settings on a CPU where a call would take many seconds there."""
    grid: Grid = _GRID
    dim_in: int = 1024
    dim_out: int = 4096
    others: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """Further encoders: sides of a square frame, and features."""
    words: int = 32
    """Rows or ids of a question."""

    def build(self, name: str, device: str, *, quick: bool) -> tuple[Projector, Grid]:
        """The projector with fresh weights and the grid it reads; smaller where needed."""
        settings = {"dim_in": self.dim_in, "dim_out": self.dim_out, **self.settings}
        if device == "cpu":
            settings |= {"dim_out": 1024, **self.cpu}
        config: ProjectorConfig = PROJECTORS.make(name, **settings)
        if quick and "depth" in type(config).model_fields:
            config = config.model_copy(update={"depth": min(config.depth, 2)})
        frames = min(self.grid.t, 2) if quick else self.grid.t
        return config.build(device=device), self.grid._replace(t=frames)

    def streams(self, grid: Grid, dtype: torch.dtype, device: str) -> dict[str, VideoTokens]:
        """Videos by the name of their encoder, the first called ``video``."""
        sizes = {"video": (grid, self.dim_in)} | {
            name: (Grid(grid.t, side, side), dim) for name, (side, dim) in self.others.items()
        }
        return {n: drifting_video(g, d, dtype=dtype).to(device) for n, (g, d) in sizes.items()}


def question(projector: Projector, words: int, device: str) -> Query | None:
    """What is asked, if the projector reads a question."""
    draw = torch.Generator().manual_seed(0)
    if projector.asks is QueryIds:
        return QueryIds(ids=torch.randint(1000, (words,), generator=draw).to(device))
    if projector.asks is QueryFeatures:
        width = projector.config.dim_text
        rows = torch.randn(words, width, generator=draw)
        return QueryFeatures(embedding=rows.to(device, projector.dtype))
    return None
