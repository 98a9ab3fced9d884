"""The transformer inside every Q-Former: BERT whose first rows, the latents, also read the video.

BLIP-2: Bootstrapping Language-Image Pre-training with Frozen Image Encoders and Large Language
Models, 2023, https://arxiv.org/abs/2301.12597.  Modules are called as in transformers'
``Blip2QFormerModel`` and ``InstructBlipQFormerModel``, so that checkpoints fit by name; the code is
our own, because we mask every set, tell what the latents read last, and let the attention be
recorded.  What nothing reads is left out: the text's half of the last layer, whose weights
checkpoints carry along.

Legend: B sets, K latents, L latents and words of the longest text, W words, N keys, D features.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence

from vidcomp.errors import ConfigError, ShapeError
from vidcomp.functional.relevance import head_relevance
from vidcomp.projectors.bert import AddedNorm, AttentionBlock, Hidden
from vidcomp.projectors.blocks import untraced
from vidcomp.types import Query, QueryIds

__all__ = ["QFormer", "QFormerShape", "Words", "relevance_layers"]

_EPS = 1e-12
_LAYER = re.compile(r"layer\.(\d+)\.(attention|crossattention)\.attention$")


@dataclass(frozen=True, slots=True, kw_only=True)
class QFormerShape:
    """Sizes of a Q-Former."""

    dim: int
    """Features of latents and words."""
    dim_key: int
    """Features of what the latents read."""
    depth: int
    """Layers."""
    heads: int
    """Attention heads."""
    dim_ff: int
    """Hidden features of the feed-forwards."""
    cross_attention_frequency: int
    """Every such layer, from the first, reads the keys."""
    dropout: float
    """While training only."""
    num_words: int = 0
    """Rows of the table of words; 0: no text."""
    max_words: int = 0
    """Rows of the table of the words' positions."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Words:
    """Texts of several sets side by side."""

    ids: Tensor
    """[B, W] int64, 0 where there is none."""
    mask: Tensor
    """[B, W] bool, True where a word is."""

    @classmethod
    @untraced
    def of(
        cls, queries: Sequence[Query | None], shape: QFormerShape, device: torch.device
    ) -> "Words":
        """The texts of queries, each of its own length.

        Raises:
            ShapeError: a text is longer than the table of positions, or an id is outside that of
                words.
        """
        texts = [cast(QueryIds, query).ids for query in queries]
        longest = max(len(text) for text in texts)
        if longest > shape.max_words:
            raise ShapeError(
                f"a question may have {shape.max_words} token ids, got {longest}: shorten it"
            )
        ids = pad_sequence([text.to(device) for text in texts], batch_first=True)
        low, high = int(ids.min()), int(ids.max())
        if low < 0 or high >= shape.num_words:
            raise ShapeError(
                f"token ids of a question must be in 0..{shape.num_words - 1}, got {low} to "
                f"{high}: use the tokenizer that the projector was trained with"
            )
        length_B = torch.tensor([len(text) for text in texts], device=device)
        return cls(ids=ids, mask=torch.arange(longest, device=device) < length_B[:, None])


class _Layer(nn.Module):
    """Latents and words read each other, the latents the video; feed-forwards of their own."""

    def __init__(self, shape: QFormerShape, *, crosses: bool, keeps_words: bool) -> None:
        super().__init__()
        dim, ff, dropout = shape.dim, shape.dim_ff, shape.dropout
        self.attention = AttentionBlock(dim, dim, shape.heads, dropout)
        if crosses:
            self.crossattention = AttentionBlock(dim, shape.dim_key, shape.heads, dropout)
        if keeps_words:
            self.intermediate = Hidden(dim, ff)
            self.output = AddedNorm(ff, dim, dropout)
        self.intermediate_query = Hidden(dim, ff)
        self.output_query = AddedNorm(ff, dim, dropout)
        self.crosses, self.keeps_words = crosses, keeps_words

    def among(self, rows_BLD: Tensor, num_latents: int, mask_BL: Tensor | None) -> Tensor:
        """[B, L, D] after reading each other; the latents alone if the words end here."""
        asking = rows_BLD if self.keeps_words else rows_BLD[:, :num_latents]
        out: Tensor = self.attention(asking, rows_BLD, mask_BL)
        return out

    def latents(self, latents_BKD: Tensor) -> Tensor:
        """[B, K, D] after the feed-forward."""
        out: Tensor = self.output_query(self.intermediate_query(latents_BKD), latents_BKD)
        return out

    def words(self, words_BWD: Tensor) -> Tensor:
        """[B, W, D] after the feed-forward."""
        out: Tensor = self.output(self.intermediate(words_BWD), words_BWD)
        return out


class _Embeddings(nn.Module):
    """Latents and embedded words, normalised together."""

    def __init__(self, shape: QFormerShape) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(shape.num_words, shape.dim)
        self.position_embeddings = nn.Embedding(shape.max_words, shape.dim)
        self.layernorm = nn.LayerNorm(shape.dim, eps=_EPS)

    def forward(self, latents_BKD: Tensor, words: Words) -> Tensor:
        places = self.position_embeddings.weight[: words.ids.shape[1]]
        words_BWD = self.word_embeddings(words.ids) + places
        out: Tensor = self.layernorm(torch.cat([latents_BKD, words_BWD], dim=1))
        return out


