"""Frame encoders of transformers: CLIP, SigLIP, SigLIP 2, DINOv2, DINOv3, AIMv2, ViT, BEiT and kin.

Any vision model works whose config says its patch size and whose output is a row of tokens in
raster order, class and register tokens before the patches, or a feature map.

Legend: B pictures, C colour channels, H W pixels, h w grid, N tokens, D features.
"""

import inspect
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from vidcomp.encode._kept import Kept
from vidcomp.encode.base import EncoderConfig
from vidcomp.encode.clips import ClipEncoder, Features
from vidcomp.encode.pixels import Normalize, read_processor, resize_of, with_mean_fill
from vidcomp.encode.vision import Tower, load_tower, pair
from vidcomp.encode.weights import find_checkpoint
from vidcomp.errors import ConfigError, ShapeError
from vidcomp.registry import ENCODERS
from vidcomp.types import Grid

__all__ = ["Hf", "HfEncoder"]

_NAFLEX = "siglip2_vision_model"
# Their positions are computed or always interpolated, so their forward has no switch for it.
_ANY_SIZE = {
    "convnext",
    "convnextv2",
    "dinov2",
    "dinov2_with_registers",
    "dinov3_convnext",
    "dinov3_vit",
    _NAFLEX,
}
_STEM = {"dinov3_convnext": 4}
_POOLED_FIRST = {"dinov3_convnext": 1}
_SHUFFLED = {"vit_mae": "facebook/dinov2-base"}


@ENCODERS.add("hf")
class Hf(EncoderConfig):
    """A frame encoder of transformers, one token a patch."""

    model: str = Field(json_schema_extra={"location": True})
    """Hub id such as ``facebook/dinov2-base``, or a folder with config.json, model.safetensors and
    preprocessor_config.json; of a checkpoint with two towers the vision tower is used."""
    revision: str | None = Field(None, json_schema_extra={"location": True})
    """Branch, tag or commit of a hub id."""
    layer: int | None = None
    """Hidden state, numbered as transformers does: 0 goes into the first block, -1 comes out of
    the last one before the final norm, LLaVA uses -2; ``None``: the model's last hidden state,
    final norm included where the model has one."""
    saliency: bool = False
    """Also give each patch the attention it gets from the pooling head's probe, else from the class
    token in the block that gives the tokens: mean over heads, not rescaled (``extras``)."""

    def build(
        self,
        *,
        device: str = "cpu",
        compile: bool = False,  # noqa: A002
        batch_size: int = 32,
    ) -> "HfEncoder":
        """The encoder with its weights.

        Raises:
            ConfigError: the model cannot be found or read, is no frame encoder, or does not take
                pictures of the size in ``resize``.
        """
        return HfEncoder(self, device=device, compile=compile, batch_size=batch_size)


