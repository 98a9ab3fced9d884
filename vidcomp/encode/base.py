"""What every encoder is: settings that build it, pixels in, patch tokens out.

Legend: T frames, C channels, H W pixels, P patches, D features.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor

from vidcomp.config import Config
from vidcomp.functional.resize import Resize, ResizeRule
from vidcomp.types import Frames, Grid, VideoTokens

__all__ = ["Encoder", "EncoderConfig"]


class EncoderConfig(Config, ABC):
    """Settings that every encoder has."""

    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Type in which the encoder computes and returns tokens."""
    on_damage: Literal["raise", "keep"] = "raise"
    """A damaged file is an error, or its decodable part is kept and flagged."""
    resize: Resize | None = None
    """How pictures are brought to size; by default as the encoder was trained."""

    @property
    def torch_dtype(self) -> torch.dtype:
        """``dtype`` as torch's type."""
        dtype: torch.dtype = getattr(torch, self.dtype)
        return dtype

    @abstractmethod
    def build(
        self,
        *,
        device: str = "cpu",
        compile: bool = False,  # noqa: A002  # what torch calls it
        batch_size: int = 32,
    ) -> "Encoder":
        """The encoder, weights loaded, on ``device``.

        Args:
            device: where it runs.
            compile: use torch.compile; tokens then agree within 1e-4 of their largest value.
            batch_size: most frames of one pass (clip encoders: at least one clip); bounds memory
                and changes tokens by rounding errors only.

        Raises:
            ConfigError: the weights cannot be found or do not fit.
            MissingExtraError: a package is missing.
        """


class Encoder(ABC):
    """Pixels to patch tokens; a value after it is built: the same frames give the same tokens.

    One thread at a time may call it.
    """

    config: EncoderConfig
    batch_size: int = 32
    """Most frames of one pass; may be lowered between calls, for a device with little memory."""
    resize: Resize | ResizeRule
    """The pixels it wants, or a rule that says so for a video; readers apply it while decoding."""
    frames_multiple: int = 1
    """Frames of one tubelet stack or clip: chunks should hold a multiple of it."""
    tubelet: int = 1
    """Frames of one step of the grid."""
    patch: tuple[int, int] | None = None
    """Pixels (height, width) of a cell of the grid; ``None``: the picture's share of one."""
    gathers: bool = False
    """Whether kept patches are run by themselves; if not, whole pictures are, and theirs chosen."""
    dim: int
    """Features of a token; 0 where tokens are ids."""
    num_codes: int = 0
    """Entries of the codebook whose ids the tokens are; 0: tokens are features."""
    weights_hash: str = ""
    """sha256 over the weights and their config files; empty if there are none."""

    @abstractmethod
    def grid(self, num_frames: int, height: int, width: int) -> Grid:
        """Patch counts for that many frames of that size.

        Raises:
            ShapeError: the size does not fit the encoder.
        """

    @abstractmethod
    def valid(self, frames: Frames) -> Tensor | None:
        """[t, h, w] bool on the CPU: patches with a real pixel; ``None`` if all are.

        Raises:
            ShapeError: as ``many``.
        """

    @abstractmethod
    def many(
        self, batch: Sequence[Frames], keep: Sequence[Tensor | None] | None = None
    ) -> list[VideoTokens]:
        """Tokens of several chunks, of one or of several videos, in as few passes as possible.

        Runs without gradients: an encoder is frozen.

        Args:
            batch: chunks.
            keep: a mask for each chunk, or ``None`` for all of its patches; see ``__call__``.

        Raises:
            ShapeError: a chunk's size does not fit, a clip encoder's chunk begins inside a clip, or
                a mask has not the grid's shape.
        """

    def __call__(self, frames: Frames, keep: Tensor | None = None) -> VideoTokens:
        """Tokens of one chunk.

        What is not kept is not computed, as far as the network allows: a frame (or clip) without a
        kept patch is never run, and plain vision transformers run their blocks on the kept patches
        only.  Those attend to each other only, so their tokens are not the same rows of the whole
        picture's tokens; encode all and use ``select`` for those.

        Args:
            frames: [T, C, H, W] uint8, resized as ``resize`` says.
            keep: [t, h, w] bool; patches that are False get no token.

        Returns:
            Tokens in raster order; positions count on from ``frames.first_index``.

        Raises:
            ShapeError: as ``many``.
        """
        (video,) = self.many([frames], None if keep is None else [keep])
        return video

    def stream(self, chunks: Iterable[Frames]) -> Iterator[VideoTokens]:
        """Chunks in, chunks out: memory is bounded by one chunk."""
        for chunk in chunks:
            yield self(chunk)
