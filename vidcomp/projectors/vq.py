"""Learned codebooks.

Legend: N rows, C features of a code, K codes.
"""

from collections.abc import Mapping
from typing import Literal, Self

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import mse_loss, normalize

from vidcomp.projectors.base import ProjectorAbout
from vidcomp.projectors.quantize import (
    BLOCK,
    Quantized,
    Quantizer,
    QuantizerConfig,
    straight_through,
)
from vidcomp.registry import PROJECTORS

__all__ = ["Vq", "VqConfig"]


@PROJECTORS.add("vq")
class VqConfig(QuantizerConfig):
    """The nearest of learned codes (VQ-VAE), which follow their rows by moving averages."""

    about = ProjectorAbout(
        paper="Neural Discrete Representation Learning (van den Oord, 2017)",
        checkpoint="vector-quantize-pytorch VectorQuantize",
    )

    codebook_size: int = Field(512, ge=1)
    """Codes."""
    codebook_dim: int | None = Field(None, ge=1)
    """Features of a code; ``None``: ``dim_in``."""
    cosine: bool = False
    """Nearest by cosine (``use_cosine_sim``) instead of by distance."""
    decay: float = Field(0.8, ge=0, lt=1)
    """Share of the old averages that stays in a step of training."""
    commitment_weight: float = Field(1.0, ge=0)
    """Weight of the mean squared distance of rows from their codes in the loss."""
    gradient: Literal["rotation", "straight_through"] = "rotation"
    """How gradients pass a code: turned and scaled from the code onto the row (Restructuring
    Vector Quantization with the Rotation Trick, Fifty, 2024), or copied."""
    dead_below: float = Field(2.0, ge=0)
    """A code whose average number of rows falls below this moves to a row that is far from its own
    (``threshold_ema_dead_code``; the original takes any row, at random); 0: never."""

    @property
    def dim_code(self) -> int:
        """As the settings say."""
        return self.codebook_dim or self.dim_in

    @property
    def num_codes(self) -> int:
        """``codebook_size``."""
        return self.codebook_size

    def module(self) -> "Vq":
        """A ``Vq`` with standard normal codes (of unit length for ``cosine``)."""
        return Vq(self)


class Vq(Quantizer):
    """Checkpoint names ``_codebook.embed``, ``project_in.weight`` ..."""

    config: VqConfig
    embed: Tensor
    embed_avg: Tensor
    cluster_size: Tensor
    reference_names = ((r"^(embed|embed_avg|cluster_size)$", r"_codebook.\1"),)

    def __init__(self, config: VqConfig) -> None:
        super().__init__(config)
        embed_KC = torch.randn(config.num_codes, config.dim_code)
        embed_KC = normalize(embed_KC, dim=-1) if config.cosine else embed_KC
        self.register_buffer("embed", embed_KC)
        self.register_buffer("embed_avg", embed_KC.clone())
        self.register_buffer("cluster_size", torch.ones(config.num_codes))

    def load_reference(self, state: Mapping[str, Tensor]) -> Self:
        """Weights of the original, whose codebooks have an axis of heads (one) in front."""
        ours = {n: t for n, t in state.items() if n != "_codebook.initted"}
        for name in ("embed", "embed_avg", "cluster_size"):
            value, own = ours.get(f"_codebook.{name}"), getattr(self, name)
            if value is not None and value.ndim == own.ndim + 1 and len(value) == 1:
                ours[f"_codebook.{name}"] = value[0]
        return super().load_reference(ours)

    def codes(self, ids_N: Tensor) -> Tensor:
        """Rows of the codebook."""
        return self.embed.float()[ids_N]

    def snap(self, z_NC: Tensor) -> Quantized:
        """The nearest code, ties to the lower id; in training the codebook takes a step after."""
        if self.config.cosine:
            z_NC = normalize(z_NC, dim=-1)
        with torch.no_grad():
            ids_N = self._nearest(z_NC)
            code_NC = self.codes(ids_N)
        turned_NC = _rotated(z_NC, code_NC) if self.config.gradient == "rotation" else z_NC
        passed_NC = straight_through(turned_NC, code_NC)
        if not self.training:
            return Quantized(passed_NC, ids_N, z_NC.new_zeros(()))
        loss = self.config.commitment_weight * mse_loss(z_NC, code_NC)
        with torch.no_grad():
            self._step(z_NC, ids_N, code_NC)
        return Quantized(passed_NC, ids_N, loss)

    def _nearest(self, z_NC: Tensor) -> Tensor:
        embed_KC = self.embed.float()
        half_K = embed_KC.square().sum(dim=-1) / 2 if not self.config.cosine else 0
        rows = max(1, BLOCK // len(embed_KC))
        # Of all codes, |z - e|^2 is least where z e - |e|^2 / 2 is most.
        return torch.cat([(z @ embed_KC.T - half_K).argmax(dim=1) for z in torch.split(z_NC, rows)])

    def _step(self, z_NC: Tensor, ids_N: Tensor, code_NC: Tensor) -> None:
        k, keep = self.config.num_codes, self.config.decay
        count_K = torch.bincount(ids_N, minlength=k).to(self.cluster_size)
        sum_KC = torch.zeros_like(self.embed_avg).index_add(0, ids_N, z_NC.to(self.embed_avg))
        self.cluster_size.lerp_(count_K, 1 - keep)
        self.embed_avg.lerp_(sum_KC, 1 - keep)
        total = self.cluster_size.sum()
        smooth_K = (self.cluster_size + 1e-5) / (total + k * 1e-5) * total
        embed_KC = self.embed_avg / smooth_K[:, None]
        self.embed.copy_(normalize(embed_KC, dim=-1) if self.config.cosine else embed_KC)
        self._revive(z_NC, (z_NC - code_NC).square().sum(dim=-1))

    def _revive(self, z_NC: Tensor, gap_N: Tensor) -> None:
        """Codes that hardly any row chooses become rows, drawn by their squared distance from
        their codes with a fixed seed: the farthest alone may all be neighbours.
        """
        dead = (self.cluster_size < self.config.dead_below).nonzero().squeeze(1)[: len(z_NC)]
        if not len(dead):
            return
        chance_N = gap_N.double().cpu() + 1e-12
        drawn = torch.multinomial(chance_N, len(dead), generator=torch.Generator().manual_seed(0))
        self.embed[dead] = z_NC[drawn.to(dead.device)].to(self.embed)
        self.cluster_size[dead] = self.config.dead_below
        self.embed_avg[dead] = self.embed[dead] * self.config.dead_below


def _rotated(z_NC: Tensor, code_NC: Tensor) -> Tensor:
    """The rows turned and scaled onto their codes by maps that count as constant."""
    length_N1 = z_NC.detach().norm(dim=-1, keepdim=True).clamp(min=1e-6)
    wanted_N1 = code_NC.norm(dim=-1, keepdim=True).clamp(min=1e-6)
    from_NC, to_NC = z_NC.detach() / length_N1, code_NC / wanted_N1
    middle_NC = normalize(from_NC + to_NC, dim=-1, eps=1e-6)

    def along(axis_NC: Tensor) -> Tensor:
        return (z_NC * axis_NC).sum(dim=-1, keepdim=True)

    turned_NC = z_NC - 2 * along(middle_NC) * middle_NC + 2 * along(from_NC) * to_NC
    out: Tensor = turned_NC * (wanted_N1 / length_N1)
    return out
