"""The Q-Formers of BLIP-2, InstructBLIP and InstructBLIP-Video.

BLIP-2: Bootstrapping Language-Image Pre-training with Frozen Image Encoders and Large Language
Models, 2023, https://arxiv.org/abs/2301.12597; InstructBLIP: Towards General-purpose
Vision-Language Models with Instruction Tuning, 2023, https://arxiv.org/abs/2305.06500.  Weights of
transformers and of LAVIS fit by their own names.  Both read frame after frame by itself; with
``frames_per_clip`` several frames are read at once, with ``max_frames`` in order.

Legend: B clips of all videos, K latents, N tokens of the longest clip, D features.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from vidcomp.errors import ConfigError
from vidcomp.projectors.base import ProjectorAbout
from vidcomp.projectors.latents import LatentConfig, LatentProjector, output_layer
from vidcomp.projectors.qformer_blocks import QFormer, QFormerShape, Words
from vidcomp.projectors.sets import ClipSets
from vidcomp.registry import PROJECTORS
from vidcomp.types import Query, QueryIds

__all__ = [
    "InstructQFormerConfig",
    "QFormerConfig",
    "QFormerProjector",
    "qformer_names",
]


@PROJECTORS.add("qformer")
class QFormerConfig(LatentConfig):
    """Latents that read themselves and, every other layer, the video (BLIP-2)."""

    about = ProjectorAbout(
        paper="BLIP-2: Bootstrapping Language-Image Pre-training with Frozen Image Encoders and "
        "Large Language Models (Li, 2023)",
        tokens="`num_latents` a clip; a clip is a frame",
        checkpoint="transformers Blip2 `query_tokens`, `qformer`, `language_projection`; LAVIS "
        "`Qformer.bert`",
        in_order=False,
    )

    num_latents: int = Field(32, ge=1)
    """Tokens out of every clip (``num_query_tokens``)."""
    dim: int = Field(768, ge=1)
    """Features of the latents (``hidden_size``)."""
    depth: int = Field(12, ge=1)
    """Layers (``num_hidden_layers``)."""
    heads: int = Field(12, ge=1)
    """Attention heads; they divide ``dim``."""
    dim_ff: int = Field(3072, ge=1)
    """Hidden features of the feed-forwards (``intermediate_size``)."""
    cross_attention_frequency: int = Field(2, ge=1)
    """Every such layer, from the first, reads the video."""
    dropout: float = Field(0.1, ge=0, lt=1)
    """While training only."""
    norm_input: bool = False
    """Normalise the tokens first, as LAVIS does outside of its Q-Former (``ln_vision``);
    transformers' encoders have done it already."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.dim % self.heads:
            raise ValueError(
                f"{self.name!r} splits dim={self.dim} among its heads, got heads={self.heads}: "
                f"choose a divisor"
            )
        return self

    @property
    def shape(self) -> QFormerShape:
        """The transformer's sizes."""
        return QFormerShape(**self._sizes())

    def _sizes(self) -> dict[str, Any]:
        same = ("dim", "depth", "heads", "dim_ff", "cross_attention_frequency", "dropout")
        return {"dim_key": self.dim_rows, **{name: getattr(self, name) for name in same}}

    def module(self) -> "QFormerProjector":
        """A ``QFormerProjector`` with weights normal 0.02, latents too (LAVIS)."""
        return QFormerProjector(self)


@PROJECTORS.add("instruct_qformer")
class InstructQFormerConfig(QFormerConfig):
    """A Q-Former whose latents read the question too (InstructBLIP, InstructBLIP-Video)."""

    about = ProjectorAbout(
        paper="InstructBLIP: Towards General-purpose Vision-Language Models with Instruction "
        "Tuning (Dai, 2023)",
        tokens="`num_latents` a clip; a clip is a frame",
        checkpoint="transformers InstructBlip and InstructBlipVideo `query_tokens`, `qformer`, "
        "`language_projection`; LAVIS `Qformer.bert`",
        in_order=False,
    )
    asks = QueryIds

    num_words: int = Field(30523, ge=1)
    """Rows of the table of words (``vocab_size``), a BERT tokenizer's and one."""
    max_words: int = Field(512, ge=1)
    """Most token ids of a question (``max_position_embeddings``)."""

    def _sizes(self) -> dict[str, Any]:
        return {**super()._sizes(), "num_words": self.num_words, "max_words": self.max_words}


