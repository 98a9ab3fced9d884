"""The own encoder of a video language model, tokens in the width of its language model.

What it gives can go into that model in place of pixels, now or from a cache.

Legend: T frames, k frames of a tubelet, t steps of a grid, P patches, N tokens.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from vidcomp.encode._kept import check_keep
from vidcomp.encode.base import Encoder, EncoderConfig
from vidcomp.encode.clips import valid_patches
from vidcomp.encode.pixels import with_mean_fill
from vidcomp.encode.vlm.load import load_encoder
from vidcomp.encode.vlm.pixels import Pixels
from vidcomp.encode.vlm.tokens import PTS, encode
from vidcomp.encode.weights import find_checkpoint
from vidcomp.errors import ConfigError, ShapeError
from vidcomp.functional.resize import Resize, ResizeRule
from vidcomp.registry import ENCODERS
from vidcomp.types import Frames, Grid, VideoTokens

__all__ = ["VideoLlm", "VideoLlmEncoder"]


@ENCODERS.add("video_llm")
class VideoLlm(EncoderConfig):
    """The own encoder and projector of a video language model."""

    model: str = Field(json_schema_extra={"location": True})
    """Hub id such as ``Qwen/Qwen3-VL-2B-Instruct``, or the folder of a checkpoint."""
    revision: str | None = Field(None, json_schema_extra={"location": True})
    """Branch, tag or commit of a hub id."""
    processor: dict[str, Any] = Field(default_factory=dict)
    """Settings of its video processor that are to differ from the checkpoint's file, by their names
    there, e.g. ``{size: {shortest_edge: 3136, longest_edge: 301056}}``."""

    def build(
        self,
        *,
        device: str = "cpu",
        compile: bool = False,  # noqa: A002
        batch_size: int = 32,
    ) -> "VideoLlmEncoder":
        """The encoder with its weights; the language model is not kept.

        Raises:
            ConfigError: the model cannot be found or read, is of no known family, or has no such
                processor setting.
        """
        return VideoLlmEncoder(self, device=device, compile=compile, batch_size=batch_size)


class VideoLlmEncoder(Encoder):
    """Runs vision tower and projector on whole tubelets, none of which sees another."""

    config: VideoLlm
    resize: Resize | ResizeRule

    def __init__(self, config: VideoLlm, *, device: str, compile: bool, batch_size: int) -> None:  # noqa: A002
        if batch_size < 1:
            raise ShapeError(f"batch_size is at least 1 frame, got {batch_size}: raise it")
        checkpoint = find_checkpoint(config.model, config.revision)
        loaded = load_encoder(checkpoint, config.torch_dtype)
        self.config = config
        self.family = loaded.family
        self.dim = loaded.dim
        self.device = torch.device(device)
        self._pixels = Pixels.load(
            checkpoint.folder,
            loaded.family,
            loaded.config,
            device=device,
            dtype=config.torch_dtype,
            **config.processor,
        )
        self._model = loaded.model.to(self.device)
        if compile:
            for part in self._model.children():
                part.compile()
        self.frames_multiple = self.tubelet = self._pixels.frames_multiple
        self.batch_size = batch_size
        self.resize = self._pixels.rule
        if config.resize is not None:
            self.resize = with_mean_fill(config.resize, self._pixels.normalize)
            self._check_resize(self.resize)
        self.weights_hash = checkpoint.content_hash()

    def _check_resize(self, resize: Resize) -> None:
        if resize.mode in ("smart", "none"):  # these follow the picture
            return
        try:
            self.grid(self.tubelet, resize.height, resize.width)
        except ShapeError as error:
            raise ConfigError(f"the encoder's size cannot be used: {error}") from error

    def grid(self, num_frames: int, height: int, width: int) -> Grid:
        """See ``Encoder.grid``; steps are tubelets, cells what the model merges into one token."""
        return self._pixels.sized_grid(num_frames, height, width)

    def valid(self, frames: Frames) -> Tensor | None:
        """See ``Encoder.valid``."""
        grid = self._grid_of(frames)
        valid_P = valid_patches(frames, grid, tubelet=self.tubelet)
        return None if valid_P is None else valid_P.reshape(grid)

    def many(
        self, batch: Sequence[Frames], keep: Sequence[Tensor | None] | None = None
    ) -> list[VideoTokens]:
        """See ``Encoder.many``; steps without a kept patch are not run.

        Deepstack features are the extras ``deepstack.0`` ..., rows of a frame that stand for no
        patch the frame extra ``structural``, the frames' times the frame extra ``pts_s``.
        """
        grids = [self._grid_of(frames) for frames in batch]
        masks = [None] * len(batch) if keep is None else keep
        check_keep(masks, grids)
        return [
            self._video(frames, grid, mask)
            for frames, grid, mask in zip(batch, grids, masks, strict=True)
        ]

    def _grid_of(self, frames: Frames) -> Grid:
        if not len(frames):
            raise ShapeError("a chunk to encode has at least one frame, got none: leave it out")
        if frames.first_index % self.tubelet:
            raise ShapeError(
                f"{self.family.title} sees tubelets of {self.tubelet} frames, and a chunk begins "
                f"at frame {frames.first_index}: let chunks hold a multiple of {self.tubelet}"
            )
        if frames.data.shape[1] != 3:
            raise ShapeError(
                f"encoders take 3 colour channels, got {frames.data.shape[1]}: convert to RGB"
            )
        return self.grid(len(frames), *frames.data.shape[2:])

    def _video(self, frames: Frames, grid: Grid, keep: Tensor | None) -> VideoTokens:
        wanted = self._wanted(frames, keep)
        spans, pts_s = self._pixels.times(frames)
        steps = self._steps(grid, wanted)
        made = self._run(_steps_of(frames, steps, self.tubelet))
        valid_P = None if wanted is None else wanted.flatten().to(self.device)
        blank = VideoTokens.from_grid(
            torch.zeros(grid.num_patches, dtype=torch.int64, device=self.device),
            grid,
            spans,
            first_t=frames.first_index // self.tubelet,
            valid=valid_P,
        )
        extras = {**made.frame_extras, PTS: pts_s.to(self.device)}
        if wanted is not None:
            made = made.select(wanted[steps].flatten().nonzero().squeeze(1))
        return replace(blank, tokens=made.tokens, extras=made.extras, frame_extras=extras)

    def _wanted(self, frames: Frames, keep: Tensor | None) -> Tensor | None:
        """[t, h, w] bool on the CPU: patches that get a token; ``None``: all."""
        valid = self.valid(frames)
        if keep is None or valid is None:
            return valid if keep is None else keep.cpu()
        return keep.cpu() & valid

    def _steps(self, grid: Grid, wanted: Tensor | None) -> Tensor:
        """[t'] steps of the grid to run, at least one; all where frames have rows of their own."""
        if wanted is None or self.family.head_rows or not wanted.any():
            return torch.arange(grid.t if wanted is None or self.family.head_rows else 1)
        return wanted.flatten(1).any(dim=1).nonzero().squeeze(1)

    def _run(self, frames: Frames) -> VideoTokens:
        """All tokens of frames that begin at 0, ``batch_size`` frames at a time."""
        parts = []
        step = max(1, self.batch_size // self.tubelet) * self.tubelet
        for start in range(0, len(frames), step):
            made = self._pixels.prepare(frames[start : start + step])
            parts.append(
                encode(
                    self._model,
                    self.family,
                    made.inputs,
                    made.grid,
                    made.spans,
                    first_t=made.first_t,
                )
            )
        return VideoTokens.cat(parts)


def _steps_of(frames: Frames, steps: Tensor, tubelet: int) -> Frames:
    """The frames of some tubelets, counted from 0; the last tubelet may be short."""
    index = (steps[:, None] * tubelet + torch.arange(tubelet)).flatten()
    index = index[index < len(frames)]
    is_all = len(index) == len(frames)
    return Frames(
        data=frames.data if is_all else frames.data[index],
        pts_s=frames.pts_s[index],
        duration_s=frames.duration_s[index],
    )
