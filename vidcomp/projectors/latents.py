"""What projectors of latents over clips share: settings, embeddings of frames, the last layer.

Legend: B clips, N rows of a clip, D features.
"""

from typing import Self, cast

from pydantic import Field, model_validator
from torch import Tensor, nn

from vidcomp.projectors.base import ProjectorConfig
from vidcomp.projectors.blocks import FrameEmbedding
from vidcomp.projectors.sets import ClipSets, SetwiseProjector

__all__ = ["LatentConfig", "LatentProjector", "output_layer"]


class LatentConfig(ProjectorConfig):
    """Settings of latents that read clips."""

    num_latents: int = Field(64, ge=1)
    """Tokens out of every clip."""
    frames_per_clip: int | None = Field(1, ge=1)
    """Consecutive frames that a set of latents reads; the last clip may be shorter; ``None``: all
    frames of the video."""
    max_frames: int = Field(0, ge=0)
    """Rows of a learned table of frame embeddings, zero before training, added to the tokens and
    stretched over clips of more frames; 0: none, as in the original."""

    @property
    def dim_rows(self) -> int:
        """Features of the rows that latents read."""
        return self.dim_in

    @model_validator(mode="after")
    def _check_frames(self) -> Self:
        if self.max_frames and self.frames_per_clip == 1:
            raise ValueError(
                f"{self.name!r} tells the frames of a clip apart, got max_frames={self.max_frames} "
                f"and clips of one frame: set frames_per_clip, or max_frames=0"
            )
        return self


class LatentProjector(SetwiseProjector):
    """A ``SetwiseProjector`` with these settings; subclasses write ``read``."""

    config: LatentConfig

    def __init__(self, config: LatentConfig) -> None:
        super().__init__(config)
        rows = config.max_frames
        self.frame_emb = FrameEmbedding(rows, config.dim_rows) if rows else None

    @property
    def num_latents(self) -> int:
        """As the settings say."""
        return self.config.num_latents

    @property
    def frames_per_clip(self) -> int | None:
        """As the settings say."""
        return self.config.frames_per_clip

    def embedded(self, clips: ClipSets) -> Tensor:
        """[B, N, D] rows with the embeddings of their frames, if there are any."""
        return self.add_frames(clips.rows, clips)

    def add_frames(self, x_BND: Tensor, clips: ClipSets) -> Tensor:
        """[B, N, D] with the embeddings of the frames of the clips' rows, if there are any."""
        if self.frame_emb is None:
            return x_BND
        return x_BND + cast(Tensor, self.frame_emb(clips.places[..., 0], clips.sizes[:, :1]))


def output_layer(dim: int, dim_out: int) -> nn.Module:
    """A linear layer to the language model's features, unless the latents have as many."""
    return nn.Identity() if dim == dim_out else nn.Linear(dim, dim_out)