class QFormerProjector(LatentProjector):
    """The Q-Former; if ``dim_out`` is not ``dim``, ``language_projection`` follows it.

    The soft provenance of a latent is the attention of the last layer that reads the video,
    averaged over heads: where it looked last, not all that it has seen.
    """

    config: QFormerConfig

    def __init__(self, config: QFormerConfig) -> None:
        super().__init__(config)
        shape = config.shape
        if config.norm_input:
            self.ln_vision = nn.LayerNorm(shape.dim_key)
        # Not zeros, as in transformers: latents that start alike stay alike.
        self.query_tokens = nn.Parameter(torch.randn(1, config.num_latents, shape.dim) * 0.02)
        self.qformer = QFormer(shape)
        self.language_projection = output_layer(shape.dim, config.dim_out)

    def load_reference(self, state: Mapping[str, Tensor]) -> Self:
        """Weights by the names of transformers or of LAVIS (``Qformer.bert.``, ``llm_proj.``).

        What reads no text leaves out the text's half of a checkpoint, and what does the text's half
        of the last layer, which nothing reads.
        """
        return super().load_reference(qformer_names(state, own=self.state_dict()))

    def read(self, clips: ClipSets) -> tuple[Tensor, Tensor]:
        """The latents after the last layer; see ``QFormer``."""
        latents = self.query_tokens.expand(len(clips.rows), -1, -1)
        words = self._words(clips.queries)
        out_BKD, sources_BKN = self.qformer.read(latents, self._keys(clips), clips.mask, words)
        return self.language_projection(out_BKD), sources_BKN

    def _keys(self, clips: ClipSets) -> Tensor:
        keys_BND = self.ln_vision(clips.rows) if self.config.norm_input else clips.rows
        return self.add_frames(keys_BND, clips)

    def _words(self, queries: Sequence[Query | None]) -> Words | None:
        if self.asks is None:
            return None
        return Words.of(queries, self.qformer.shape, self.query_tokens.device)


_DIALECTS = (
    (r"^(Qformer\.)?bert\.", "qformer."),  # LAVIS
    (r"\.(attention|crossattention)\.self\.", r".\1.attention."),
    (r"\.embeddings\.LayerNorm\.", ".embeddings.layernorm."),
    (r"^(llm_proj|opt_proj|t5_proj)\.", "language_projection."),
)
_UNREAD = r"\.position_ids$|^Qformer\.cls\."
_TEXT = r"^qformer\.(embeddings\.|encoder\.layer\.\d+\.(intermediate|output)\.)"


def qformer_names(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A checkpoint's tensors by transformers' names, without what a Q-Former here does not read.

    Args:
        state: by the names of LAVIS or of transformers.
        own: entries of the module; of the text's half, only these are kept.

    Raises:
        ConfigError: two names of the checkpoint mean the same.
    """
    found: dict[str, Tensor] = {}
    for original, tensor in state.items():
        if re.search(_UNREAD, original):
            continue
        name = original
        for pattern, replacement in _DIALECTS:
            name = re.sub(pattern, replacement, name)
        norm = name.replace(".embeddings.layernorm.", ".layernorm.")
        if norm in own:
            name = norm
        if name not in own and re.match(_TEXT, name):
            continue
        if name in found:
            raise ConfigError(
                f"a Q-Former's weights are wanted once, got {name!r} twice, the second time as "
                f"{original!r}: pass the weights of one model"
            )
        found[name] = tensor
    return found
