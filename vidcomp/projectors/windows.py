"""Windows of frames: which patches lie in each, and tensors window by window; no videos.

Legend: F frames, H W their patches, P = H * W, M windows of a frame, X = F * M, N patches of the
largest window, S indices and B windows along one axis, n indices of the longest, D features.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from vidcomp.projectors.blocks import untraced

__all__ = ["Edges", "Windows", "centre_weights", "edge_weights", "window_edges"]

Edges = Sequence[tuple[int, int]]
"""[start, stop) of every window along one axis; none is empty."""


def window_edges(size: int, length: int) -> list[tuple[int, int]]:
    """Windows of ``length`` indices; if they do not divide ``size``, what they lack is lacking at
    both ends, as in Molmo2's processors (one more at the far end of an odd number).
    """
    first = -((-size % length) // 2)
    return [(max(s, 0), min(s + length, size)) for s in range(first, size, length)]


def edge_weights(size: int, edges: Edges) -> Tensor:
    """[B, S] float64 equal shares of the indices of each window; rows sum to 1."""
    weights_BS = torch.zeros(len(edges), size, dtype=torch.float64)
    for i, (start, stop) in enumerate(edges):
        weights_BS[i, start:stop] = 1 / (stop - start)
    return weights_BS


def centre_weights(size: int, edges: Edges) -> Tensor:
    """[B, S] float64 matrix of linear interpolation at the centre of each window; rows sum to 1.

    Of windows that divide an axis it is ``bilinear_weights``.
    """
    weights_BS = torch.zeros(len(edges), size, dtype=torch.float64)
    for i, (start, stop) in enumerate(edges):
        for index in ((start + stop - 1) // 2, (start + stop) // 2):
            weights_BS[i, index] += 0.5
    return weights_BS


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Windows:
    """The patches of each window of a frame, row by row; windows may overlap and differ in size."""

    patches: Tensor
    """[M, N] int64; smaller windows repeat patches to fill up."""
    mask: Tensor | None
    """[M, N] bool, True where a patch is its window's own; ``None`` if all windows are full."""
    tiles: tuple[int, int, int, int] | None
    """Windows along the height, patches of each there, and both along the width, if every patch is
    in one window of one size; else ``None``."""

    @classmethod
    @untraced
    def of(cls, rows: Edges, columns: Edges, width: int, device: torch.device) -> "Windows":
        """Every window along the height with every one along the width.

        Args:
            rows: windows along the height.
            columns: windows along the width.
            width: W.
            device: where the windows are wanted.
        """
        return _windows(tuple(rows), tuple(columns), width, device)

    def gather(self, x_FPD: Tensor) -> Tensor:
        """[X, N, D] the patches of every window of every frame."""
        f, p, d = x_FPD.shape
        if self.tiles is not None and p == math.prod(self.tiles):
            # Other than rows by number, this has a gradient that adds nothing up.
            tiles = x_FPD.reshape(f, *self.tiles, d).transpose(2, 3)
            return tiles.reshape(-1, self.patches.shape[1], d)
        rows = x_FPD.index_select(1, self.patches.flatten())
        return rows.view(-1, self.patches.shape[1], d)

    def masks(self, num_frames: int) -> Tensor | None:
        """[X, N] bool which of the gathered patches count; ``None``: all."""
        return None if self.mask is None else self.mask.repeat(num_frames, 1)

    def means(self, x_XND: Tensor) -> Tensor:
        """[X, 1, D] means over the own patches of what was gathered."""
        if self.mask is None:
            return x_XND.mean(dim=1, keepdim=True)
        share_MN = self.mask / self.mask.sum(dim=1, keepdim=True)
        share_XN = share_MN.to(x_XND.dtype).repeat(len(x_XND) // len(share_MN), 1)
        return share_XN[:, None] @ x_XND

    def own_patches(self) -> Tensor:
        """[M, N] int64, ascending; -1 where smaller windows have none."""
        return self.patches if self.mask is None else self.patches.masked_fill(~self.mask, -1)


@lru_cache(maxsize=16)
@torch.inference_mode(mode=False)
def _windows(rows: Edges, columns: Edges, width: int, device: torch.device) -> Windows:
    """Made once: videos of a run have few sizes."""
    row_Bn, in_row_Bn = _filled_up(rows)
    column_Bn, in_column_Bn = _filled_up(columns)
    patches = row_Bn[:, None, :, None] * width + column_Bn[None, :, None, :]
    mask = in_row_Bn[:, None, :, None] & in_column_Bn[None, :, None, :]
    shape = (len(rows) * len(columns), -1)
    return Windows(
        patches=patches.reshape(shape).to(device),
        mask=None if bool(mask.all()) else mask.reshape(shape).to(device),
        tiles=_tiles(rows, columns, width),
    )


def _tiles(rows: Edges, columns: Edges, width: int) -> tuple[int, int, int, int] | None:
    tiles = []
    for edges in (rows, columns):
        length = edges[0][1]
        if list(edges) != [(i * length, (i + 1) * length) for i in range(len(edges))]:
            return None
        tiles += [len(edges), length]
    many_h, h, many_w, w = tiles
    return (many_h, h, many_w, w) if many_w * w == width else None


def _filled_up(edges: Edges) -> tuple[Tensor, Tensor]:
    """[B, n] int64 indices of each window and bool which are its own, n those of the longest."""
    start_B, stop_B = torch.tensor(list(edges)).unbind(1)
    index_Bn = start_B[:, None] + torch.arange(int((stop_B - start_B).max()))
    own_Bn = index_Bn < stop_B[:, None]
    return index_Bn.minimum(stop_B[:, None] - 1), own_Bn
