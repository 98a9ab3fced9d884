"""Molmo2's attention pooling: the mean of a window of patches reads the window.

Molmo2: Open Weights and Data for Vision-Language Models with Video Understanding and Grounding,
2026, https://arxiv.org/abs/2601.10611.  Arithmetic and weights are those of transformers'
``Molmo2Adapter``, windows those of its processors: 3 x 3 patches of the frames of a video, 2 x 2 of
a picture, masked where they reach beyond it.  The features of two layers of the encoder lie side by
side.

Legend: F frames, H W their patches, X windows of all frames, N patches of a window, D features of
all levels.
"""

import re
from collections.abc import Mapping
from typing import Self

from pydantic import Field, PositiveInt, model_validator
from torch import Tensor, nn

from vidcomp.projectors.attention import GroupedAttention
from vidcomp.projectors.base import ProjectorAbout
from vidcomp.projectors.blocks import GatedMLP
from vidcomp.projectors.windowed import WindowedConfig, WindowedProjector
from vidcomp.projectors.windows import Edges
from vidcomp.registry import PROJECTORS

__all__ = ["Molmo2", "Molmo2Config"]

_RELEASED = {"wq": "q_proj", "wk": "k_proj", "wv": "v_proj", "wo": "o_proj"} | {
    "w1": "gate_proj",
    "w2": "down_proj",
    "w3": "up_proj",
}
"""Names of layers in the released checkpoints, and in transformers."""


@PROJECTORS.add("molmo2")
class Molmo2Config(WindowedConfig):
    """Windows of patches read by their own means (Molmo2)."""

    about = ProjectorAbout(
        paper="Molmo2: Open Weights and Data for Vision-Language Models with Video Understanding "
        "and Grounding (Clark, 2026)",
        tokens="one a window of `pooling_size` patches, or what a budget allows",
        reads="grid",
        checkpoint="allenai/Molmo2 and transformers Molmo2Adapter",
    )

    pooling_size: tuple[PositiveInt, PositiveInt] = (3, 3)
    """Patches of a window along height and width; Molmo2 has (2, 2) for pictures."""
    dim_hidden: int = Field(1152, ge=1)
    """Features of what is read (``hidden_size``)."""
    heads: int = Field(16, ge=1)
    """Attention heads (``num_attention_heads``)."""
    key_heads: int = Field(16, ge=1)
    """Heads of keys and values, each read by equally many heads (``num_key_value_heads``)."""
    dim_head: int = Field(72, ge=1)
    """Features of a head (``head_dim``)."""
    dim_ff: int = Field(18944, ge=1)
    """Features inside the gated MLP (``intermediate_size``)."""

    @model_validator(mode="after")
    def _check_heads(self) -> Self:
        if self.heads % self.key_heads:
            raise ValueError(
                f"each of key_heads={self.key_heads} is read by equally many heads, got "
                f"heads={self.heads}: pass a multiple of key_heads"
            )
        return self

    @property
    def window(self) -> tuple[int, int]:
        """As the settings say."""
        return self.pooling_size

    def module(self) -> "Molmo2":
        """A ``Molmo2`` with matrices normal 1 / sqrt(features in) and no biases, which keeps the
        scale of the tokens for every number of features; transformers' normal 0.02 is less.
        """
        return Molmo2(self)


class Molmo2(WindowedProjector):
    """The provenance of a token is its window, all patches alike."""

    config: Molmo2Config
    reference_names = ((r"^attention\.", "image_pooling_2d."), (r"^layers\.", "image_projector."))

    def __init__(self, config: Molmo2Config) -> None:
        super().__init__(config, config.dim_hidden)
        self.attention = GroupedAttention(
            config.dim_levels,
            heads=config.heads,
            key_heads=config.key_heads,
            dim_head=config.dim_head,
            dim_out=config.dim_hidden,
            bias=True,
        )
        self.layers = GatedMLP(config.dim_hidden, config.dim_ff, config.dim_out)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=module.in_features**-0.5)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def read(self, x_FHWD: Tensor, rows: Edges, columns: Edges) -> Tensor:
        """Patches of every window by their mean."""
        windows = self.windows(x_FHWD, rows, columns)
        x_XND = windows.gather(x_FHWD.flatten(1, 2))
        out: Tensor = self.attention(windows.means(x_XND), x_XND, windows.masks(len(x_FHWD)))
        return out

    def after(self, x_ND: Tensor) -> Tensor:
        """In the language model's space."""
        out: Tensor = self.layers(x_ND)
        return out

    def load_reference(self, state: Mapping[str, Tensor]) -> Self:
        """Weights by the names of transformers (``image_pooling_2d.q_proj.weight`` ...) or of the
        released checkpoints (``image_pooling_2d.wq.weight``, ``image_projector.w1.weight`` ...).
        """

        def renamed(name: str) -> str:
            return re.sub(r"\.(w\w)\.", lambda m: f".{_RELEASED.get(m[1], m[1])}.", name)

        return super().load_reference({renamed(name): x for name, x in state.items()})
