"""VideoLLaMA 2's connectors: convolutions of each frame around a sampler over time and space.

VideoLLaMA 2: Advancing Spatial-Temporal Modeling and Audio Understanding in Video-LLMs, 2024,
https://arxiv.org/abs/2406.07476.  Counts are those of the sampler's windows, never a plain
division: the convolution of ``stc`` and ``spatial_conv`` is padded by one on every side, so that n
frames, rows or columns become ``floor(n / 2) + 1``; those of the others are not, and drop what is
left over.  The originals take square frames; here frames have any grid.

Legend: B videos, T H W frames and patches, I J K the cells that come out, N rows, D C features.
"""

from typing import ClassVar, Literal

from pydantic import Field, PositiveInt
from torch import Tensor, nn

from vidcomp.errors import ShapeError
from vidcomp.functional.pool import window_weights
from vidcomp.projectors.base import ProjectorAbout, ProjectorConfig
from vidcomp.projectors.blocks import FrameEmbedding, mlp, untraced
from vidcomp.projectors.convs import RegStage
from vidcomp.projectors.gridwise import GridwiseProjector
from vidcomp.projectors.pooling import mean_windows
from vidcomp.projectors.positions import embedded_maps
from vidcomp.registry import PROJECTORS
from vidcomp.types import Grid

__all__ = [
    "ConnectorConfig",
    "SpatialConvConfig",
    "SpatialPoolConfig",
    "StcConfig",
    "StcConnector",
    "StcV35Config",
    "StpConfig",
]

_PAPER = (
    "VideoLLaMA 2: Advancing Spatial-Temporal Modeling and Audio Understanding in Video-LLMs "
    "(Cheng, 2024)"
)
_CHECKPOINT = "DAMO-NLP-SG/VideoLLaMA2"


class ConnectorConfig(ProjectorConfig):
    """Settings of all connectors of VideoLLaMA 2."""

    sampler: ClassVar[Literal["conv", "mean"]] = "conv"
    """Whether windows are convolved or averaged."""

    downsample: tuple[PositiveInt, PositiveInt, PositiveInt] = (2, 2, 2)
    """Frames, rows and columns of a window, which is also the step to the next one."""
    depth: int = Field(4, ge=0)
    """Convolutional blocks of each frame before the sampler, and as many after it."""
    mlp_depth: int = Field(2, ge=1)
    """Linear layers of the MLP at the end, with GELU between them."""
    max_frames: int = Field(0, ge=0)
    """Learned embeddings of frames, which are stretched over longer videos; 0: none, as in the
    original."""

    @property
    def padding(self) -> tuple[int, int, int]:
        """Zeros around frames, rows and columns."""
        return 0, 0, 0

    def module(self) -> "StcConnector":
        """A ``StcConnector`` with torch's default initial weights."""
        return StcConnector(self)


@PROJECTORS.add("stc")
class StcConfig(ConnectorConfig):
    """Convolution over time and space, padded (VideoLLaMA 2)."""

    about = ProjectorAbout(
        paper=_PAPER,
        tokens="(floor(t / 2) + 1) x (floor(h / 2) + 1) x (floor(w / 2) + 1)",
        reads="grid",
        checkpoint=f"{_CHECKPOINT} `STCConnector`",
    )

    @property
    def padding(self) -> tuple[int, int, int]:
        """One frame, row and column of zeros on every side."""
        return 1, 1, 1


@PROJECTORS.add("stc_v35")
class StcV35Config(ConnectorConfig):
    """Convolution over time and space without padding (VideoLLaMA 2.1)."""

    about = ProjectorAbout(
        paper=_PAPER,
        tokens="floor(t / 2) x floor(h / 2) x floor(w / 2)",
        reads="grid",
        checkpoint=f"{_CHECKPOINT} `STCConnectorV35`",
    )


@PROJECTORS.add("stp")
class StpConfig(ConnectorConfig):
    """Means over time and space (VideoLLaMA 2)."""

    sampler = "mean"
    about = ProjectorAbout(
        paper=_PAPER,
        tokens="floor(t / 2) x floor(h / 2) x floor(w / 2)",
        reads="grid",
        checkpoint=f"{_CHECKPOINT} `STPConnector`",
    )


@PROJECTORS.add("spatial_conv")
class SpatialConvConfig(ConnectorConfig):
    """Convolution over space, padded (VideoLLaMA 2).

    The original's padding adds a frame of zeros before the first and after the last, from which two
    frames of tokens come that are the same for every video; they count as made of the frame next
    to them, and share its mass.
    """

    about = ProjectorAbout(
        paper=_PAPER,
        tokens="(t + 2) x (floor(h / 2) + 1) x (floor(w / 2) + 1)",
        reads="grid",
        checkpoint=f"{_CHECKPOINT} `SpatialConv`",
    )

    downsample: tuple[PositiveInt, PositiveInt, PositiveInt] = (1, 2, 2)
    """Frames, rows and columns of a window, which is also the step to the next one."""
    depth: int = Field(0, ge=0)
    """Convolutional blocks of each frame before the sampler, and as many after it."""
    pad_frames: bool = True
    """Whether there are the original's two frames of zeros; without them the tokens of the other
    frames are the same."""

    @property
    def padding(self) -> tuple[int, int, int]:
        """One row and column of zeros on every side, and one frame if ``pad_frames``."""
        return int(self.pad_frames), 1, 1


