"""Row-wise projectors: a matrix, or a small MLP; the tokens stay as many and as they lie.

Visual Instruction Tuning, 2023, https://arxiv.org/abs/2304.08485 (linear) and Improved Baselines
with Visual Instruction Tuning, 2023, https://arxiv.org/abs/2310.03744 (``mlp2x_gelu``).
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Self

from pydantic import Field
from torch import Tensor, nn

from vidcomp.projectors.base import Projector, ProjectorAbout, ProjectorConfig
from vidcomp.projectors.blocks import apart, end_to_end, mlp
from vidcomp.projectors.checkpoint import numbered
from vidcomp.registry import PROJECTORS
from vidcomp.types import Grid, Query, VideoTokens

__all__ = ["Linear", "LinearConfig", "Mlp", "MlpConfig", "RowwiseProjector"]


class RowwiseProjector(Projector):
    """``layers`` on every token by itself, those of all videos in one pass."""

    layers: nn.Module

    def num_tokens(self, grid: Grid, budget: int | None = None) -> int:  # noqa: ARG002
        """As many as patches."""
        return grid.num_patches

    def project(
        self,
        videos: Sequence[VideoTokens],
        budgets: Sequence[int | None],  # noqa: ARG002
        queries: Sequence[Query | None],  # noqa: ARG002
    ) -> list[VideoTokens]:
        """The same rows in the other space."""
        rows = self.layers(end_to_end([video.tokens for video in videos]))
        parts = apart(rows, [len(video) for video in videos])
        return [replace(video, tokens=part) for video, part in zip(videos, parts, strict=True)]


@PROJECTORS.add("linear")
class LinearConfig(ProjectorConfig):
    """One matrix with bias, as in LLaVA."""

    about = ProjectorAbout(
        paper="Visual Instruction Tuning (Liu, 2023)",
        checkpoint="LLaVA `mm_projector` of type linear",
    )

    def module(self) -> "Linear":
        """A ``Linear`` with torch's default initial weights."""
        return Linear(self)


class Linear(RowwiseProjector):
    """LLaVA's ``linear``: checkpoint names ``weight`` and ``bias``."""

    reference_names = ((r"^layers\.", ""),)

    def __init__(self, config: LinearConfig) -> None:
        super().__init__(config)
        self.layers = nn.Linear(config.dim_in, config.dim_out)


@PROJECTORS.add("mlp")
class MlpConfig(ProjectorConfig):
    """Linear layers with exact GELU between them, as in LLaVA-1.5."""

    about = ProjectorAbout(
        paper="Improved Baselines with Visual Instruction Tuning (Liu, 2023)",
        checkpoint="LLaVA-1.5 `mm_projector` of type mlpNx_gelu, transformers' "
        "LlavaMultiModalProjector",
    )

    depth: int = Field(2, ge=1)
    """Linear layers: the ``N`` of LLaVA's ``mlpNx_gelu``."""
    norm: bool = False
    """A LayerNorm of each token first, as in InternVL's ``mlp1``."""

    def module(self) -> "Mlp":
        """An ``Mlp`` with torch's default initial weights."""
        return Mlp(self)


class Mlp(RowwiseProjector):
    """LLaVA's ``mlpNx_gelu``: checkpoint names ``0.weight``, ``0.bias``, ``2.weight`` ...; with a
    norm that is ``0``, and the layers are ``1``, ``3`` ...
    """

    config: MlpConfig
    reference_names = ((r"^layers\.", ""),)

    def __init__(self, config: MlpConfig) -> None:
        super().__init__(config)
        widths = [config.dim_out] * config.depth
        self.layers = mlp(config.dim_in, *widths, norm=config.norm)

    def load_reference(self, state: Mapping[str, Tensor]) -> Self:
        """Weights by LLaVA's and InternVL's names or by those of transformers
        (``linear_1.weight`` ..., ``layer_norm.weight``).
        """
        return super().load_reference(numbered(state, norm=self.config.norm))
