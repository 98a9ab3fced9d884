"""Qwen-VL's patch mergers, and the embedding of patches that span two frames.

Qwen2-VL: Enhancing Vision-Language Model's Perception of the World at Any Resolution, 2024,
https://arxiv.org/abs/2409.12191; Qwen2.5-VL Technical Report, 2025,
https://arxiv.org/abs/2502.13923; Qwen3-VL Technical Report, 2025, https://arxiv.org/abs/2511.21631.

The originals order patches window by window from the processor on; here rows and pixels are in
raster order, and what comes out is in raster order in both.

Legend: N rows, T H W patches, D features, S patches along each side of a window.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal, Self, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import linear

from vidcomp.errors import ShapeError
from vidcomp.projectors.base import ProjectorAbout, ProjectorConfig
from vidcomp.projectors.blocks import apart, end_to_end, mlp
from vidcomp.projectors.pixel_shuffle import WindowProjector
from vidcomp.registry import PROJECTORS
from vidcomp.types import Grid, Query, VideoTokens

__all__ = ["PatchMerger", "QwenMerger", "QwenMergerConfig", "TemporalPatchEmbed"]

_EPS = 1e-6


@PROJECTORS.add("qwen_merger")
class QwenMergerConfig(ProjectorConfig):
    """A norm of each patch, squares of patches side by side, then an MLP (Qwen2-VL and later)."""

    about = ProjectorAbout(
        paper="Qwen2-VL: Enhancing Vision-Language Model's Perception of the World at Any "
        "Resolution (Wang, 2024)",
        tokens="patches / `merge_size`²",
        reads="grid",
        checkpoint="transformers' Qwen2-VL PatchMerger, Qwen2_5_VLPatchMerger, "
        "Qwen3VLVisionPatchMerger",
    )

    merge_size: int = Field(2, ge=1)
    """Patches along each side of a token (``spatial_merge_size``)."""
    norm: Literal["layer", "rms"] = "layer"
    """``layer`` in Qwen2-VL and Qwen3-VL, ``rms`` in Qwen2.5-VL."""
    postshuffle_norm: bool = False
    """The norm is over all features of a square instead (``use_postshuffle_norm``)."""
    deepstack: int = Field(0, ge=0)
    """Extras ``deepstack.0``, ``deepstack.1`` ... of the video (hidden states of earlier layers)
    that are merged too, each by a merger of its own with a norm over the square, as in Qwen3-VL,
    whose language model adds them to its first layers."""

    def module(self) -> "QwenMerger":
        """A ``QwenMerger`` with torch's default initial weights."""
        return QwenMerger(self)


class PatchMerger(nn.Module):
    """A norm before or after patches are put side by side, and an MLP as wide as a square."""

    def __init__(
        self, dim: int, dim_out: int, size: int, *, norm: str = "layer", postshuffle: bool = False
    ) -> None:
        super().__init__()
        width = dim * size**2
        self.postshuffle = postshuffle
        kind = nn.LayerNorm if norm == "layer" else nn.RMSNorm
        self.ln_q = kind(width if postshuffle else dim, eps=_EPS)
        self.mlp = mlp(width, width, dim_out)

    def before(self, x_ND: Tensor) -> Tensor:
        """[N, D] patches, normed unless that comes later."""
        return x_ND if self.postshuffle else self.ln_q(x_ND)

    def after(self, x_MD: Tensor) -> Tensor:
        """[M, dim_out] of squares [M, S * S * D]."""
        out: Tensor = self.mlp(self.ln_q(x_MD) if self.postshuffle else x_MD)
        return out