class QFormer(nn.Module):
    """Latents that read keys, and words if there are some; weights normal 0.02 as in BERT."""

    def __init__(self, shape: QFormerShape) -> None:
        super().__init__()
        self.shape = shape
        if shape.num_words:
            self.embeddings = _Embeddings(shape)
        else:
            self.layernorm = nn.LayerNorm(shape.dim, eps=_EPS)
        self.dropout = nn.Dropout(shape.dropout)
        layers = [
            _Layer(
                shape,
                crosses=number % shape.cross_attention_frequency == 0,
                keeps_words=shape.num_words > 0 and number < shape.depth - 1,
            )
            for number in range(shape.depth)
        ]
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(layers)})
        self.apply(_start)

    def forward(
        self,
        latents_BKD: Tensor,
        key_BND: Tensor,
        mask_BN: Tensor | None = None,
        words: Words | None = None,
    ) -> Tensor:
        """[B, K, D] what the latents became.

        Args:
            latents_BKD: as they start.
            key_BND: what is read; its rows may be of any width ``dim_key``.
            mask_BN: bool, True where a key is; ``None``: everywhere.
            words: the text, for shapes with words.
        """
        return self._through(latents_BKD, key_BND, mask_BN, words, None)[0]

    def read(
        self,
        latents_BKD: Tensor,
        key_BND: Tensor,
        mask_BN: Tensor | None = None,
        words: Words | None = None,
    ) -> tuple[Tensor, Tensor]:
        """What ``forward`` gives, and [B, K, N] float32 shares of the keys in what the latents read
        in the last layer that reads keys.
        """
        return self._through(latents_BKD, key_BND, mask_BN, words, self._last_reader)

    def _through(
        self,
        latents_BKD: Tensor,
        key_BND: Tensor,
        mask_BN: Tensor | None,
        words: Words | None,
        told: int | None,
    ) -> tuple[Tensor, Tensor]:
        """Through all layers, of which the one with the number ``told`` tells its shares."""
        num_latents, mask_BL = latents_BKD.shape[1], None
        if words is None:
            rows_BLD = self.layernorm(latents_BKD)
        else:
            rows_BLD = self.embeddings(latents_BKD, words)
            mask_BL = torch.cat([words.mask.new_ones(latents_BKD.shape[:2]), words.mask], dim=1)
        rows_BLD = self.dropout(rows_BLD)
        sources_BKN = key_BND
        for number, layer in enumerate(self._layers):
            rows_BLD = layer.among(rows_BLD, num_latents, mask_BL)
            latents, rest = rows_BLD[:, :num_latents], rows_BLD[:, num_latents:]
            if number == told:
                latents, sources_BKN = layer.crossattention.read(latents, key_BND, mask_BN)
            elif layer.crosses:
                latents = layer.crossattention(latents, key_BND, mask_BN)
            rows_BLD = layer.latents(latents)
            if layer.keeps_words:
                rows_BLD = torch.cat([rows_BLD, layer.words(rest)], dim=1)
        return rows_BLD, sources_BKN

    @property
    def _layers(self) -> list[_Layer]:
        return [*cast("nn.ModuleList", self.encoder["layer"])]

    @property
    def _last_reader(self) -> int:
        frequency = self.shape.cross_attention_frequency
        return (self.shape.depth - 1) // frequency * frequency


def relevance_layers(
    records: Mapping[str, Sequence[Tensor]],
) -> list[tuple[Tensor | None, Tensor | None]]:
    """What ``vidcomp.functional.relevance.latent_relevance`` reads, of one call of a Q-Former.

    Args:
        records: of ``recorded_attention``, after a backward pass from the target.

    Returns:
        For every layer [B, L, L] of latents and words among themselves and [B, L, N] of them and
        the keys, ``None`` where it reads none; the latents come first, and rows of words that read
        nothing are 0.

    Raises:
        ConfigError: more or less than one call was recorded, or none went backward.
    """
    layers: dict[int, dict[str, Tensor]] = {}
    for name, calls in records.items():
        if len(calls) != 1 or calls[0].grad is None:
            raise ConfigError(
                f"relevance needs one recorded call and a backward pass, got {len(calls)} calls of "
                f"{name!r}: call the projector once, then target.backward(), inside the recording"
            )
        match = _LAYER.search(name)
        if match is not None:
            number, kind = int(match[1]), match[2]
            layers.setdefault(number, {})[kind] = head_relevance(calls[0], calls[0].grad)
    num_rows = max(kinds["attention"].shape[-1] for kinds in layers.values())
    found: list[tuple[Tensor | None, Tensor | None]] = []
    for _, kinds in sorted(layers.items()):
        full = {k: pad(x, (0, 0, 0, num_rows - x.shape[-2])) for k, x in kinds.items()}
        found.append((full["attention"], full.get("crossattention")))
    return found


def _start(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    bias: Any = getattr(module, "bias", None)
    if isinstance(module, nn.Linear) and bias is not None:
        nn.init.zeros_(bias)
