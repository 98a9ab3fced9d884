"""What every projector is: settings that build a module from the encoder's space to the LLM's."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Self

from torch import Tensor, nn

from vidcomp.config import Config
from vidcomp.types import Grid, TokenBatch, VideoTokens

__all__ = ["Projector", "ProjectorConfig"]


class ProjectorConfig(Config, ABC):
    """Settings that every projector has."""

    dim_in: int
    """Features of the encoder's tokens."""
    dim_out: int
    """Features of the language model's embeddings."""
    weights: str | None = None
    """A safetensors file with the original checkpoint's names; ``None``: fresh weights."""

    @abstractmethod
    def build(self, *, device: str = "cpu") -> "Projector":
        """The module, with the weights of ``weights`` if given."""


class Projector(nn.Module):
    """A learned stage; ``forward`` maps one video, ``many`` a packed batch."""

    config: ProjectorConfig
    is_elastic: bool = False
    """Whether ``budget`` chooses the number of tokens at run time."""

    @abstractmethod
    def num_tokens(self, grid: Grid, budget: int | None = None) -> int:
        """Tokens out for a dense grid, known before running."""

    @abstractmethod
    def forward(self, video: VideoTokens, budget: int | None = None) -> VideoTokens:
        """The video in the language model's space; provenance and extras follow."""

    def many(self, batch: TokenBatch, budget: int | None = None) -> TokenBatch:
        """Every video of a batch; equal to calling one after another."""
        return TokenBatch.pack([self(video, budget) for video in batch], batch.keys)

    @abstractmethod
    def load_reference(self, state: Mapping[str, Tensor]) -> Self:
        """Weights of the original checkpoint, by its own names.

        Raises:
            ShapeError: a name is missing or left over, or a shape differs.
        """
