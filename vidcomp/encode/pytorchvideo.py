"""Clip encoders of pytorchvideo: feature maps of MViT, X3D, Slow and SlowFast before the head.

Papers: "Multiscale Vision Transformers" (2021), "X3D: Expanding Architectures for Efficient Video
Recognition" (2020), "SlowFast Networks for Video Recognition" (2019).  SlowFast gives the slow
pathway's grid; the fast one is averaged to it over time and its channels are joined on.

A model is a folder (or hub id) with ``model.safetensors``, the network's own state dict, and a
``config.json``::

    {"architecture": "mvit_base_16x4"}

with an architecture of the model zoo, or ``mvit``, ``x3d``, ``slow``, ``slowfast`` with the
``kwargs`` of pytorchvideo's ``create_...`` function and, where those do not say them,
``num_frames`` and ``resize``.  The zoo publishes pickles; each is rewritten once::

    from vidcomp.encode.weights import convert_checkpoint
    convert_checkpoint("MVIT_B_16x4.pyth", "mvit/")      # then write mvit/config.json

Legend: B clips, F frames of a clip, C channels, H W pixels, t h w grid of a clip, D features.
"""

import copy
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from pydantic import Field
from torch import Tensor, nn

from vidcomp.encode._pytorchvideo import import_models
from vidcomp.encode.base import EncoderConfig
from vidcomp.encode.clips import ClipEncoder, Features
from vidcomp.encode.pixels import Normalize, with_mean_fill
from vidcomp.encode.weights import Checkpoint, find_checkpoint
from vidcomp.errors import ConfigError, ShapeError
from vidcomp.functional.resize import Resize
from vidcomp.registry import ENCODERS, suggest
from vidcomp.types import Grid

__all__ = ["PyTorchVideo", "PyTorchVideoEncoder", "make_network"]

_MEAN, _STD = (0.45, 0.45, 0.45), (0.225, 0.225, 0.225)


class _Zoo(NamedTuple):
    """One entry of the model zoo: its builder and the clip it was tested on."""

    builder: str
    num_frames: int
    short_side: int
    crop: int


_ZOO = {
    "c2d_r50": _Zoo("resnet", 8, 256, 256),
    "i3d_r50": _Zoo("resnet", 8, 256, 256),
    "mvit_base_16x4": _Zoo("vision_transformers", 16, 256, 224),
    "mvit_base_32x3": _Zoo("vision_transformers", 32, 256, 224),
    "slow_r50": _Zoo("resnet", 8, 256, 256),
    "slowfast_16x8_r101_50_50": _Zoo("slowfast", 64, 256, 256),
    "slowfast_r101": _Zoo("slowfast", 32, 256, 256),
    "slowfast_r50": _Zoo("slowfast", 32, 256, 256),
    "x3d_l": _Zoo("x3d", 16, 356, 356),
    "x3d_m": _Zoo("x3d", 16, 256, 256),
    "x3d_s": _Zoo("x3d", 13, 182, 182),
    "x3d_xs": _Zoo("x3d", 4, 182, 182),
}
_BUILDERS = {
    "mvit": "vision_transformers.create_multiscale_vision_transformers",
    "slow": "resnet.create_resnet",
    "slowfast": "slowfast.create_slowfast",
    "x3d": "x3d.create_x3d",
}


@ENCODERS.add("pytorchvideo")
class PyTorchVideo(EncoderConfig):
    """A network of pytorchvideo, one token a cell of its last feature map."""

    model: str = Field(json_schema_extra={"location": True})
    """Folder, or hub id, with config.json (``architecture``) and model.safetensors."""
    revision: str | None = Field(None, json_schema_extra={"location": True})
    """Branch, tag or commit of a hub id."""

    def build(
        self,
        *,
        device: str = "cpu",
        compile: bool = False,  # noqa: A002
        batch_size: int = 32,
    ) -> "PyTorchVideoEncoder":
        """The encoder with its weights.

        Raises:
            ConfigError: the model cannot be found or read, or its config.json is wrong.
            MissingExtraError: pytorchvideo is not installed.
            ShapeError: it cannot take pictures of the size in ``resize``.
        """
        return PyTorchVideoEncoder(self, device=device, compile=compile, batch_size=batch_size)


