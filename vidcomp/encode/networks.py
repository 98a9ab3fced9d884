"""Networks of pytorchvideo by name, and what of them stands before the head.

Papers: "Multiscale Vision Transformers" (2021), "X3D: Expanding Architectures for Efficient Video
Recognition" (2020), "SlowFast Networks for Video Recognition" (2019), "Quo Vadis, Action
Recognition?" (I3D, 2017), "Non-local Neural Networks" (C2D, 2018).

Legend: B clips, F frames of a clip, D features, t h w the grid of a clip.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from vidcomp.encode._pytorchvideo import import_models
from vidcomp.errors import ConfigError

__all__ = ["BUILDERS", "ZOO", "Trunk", "Zoo", "make_network", "trunk_of"]


class Zoo(NamedTuple):
    """One entry of the model zoo: its builder and the clip it was tested on."""

    builder: str
    num_frames: int
    short_side: int
    crop: int


ZOO = {
    "c2d_r50": Zoo("resnet", 8, 256, 256),
    "i3d_r50": Zoo("resnet", 8, 256, 256),
    "mvit_base_16x4": Zoo("vision_transformers", 16, 256, 224),
    "mvit_base_32x3": Zoo("vision_transformers", 32, 256, 224),
    "slow_r50": Zoo("resnet", 8, 256, 256),
    "slowfast_16x8_r101_50_50": Zoo("slowfast", 64, 256, 256),
    "slowfast_r101": Zoo("slowfast", 32, 256, 256),
    "slowfast_r50": Zoo("slowfast", 32, 256, 256),
    "x3d_l": Zoo("x3d", 16, 356, 356),
    "x3d_m": Zoo("x3d", 16, 256, 256),
    "x3d_s": Zoo("x3d", 13, 182, 182),
    "x3d_xs": Zoo("x3d", 4, 182, 182),
}
BUILDERS = {
    "mvit": "vision_transformers.create_multiscale_vision_transformers",
    "slow": "resnet.create_resnet",
    "slowfast": "slowfast.create_slowfast",
    "x3d": "x3d.create_x3d",
}


def make_network(architecture: str, kwargs: Mapping[str, Any]) -> nn.Module:
    """The network with fresh weights; the global random state is left as it was.

    Args:
        architecture: a name of the model zoo, or mvit, x3d, slow, slowfast.
        kwargs: settings of pytorchvideo's builder.

    Raises:
        ConfigError: the builder refuses them.
        MissingExtraError: pytorchvideo is not installed.
    """
    if architecture in ZOO:
        function = import_models(f"hub.{ZOO[architecture].builder}", architecture)
    else:
        module, _, name = BUILDERS[architecture].partition(".")
        function = import_models(module, name)
    try:
        with torch.random.fork_rng(devices=[]):
            network: nn.Module = function(**kwargs)
    except (TypeError, ValueError, AssertionError, IndexError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(
            f"pytorchvideo cannot build {architecture!r} with these kwargs ({reason}): check them "
            f"in config.json"
        ) from error
    return network


class Trunk(nn.Module):
    """[B, 3, F, H, W] to the last feature map [B, D, t, h, w]."""

    fixed_size: tuple[int, int] | None = None
    """Pixels (height, width), where positions are learned."""


class _Stages(Trunk):
    """X3D, Slow and their kin: all stages before the head."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.blocks = network.blocks[:-1]

    def forward(self, clips: Tensor) -> Tensor:
        for block in self.blocks:
            clips = block(clips)
        return clips


class _TwoPathways(Trunk):
    """SlowFast before pooling and head; the slow pathway sees every ``alpha``-th frame."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.blocks = network.blocks[:-2]
        fusion = network.blocks[0].multipathway_fusion
        self.alpha = int(fusion.conv_fast_to_slow.stride[0])

    def forward(self, clips: Tensor) -> Tensor:
        length = clips.shape[2]
        # As pytorchvideo packs pathways: both ends belong to the slow frames, rounded down.
        index = torch.linspace(0, length - 1, length // self.alpha).long()
        paths = [clips.index_select(2, index.to(clips.device)), clips]
        for block in self.blocks:
            paths = block(paths)
        slow, fast = paths
        t, h, w = slow.shape[2:]
        return torch.cat([slow, F.adaptive_avg_pool3d(fast, (t, h, w))], dim=1)


class _Multiscale(Trunk):
    """MViT with its final norm, without class token and head."""

    def __init__(self, network: Any, fixed_size: tuple[int, int]) -> None:
        super().__init__()
        self.network = network
        self.network.head = None
        self.fixed_size = fixed_size

    def forward(self, clips: Tensor) -> Tensor:
        net = self.network
        encoding = net.cls_positional_encoding
        shape = encoding.patch_embed_shape
        thw = list(shape() if callable(shape) else shape)  # a method in later versions
        tokens = encoding(net.patch_embed(clips))
        for layer in (net.pos_drop, net.norm_patch_embed):
            tokens = tokens if layer is None else layer(tokens)
        for block in net.blocks:
            tokens, thw = block(tokens, thw)
        if net.norm_embed is not None:
            tokens = net.norm_embed(tokens)
        if encoding.cls_embed_on:
            tokens = tokens[:, 1:]
        maps: Tensor = tokens.mT.reshape(len(tokens), -1, *thw)
        return maps


def trunk_of(network: Any) -> Trunk:
    """What stands before the head of a network that ``make_network`` made."""
    if hasattr(network, "cls_positional_encoding"):
        return _Multiscale(network, _trained_size(network))
    if hasattr(network.blocks[0], "multipathway_blocks"):
        return _TwoPathways(network)
    return _Stages(network)


def _trained_size(network: Any) -> tuple[int, int]:
    """Pixels that the patch embedding turns into the shape the positions are for."""
    shape = network.cls_positional_encoding.patch_embed_shape
    _, h, w = shape() if callable(shape) else shape
    stride = network.patch_embed.patch_model.stride
    return int(h * stride[1]), int(w * stride[2])
