"""Modules around the selective scan; tensors only, no videos.

Mamba: Linear-Time Sequence Modeling with Selective State Spaces (Gu, 2023),
https://arxiv.org/abs/2312.00752, and VMamba: Visual State Space Model (Liu, 2024),
https://arxiv.org/abs/2401.10166 (its SS2D v05 and v052d, and VSS block).  Names and shapes of the
parameters are those of mamba-ssm and transformers, and of VMamba.

Legend: B videos, T H W their grid, L tokens, K orders in which they are read, D features, C inner
features, N states of each, R features of which its step is made, X any of these.
"""

import math
import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Literal, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, silu

from vidcomp.functional.reduce import real
from vidcomp.functional.selective_scan import selective_scan
from vidcomp.projectors.blocks import untraced
from vidcomp.projectors.checkpoint import load_named
from vidcomp.projectors.convs import Depthwise

__all__ = ["MambaMixer", "Scan", "Scope", "Ss2d", "VssBlock", "vmamba_names"]

Scan = Literal["bidirectional", "cross"]
"""Row by row there and back, each with two sets of weights; or row by row and column by column,
there and back."""
Scope = Literal["frame", "video"]
"""Whether a scan starts anew in every frame or goes through all of them."""

_scan = untraced(selective_scan)
_NUM_ORDERS = 4


class MambaMixer(nn.Module):
    """Mamba's layer: tokens in their order through a causal convolution and a selective scan.

    Args:
        dim: D.
        states: N.
        expand: C is so many times D.
        kernel: tokens that the convolution sees.
        rank: R; ``None``: a sixteenth of D, rounded up.
        bias: of the projections into and out of the layer.
        conv_bias: of the convolution.
    """

    def __init__(
        self,
        dim: int,
        *,
        states: int = 16,
        expand: int = 2,
        kernel: int = 4,
        rank: int | None = None,
        bias: bool = False,
        conv_bias: bool = True,
    ) -> None:
        super().__init__()
        inner, rank = expand * dim, rank or math.ceil(dim / 16)
        self.in_proj = nn.Linear(dim, 2 * inner, bias=bias)
        self.conv1d = nn.Conv1d(
            inner, inner, kernel, groups=inner, padding=kernel - 1, bias=conv_bias
        )
        self.x_proj = nn.Linear(inner, rank + 2 * states, bias=False)
        self.dt_proj = nn.Linear(rank, inner)
        self.out_proj = nn.Linear(inner, dim, bias=bias)
        self.A_log = nn.Parameter(_rates(inner, states))
        self.D = nn.Parameter(torch.ones(inner))
        _init_steps(self.dt_proj.weight, self.dt_proj.bias)

    def forward(self, x_BLD: Tensor) -> Tensor:
        """[B, L, D] of tokens in order; what follows a token does not change it, so that shorter
        sequences may be filled up at the end.
        """
        x_BLC, z_BLC = self.in_proj(x_BLD).chunk(2, dim=-1)
        x_BLC = silu(self.conv1d(x_BLC.mT)[..., : x_BLD.shape[1]]).mT
        rank, states = self.dt_proj.in_features, self.A_log.shape[1]
        read_BLX = self.x_proj(x_BLC)
        step_BLR, b_BLN, c_BLN = torch.split(read_BLX, [rank, states, states], dim=-1)
        y_BLC = _scan(
            x_BLC,
            linear(step_BLR, self.dt_proj.weight),
            -real(self.A_log).exp(),
            b_BLN.unsqueeze(2),
            c_BLN.unsqueeze(2),
            self.D,
            z_BLD=z_BLC,
            delta_bias_D=self.dt_proj.bias,
            delta_softplus=True,
        )
        out: Tensor = self.out_proj(y_BLC)
        return out

    def load_reference(self, state: Mapping[str, Tensor]) -> Self:
        """Weights of mamba-ssm's ``Mamba`` or transformers' ``MambaMixer`` by their names.

        Raises:
            ShapeError: a name is missing or left over, or a shape differs.
        """
        load_named(self, state, {name: name for name in self.state_dict()}, title="a Mamba layer")
        return self