class HfEncoder(ClipEncoder):
    """Runs a vision tower frame by frame."""

    config: Hf

    def __init__(self, config: Hf, *, device: str, compile: bool, batch_size: int) -> None:  # noqa: A002
        checkpoint = find_checkpoint(config.model, config.revision)
        model = load_tower(checkpoint, config.torch_dtype, needs_head=config.saliency)
        processor = read_processor(checkpoint)
        self._normalize = Normalize.of(processor, device)
        resize = with_mean_fill(config.resize or resize_of(processor), self._normalize)
        super().__init__(config, resize, device=device, batch_size=batch_size)
        self._type = str(model.config.model_type)
        self.patch = _stride(model.config, config.model)
        self._native = pair(size) if (size := getattr(model.config, "image_size", None)) else None
        self._has_switch = "interpolate_pos_encoding" in inspect.signature(model.forward).parameters
        self._fits_any = self._type in _ANY_SIZE or getattr(model.config, "is_native", False)
        self.dim = _dim(model.config)
        self._tower = Tower(
            model,
            device=self.device,
            layer=config.layer,
            saliency=config.saliency,
            compile=compile,
        )
        self.gathers = self._tower.gather is not None
        self.has_saliency = config.saliency
        self._num_extra = _POOLED_FIRST.get(self._type, self._tower.num_extra)
        self.weights_hash = checkpoint.content_hash()
        self.check_resize()

    def grid(self, num_frames: int, height: int, width: int) -> Grid:
        """Patch counts; sizes other than the model's own need positions that interpolate."""
        assert self.patch is not None  # noqa: S101  # set in __init__
        tall, wide = self.patch
        if (height, width) != self._native:
            self._check_size(height, width)
        return Grid(num_frames, height // tall, width // wide)

    def features(self, clips_BFCHW: Tensor) -> Features:
        """[B, 1, h, w, D] and the saliency of every patch if the config asks for it."""
        pictures = clips_BFCHW.flatten(0, 1)
        num, _, height, width = pictures.shape
        _, h, w = self.grid(1, height, width)
        pixels = self._normalize(pictures).to(self.dtype)
        hidden = self._tower(**self._inputs(pixels, h, w))
        tokens = self._patches(hidden, h, w).reshape(num, 1, h, w, -1)
        probe = self._tower.probe
        if probe is None:
            return Features(tokens)
        weights_BN = probe.take()
        return Features(tokens, weights_BN[:, weights_BN.shape[1] - h * w :].view(num, 1, h, w))

    def features_kept(self, clips_BFCHW: Tensor, keep_BTHW: Tensor) -> Kept:
        """[M, D]: the blocks of plain transformers run on the kept patches only."""
        gather = self._tower.gather
        if gather is None:
            return super().features_kept(clips_BFCHW, keep_BTHW)
        num, _, h, w = keep_BTHW.shape
        pixels = self._normalize(clips_BFCHW.flatten(0, 1)).to(self.dtype)
        index_BL = keep_BTHW.flatten(1).nonzero()[:, 1].reshape(num, -1)
        with gather.only(index_BL):
            hidden = self._tower(**self._inputs(pixels, h, w))
        tokens = hidden[:, self._num_extra :]
        if tokens.shape[1:] != (index_BL.shape[1], self.dim):
            raise ConfigError(
                f"{self._type} should give {index_BL.shape[1]} kept patches of {self.dim} features,"
                f" and gives {list(tokens.shape[1:])}: encode all patches and select"
            )
        probe = self._tower.probe
        if probe is None:
            return Kept(tokens.flatten(0, 1))
        weights_BN = probe.take()
        return Kept(tokens.flatten(0, 1), weights_BN[:, -index_BL.shape[1] :].flatten())

    def _check_size(self, height: int, width: int) -> None:
        assert self.patch is not None  # noqa: S101  # set in __init__
        tall, wide = self.patch
        if not (self._has_switch or self._fits_any):
            wanted = " x ".join(map(str, self._native or ()))
            raise ShapeError(
                f"{self._type} has fixed positions and takes {wanted} pixels, got {height} x "
                f"{width}: resize to that"
            )
        if height % tall or width % wide or not height or not width:
            raise ShapeError(
                f"{self._type} takes multiples of {tall} x {wide} pixels, got {height} x {width}: "
                f"resize to {max(1, round(height / tall)) * tall} x "
                f"{max(1, round(width / wide)) * wide}"
            )

    def _inputs(self, pixels_BCHW: Tensor, h: int, w: int) -> dict[str, Any]:
        if self._type == _NAFLEX:
            return _cut_patches(pixels_BCHW, h, w)
        inputs: dict[str, Any] = {"pixel_values": pixels_BCHW}
        if self._has_switch and tuple(pixels_BCHW.shape[2:]) != self._native:
            inputs["interpolate_pos_encoding"] = True
        return inputs

    def _patches(self, hidden: Tensor, h: int, w: int) -> Tensor:
        """[B, h * w, D] of a row of tokens or of a feature map."""
        if hidden.ndim == 4:
            hidden = hidden.flatten(2).mT
        elif self._num_extra:
            hidden = hidden[:, self._num_extra :]
        if hidden.shape[1:] != (h * w, self.dim):
            raise ConfigError(
                f"{self._type} should give {h} x {w} patches of {self.dim} features, and gives "
                f"{list(hidden.shape[1:])}: it has no plain patch grid, so choose another model"
            )
        return hidden


def _stride(config: Any, model: str) -> tuple[int, int]:
    """Pixels of a cell of the last hidden state; stages of hierarchical models halve the grid."""
    kind = str(config.model_type)
    if kind in _SHUFFLED:
        raise ConfigError(
            f"{kind} hides and shuffles patches, so {model!r} has no grid of tokens: use another "
            f"encoder, e.g. {_SHUFFLED[kind]!r}"
        )
    if hasattr(config, "tubelet_size") or hasattr(config, "num_frames"):
        raise ConfigError(f"{model!r} is a clip encoder ({kind}): use the encoder 'hf_clip'")
    size = _STEM.get(kind) or getattr(config, "patch_size", None)
    if not size:
        raise ConfigError(
            f"the config of {model!r} ({kind}) says no patch size, so its tokens have no grid: "
            f"use a vision transformer"
        )
    halvings = len(getattr(config, "depths", [0])) - 1
    tall, wide = pair(size)
    return tall * 2**halvings, wide * 2**halvings


def _dim(config: Any) -> int:
    sizes = getattr(config, "hidden_sizes", None)
    return int(sizes[-1] if sizes else config.hidden_size)


def _cut_patches(pixels_BCHW: Tensor, h: int, w: int) -> dict[str, Any]:
    """What SigLIP 2 NaFlex takes: [B, h * w, pixels of a patch], colours innermost."""
    num, channels, height, width = pixels_BCHW.shape
    tall, wide = height // h, width // w
    cells = pixels_BCHW.permute(0, 2, 3, 1).reshape(num, h, tall, w, wide, channels)
    return {
        "pixel_values": cells.transpose(2, 3).reshape(num, h * w, -1),
        "pixel_attention_mask": None,
        "spatial_shapes": torch.tensor([[h, w]] * num, device=pixels_BCHW.device),
    }
