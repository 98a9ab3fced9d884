"""Discrete tokens by the image tokenizers of transformers: DALL-E's dVAE as BEiT and FLAVA use it,
Chameleon, Janus and Emu3.

A token is the id of an entry of a codebook, so a cache of them is small and a language model reads
them through its own table of embeddings.  Ids cannot be averaged: compressors that only choose
(``uniform``, ``stride``, ``random``, ``uniform_frames``) work on them, all others refuse them.

Legend: B clips, F frames of a clip, C colour channels, H W pixels, t h w the grid of a clip, N
tokens, E features of a code.
"""

from dataclasses import replace

import torch
from pydantic import Field
from torch import Tensor

from vidcomp.encode.base import EncoderConfig
from vidcomp.encode.clips import ClipEncoder, Features
from vidcomp.encode.pixels import read_processor, with_mean_fill
from vidcomp.encode.tokenizers import codebook_pixels, load_tokenizer
from vidcomp.encode.weights import find_checkpoint
from vidcomp.errors import ConfigError, ShapeError
from vidcomp.registry import ENCODERS
from vidcomp.types import Grid, VideoTokens

__all__ = ["HfIds", "HfIdsEncoder"]

_PASS_PIXELS = 1 << 20
"""Of all frames in a pass: networks keep hundreds of features of each."""


@ENCODERS.add("hf_ids")
class HfIds(EncoderConfig):
    """An image tokenizer of transformers, one codebook id a patch."""

    model: str = Field(json_schema_extra={"location": True})
    """Hub id or folder of a tokenizer such as ``facebook/flava-image-codebook``, or of a whole
    model that has one (FLAVA, Chameleon, Janus, Emu3): only the tokenizer is used."""
    revision: str | None = Field(None, json_schema_extra={"location": True})
    """Branch, tag or commit of a hub id."""
    clip_frames: int | None = Field(None, ge=1)
    """Frames seen together; ``None``: one, Emu3 one tubelet (4 frames, which share ids).  Emu3 also
    takes 1, for pictures by themselves, and longer clips of whole tubelets."""

    def build(
        self,
        *,
        device: str = "cpu",
        compile: bool = False,  # noqa: A002
        batch_size: int = 32,
    ) -> "HfIdsEncoder":
        """The encoder with its weights.

        Raises:
            ConfigError: the model cannot be found or read, has no image tokenizer, or does not
                take pictures of the size in ``resize``.
        """
        return HfIdsEncoder(self, device=device, compile=compile, batch_size=batch_size)


class HfIdsEncoder(ClipEncoder):
    """Runs a tokenizer; ``dtype`` is that of its network, codes are compared in float32."""

    config: HfIds
    dim = 0

    def __init__(
        self,
        config: HfIds,
        *,
        device: str,
        compile: bool,  # noqa: A002
        batch_size: int,
    ) -> None:
        checkpoint = find_checkpoint(config.model, config.revision)
        self._tokenizer = load_tokenizer(checkpoint, config.torch_dtype).to(device)
        processor = read_processor(checkpoint)
        wanted, self._normalize = codebook_pixels(self._tokenizer.model.config, processor, device)
        resize = with_mean_fill(config.resize or wanted, self._normalize)
        super().__init__(config, resize, device=device, batch_size=batch_size)
        self._kind = self._tokenizer.family.cls
        self.num_codes = self._tokenizer.num_codes
        self.frames_multiple, self.tubelet = self._clip(config.clip_frames)
        self.patch = (self._tokenizer.stride, self._tokenizer.stride)
        self._run = torch.compile(self._tokenizer) if compile else self._tokenizer
        self.weights_hash = checkpoint.content_hash()
        self.check_resize()

    def grid(self, num_frames: int, height: int, width: int) -> Grid:
        """Patch counts: any multiple of the stride, as the networks are convolutions."""
        side = self._tokenizer.stride
        if height % side or width % side or not height or not width:
            raise ShapeError(
                f"{self._kind} takes multiples of {side} x {side} pixels, got {height} x {width}: "
                f"resize to {max(1, round(height / side)) * side} x "
                f"{max(1, round(width / side)) * side}"
            )
        return Grid(-(-num_frames // self.tubelet), height // side, width // side)

    def clip_length(self, num_frames: int) -> int:
        """Whole tubelets: the time axis is convolved, not learned place by place."""
        return -(-num_frames // self.tubelet) * self.tubelet

    def features(self, clips_BFCHW: Tensor) -> Features:
        """[B, t, h, w] int64 ids; large pictures go through a few at a time."""
        length, _, height, width = clips_BFCHW.shape[1:]
        step = max(1, _PASS_PIXELS // (length * height * width))
        ids = []
        for some in torch.split(clips_BFCHW, step):
            pixels = self._normalize(some.flatten(0, 1)).to(self.dtype)
            ids.append(self._run(pixels.reshape(some.shape)))
        return Features(torch.cat(ids))

    def decode(self, video: VideoTokens) -> VideoTokens:
        """The same video with the vectors of its codes, [N, E] float32, in place of ids [N].

        Raises:
            ConfigError: the tokenizer's codes have no vectors (the dVAE's).
            ShapeError: the tokens are no ids, or not of this codebook.
        """
        ids = video.tokens
        if ids.ndim != 1 or ids.is_floating_point():
            raise ShapeError(
                f"{self._kind} decodes integer ids [N], got {list(ids.shape)} {ids.dtype}: they "
                f"are vectors already"
            )
        ids = ids.long()
        if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < self.num_codes:
            raise ShapeError(
                f"{self._kind} has ids 0..{self.num_codes - 1}, got {int(ids.min())}.."
                f"{int(ids.max())}: use the tokenizer that they were made with"
            )
        return replace(video, tokens=self._tokenizer.codes(ids.to(self.device)).to(ids.device))

    def _clip(self, wanted: int | None) -> tuple[int, int]:
        """Frames of a clip and of a tubelet."""
        tubelet = self._tokenizer.tubelet
        if wanted is None:
            return tubelet, tubelet
        if wanted == 1:
            return 1, 1
        if tubelet == 1:
            raise ConfigError(
                f"{self._kind} sees frames one by one, got clip_frames={wanted}: leave it out"
            )
        if wanted % tubelet:
            raise ConfigError(
                f"{self._kind} takes clips of 1 frame or of a multiple of {tubelet}, got "
                f"clip_frames={wanted}: choose another number"
            )
        return wanted, tubelet
