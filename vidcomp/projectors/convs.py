"""Convolutional blocks on maps whose features lie last; tensors only, no videos.

Designing Network Design Spaces, 2020, https://arxiv.org/abs/2003.13678 (RegNet's stages, as timm
builds them), Squeeze-and-Excitation Networks, 2017, https://arxiv.org/abs/1709.01507, and Searching
for MobileNetV3, 2019, https://arxiv.org/abs/1905.02244 (inverted residuals, as torchvision builds
them).  Names and shapes of the parameters are those of timm and torchvision.

With the features last, 1 x 1 convolutions are matrix products and the norm of each cell is
PyTorch's own, without moving the maps around; other convolutions see the same memory as
``channels_last``.

Legend: N maps, H W their cells, D C features; ``...`` are any axes, as of videos and frames.
"""

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, pad

__all__ = [
    "Bottleneck",
    "ConvNorm",
    "Depthwise",
    "InvertedResidual",
    "Pointwise",
    "RegStage",
    "SqueezeExcitation",
]

_EPS = 1e-5
"""Of norms over the features of a cell: timm's LayerNorm2d has 1e-6, but its blocks replace it by a
LayerNormAct2d of 1e-5."""


class Pointwise(nn.Conv2d):
    """A 1 x 1 convolution of [..., D]."""

    def __init__(self, dim_in: int, dim_out: int, *, bias: bool = False) -> None:
        super().__init__(dim_in, dim_out, 1, bias=bias)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  # torch's name
        """[..., C] of [..., D]."""
        return linear(input, self.weight.flatten(1), self.bias)


class Depthwise(nn.Conv2d):
    """A 3 x 3 convolution of every feature by itself, with a border of zeros."""

    def __init__(self, dim: int, *, stride: int = 1, bias: bool = False) -> None:
        super().__init__(dim, dim, 3, stride=stride, padding=1, groups=dim, bias=bias)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  # torch's name
        """[..., ceil(H / stride), ceil(W / stride), D] of [..., H, W, D]."""
        if torch.compiler.is_compiling():
            return self._shifted(input)
        x_NHWD = input.flatten(0, -4)
        out_NHWD = super().forward(x_NHWD.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return out_NHWD.reshape(*input.shape[:-3], *out_NHWD.shape[1:])

    def _shifted(self, x_HWD: Tensor) -> Tensor:
        """The same as a sum of nine products, which the compiler makes one pass of; it fails on
        convolutions of permuted maps whose sizes vary (torch 2.13).
        """
        step = self.stride[0]
        h, w = ((-(-size // step) - 1) * step + 1 for size in x_HWD.shape[-3:-1])
        padded = pad(x_HWD, (0, 0, 1, 1, 1, 1))
        total = torch.zeros_like(self.weight[:, 0, 0, 0]) if self.bias is None else self.bias
        for i in range(3):
            for j in range(3):
                part_HWD = padded[..., i : i + h : step, j : j + w : step, :]
                total = total + part_HWD * self.weight[:, 0, i, j]
        return total


class ConvNorm(nn.Module):
    """A convolution without bias, the norm of each cell, and an activation."""

    def __init__(self, conv: nn.Conv2d, activation: nn.Module | None = None) -> None:
        super().__init__()
        self.conv = conv
        self.bn = nn.LayerNorm(conv.out_channels, eps=_EPS)
        self.activation = activation or nn.Identity()

    def forward(self, x_HWD: Tensor) -> Tensor:
        """[..., H', W', C] of [..., H, W, D]."""
        out: Tensor = self.activation(self.bn(self.conv(x_HWD)))
        return out


class SqueezeExcitation(nn.Module):
    """Features scaled by gates that the mean of the whole map opens."""

    def __init__(self, dim: int, squeezed: int, *, activation: nn.Module, gate: nn.Module) -> None:
        super().__init__()
        self.fc1 = Pointwise(dim, squeezed, bias=True)
        self.fc2 = Pointwise(squeezed, dim, bias=True)
        self.activation = activation
        self.gate = gate

    def forward(self, x_HWD: Tensor) -> Tensor:
        """[..., H, W, D] of the same."""
        mean_11D = x_HWD.mean(dim=(-3, -2), keepdim=True)
        out: Tensor = x_HWD * self.gate(self.fc2(self.activation(self.fc1(mean_11D))))
        return out


class Bottleneck(nn.Module):
    """RegNet's block of stride 1, every feature a group of its own, with SiLU.

    The gates are squeezed to a quarter of the features that come in, not of those between.
    """

    def __init__(self, dim_in: int, dim_out: int) -> None:
        super().__init__()
        self.conv1 = ConvNorm(Pointwise(dim_in, dim_out), nn.SiLU())
        self.conv2 = ConvNorm(Depthwise(dim_out), nn.SiLU())
        self.se = SqueezeExcitation(
            dim_out, round(dim_in * 0.25), activation=nn.SiLU(), gate=nn.Sigmoid()
        )
        self.conv3 = ConvNorm(Pointwise(dim_out, dim_out))
        same = dim_in == dim_out
        self.downsample = nn.Identity() if same else ConvNorm(Pointwise(dim_in, dim_out))
        self.activation = nn.SiLU()

    def forward(self, x_HWD: Tensor) -> Tensor:
        """[..., H, W, C] of [..., H, W, D]."""
        change = self.conv3(self.se(self.conv2(self.conv1(x_HWD))))
        out: Tensor = self.activation(change + self.downsample(x_HWD))
        return out


class RegStage(nn.Sequential):
    """Bottlenecks ``b1``, ``b2`` ..., the first from ``dim_in`` to ``dim_out`` features."""

    def __init__(self, depth: int, dim_in: int, dim_out: int) -> None:
        dims = [dim_in] + [dim_out] * depth
        blocks = {f"b{i + 1}": Bottleneck(dims[i], dims[i + 1]) for i in range(depth)}
        super().__init__(OrderedDict(blocks))


class InvertedResidual(nn.Module):
    """MobileNetV3's block without expansion: hard swish inside, ReLU and hard sigmoid at the gates.

    What comes in is added where the stride is 1.
    """

    def __init__(self, dim: int, *, stride: int) -> None:
        super().__init__()
        self.is_residual = stride == 1
        gates = SqueezeExcitation(
            dim, _multiple_of_8(dim // 4), activation=nn.ReLU(), gate=nn.Hardsigmoid()
        )
        self.block = nn.Sequential(
            nn.Sequential(
                Depthwise(dim, stride=stride), nn.LayerNorm(dim, eps=_EPS), nn.Hardswish()
            ),
            gates,
            nn.Sequential(Pointwise(dim, dim), nn.LayerNorm(dim, eps=_EPS)),
        )

    def forward(self, x_HWD: Tensor) -> Tensor:
        """[N, ceil(H / stride), ceil(W / stride), D] of [..., H, W, D]."""
        out: Tensor = self.block(x_HWD)
        return x_HWD + out if self.is_residual else out


def _multiple_of_8(count: int) -> int:
    """The nearest multiple of 8, at least 8, never below 90 % of ``count``: MobileNet's rule."""
    nearest = max(8, (count + 4) // 8 * 8)
    return nearest + 8 if nearest < 0.9 * count else nearest