@PROJECTORS.add("spatial_pool")
class SpatialPoolConfig(ConnectorConfig):
    """Means over space (VideoLLaMA 2)."""

    sampler = "mean"
    about = ProjectorAbout(
        paper=_PAPER,
        tokens="t x floor(h / 2) x floor(w / 2)",
        reads="grid",
        checkpoint=f"{_CHECKPOINT} `SpatialPool`",
    )

    downsample: tuple[PositiveInt, PositiveInt, PositiveInt] = (1, 2, 2)
    """Frames, rows and columns of a window, which is also the step to the next one."""
    depth: int = Field(0, ge=0)
    """Convolutional blocks of each frame before the sampler, and as many after it."""


class StcConnector(GridwiseProjector):
    """RegNet stages around a sampler, then an MLP; with ``depth`` 0 the sampler works on the
    encoder's features.

    Provenance is the window of the sampler; the stages see more around it.
    """

    config: ConnectorConfig
    reference_names = ((r"^sampler\.", "sampler.0."),)

    def __init__(self, config: ConnectorConfig) -> None:
        super().__init__(config)
        dim, depth, frames = config.dim_in, config.depth, config.max_frames
        hidden = config.dim_out if depth else dim
        self.frame_emb = FrameEmbedding(frames, dim) if frames else None
        self.s1 = RegStage(depth, dim, hidden)
        self.sampler: nn.Conv3d | None = None
        if config.sampler == "conv":
            window = config.downsample
            self.sampler = nn.Conv3d(hidden, hidden, window, window, config.padding)
        self.s2 = RegStage(depth, hidden, hidden)
        self.readout = mlp(hidden, *[config.dim_out] * config.mlp_depth)

    def cells(self, grid: Grid, budget: int | None = None) -> Grid:  # noqa: ARG002
        """Windows along each axis.

        Raises:
            ShapeError: the grid is smaller than one window.
        """
        config = self.config
        cells = Grid(
            *[
                (size + 2 * pad) // step
                for size, step, pad in zip(grid, config.downsample, config.padding, strict=True)
            ]
        )
        if min(cells) < 1:
            raise ShapeError(
                f"the projector {config.name!r} needs a grid of at least {config.downsample}, got "
                f"{tuple(grid)}: sample more frames, enlarge them, or set another downsample"
            )
        return cells

    def maps(self, x_BTHWD: Tensor, cells: Grid) -> Tensor:  # noqa: ARG002
        """Convolutions, windows, convolutions."""
        placed_BTHWD = embedded_maps(x_BTHWD, None, self.frame_emb)
        x_BIJKC = self._sampled(self.s1(placed_BTHWD))
        out: Tensor = self.s2(nn.functional.silu(x_BIJKC))
        return out

    def after(self, x_ND: Tensor) -> Tensor:
        """The MLP."""
        out: Tensor = self.readout(x_ND)
        return out

    def footprint(self, grid: Grid, cells: Grid) -> tuple[Tensor, Tensor, Tensor]:  # noqa: ARG002
        """Windows of the sampler; one of zeros alone counts as what is nearest to it."""
        config = self.config
        t, h, w = (
            window_weights(size, step, step, pad)
            for size, step, pad in zip(grid, config.downsample, config.padding, strict=True)
        )
        return t, h, w

    def _sampled(self, x_BTHWC: Tensor) -> Tensor:
        """[B, I, J, K, C] windows convolved or averaged."""
        if self.sampler is None:
            return mean_windows(x_BTHWC, self.config.downsample)
        return _convolved(self.sampler, x_BTHWC)


@untraced  # torch 2.13 cannot compile its gradient where sizes vary
def _convolved(conv: nn.Conv3d, x_BTHWC: Tensor) -> Tensor:
    """[B, I, J, K, C] of [B, T, H, W, C], which the convolution sees as ``channels_last_3d``
    unless it is one of single frames.
    """
    x_BCTHW = x_BTHWC.permute(0, 4, 1, 2, 3)
    if conv.kernel_size[0] == 1 and x_BCTHW.is_cpu:
        x_BCTHW = x_BCTHW.contiguous()  # with gradients 1.6 times as fast, as measured there
    x_BCIJK: Tensor = conv(x_BCTHW)
    return x_BCIJK.permute(0, 2, 3, 4, 1)
