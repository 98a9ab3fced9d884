"""VL-Mamba's multimodal connector: a 2-D selective scan beside layers of each token.

VL-Mamba: Exploring State Space Models for Multimodal Learning (Qiao, 2024),
https://arxiv.org/abs/2403.13600.  Its code is not public, and the paper leaves open which norm it
means, how scans are merged and whether they share weights: here they are those of VMamba's SS2D, a
LayerNorm, the sum, and weights for each order.  The original reads one image; here frames have any
grid, and scans may go through all frames of a video.

Legend: B videos, T frames, H W patches of a frame, N rows, D features.
"""

from collections.abc import Mapping
from typing import Literal, Self

from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import gelu

from vidcomp.projectors.base import ProjectorAbout, ProjectorConfig
from vidcomp.projectors.blocks import FrameEmbedding, mlp
from vidcomp.projectors.gridwise import GridwiseProjector
from vidcomp.projectors.positions import embedded_maps
from vidcomp.projectors.state_space import Scan, Scope, Ss2d, vmamba_names
from vidcomp.registry import PROJECTORS
from vidcomp.types import Grid

__all__ = ["VlMamba", "VlMambaConfig"]


@PROJECTORS.add("vl_mamba")
class VlMambaConfig(ProjectorConfig):
    """A 2-D selective scan of the patches beside layers of each token (VL-Mamba)."""

    about = ProjectorAbout(
        paper="VL-Mamba: Exploring State Space Models for Multimodal Learning (Qiao, 2024)",
        reads="grid",
        checkpoint="MzeroMiko/VMamba `SS2D`, for the scan (VL-Mamba published none)",
    )

    connector: Literal["vss_l2", "vss_mlp"] = "vss_l2"
    """``vss_l2``: a linear layer, the scan of its GELU added to it, a norm, a linear layer;
    ``vss_mlp``: the scan added to what comes in, a norm, an MLP."""
    scan: Scan = "bidirectional"
    """``bidirectional``: row by row, there and back; ``cross``: also column by column."""
    scope: Scope = "frame"
    """``frame``: scans start anew in every frame, as in the original; ``video``: they go through
    all frames, so that tokens know what was before and what comes."""
    dim_hidden: int | None = Field(None, ge=1)
    """Features between the layers; ``None``: ``dim_out``."""
    states: int = Field(16, ge=1)
    """States of each feature of a scan."""
    expand: int = Field(2, ge=1)
    """A scan has so many times the features that go into it."""
    rank: int | None = Field(None, ge=1)
    """Features of which the steps of a scan are made; ``None``: a sixteenth of those that go into
    it, rounded up."""
    max_frames: int = Field(0, ge=0)
    """Learned embeddings of frames, which are stretched over longer videos; 0: none, as in the
    original."""

    def module(self) -> "VlMamba":
        """A ``VlMamba`` with VMamba's initial weights of scans and torch's of the rest."""
        return VlMamba(self)


class VlMamba(GridwiseProjector):
    """Every token stays that of its patch, though it sees the others of its frame or video."""

    config: VlMambaConfig

    def __init__(self, config: VlMambaConfig) -> None:
        super().__init__(config)
        hidden = config.dim_hidden or config.dim_out
        first = config.connector == "vss_l2"
        dim = hidden if first else config.dim_in
        self.in_proj = nn.Linear(config.dim_in, dim) if first else None
        self.frame_emb = FrameEmbedding(config.max_frames, dim) if config.max_frames else None
        self.vss = Ss2d(
            dim,
            scan=config.scan,
            scope=config.scope,
            states=config.states,
            expand=config.expand,
            rank=config.rank,
        )
        self.norm = nn.LayerNorm(dim)
        self.layers = mlp(*([dim] if first else [dim, hidden]), config.dim_out)

    def load_reference(self, state: Mapping[str, Tensor]) -> Self:
        """Weights by the names of ``state_dict()``, those of the scan also by those of VMamba's
        first release.

        Raises:
            ShapeError: a name is missing or left over, or a shape differs.
        """
        return super().load_reference(vmamba_names(state))

    def cells(self, grid: Grid, budget: int | None = None) -> Grid:  # noqa: ARG002
        """Those of the patches."""
        return grid

    def before(self, x_ND: Tensor) -> Tensor:
        """The first linear layer, if there is one."""
        return x_ND if self.in_proj is None else self.in_proj(x_ND)

    def maps(self, x_BTHWD: Tensor, cells: Grid) -> Tensor:  # noqa: ARG002
        """What the scan adds to the patches, all frames of all videos in one pass."""
        placed = embedded_maps(x_BTHWD, None, self.frame_emb)
        out: Tensor = placed + self.vss(placed if self.in_proj is None else gelu(placed))
        return out

    def after(self, x_ND: Tensor) -> Tensor:
        """The norm and the last layers."""
        out: Tensor = self.layers(self.norm(x_ND))
        return out