class PyTorchVideoEncoder(ClipEncoder):
    """Runs a network clip by clip; the last clip is filled by repeating its last frame."""

    config: PyTorchVideo

    def __init__(
        self,
        config: PyTorchVideo,
        *,
        device: str,
        compile: bool,  # noqa: A002
        batch_size: int,
    ) -> None:
        checkpoint = find_checkpoint(config.model, config.revision)
        recipe = _Architecture.read(checkpoint)
        self._normalize = Normalize(_MEAN, _STD, device=device)
        resize = with_mean_fill(config.resize or recipe.resize, self._normalize)
        super().__init__(config, resize, device=device, batch_size=batch_size)
        self.frames_multiple = recipe.num_frames
        network = make_network(recipe.name, recipe.kwargs)
        _load(network, checkpoint)
        trunk = _trunk_of(network).eval().requires_grad_(False).to(self.dtype)
        self._fixed = trunk.fixed_size
        # Without data: its feature map's shape costs nothing to ask for.
        self._shadow = copy.deepcopy(trunk).to("meta")
        self._shapes: dict[tuple[int, int], tuple[int, int, int]] = {}
        trunk = trunk.to(self.device)
        self._trunk: Callable[[Tensor], Tensor] = torch.compile(trunk) if compile else trunk
        self.weights_hash = checkpoint.content_hash()
        size = self._fixed or (recipe.resize.height, recipe.resize.width)
        steps = self._shape(*size)[0]
        if self.frames_multiple % steps:
            raise ConfigError(
                f"{recipe.name} makes {steps} steps of {self.frames_multiple} frames, which do not "
                f"share them evenly: set num_frames in config.json to a multiple"
            )
        self.tubelet = self.frames_multiple // steps
        self.check_resize()

    def grid(self, num_frames: int, height: int, width: int) -> Grid:
        """Cells of the feature maps of that many frames, filled clips cut off."""
        if self._fixed not in (None, (height, width)):
            raise ShapeError(
                f"this network has positions for {self._fixed[0]} x {self._fixed[1]} pixels, got "
                f"{height} x {width}: resize to that"
            )
        _, h, w = self._shape(height, width)
        return Grid(-(-num_frames // self.tubelet), h, w)

    def features(self, clips_BFCHW: Tensor) -> Features:
        """[B, t, h, w, D]."""
        pixels = self._normalize(clips_BFCHW.flatten(0, 1)).to(self.dtype)
        clips = pixels.reshape(clips_BFCHW.shape)
        maps_BDTHW = self._trunk(clips.transpose(1, 2))
        return Features(maps_BDTHW.permute(0, 2, 3, 4, 1))

    def _shape(self, height: int, width: int) -> tuple[int, int, int]:
        """(t, h, w) of a clip's feature map."""
        if (height, width) not in self._shapes:
            clip = torch.empty(1, 3, self.frames_multiple, height, width, device="meta")
            try:
                maps = self._shadow(clip.to(self.dtype))
            except RuntimeError as error:
                raise ShapeError(
                    f"this network cannot take clips of {self.frames_multiple} frames of {height} "
                    f"x {width} pixels: resize them to more, or change num_frames in config.json"
                ) from error
            self.dim = maps.shape[1]
            t, h, w = maps.shape[2:]
            self._shapes[height, width] = (t, h, w)
        return self._shapes[height, width]


class _Architecture(NamedTuple):
    """What config.json says, the zoo's own numbers filled in."""

    name: str
    kwargs: Mapping[str, Any]
    num_frames: int
    resize: Resize

    @classmethod
    def read(cls, checkpoint: Checkpoint) -> "_Architecture":
        """From config.json, checked."""
        data = checkpoint.json("config.json") or {}
        name, kwargs = data.get("architecture"), data.get("kwargs", {})
        known = sorted([*_ZOO, *_BUILDERS])
        if name not in known or not isinstance(kwargs, dict):
            raise ConfigError(
                f"config.json in {str(checkpoint.folder)!r} must name an architecture of "
                f"pytorchvideo, got {name!r}: {suggest(str(name), known)}known are "
                f"{', '.join(known)}"
            )
        zoo = _ZOO.get(name)
        frames = data.get("num_frames") or (zoo.num_frames if zoo else _own_frames(kwargs))
        if not isinstance(frames, int) or frames < 1:
            raise ConfigError(
                f"config.json in {str(checkpoint.folder)!r} must say num_frames, the frames of a "
                f"clip, got {frames!r}: add a whole number"
            )
        if "resize" in data:
            return cls(name, kwargs, frames, Resize(**{**_no_antialias(), **data["resize"]}))
        size = zoo.crop if zoo else kwargs.get("spatial_size") or kwargs.get("input_crop_size")
        if not isinstance(size, int):
            raise ConfigError(
                f"config.json in {str(checkpoint.folder)!r} must say resize, got none: add e.g. "
                f'"resize": {{"mode": "crop", "height": 224, "width": 224}}'
            )
        short_side = zoo.short_side if zoo else size
        resize = Resize(mode="crop", height=size, width=size, short_side=short_side)
        return cls(name, kwargs, frames, resize.model_copy(update=_no_antialias()))


def make_network(architecture: str, kwargs: Mapping[str, Any]) -> nn.Module:
    """The network with fresh weights; the global random state is left as it was.

    Args:
        architecture: a name of the model zoo, or mvit, x3d, slow, slowfast.
        kwargs: settings of pytorchvideo's builder.

    Raises:
        ConfigError: the builder refuses them.
        MissingExtraError: pytorchvideo is not installed.
    """
    if architecture in _ZOO:
        function = import_models(f"hub.{_ZOO[architecture].builder}", architecture)
    else:
        module, _, name = _BUILDERS[architecture].partition(".")
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


def _own_frames(kwargs: Mapping[str, Any]) -> Any:
    return kwargs.get("temporal_size") or kwargs.get("input_clip_length")


def _no_antialias() -> dict[str, Any]:
    """How pytorchvideo's transforms resize: plain bilinear, its own rounding."""
    return {"interpolation": "bilinear", "antialias": False, "convention": "pytorchvideo"}


def _load(network: nn.Module, checkpoint: Checkpoint) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        state = {name: t for path in checkpoint.weights for name, t in load_file(path).items()}
        network.load_state_dict(state)
    except (RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ConfigError(
            f"the weights in {str(checkpoint.folder)!r} do not fit their config.json ({reason}): "
            f"convert the checkpoint of that architecture"
        ) from error


class _Trunk(nn.Module):
    """[B, 3, F, H, W] to the last feature map [B, D, t, h, w]."""

    fixed_size: tuple[int, int] | None = None
    """Pixels (height, width), where positions are learned."""


class _Stages(_Trunk):
    """X3D, Slow and their kin: all stages before the head."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.blocks = network.blocks[:-1]

    def forward(self, clips: Tensor) -> Tensor:
        for block in self.blocks:
            clips = block(clips)
        return clips


class _TwoPathways(_Trunk):
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


class _Multiscale(_Trunk):
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


def _trunk_of(network: Any) -> _Trunk:
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
