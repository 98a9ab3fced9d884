"""Frames into what a video language model's own encoder takes.

Legend: T frames, C colour channels, H W pixels, t steps of the grid, k frames of a tubelet.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from vidcomp.encode.pixels import Normalize
from vidcomp.encode.vlm.families import Family
from vidcomp.encode.vlm.pixels.base import Kind, Prepared, pad_frames
from vidcomp.encode.vlm.pixels.framewise import (
    Gemma3,
    InternVl,
    LlavaNextVideo,
    LlavaOneVision,
    PerceptionLm,
    SmolVlm,
    VideoLlava,
)
from vidcomp.encode.vlm.pixels.patches import Gemma4, MiniCpmV, Molmo2, NemotronOmni
from vidcomp.encode.vlm.pixels.settings import read_settings
from vidcomp.encode.vlm.pixels.tubelets import Glm4v, Qwen2Vl, Qwen3Vl, VideoLlama3
from vidcomp.errors import ConfigError, ShapeError, VidcompError
from vidcomp.functional.resize import Resize, ResizeRule, target_size
from vidcomp.types import Frames, Grid

__all__ = ["KINDS", "Pixels"]

KINDS: dict[str, type[Kind]] = {
    "llava_onevision": LlavaOneVision,
    "llava_next_video": LlavaNextVideo,
    "video_llava": VideoLlava,
    "internvl": InternVl,
    "smolvlm": SmolVlm,
    "perception_lm": PerceptionLm,
    "gemma3": Gemma3,
    "qwen2_vl": Qwen2Vl,
    "qwen2_5_vl": Qwen2Vl,
    "qwen3_vl": Qwen3Vl,
    "qwen3_vl_moe": Qwen3Vl,
    "qwen3_5": Qwen3Vl,
    "qwen3_5_moe": Qwen3Vl,
    "glm4v": Glm4v,
    "glm4v_moe": Glm4v,
    "glm46v": Glm4v,
    "video_llama_3": VideoLlama3,
    "gemma4": Gemma4,
    "molmo2": Molmo2,
    "minicpmv4_6": MiniCpmV,
    "nemotron_h_omni": NemotronOmni,
}
"""How each family, by its ``config.model_type``, takes pictures."""


@dataclass(frozen=True, slots=True)
class _Rule:
    """The size of pictures by (height, width, number of frames)."""

    kind: Kind
    do_resize: bool

    def __call__(self, height: int, width: int, num_frames: int) -> Resize:
        if num_frames < 1:
            raise ShapeError(f"a video has at least one frame, got {num_frames}: sample some")
        if not self.do_resize:
            return Resize(mode="none")
        return self.kind.resize(height, width, num_frames)


class Pixels:
    """What a family's own video processor does, one chunk of frames at a time.

    Chunks that begin and end with whole tubelets give the tokens of the whole video, as no encoder
    of the families looks further than one tubelet.

    Args:
        family: of the model.
        kind: how its family takes pictures.
        settings: of its processor.
        device: where pictures are normalised and cut up.
        dtype: of the pixels that the model gets.
    """

    def __init__(
        self,
        family: Family,
        kind: Kind,
        settings: Mapping[str, Any],
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.family = family
        self.settings = dict(settings)
        """Every setting of the processor, plain JSON values."""
        self._kind = kind
        self._device, self._dtype = torch.device(device), dtype
        self.normalize = Normalize.of(settings, device)
        """What becomes of grey levels."""

    @classmethod
    def load(
        cls,
        model: str | Path,
        family: Family,
        config: Any,  # a transformers config
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        **changed: Any,
    ) -> Self:
        """The processor of a checkpoint.

        Args:
            model: its folder, or an id of the Hugging Face hub.
            family: of the model.
            config: of the model; says how it merges patches.
            device: see the class.
            dtype: see the class.
            changed: settings that are to differ from the checkpoint's file, by their names there,
                e.g. ``size={"shortest_edge": 3136, "longest_edge": 301056}`` or
                ``max_soft_tokens=140``.

        Raises:
            ConfigError: the checkpoint cannot be found, has no preprocessor file, says something
                else than the model's config, or has no setting of that name.
        """
        settings = read_settings(model, family.model_type, changed)
        try:
            kind = KINDS[family.model_type].of(settings, config)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            if isinstance(error, VidcompError):
                raise
            raise ConfigError(
                f"the preprocessor file and the config of {str(model)!r} were to describe a "
                f"{family.title} ({type(error).__name__}: {error}): take both from the original "
                f"checkpoint"
            ) from error
        return cls(family, kind, settings, device=device, dtype=dtype)

    @property
    def frames_multiple(self) -> int:
        """Frames of a tubelet: chunks should hold a multiple of it."""
        return self._kind.frames_multiple

    @property
    def rule(self) -> ResizeRule:
        """``resize`` as a decoder asks, without the device's tensors: it goes to processes."""
        return _Rule(self._kind, bool(self.settings["do_resize"]))

    def resize(self, width: int, height: int, num_frames: int) -> Resize:
        """How a decoder brings the frames of a video to size.

        Args:
            width: pixels of its frames.
            height: pixels of its frames.
            num_frames: frames of the whole video that will be encoded; some families share one
                number of pixels among them.

        Raises:
            ShapeError: the family refuses the aspect, or ``num_frames`` is below 1.
        """
        return self.rule(height, width, num_frames)

    def grid(self, width: int, height: int, num_frames: int) -> Grid:
        """Of the tokens of a whole video, known before any frame is decoded.

        Args:
            width: pixels of its frames.
            height: pixels of its frames.
            num_frames: frames that will be encoded.

        Raises:
            ShapeError: as ``resize``.
        """
        size = target_size(height, width, self.resize(width, height, num_frames))
        return self.sized_grid(num_frames, *size)

    def sized_grid(self, num_frames: int, height: int, width: int) -> Grid:
        """Of the tokens of frames that have their size already.

        Raises:
            ShapeError: they cannot be cut up.
        """
        steps = -(-num_frames // self.frames_multiple)
        return Grid(steps, *self._kind.cells(*self._kind.finished(height, width)))

    def times(self, frames: Frames) -> tuple[Tensor, Tensor]:
        """[t, 2] float32 seconds of each tubelet and [t, k] float64 times of its frames."""
        k = self.frames_multiple
        return _spans(frames, k), pad_frames(frames.pts_s, k).view(-1, k)

    def prepare(self, frames: Frames) -> Prepared:
        """What the model takes for one chunk, and what its tokens will be.

        The last frame is repeated if the chunk does not fill its last tubelet, as the original
        does at the end of a video.

        Args:
            frames: a chunk sized by ``resize``; its first frame begins a tubelet.

        Raises:
            ShapeError: other sizes, no frames, or a chunk that begins inside a tubelet.
        """
        k = self.frames_multiple
        if not len(frames) or frames.first_index % k:
            raise ShapeError(
                f"{self.family.title} takes chunks of frames that begin at multiples of {k}, got "
                f"{len(frames)} frames from {frames.first_index} on: cut the video into chunks of "
                f"a multiple of {k} frames"
            )
        data = self._kind.finish(frames.data)
        cells = self._kind.cells(data.shape[2], data.shape[3])
        pixels_TCHW = self.normalize(pad_frames(data, k).to(self._device))
        inputs = self._kind.inputs(pixels_TCHW)
        spans, pts_s = self.times(frames)
        return Prepared(
            inputs={name: self._place(value) for name, value in inputs.items()},
            grid=Grid(len(pts_s), *cells),
            spans=spans,
            pts_s=pts_s,
            first_t=frames.first_index // k,
        )

    def _place(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        return value.to(self._device, self._dtype if value.is_floating_point() else value.dtype)


def _spans(frames: Frames, k: int) -> Tensor:
    """[t, 2] float32: from the first start to the last stop of each tubelet."""
    start = pad_frames(frames.pts_s, k).view(-1, k)
    stop = pad_frames(frames.pts_s + frames.duration_s, k).view(-1, k)
    return torch.stack([start.amin(dim=1), stop.amax(dim=1)], dim=1).float()