class Ss2d(nn.Module):
    """VMamba's 2-D selective scan: each of four orders of the patches has weights of its own.

    Args:
        dim: D.
        scan: which orders.
        scope: where a scan ends.
        states: N.
        expand: C is so many times D.
        rank: R; ``None``: a sixteenth of D, rounded up.
    """

    def __init__(
        self,
        dim: int,
        *,
        scan: Scan = "cross",
        scope: Scope = "frame",
        states: int = 16,
        expand: int = 2,
        rank: int | None = None,
    ) -> None:
        super().__init__()
        self.scan, self.scope = scan, scope
        inner, rank = expand * dim, rank or math.ceil(dim / 16)
        self.in_proj = nn.Linear(dim, 2 * inner, bias=False)
        self.conv2d = Depthwise(inner, bias=True)
        self.x_proj = nn.Linear(inner, _NUM_ORDERS * (rank + 2 * states), bias=False)
        self.dt_projs = nn.Linear(rank, _NUM_ORDERS * inner, bias=False)
        self.dt_projs_bias = nn.Parameter(torch.empty(_NUM_ORDERS, inner))
        self.A_logs = nn.Parameter(_rates(_NUM_ORDERS * inner, states))
        self.Ds = nn.Parameter(torch.ones(_NUM_ORDERS * inner))
        self.out_norm = nn.LayerNorm(inner)
        self.out_proj = nn.Linear(inner, dim, bias=False)
        _init_steps(self.dt_projs.weight, self.dt_projs_bias)

    def forward(self, x_BTHWD: Tensor) -> Tensor:
        """[B, T, H, W, D] of maps; grids of any size."""
        x, z = self.in_proj(x_BTHWD).chunk(2, dim=-1)
        x_BTHWC = silu(self.conv2d(x))
        y_BTHWC = self.out_norm(self._scanned(x_BTHWC))
        out: Tensor = self.out_proj(y_BTHWC * silu(z))
        return out

    def load_reference(self, state: Mapping[str, Tensor]) -> Self:
        """Weights of VMamba's ``SS2D`` by its names, those of its first release too.

        Raises:
            ShapeError: a name is missing or left over, or a shape differs.
        """
        own = {name: name for name in self.state_dict()}
        load_named(self, vmamba_names(state), own, title="a 2-D selective scan")
        return self

    def _scanned(self, x_BTHWC: Tensor) -> Tensor:
        """The sum of what the scans in all orders give."""
        rank, states = self.dt_projs.in_features, self.A_logs.shape[1]
        read_BLKX = self._ordered(self.x_proj(x_BTHWC).chunk(_NUM_ORDERS, dim=-1))
        step_BLKR, b_BLKN, c_BLKN = torch.split(read_BLKX, [rank, states, states], dim=-1)
        weight_KCR = self.dt_projs.weight.view(_NUM_ORDERS, -1, rank)
        y_BLX = _scan(
            self._ordered([x_BTHWC] * _NUM_ORDERS).flatten(2),
            torch.einsum("blkr,kcr->blkc", step_BLKR, weight_KCR).flatten(2),
            -real(self.A_logs).exp(),
            b_BLKN,
            c_BLKN,
            self.Ds,
            delta_bias_D=self.dt_projs_bias.flatten(),
            delta_softplus=True,
        )
        return self._restored(y_BLX, x_BTHWC.shape)

    def _ordered(self, maps: Sequence[Tensor]) -> Tensor:
        """[B', L, K, X] of a map [B, T, H, W, X] for each order; frames are sequences of their own
        unless scans go through all of them.
        """
        if self.scope == "frame":
            maps = [x.flatten(0, 1).unsqueeze(1) for x in maps]
        there = [
            (x.transpose(2, 3) if by_column else x).flatten(1, 3)
            for x, by_column in zip(maps, self._by_column, strict=True)
        ]
        return torch.stack([*there[:2], there[2].flip(1), there[3].flip(1)], dim=2)

    def _restored(self, y_BLX: Tensor, shape: torch.Size) -> Tensor:
        """[B, T, H, W, C] the sum of all orders, each back in its place."""
        b, t, h, w, c = shape
        b, t = (b, t) if self.scope == "video" else (b * t, 1)
        y = y_BLX.chunk(_NUM_ORDERS, dim=-1)
        there = [*y[:2], y[2].flip(1), y[3].flip(1)]
        maps = [
            x.reshape(b, t, w, h, c).transpose(2, 3) if by_column else x.reshape(b, t, h, w, c)
            for x, by_column in zip(there, self._by_column, strict=True)
        ]
        return (maps[0] + maps[1] + maps[2] + maps[3]).reshape(shape)

    @property
    def _by_column(self) -> tuple[bool, ...]:
        """Of each order; the last two are the first two from the end."""
        return (False, self.scan == "cross") * 2


