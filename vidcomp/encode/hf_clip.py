"""Clip encoders of transformers, whose tokens span several frames: V-JEPA 2, VideoMAE, TimeSformer,
ViViT.

A video is cut into clips; each is encoded alone, and positions count on from clip to clip.  The
last, shorter clip is filled by repeating its last frame: V-JEPA 2, whose positions are computed,
only to whole tubelets, the others, whose positions are learned, to a whole clip.  Steps of the grid
that are only filling are dropped.

Legend: B clips, F frames of a clip, C colour channels, H W pixels, t h w grid, D features.
"""

from typing import Any, NamedTuple

from pydantic import Field
from torch import Tensor

from vidcomp.encode.base import EncoderConfig
from vidcomp.encode.clips import ClipEncoder, Features
from vidcomp.encode.pixels import Normalize, read_processor, resize_of, with_mean_fill
from vidcomp.encode.vision import Tower, load_tower, pair
from vidcomp.encode.weights import find_checkpoint
from vidcomp.errors import ConfigError, ShapeError
from vidcomp.registry import ENCODERS
from vidcomp.types import Grid

__all__ = ["HfClip", "HfClipEncoder"]


@ENCODERS.add("hf_clip")
class HfClip(EncoderConfig):
    """A clip encoder of transformers, one token a tubelet."""

    model: str = Field(json_schema_extra={"location": True})
    """Hub id such as ``facebook/vjepa2-vitl-fpc64-256``, or a folder with config.json,
    model.safetensors and the preprocessor's file."""
    revision: str | None = Field(None, json_schema_extra={"location": True})
    """Branch, tag or commit of a hub id."""
    layer: int | None = None
    """Hidden state, numbered as transformers does: 0 goes into the first block, -1 comes out of
    the last one before the final norm; ``None``: the model's last hidden state."""
    clip_frames: int | None = Field(None, ge=1)
    """Frames encoded together; ``None``: as many as the model was trained on.  Only V-JEPA 2 takes
    other numbers, multiples of its tubelet."""

    def build(
        self,
        *,
        device: str = "cpu",
        compile: bool = False,  # noqa: A002
        batch_size: int = 32,
    ) -> "HfClipEncoder":
        """The encoder with its weights.

        Raises:
            ConfigError: the model cannot be found or read, is no clip encoder, or does not take
                pictures of the size in ``resize``.
        """
        return HfClipEncoder(self, device=device, compile=compile, batch_size=batch_size)


class _Family(NamedTuple):
    """How the config of a family says its sizes, and how its output is laid out."""

    clip: str = "num_frames"
    size: str = "image_size"
    pixels: str = "pixel_values"
    free_length: bool = False
    time_last: bool = False


_FAMILIES = {
    "vjepa2": _Family("frames_per_clip", "crop_size", "pixel_values_videos", free_length=True),
    "videomae": _Family(),
    "timesformer": _Family(time_last=True),
    "vivit": _Family(),
}


class HfClipEncoder(ClipEncoder):
    """Runs a video tower clip by clip."""

    config: HfClip

    def __init__(
        self,
        config: HfClip,
        *,
        device: str,
        compile: bool,  # noqa: A002
        batch_size: int,
    ) -> None:
        checkpoint = find_checkpoint(config.model, config.revision)
        model = load_tower(checkpoint, config.torch_dtype)
        processor = read_processor(checkpoint)
        self._normalize = Normalize.of(processor, device)
        resize = with_mean_fill(config.resize or resize_of(processor), self._normalize)
        super().__init__(config, resize, device=device, batch_size=batch_size)
        self._type = str(model.config.model_type)
        self._family = _family_of(model.config, config.model)
        self._native = pair(getattr(model.config, self._family.size))
        self.tubelet, self.patch = _tubelet_of(model.config)
        trained = int(getattr(model.config, self._family.clip))
        self.frames_multiple = self._clip_frames(config.clip_frames, trained)
        self.dim = int(model.config.hidden_size)
        # V-JEPA 2 also brings a predictor, which guesses what was hidden: not needed here.
        network = model.encoder if self._type == "vjepa2" else model
        self._tower = Tower(network, device=self.device, layer=config.layer, compile=compile)
        self.weights_hash = checkpoint.content_hash()
        self.check_resize()

    def grid(self, num_frames: int, height: int, width: int) -> Grid:
        """Tubelet counts; positions are made for one size."""
        assert self.patch is not None  # noqa: S101  # set in __init__
        if (height, width) != self._native:
            raise ShapeError(
                f"{self._type} has positions for {self._native[0]} x {self._native[1]} pixels, "
                f"got {height} x {width}: resize to that"
            )
        steps = -(-num_frames // self.tubelet)
        return Grid(steps, height // self.patch[0], width // self.patch[1])

    def clip_length(self, num_frames: int) -> int:
        """Whole tubelets where the family takes any number of them, else a whole clip."""
        if not self._family.free_length:
            return super().clip_length(num_frames)
        return -(-num_frames // self.tubelet) * self.tubelet

    def features(self, clips_BFCHW: Tensor) -> Features:
        """[B, t, h, w, D]."""
        num, length, _, height, width = clips_BFCHW.shape
        t, h, w = self.grid(length, height, width)
        pixels = self._normalize(clips_BFCHW.flatten(0, 1)).to(self.dtype)
        clips = pixels.reshape(num, length, *pixels.shape[1:])
        hidden = self._tower(**{self._family.pixels: clips})
        tokens = hidden[:, self._tower.num_extra :]
        if tokens.shape[1:] != (t * h * w, self.dim):
            raise ConfigError(
                f"{self._type} should give {t} x {h} x {w} tubelets of {self.dim} features, and "
                f"gives {list(tokens.shape[1:])}: choose another model"
            )
        if self._family.time_last:
            return Features(tokens.reshape(num, h, w, t, -1).permute(0, 3, 1, 2, 4))
        return Features(tokens.reshape(num, t, h, w, -1))

    def _clip_frames(self, wanted: int | None, trained: int) -> int:
        if wanted is None or wanted == trained:
            return trained
        if not self._family.free_length:
            raise ConfigError(
                f"{self._type} has positions for clips of {trained} frames, got "
                f"clip_frames={wanted}: leave it out"
            )
        if wanted % self.tubelet:
            raise ConfigError(
                f"{self._type} takes clips of a multiple of {self.tubelet} frames, got "
                f"clip_frames={wanted}: choose another number"
            )
        return wanted


def _family_of(config: Any, model: str) -> _Family:
    kind = str(config.model_type)
    if kind not in _FAMILIES:
        raise ConfigError(
            f"{model!r} is a {kind}, and known clip encoders are {', '.join(_FAMILIES)}: use the "
            f"encoder 'hf' for models of single frames"
        )
    if getattr(config, "attention_type", "") == "space_only":
        raise ConfigError(f"{model!r} looks at frames one by one: use the encoder 'hf'")
    return _FAMILIES[kind]


def _tubelet_of(config: Any) -> tuple[int, tuple[int, int]]:
    """Frames and pixels (height, width) of a tubelet."""
    size = getattr(config, "tubelet_size", 1)
    if isinstance(size, int):
        return size, pair(config.patch_size)
    return int(size[0]), (int(size[1]), int(size[2]))
