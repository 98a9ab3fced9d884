"""MobileVLM's lightweight downsample projectors: an MLP, then few cheap convolutions of each frame.

MobileVLM: A Fast, Strong and Open Vision Language Assistant for Mobile Devices, 2023,
https://arxiv.org/abs/2312.16886 (LDP), and MobileVLM V2: Faster and Stronger Baseline for Vision
Language Model, 2024, https://arxiv.org/abs/2402.03766 (LDPv2).  The originals take square frames,
and LDPv2 always makes 12 x 12 cells of them; here frames have any grid, and a budget may choose how
many cells LDPv2 makes.

Legend: B videos, T frames, H W patches of a frame, J K its cells, N rows, D features.
"""

import torch
from pydantic import Field
from torch import Tensor

from vidcomp.functional.pool import window_weights
from vidcomp.projectors.base import ProjectorAbout, ProjectorConfig
from vidcomp.projectors.blocks import FrameEmbedding, mlp
from vidcomp.projectors.convs import Depthwise, InvertedResidual
from vidcomp.projectors.frame_cells import CellsPerFrame, frame_cells
from vidcomp.projectors.gridwise import GridwiseProjector
from vidcomp.projectors.pooling import mean_cells
from vidcomp.projectors.positions import embedded_maps
from vidcomp.registry import PROJECTORS
from vidcomp.types import Grid

__all__ = ["Ldp", "LdpConfig", "LdpV2", "LdpV2Config"]


@PROJECTORS.add("ldp")
class LdpConfig(ProjectorConfig):
    """An MLP, then two depthwise separable blocks, the second with stride 2 (MobileVLM)."""

    about = ProjectorAbout(
        paper="MobileVLM: A Fast, Strong and Open Vision Language Assistant for Mobile Devices "
        "(Chu, 2023)",
        tokens="ceil(h / 2) x ceil(w / 2) a frame",
        reads="grid",
        checkpoint="Meituan-AutoML/MobileVLM `LDPNetProjector`",
    )

    max_frames: int = Field(0, ge=0)
    """Learned embeddings of frames, which are stretched over longer videos; 0: none, as in the
    original."""

    def module(self) -> "Ldp":
        """An ``Ldp`` with torch's default initial weights."""
        return Ldp(self)


class Ldp(GridwiseProjector):
    """Provenance is the window of the convolution with stride 2; around it the blocks see more."""

    config: LdpConfig
    reference_names = (
        (r"^layers\.0\.", "model.mlp.1."),
        (r"^layers\.2\.", "model.mlp.3."),
        (r"^same\.", "model.mb_block.1."),
        (r"^down\.", "model.mb_block.2."),
    )

    def __init__(self, config: LdpConfig) -> None:
        super().__init__(config)
        dim, frames = config.dim_out, config.max_frames
        self.layers = mlp(config.dim_in, dim, dim)
        self.frame_emb = FrameEmbedding(frames, dim) if frames else None
        self.same = InvertedResidual(dim, stride=1)
        self.down = InvertedResidual(dim, stride=2)

    def cells(self, grid: Grid, budget: int | None = None) -> Grid:  # noqa: ARG002
        """Half the rows and columns, rounded up."""
        return Grid(grid.t, -(-grid.h // 2), -(-grid.w // 2))

    def before(self, x_ND: Tensor) -> Tensor:
        """The MLP."""
        out: Tensor = self.layers(x_ND)
        return out

    def maps(self, x_BTHWD: Tensor, cells: Grid) -> Tensor:  # noqa: ARG002
        """Both blocks, all frames of all videos in one pass."""
        placed_BTHWD = embedded_maps(x_BTHWD, None, self.frame_emb)
        out: Tensor = self.down(self.same(placed_BTHWD))
        return out

    def footprint(self, grid: Grid, cells: Grid) -> tuple[Tensor, Tensor, Tensor]:
        """Windows of 3 x 3 patches, every other row and column."""
        rows, columns = (window_weights(n, kernel=3, stride=2, padding=1) for n in grid[1:])
        return torch.eye(cells.t, dtype=torch.float64), rows, columns


@PROJECTORS.add("ldp_v2")
class LdpV2Config(ProjectorConfig):
    """An MLP, then adaptive average pooling, then a depthwise convolution for positions (MobileVLM
    V2).
    """

    about = ProjectorAbout(
        paper="MobileVLM V2: Faster and Stronger Baseline for Vision Language Model (Chu, 2024)",
        tokens="`tokens_per_frame` a frame, or what a budget allows",
        reads="grid",
        checkpoint="Meituan-AutoML/MobileVLM `LDPNetV2Projector`",
    )

    tokens_per_frame: CellsPerFrame = (12, 12)
    """Cells of a pooled frame: a number, laid out as h x w with the aspect nearest the frame's
    among its divisors, or (h, w)."""
    max_frames: int = Field(0, ge=0)
    """Learned embeddings of frames, which are stretched over longer videos; 0: none, as in the
    original."""

    def module(self) -> "LdpV2":
        """An ``LdpV2`` with torch's default initial weights."""
        return LdpV2(self)


class LdpV2(GridwiseProjector):
    """Provenance is the bins of the pooling."""

    config: LdpV2Config
    is_elastic = True
    reference_names = ((r"^layers\.", "mlp.mlp."), (r"^peg\.", "peg.peg.0."))

    def __init__(self, config: LdpV2Config) -> None:
        super().__init__(config)
        dim, frames = config.dim_out, config.max_frames
        self.layers = mlp(config.dim_in, dim, dim)
        self.frame_emb = FrameEmbedding(frames, dim) if frames else None
        self.peg = Depthwise(dim, bias=True)

    def cells(self, grid: Grid, budget: int | None = None) -> Grid:
        """``tokens_per_frame`` each; with a budget the largest pooled grid that all frames can
        have within it.

        Raises:
            BudgetError: ``budget`` is less than one token a frame.
        """
        return frame_cells(self.config.name, self.config.tokens_per_frame, grid, budget)

    def before(self, x_ND: Tensor) -> Tensor:
        """The MLP."""
        out: Tensor = self.layers(x_ND)
        return out

    def maps(self, x_BTHWD: Tensor, cells: Grid) -> Tensor:
        """Means of the bins, and what the convolution adds to them."""
        placed_BTHWD = embedded_maps(x_BTHWD, None, self.frame_emb)
        x_BTJKD = mean_cells(placed_BTHWD, cells)
        out: Tensor = x_BTJKD + self.peg(x_BTJKD)
        return out