class VssBlock(nn.Module):
    """VMamba's block: a 2-D scan and an MLP, each on the norm of what it is added to.

    Args:
        dim: D.
        mlp_ratio: the MLP is so many times as wide; 0: no MLP.
        scan: orders of the 2-D scan.
        scope: where a scan ends.
        states: N.
        expand: inner features of the scan are so many times D.
        rank: features of which its steps are made; ``None``: a sixteenth of D, rounded up.
    """

    def __init__(
        self,
        dim: int,
        *,
        mlp_ratio: float = 4.0,
        scan: Scan = "cross",
        scope: Scope = "frame",
        states: int = 16,
        expand: int = 2,
        rank: int | None = None,
    ) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.op = Ss2d(dim, scan=scan, scope=scope, states=states, expand=expand, rank=rank)
        self.norm2: nn.Module | None = None
        self.mlp: nn.Module | None = None
        if mlp_ratio:
            hidden = int(dim * mlp_ratio)
            self.norm2 = nn.LayerNorm(dim)
            layers = [("fc1", nn.Linear(dim, hidden)), ("act", nn.GELU())]
            self.mlp = nn.Sequential(OrderedDict([*layers, ("fc2", nn.Linear(hidden, dim))]))

    def forward(self, x_BTHWD: Tensor) -> Tensor:
        """[B, T, H, W, D] of maps."""
        x_BTHWD = x_BTHWD + self.op(self.norm(x_BTHWD))
        if self.mlp is None or self.norm2 is None:
            return x_BTHWD
        out: Tensor = x_BTHWD + self.mlp(self.norm2(x_BTHWD))
        return out

    def load_reference(self, state: Mapping[str, Tensor]) -> Self:
        """Weights of VMamba's ``VSSBlock`` by its names.

        Raises:
            ShapeError: a name is missing or left over, or a shape differs.
        """
        own = {name: name for name in self.state_dict()}
        load_named(self, vmamba_names(state), own, title="a VSS block")
        return self


def vmamba_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights of VMamba's first release, which has them for each order, as those of its later ones,
    which have them in one matrix; other names stay.
    """
    renamed = {}
    for name, tensor in state.items():
        new = re.sub(r"(^|\.)(x_proj|dt_projs)_weight$", r"\1\2.weight", name)
        renamed[new] = tensor if new == name or tensor.ndim != 3 else tensor.flatten(0, 1)
    return renamed


def _rates(features: int, states: int) -> Tensor:
    """[C, N] logarithms of S4D's real rates 1, 2, ... N, the same for every feature."""
    return torch.arange(1, states + 1, dtype=torch.float32).log().repeat(features, 1)


@torch.no_grad()
def _init_steps(weight: Tensor, bias: Tensor) -> None:
    """Steps of fresh weights are spread evenly over 0.001 to 0.1 in their logarithms, and tokens
    move them in proportion to the features they are made of.
    """
    nn.init.uniform_(weight, -(weight.shape[1] ** -0.5), weight.shape[1] ** -0.5)
    step = torch.empty_like(bias).uniform_(math.log(1e-3), math.log(1e-1)).exp()
    bias.copy_(step + (-(-step).expm1()).log())  # softplus gives the step back
