"""EdgeTAM's 2-D spatial perceiver: some latents read all of a frame, others one window of it each.

EdgeTAM: On-Device Track Anything Model, 2025, https://arxiv.org/abs/2501.07256.  Arithmetic and
weights are those of transformers' ``EdgeTamVideoPerceiverResampler``.  Both kinds go through the
same layers.  Global latents see where a patch is by positions that are added to keys and values;
those of windows see none, and talk to no other: what they are is said by which window they have.
The original wants square frames that its windows divide; here there are as many windows on every
frame, which overlap where they do not divide it.  With more than one head, which no checkpoint has,
transformers (5.23) takes heads for latents behind the attention; here heads stay heads.

Legend: B frames, N patches of a frame, K global latents, M windows of a frame, L = K + M latents,
X = B * M windows of all frames, D features, E features of all heads, W patches of the largest
window.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor, nn

from vidcomp.errors import ShapeError
from vidcomp.functional.geometry import is_dense
from vidcomp.functional.pool import adaptive_edges
from vidcomp.functional.set_sources import SetSources, SourceKind
from vidcomp.projectors.attention import GroupedAttention, attend, attend_with_shares
from vidcomp.projectors.base import ProjectorAbout, ProjectorConfig
from vidcomp.projectors.blocks import FrameEmbedding, end_to_end, untraced
from vidcomp.projectors.latents import output_layer
from vidcomp.projectors.sets import ClipSets, SetwiseProjector
from vidcomp.projectors.sincos import sine_hw
from vidcomp.projectors.windows import Windows
from vidcomp.registry import PROJECTORS
from vidcomp.types import Grid, Query, VideoTokens

__all__ = ["EdgeTamLayer", "EdgeTamPerceiver", "EdgeTamPerceiverConfig", "EdgeTamScene"]

_AT_ONCE = 1 << 20
"""Entries of the attention of frames that a processor reads in one go."""


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


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class EdgeTamScene:
    """Which latents read which patches of a frame, and what these are told apart by."""

    num_global: int
    """K, the latents that come first and read all patches."""
    windows: Windows | None
    """A latent each, after the others; ``None`` if there are none."""
    place: Tensor | None
    """[N, E] or [B, N, E] added to keys and values of global latents; ``None``: nothing."""
    heads: int
    """Of the attention."""

    def read(
        self,
        query_BLE: Tensor,
        key_BNE: Tensor,
        value_BNE: Tensor,
        shares: Sequence[Tensor] | None = None,
    ) -> Tensor:
        """[B, L, E] what the latents of each kind read.

        Args:
            query_BLE: of all latents.
            key_BNE: of all patches; written over where nothing is learned.
            value_BNE: the same.
            shares: [B, K, N] and [B, M, W] float32, of the kinds that there are, to write into what
                share each patch has in what is read; ``None``: nobody wants to know.
        """
        found, (b, _, width) = [], query_BLE.shape
        first, last = (None, None) if shares is None else (shares[0], shares[-1])
        if self.windows is not None:
            query_X1E = query_BLE[:, self.num_global :].reshape(-1, 1, width)
            own = self.windows.gather(key_BNE), self.windows.gather(value_BNE)
            read_X1E = self._attend(query_X1E, *own, self.windows.masks(b), last)
            found += [read_X1E.reshape(b, -1, width)]
        if self.num_global:
            told = self._told(key_BNE), self._told(value_BNE)
            found += [self._attend(query_BLE[:, : self.num_global], *told, None, first)]
        return torch.cat(found[::-1], dim=1)

    def _told(self, rows_BNE: Tensor) -> Tensor:
        """With positions, in the same memory if nothing is learned: windows have read by now."""
        if self.place is None:
            return rows_BNE
        if torch.is_grad_enabled() or rows_BNE.dtype != self.place.dtype:
            return rows_BNE + self.place
        return rows_BNE.add_(self.place)

    def _attend(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, out: Tensor | None
    ) -> Tensor:
        if out is None:
            return attend(query, key, value, mask, heads=self.heads)
        same = out if out.shape[:2] == query.shape[:2] else None
        read, shares = attend_with_shares(query, key, value, mask, heads=self.heads, out=same)
        if same is None:
            out.copy_(shares.view(out.shape))
        return read


class EdgeTamLayer(nn.Module):
    """Latents read patches, then each other; a feed-forward follows both, and all is added.

    Both kinds of latents pass side by side: keys and values are made once for both.
    """

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
        latents_BLD: Tensor,
        x_BND: Tensor,
        scene: EdgeTamScene,
        shares: Sequence[Tensor] | None = None,
    ) -> Tensor:
        """[B, L, D] new latents.

        Args:
            latents_BLD: the global ones, then those of windows.
            x_BND: patches of frames.
            scene: which latents read which.
            shares: see ``EdgeTamScene.read``.
        """
        attention, alike_BND = self.cross_attention, self.norm_input(x_BND)
        query_BLE = attention.q_proj(self.norm_latents(latents_BLD))
        inputs = query_BLE, attention.k_proj(alike_BND), attention.v_proj(alike_BND)
        return self._after(latents_BLD, scene.read(*inputs, shares), scene)

    def _after(self, latents: Tensor, read_BLE: Tensor, scene: EdgeTamScene) -> Tensor:
        latents = latents + self.cross_attention.o_proj(read_BLE)
        latents = latents + self.mlp(latents)
        alike = self.norm_self(latents)
        latents = latents + self.self_attention.o_proj(self._read_each_other(alike, scene))
        out: Tensor = latents + self.self_mlp(latents)
        return out

    def _read_each_other(self, alike_BLD: Tensor, scene: EdgeTamScene) -> Tensor:
        """[B, L, E]; latents of windows read themselves alone, which takes no attention."""
        attention, k = self.self_attention, scene.num_global
        value_BLE: Tensor = attention.v_proj(alike_BLD)
        if not k:
            return value_BLE
        first_BKD, others = alike_BLD[:, :k], value_BLE[:, k:]
        query, key = attention.q_proj(first_BKD), attention.k_proj(first_BKD)
        read_BKE = attend(query, key, value_BLE[:, :k], heads=scene.heads)
        return torch.cat([read_BKE, others], dim=1)


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
        none = torch.zeros(config.num_latents, config.width)
        return torch.cat([none, sine_hw(h, w, config.width)]).repeat(grid.t, 1)

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

    def read(self, clips: ClipSets) -> tuple[Tensor, SetSources]:
        """Both kinds of latents through the same layers; the sources are those of the last."""
        grid_hw = _frame_size(clips)
        windows, frames = self._windows(grid_hw, clips.rows.device), len(clips.rows)
        sources = self._sources(windows, clips)
        place, tokens = self._positions(clips, grid_hw), []
        step = self._frames_at_once(sources)
        for first in range(0, frames, step):
            own = slice(first, first + step)
            scene = EdgeTamScene(
                num_global=self.config.num_latents,
                windows=windows,
                place=place[own] if place is not None and place.ndim == 3 else place,
                heads=self.config.heads,
            )
            x_BND = clips.rows[own, :, : self.config.dim_in]
            if self.frame_emb is not None:
                number_B1, count_B1 = torch.split(clips.numbers[own], 1, dim=1)
                x_BND = x_BND + self.frame_emb(number_B1, count_B1)
            shares = [part_BKW[own] for part_BKW, _ in sources.parts()]
            tokens.append(self._read_frames(self.input(x_BND), scene, shares))
        return end_to_end(tokens), sources

    def _read_frames(self, x_BND: Tensor, scene: EdgeTamScene, shares: Sequence[Tensor]) -> Tensor:
        """[B, L, E] tokens; the shares of the last layer are written down."""
        names = [name for name in ("latents_1d", "latents_2d") if hasattr(self, name)]
        latents_BLD = torch.cat([getattr(self, n) for n in names]).expand(len(x_BND), -1, -1)
        for layer in self.layers[:-1]:
            latents_BLD = layer(latents_BLD, x_BND, scene)
        out: Tensor = self.output(self.norm(self.layers[-1](latents_BLD, x_BND, scene, shares)))
        return out

    @untraced
    def _windows(self, grid_hw: tuple[int, int], device: torch.device) -> Windows | None:
        if self.config.window_grid is None:
            return None
        sides = zip(grid_hw, self.config.window_grid, strict=True)
        rows, columns = (adaptive_edges(*side) for side in sides)
        return Windows.of(rows, columns, grid_hw[1], device)

    @untraced
    def _sources(self, windows: Windows | None, clips: ClipSets) -> SetSources:
        """Of all frames, still without values."""
        (frames, n, _), kinds = clips.rows.shape, []
        if self.config.num_latents:
            kinds.append(SourceKind(self.config.num_latents, n, None))
        if windows is not None:
            places_BMW = windows.own_patches().expand(frames, -1, -1)
            kinds.append(SourceKind(places_BMW.shape[1], places_BMW.shape[2], places_BMW))
        return SetSources.empty(kinds, frames, clips.rows.device)

    def _frames_at_once(self, sources: SetSources) -> int:
        """All, but on a processor only as many as fit into its caches."""
        frames, shares = sources.values.shape
        if sources.values.device.type != "cpu" or torch.compiler.is_compiling():
            return frames
        return max(1, _AT_ONCE // (shares * self.config.heads))

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
