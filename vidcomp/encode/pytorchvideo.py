"""Clip encoders of pytorchvideo: feature maps of MViT, X3D, Slow and SlowFast before the head.

SlowFast gives the slow pathway's grid; the fast one is averaged to it over time and its channels
are joined on.

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
from pydantic import Field
from torch import Tensor, nn

from vidcomp.encode.base import EncoderConfig
from vidcomp.encode.clips import ClipEncoder, Features
from vidcomp.encode.networks import BUILDERS, ZOO, make_network, trunk_of
from vidcomp.encode.pixels import Normalize, with_mean_fill
from vidcomp.encode.weights import Checkpoint, find_checkpoint
from vidcomp.errors import ConfigError, ShapeError
from vidcomp.functional.resize import Resize
from vidcomp.registry import ENCODERS, suggest
from vidcomp.types import Grid

__all__ = ["PyTorchVideo", "PyTorchVideoEncoder"]

_MEAN, _STD = (0.45, 0.45, 0.45), (0.225, 0.225, 0.225)


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
            ConfigError: the model cannot be found or read, its config.json is wrong, or it does
                not take pictures of the size in ``resize``.
            MissingExtraError: pytorchvideo is not installed.
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
        trunk = trunk_of(network).eval().requires_grad_(False).to(self.dtype)
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
        known = sorted([*ZOO, *BUILDERS])
        if name not in known or not isinstance(kwargs, dict):
            raise ConfigError(
                f"config.json in {str(checkpoint.folder)!r} must name an architecture of "
                f"pytorchvideo, got {name!r}: {suggest(str(name), known)}known are "
                f"{', '.join(known)}"
            )
        zoo = ZOO.get(name)
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
