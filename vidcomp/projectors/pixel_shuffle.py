"""Pixel shuffle: the patches of each square side by side in one token, then a matrix or an MLP.

Building and better understanding vision-language models, 2024, https://arxiv.org/abs/2408.12637
(Idefics3; SmolVLM, 2025, has the same), and How Far Are We to GPT-4V?, 2024,
https://arxiv.org/abs/2404.16821 (InternVL 1.5 and later).  The originals take square frames only.
"""

import re
from abc import abstractmethod
from collections.abc import Mapping
from typing import Literal, Self

import torch
from pydantic import Field
from torch import Tensor, nn

from vidcomp.errors import ShapeError
from vidcomp.projectors.base import ProjectorAbout, ProjectorConfig
from vidcomp.projectors.blocks import mlp, untraced
from vidcomp.projectors.checkpoint import numbered
from vidcomp.projectors.gridwise import GridwiseProjector
from vidcomp.projectors.pooling import stacked_windows
from vidcomp.registry import PROJECTORS
from vidcomp.types import Grid, VideoTokens

__all__ = [
    "InternVl",
    "InternVlConfig",
    "PixelShuffle",
    "PixelShuffleConfig",
    "ShuffleConfig",
    "WindowProjector",
]


class WindowProjector(GridwiseProjector):
    """The patches of squares become one token each; ``after`` is what maps it."""

    @property
    @abstractmethod
    def window(self) -> int:
        """Patches along each side of a square."""

    def cells(self, grid: Grid, budget: int | None = None) -> Grid:  # noqa: ARG002
        """Sides over ``window``.

        Raises:
            ShapeError: it does not divide them.
        """
        size = self.window
        if grid.h % size or grid.w % size:
            raise ShapeError(
                f"the projector {self.config.name!r} makes one token of {size} x {size} patches, "
                f"got frames of {grid.h} x {grid.w}: let the encoder resize frames to multiples "
                f"of {size} patches"
            )
        return Grid(grid.t, grid.h // size, grid.w // size)

    def maps(self, x_BTHWD: Tensor, cells: Grid) -> Tensor:  # noqa: ARG002
        """The patches of a square side by side, row by row."""
        return stacked_windows(x_BTHWD, self.window)


class ShuffleConfig(ProjectorConfig):
    """What both kinds of pixel shuffle have."""

    scale_factor: int = Field(2, ge=1)
    """Patches along each side of a token (InternVL's ``1 / downsample_ratio``)."""


@PROJECTORS.add("pixel_shuffle")
class PixelShuffleConfig(ShuffleConfig):
    """Squares of patches side by side, then one matrix without bias (Idefics3, SmolVLM)."""

    about = ProjectorAbout(
        paper="Building and better understanding vision-language models: insights and future "
        "directions (Laurençon, 2024)",
        tokens="patches / `scale_factor`²",
        reads="grid",
        checkpoint="transformers' Idefics3Connector and SmolVLMConnector",
    )

    def module(self) -> "PixelShuffle":
        """A ``PixelShuffle`` with torch's default initial weights."""
        return PixelShuffle(self)


class PixelShuffle(WindowProjector):
    """Idefics3 has squares of 2 x 2 patches, SmolVLM of 3 x 3 or 4 x 4."""

    config: PixelShuffleConfig
    reference_names = ((r"^proj\.", "modality_projection.proj."),)

    def __init__(self, config: PixelShuffleConfig) -> None:
        super().__init__(config)
        self.proj = nn.Linear(config.dim_in * config.scale_factor**2, config.dim_out, bias=False)

    @property
    def window(self) -> int:
        """As the settings say."""
        return self.config.scale_factor

    def after(self, x_ND: Tensor) -> Tensor:
        """The matrix."""
        out: Tensor = self.proj(x_ND)
        return out


@PROJECTORS.add("internvl")
class InternVlConfig(ShuffleConfig):
    """Squares of patches side by side, then a norm and an MLP (InternVL)."""

    about = ProjectorAbout(
        paper="How Far Are We to GPT-4V? Closing the Gap to Commercial Multimodal Models with "
        "Open-Source Suites (Chen, 2024)",
        tokens="patches / `scale_factor`²",
        reads="grid",
        checkpoint="OpenGVLab/InternVL `mlp1`, transformers' InternVLMultiModalProjector",
    )

    depth: int = Field(2, ge=1)
    """Linear layers of the MLP."""
    ps_version: Literal["v2", "v1"] = "v2"
    """``v1``: tokens of a frame come out column by column, as checkpoints of InternVL 1.5 and
    older were trained on; their content is the same."""

    def module(self) -> "InternVl":
        """An ``InternVl`` with torch's default initial weights."""
        return InternVl(self)


class InternVl(WindowProjector):
    """The norm is over all features of a square."""

    config: InternVlConfig
    reference_names = ((r"^layers\.", "mlp1."),)

    def __init__(self, config: InternVlConfig) -> None:
        super().__init__(config)
        width = config.dim_in * config.scale_factor**2
        self.layers = mlp(width, *[config.dim_out] * config.depth, norm=True)

    @property
    def window(self) -> int:
        """As the settings say."""
        return self.config.scale_factor

    def after(self, x_ND: Tensor) -> Tensor:
        """The norm and the MLP."""
        out: Tensor = self.layers(x_ND)
        return out

    def finish(self, video: VideoTokens, cells: Grid) -> VideoTokens:
        """The order that ``ps_version`` asks for."""
        if self.config.ps_version == "v2":
            return video
        return _by_columns(video, cells)

    def load_reference(self, state: Mapping[str, Tensor]) -> Self:
        """Weights by the names of InternVL (below ``mlp1`` or not) or of transformers."""
        state = numbered(state, "mlp1.", norm=True)
        return super().load_reference(
            {re.sub(r"^(\d)", r"mlp1.\1", n): t for n, t in state.items()}
        )


@untraced
def _by_columns(video: VideoTokens, cells: Grid) -> VideoTokens:
    row_TJK = torch.arange(cells.num_patches, device=video.tokens.device).view(cells)
    return video.select(row_TJK.transpose(1, 2).flatten())
