"""EdgeTAM's 2-D spatial perceiver: some latents read all of a frame, others one window of it each.

EdgeTAM: On-Device Track Anything Model, 2025, https://arxiv.org/abs/2501.07256.  Arithmetic and
weights are those of transformers' ``EdgeTamVideoPerceiverResampler``.  Both kinds go through the
same layers.  Global latents see where a patch is by positions that are added to keys and values;
those of windows see none, and talk to no other: what they are is said by which window they have.
The original wants square frames that its windows divide; here there are as many windows on every
frame, which overlap where they do not divide it.  With more than one head, which no checkpoint has,
transformers (5.23) takes heads for latents behind the attention; here heads stay heads.

Legend: B frames, N patches of a frame, K global latents, M windows of a frame, X = B * M windows of
all frames, D features, E features of all heads, W patches of the largest window.
"""

from collections.abc import Sequence
from typing import Self, cast

import torch
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor, nn

from vidcomp.errors import ShapeError
from vidcomp.functional.geometry import is_dense
from vidcomp.functional.pool import adaptive_edges
from vidcomp.projectors.attention import GroupedAttention
from vidcomp.projectors.base import ProjectorAbout, ProjectorConfig
from vidcomp.projectors.blocks import FrameEmbedding, untraced
from vidcomp.projectors.latents import output_layer
from vidcomp.projectors.sets import ClipSets, SetwiseProjector
from vidcomp.projectors.sincos import sine_hw
from vidcomp.projectors.windows import Windows
from vidcomp.registry import PROJECTORS
from vidcomp.types import Grid, Query, VideoTokens

__all__ = ["EdgeTamLayer", "EdgeTamPerceiver", "EdgeTamPerceiverConfig"]


@PROJECTORS.add("edgetam_perceiver")
class EdgeTamPerceiverConfig(ProjectorConfig):
    """Latents of each frame and of its windows (EdgeTAM)."""

    about = ProjectorAbout(
        paper="EdgeTAM: On-Device Track Anything Model (Zhou, 2025)",
        tokens="`num_latents` and one a cell of `window_grid` a frame",
        reads="grid",
        checkpoint="transformers EdgeTamVideoPerceiverResampler",
        in_order=False,
    )

    num_latents: int = Field(256, ge=0)
    """Latents that read all of a frame, and come first."""
    window_grid: tuple[PositiveInt, PositiveInt] | None = (16, 16)
    """Windows along height and width of a frame, whatever its size; each has a latent of its own
    (256 of ``num_latents_2d`` are 16 x 16).  ``None``: no windows."""
    dim_hidden: int | None = Field(None, ge=1)
    """Features of the latents (``hidden_size``); ``None``: ``dim_in``, else a linear layer comes
    first."""
    depth: int = Field(2, ge=1)
    """Layers."""
    heads: int = Field(1, ge=1)
    """Attention heads."""
    dim_head: int = Field(64, ge=1)
    """Features of a head."""
    dim_ff: int = Field(256, ge=1)
    """Features inside the feed-forwards (``mlp_intermediate_size``)."""
    positions: str = "sine"
    """What tells global latents where a patch is: ``sine`` of its place in the frame, ``none``, or
    the name of an extra [N, heads * dim_head] of the video."""
    max_frames: int = Field(0, ge=0)
    """Rows of a learned table of frame embeddings, zero before training, added to the tokens and
    stretched over videos of more frames; 0: none, as in the original."""

    @model_validator(mode="after")
    def _check_latents(self) -> Self:
        if not self.tokens_per_frame:
            raise ValueError(
                f"{self.name!r} has no latents: set num_latents to at least 1 or give a window_grid"
            )
        return self

    @property
    def width(self) -> int:
        """Features of the latents."""
        return self.dim_hidden or self.dim_in

    @property
    def num_windows(self) -> int:
        """Windows of a frame."""
        return self.window_grid[0] * self.window_grid[1] if self.window_grid else 0

    @property
    def tokens_per_frame(self) -> int:
        """Latents of both kinds."""
        return self.num_latents + self.num_windows

    @property
    def dim_positions(self) -> int:
        """Features of positions that come as an extra; 0 if they do not."""
        return 0 if self.positions in ("sine", "none") else self.heads * self.dim_head

    def module(self) -> "EdgeTamPerceiver":
        """An ``EdgeTamPerceiver`` whose latents are standard normal."""
        return EdgeTamPerceiver(self)