class QwenMerger(WindowProjector):
    """The main merger, and those of deepstack."""

    config: QwenMergerConfig
    reference_names = (
        (r"^merger\.", ""),
        (r"^deepstack\.", "deepstack_merger_list."),
    )

    def __init__(self, config: QwenMergerConfig) -> None:
        super().__init__(config)
        dims = (config.dim_in, config.dim_out, config.merge_size)
        self.merger = PatchMerger(*dims, norm=config.norm, postshuffle=config.postshuffle_norm)
        self.deepstack = nn.ModuleList(
            PatchMerger(*dims, norm=config.norm, postshuffle=True) for _ in range(config.deepstack)
        )

    @property
    def window(self) -> int:
        """As the settings say."""
        return self.config.merge_size

    def before(self, x_ND: Tensor) -> Tensor:
        """The norm, unless it comes later."""
        return self.merger.before(x_ND)

    def after(self, x_ND: Tensor) -> Tensor:
        """The MLP."""
        return self.merger.after(x_ND)

    def project(
        self,
        videos: Sequence[VideoTokens],
        budgets: Sequence[int | None],
        queries: Sequence[Query | None],
    ) -> list[VideoTokens]:
        """Tokens, and the extras of deepstack in the language model's space."""
        names = [f"deepstack.{i}" for i in range(len(self.deepstack))]
        deep = [[self._deep(video, name) for video in videos] for name in names]
        plain = [
            replace(video, extras={n: x for n, x in video.extras.items() if n not in names})
            for video in videos
        ]
        out = super().project(plain, budgets, queries)
        grids = [video.grid for video in videos]
        cells = [self.cells(grid) for grid in grids]
        for name, rows, merger in zip(names, deep, self.deepstack, strict=True):
            merged = cast(PatchMerger, merger).after(end_to_end(self._grouped(grids, cells, rows)))
            parts = apart(merged, [c.num_patches for c in cells])
            out = [
                replace(video, extras={**video.extras, name: part})
                for video, part in zip(out, parts, strict=True)
            ]
        return out

    def load_reference(self, state: Mapping[str, Tensor]) -> Self:
        """Weights by the names of transformers' mergers (``ln_q``, ``mlp.0`` or ``norm``,
        ``linear_fc1``), the main one below ``merger`` or not.
        """
        return super().load_reference({_name(name): tensor for name, tensor in state.items()})

    def _deep(self, video: VideoTokens, name: str) -> Tensor:
        wanted = self.config.dim_in
        rows = video.extras.get(name)
        if rows is None or tuple(rows.shape[1:]) != (wanted,):
            got = sorted(video.extras) if rows is None else list(rows.shape)
            raise ShapeError(
                f"the projector 'qwen_merger' with deepstack={self.config.deepstack} reads "
                f"extras[{name!r}] [N, {wanted}], got {got}: let the encoder keep it or set "
                f"deepstack=0"
            )
        return rows.to(self.dtype)


def _name(name: str) -> str:
    for pattern, own in (
        (r"^(model\.)?(visual\.)?(merger\.)?(?=ln_q|norm|mlp|linear_fc|deepstack)", ""),
        (r"(^|\d\.)norm\.", r"\1ln_q."),
        (r"(^|\d\.)linear_fc1\.", r"\1mlp.0."),
        (r"(^|\d\.)linear_fc2\.", r"\1mlp.2."),
    ):
        name = re.sub(pattern, own, name)
    return name


class TemporalPatchEmbed(nn.Module):
    """Patches that span ``temporal_patch_size`` frames, each embedded by one matrix.

    The arithmetic of a Conv3d without bias whose stride is its kernel; the weight has its shape
    and its name, ``proj.weight``.
    """

    def __init__(
        self,
        embed_dim: int,
        *,
        patch_size: int = 14,
        temporal_patch_size: int = 2,
        in_channels: int = 3,
    ) -> None:
        super().__init__()
        size = (temporal_patch_size, patch_size, patch_size)
        self.proj = nn.Conv3d(in_channels, embed_dim, size, stride=size, bias=False)

    def forward(self, pixels_FCHW: Tensor) -> tuple[Tensor, Grid]:
        """Rows for ``VideoTokens.from_grid`` and their grid.

        The last frame is repeated until the frames divide, so that an image fills a patch alone.

        Args:
            pixels_FCHW: normalised frames of any float type; heights and widths are multiples of
                the patch.

        Returns:
            [T * H * W, embed_dim] in raster order, in the type of the weights, and (T, H, W).

        Raises:
            ShapeError: no frames, other channels, or sides that the patch does not divide.
        """
        channels, (depth, size, _) = self.proj.in_channels, self.proj.kernel_size
        shape = tuple(pixels_FCHW.shape)
        if (
            len(shape) != 4
            or not shape[0]
            or shape[1] != channels
            or any(n % size for n in shape[2:])
        ):
            raise ShapeError(
                f"patches of {size} x {size} pixels are cut from frames [F, {channels}, H, W] "
                f"whose sides are multiples of {size}, got {list(shape)}: resize or pad them"
            )
        last = pixels_FCHW[-1:].expand(-shape[0] % depth, -1, -1, -1)
        x_FCHW = torch.cat([pixels_FCHW, last]).to(self.proj.weight.dtype)
        grid = Grid(len(x_FCHW) // depth, shape[2] // size, shape[3] // size)
        x = x_FCHW.view(grid.t, depth, channels, grid.h, size, grid.w, size)
        rows = x.permute(0, 3, 5, 2, 1, 4, 6).reshape(grid.num_patches, -1)
        return linear(rows, self.proj.weight.flatten(1)), grid
