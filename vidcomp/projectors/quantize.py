"""Discrete tokens: rows become entries of a codebook, as vectors or as ids that a cache can hold.

Legend: N rows, D features in, C features of a code, K codes, E features out.
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, NamedTuple

from torch import Tensor, nn

from vidcomp.errors import ShapeError
from vidcomp.projectors.base import Projector, ProjectorConfig
from vidcomp.projectors.blocks import apart, end_to_end
from vidcomp.types import Grid, Query, VideoTokens

__all__ = ["BLOCK", "Quantized", "Quantizer", "QuantizerConfig", "straight_through"]

BLOCK = 1 << 24
"""Numbers that a table of rows by codes holds at a time."""


class Quantized(NamedTuple):
    """Rows after quantisation."""

    tokens: Tensor
    """[N, E] what the codes stand for; gradients pass to the rows."""
    ids: Tensor
    """[N] int64 in 0..K - 1."""
    loss: Tensor
    """[] auxiliary loss to be added in training; 0 where a method has none, and in evaluation."""


class QuantizerConfig(ProjectorConfig):
    """Settings of all quantisers."""

    output: Literal["tokens", "ids"] = "tokens"
    """``tokens``: [N, dim_out] vectors of the codes; ``ids``: [N] int64, to be stored and turned
    into vectors by ``decode``."""

    @property
    @abstractmethod
    def dim_code(self) -> int:
        """Features of a code."""

    @property
    @abstractmethod
    def num_codes(self) -> int:
        """Entries of the codebook."""


class Quantizer(Projector):
    """Rows one by one into the space of codes, onto a code, and out of it.

    Subclasses write ``snap`` and ``codes``.
    """

    config: QuantizerConfig

    def __init__(self, config: QuantizerConfig) -> None:
        super().__init__(config)
        c = config.dim_code
        self.project_in = nn.Identity() if c == config.dim_in else nn.Linear(config.dim_in, c)
        self.project_out = nn.Identity() if c == config.dim_out else nn.Linear(c, config.dim_out)

    @abstractmethod
    def snap(self, z_NC: Tensor) -> Quantized:
        """Rows in the space of codes onto codes, [N, C] float32 each."""

    @abstractmethod
    def codes(self, ids_N: Tensor) -> Tensor:
        """[N, C] float32 vectors of the codes."""

    def quantize(self, x_ND: Tensor) -> Quantized:
        """Vectors, ids and the auxiliary loss of rows [N, dim_in] in the parameters' type.

        A training loop calls this on ``batch.tokens`` and adds the loss to its own; in training
        mode a learned codebook moves towards the rows.  Codes are compared in float32.
        """
        snapped = self.snap(self.project_in(x_ND).float())
        tokens: Tensor = self.project_out(snapped.tokens.to(x_ND.dtype))
        return snapped._replace(tokens=tokens)

    def decode(self, video: VideoTokens) -> VideoTokens:
        """The same video with vectors [N, dim_out] in place of ids [N].

        Raises:
            ShapeError: the tokens are no ids, or not of this codebook.
        """
        ids = video.tokens
        if ids.ndim != 1 or ids.is_floating_point():
            raise ShapeError(
                f"the projector {self.config.name!r} decodes integer ids [N], got "
                f"{list(ids.shape)} {ids.dtype}: they are vectors already"
            )
        if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < self.config.num_codes:
            raise ShapeError(
                f"the projector {self.config.name!r} has ids 0..{self.config.num_codes - 1}, got "
                f"{int(ids.min())}..{int(ids.max())}: use the codebook that they were made with"
            )
        return replace(video, tokens=self.project_out(self.codes(ids.long()).to(self.dtype)))

    def num_tokens(self, grid: Grid, budget: int | None = None) -> int:  # noqa: ARG002
        """As many as patches."""
        return grid.num_patches

    def project(
        self,
        videos: Sequence[VideoTokens],
        budgets: Sequence[int | None],  # noqa: ARG002
        queries: Sequence[Query | None],  # noqa: ARG002
    ) -> list[VideoTokens]:
        """The rows of all videos in one pass."""
        found = self.quantize(end_to_end([video.tokens for video in videos]))
        rows = found.ids if self.config.output == "ids" else found.tokens
        parts = apart(rows, [len(video) for video in videos])
        return [replace(video, tokens=part) for video, part in zip(videos, parts, strict=True)]


def straight_through(z_NC: Tensor, code_NC: Tensor) -> Tensor:
    """The codes, bit for bit; gradients are the rows'."""
    return code_NC.detach() + (z_NC - z_NC.detach())