class EdgeTamLayer(nn.Module):
    """Latents read patches, then each other; a feed-forward follows both, and all is added."""

    def __init__(self, config: EdgeTamPerceiverConfig) -> None:
        super().__init__()
        dim, heads, dim_head = config.width, config.heads, config.dim_head
        self.norm_latents = nn.LayerNorm(dim)
        self.norm_input = nn.LayerNorm(dim)
        self.cross_attention = GroupedAttention(dim, heads=heads, dim_head=dim_head)
        self.mlp = _feed_forward(dim, config.dim_ff)
        self.norm_self = nn.LayerNorm(dim)
        self.self_attention = GroupedAttention(dim, heads=heads, dim_head=dim_head)
        self.self_mlp = _feed_forward(dim, config.dim_ff)

    def forward(
        self,
        latents_BKD: Tensor,
        key_BND: Tensor,
        mask_BN: Tensor | None = None,
        place_BNE: Tensor | None = None,
    ) -> Tensor:
        """[B, K, D] new latents; see ``GroupedAttention``."""
        inputs = self.norm_latents(latents_BKD), self.norm_input(key_BND)
        return self._after(latents_BKD, self.cross_attention(*inputs, mask_BN, place_BNE))

    def read(
        self,
        latents_BKD: Tensor,
        key_BND: Tensor,
        mask_BN: Tensor | None = None,
        place_BNE: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """New latents, and [B, K, N] float32 shares of the patches in what each latent reads."""
        inputs = self.norm_latents(latents_BKD), self.norm_input(key_BND)
        read, shares = self.cross_attention.read(*inputs, mask_BN, place_BNE=place_BNE)
        return self._after(latents_BKD, read), shares

    def _after(self, latents: Tensor, read: Tensor) -> Tensor:
        latents = latents + read
        latents = latents + self.mlp(latents)
        alike = self.norm_self(latents)
        latents = latents + self.self_attention(alike, alike)
        out: Tensor = latents + self.self_mlp(latents)
        return out


class EdgeTamPerceiver(SetwiseProjector):
    """Tokens of a frame are its global latents, then those of its windows, row by row.

    The soft provenance of a token is the attention of the last layer, averaged over heads.
    """

    config: EdgeTamPerceiverConfig
    reference_names = (
        (r"\.norm_(latents|input|self)\.", r".layer_norm_\1."),
        (r"mlp\.0\.", "mlp.layer_norm."),
        (r"mlp\.1\.", "mlp.up_proj."),
        (r"mlp\.3\.", "mlp.down_proj."),
        (r"^norm\.", "layer_norm."),
    )

    def __init__(self, config: EdgeTamPerceiverConfig) -> None:
        super().__init__(config)
        dim, frames = config.width, config.max_frames
        self.frame_emb = FrameEmbedding(frames, config.dim_in) if frames else None
        self.input = output_layer(config.dim_in, dim)
        if config.num_latents:
            self.latents_1d = nn.Parameter(torch.randn(config.num_latents, dim))
        if config.num_windows:
            self.latents_2d = nn.Parameter(torch.randn(config.num_windows, dim))
        self.layers = nn.ModuleList(EdgeTamLayer(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(dim)
        self.output = output_layer(dim, config.dim_out)

    @property
    def num_latents(self) -> int:
        """Those of a frame and of its windows."""
        return self.config.tokens_per_frame

    @property
    def frames_per_clip(self) -> int:
        """Every frame is read by itself."""
        return 1

    def places(self, grid: Grid) -> Tensor:
        """[t * tokens of a frame, D] float32 on the CPU: positions that EdgeTAM's attention adds to
        the latents when it reads them; zeros for the global ones.
        """
        config = self.config
        h, w = config.window_grid or (0, 0)
        frame = torch.cat(
            [torch.zeros(config.num_latents, config.width), sine_hw(h, w, config.width)]
        )
        return frame.repeat(grid.t, 1)

    def project(
        self,
        videos: Sequence[VideoTokens],
        budgets: Sequence[int | None],
        queries: Sequence[Query | None],
    ) -> list[VideoTokens]:
        """Frames of one size side by side."""
        for video in videos:
            self._check_grid(video)
        found: dict[int, VideoTokens] = {}
        sizes = [video.grid[1:] for video in videos]
        for size in sorted(set(sizes)):
            index = [i for i, own in enumerate(sizes) if own == size]
            parts = ([some[i] for i in index] for some in (videos, budgets, queries))
            found |= zip(index, super().project(*parts), strict=True)  # type: ignore[arg-type]
        return [found[i] for i in range(len(videos))]

    def features(self, video: VideoTokens) -> Tensor:
        """[N, D] tokens, and beside them their positions if an extra holds them."""
        name, width = self.config.positions, self.config.dim_positions
        if not width:
            return video.tokens
        found = video.extras.get(name)
        if found is None or not found.is_floating_point() or found.shape[1:] != (width,):
            got = "none" if found is None else f"{list(found.shape)} {found.dtype}"
            raise ShapeError(
                f"the projector {self.config.name!r} reads positions from the extra {name!r} "
                f"[{len(video)}, {width}] of floats, got {got}: add it to the video's extras, or "
                f"set positions to sine or none"
            )
        return torch.cat([video.tokens, found.to(video.tokens.dtype)], dim=1)

    def read(self, clips: ClipSets) -> tuple[Tensor, Tensor]:
        """Both kinds of latents through the same layers; the sources are those of the last."""
        dim, grid_hw = self.config.dim_in, _frame_size(clips)
        x_BND = clips.rows[..., :dim]
        if self.frame_emb is not None:
            number_B1, count_B1 = torch.split(clips.numbers, 1, dim=1)
            x_BND = x_BND + self.frame_emb(number_B1, count_B1)
        x_BND = self.input(x_BND)
        parts = []
        if self.config.num_latents:
            parts.append(self._read_frames(x_BND, self._positions(clips, grid_hw)))
        if self.config.window_grid:
            parts.append(self._read_windows(x_BND, grid_hw, self.config.window_grid))
        latents, sources = (torch.cat(kind, dim=1) for kind in zip(*parts, strict=True))
        return self.output(self.norm(latents)), sources

    def _read_frames(self, x_BND: Tensor, place_BNE: Tensor | None) -> tuple[Tensor, Tensor]:
        """[B, K, D] global latents and their sources."""
        latents = self.latents_1d.expand(len(x_BND), -1, -1)
        return self._through(latents, x_BND, None, place_BNE)

    def _read_windows(
        self, x_BND: Tensor, grid_hw: tuple[int, int], window_grid: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """[B, M, D] latents of windows and their sources."""
        b, n, d = x_BND.shape
        rows, columns = (adaptive_edges(*sides) for sides in zip(grid_hw, window_grid, strict=True))
        windows = Windows.of(rows, columns, grid_hw[1], x_BND.device)
        latents_X1D = self.latents_2d.repeat(b, 1)[:, None]
        found = self._through(latents_X1D, windows.gather(x_BND), windows.masks(b), None)
        latents_X1D, shares_X1W = found
        return latents_X1D.view(b, -1, d), windows.scatter(shares_X1W, n)

    def _through(
        self, latents: Tensor, rows: Tensor, mask: Tensor | None, place: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        for layer in self.layers[:-1]:
            latents = layer(latents, rows, mask, place)
        return cast(EdgeTamLayer, self.layers[-1]).read(latents, rows, mask, place)

    def _positions(self, clips: ClipSets, grid_hw: tuple[int, int]) -> Tensor | None:
        """[B, N, E] of the patches, or of those of one frame for all."""
        config = self.config
        if config.positions == "none":
            return None
        if config.dim_positions:
            return clips.rows[..., config.dim_in :]
        return sine_hw(*grid_hw, config.heads * config.dim_head).to(clips.rows)

    @untraced
    def _check_grid(self, video: VideoTokens) -> None:
        if not is_dense(video):
            raise ShapeError(
                f"the projector {self.config.name!r} reads the dense grid of an encoder, got "
                f"{len(video)} tokens of a grid of {tuple(video.grid)} that were merged, dropped "
                f"or reordered: leave out the compressors, or project with 'mlp' or 'perceiver' "
                f"after them"
            )


def _feed_forward(dim: int, hidden: int) -> nn.Sequential:
    return nn.Sequential(
        nn.LayerNorm(dim),
        nn.Linear(dim, hidden, bias=False),
        nn.GELU(),
        nn.Linear(hidden, dim, bias=False),
    )


@untraced
def _frame_size(clips: ClipSets) -> tuple[int, int]:
    """Height and width of the frames, which all have one size."""
    _, h, w = clips.sizes[0].tolist()
    return h, w
