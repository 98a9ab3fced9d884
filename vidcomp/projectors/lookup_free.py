"""Codes that follow from the features themselves: levels (FSQ) or signs (LFQ, BSQ).

Legend: N rows, C features of a code, K codes.
"""

import math
from collections.abc import Mapping
from typing import Self

import torch
from pydantic import Field, field_validator
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

__all__ = ["Fsq", "FsqConfig", "Lfq", "LfqConfig"]


@PROJECTORS.add("fsq")
class FsqConfig(QuantizerConfig):
    """Each feature of a code rounded to a few levels; nothing about the codes is learned."""

    about = ProjectorAbout(
        paper="Finite Scalar Quantization: VQ-VAE Made Simple (Mentzer, 2023)",
        checkpoint="vector-quantize-pytorch FSQ",
    )

    levels: tuple[int, ...] = (8, 5, 5, 5)
    """Levels of every feature of a code, at least 3 each; their product is the codebook's size."""

    @field_validator("levels")
    @classmethod
    def _check_levels(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if not value or min(value) < 3 or math.prod(value) >= 2**62:
            raise ValueError(
                f"'fsq' setting 'levels' is one number of at least 3 a feature, of a product below "
                f"2^62, got {list(value)}: pass e.g. [8, 5, 5, 5] for 1,000 codes"
            )
        return value

    @property
    def dim_code(self) -> int:
        """One feature a number of levels."""
        return len(self.levels)

    @property
    def num_codes(self) -> int:
        """The product of the levels."""
        return math.prod(self.levels)

    def module(self) -> "Fsq":
        """An ``Fsq`` with torch's default initial weights."""
        return Fsq(self)


class Fsq(Quantizer):
    """Checkpoint names ``project_in.weight``, ``project_out.weight`` ..."""

    config: FsqConfig

    def codes(self, ids_N: Tensor) -> Tensor:
        """Levels in -1..1; the first feature counts fastest."""
        digits, left = [], ids_N
        for count in self.config.levels:
            digits.append((left % count - count // 2) / (count // 2))
            left = left.div(count, rounding_mode="floor")
        return torch.stack(digits, dim=-1).float()

    def snap(self, z_NC: Tensor) -> Quantized:
        """Bounded by a tangent, then rounded; gradients pass the rounding."""
        count_C = z_NC.new_tensor(self.config.levels)
        half_C = (count_C - 1) * (1 + 1e-3) / 2
        offset_C = (count_C % 2 == 0) * 0.5
        bound_NC = (z_NC + (offset_C / half_C).atanh()).tanh() * half_C - offset_C
        level_NC = straight_through(bound_NC, bound_NC.detach().round())
        width_C = count_C.div(2, rounding_mode="floor")
        digit_NC = (level_NC.detach() + width_C).long()
        basis = [math.prod(self.config.levels[:i]) for i in range(len(self.config.levels))]
        ids_N = (digit_NC * digit_NC.new_tensor(basis)).sum(dim=-1)
        return Quantized(level_NC / width_C, ids_N, z_NC.new_zeros(()))


@PROJECTORS.add("lfq")
class LfqConfig(QuantizerConfig):
    """Signs of features as bits of the id (lookup-free), on a sphere if wanted (BSQ)."""

    about = ProjectorAbout(
        paper="Language Model Beats Diffusion: Tokenizer is Key to Visual Generation (Yu, 2023)",
        checkpoint="vector-quantize-pytorch LFQ",
    )

    bits: int = Field(8, ge=1, le=24)
    """Features of a code; 2^bits codes."""
    spherical: bool = False
    """Rows and codes have length 1 (Image and Video Tokenization with Binary Spherical
    Quantization, Zhao, 2024)."""
    entropy_weight: float = Field(0.1, ge=0)
    """Weight of the entropies in the loss (``entropy_loss_weight``)."""
    diversity: float = Field(1.0, ge=0)
    """Weight of the entropy of the use of all codes against that of single rows
    (``diversity_gamma``)."""
    commitment_weight: float = Field(0.25, ge=0)
    """Weight of the mean squared distance of rows from their codes in the loss
    (``commitment_loss_weight``)."""
    inv_temperature: float = Field(100.0, gt=0)
    """Sharpness of the probabilities of codes in the entropies."""

    @property
    def dim_code(self) -> int:
        """A feature a bit."""
        return self.bits

    @property
    def num_codes(self) -> int:
        """2^bits."""
        return 1 << self.bits

    def module(self) -> "Lfq":
        """An ``Lfq`` with torch's default initial weights."""
        return Lfq(self)


class Lfq(Quantizer):
    """Checkpoint names ``project_in.weight``, ``project_out.weight`` ..."""

    config: LfqConfig

    def load_reference(self, state: Mapping[str, Tensor]) -> Self:
        """Weights of the original, whose table of powers of two is left out."""
        return super().load_reference({n: t for n, t in state.items() if n not in _TABLES})

    @property
    def scale(self) -> float:
        """Size of each feature of a code."""
        return self.config.bits**-0.5 if self.config.spherical else 1.0

    def codes(self, ids_N: Tensor) -> Tensor:
        """Plus or minus ``scale``, the highest bit first."""
        shift_C = torch.arange(self.config.bits - 1, -1, -1, device=ids_N.device)
        return ((ids_N[:, None] >> shift_C & 1) * 2 - 1).float() * self.scale

    def snap(self, z_NC: Tensor) -> Quantized:
        """The signs; 0 counts as negative."""
        if self.config.spherical:
            z_NC = normalize(z_NC, dim=-1)
        shift_C = torch.arange(self.config.bits - 1, -1, -1, device=z_NC.device)
        up_NC = z_NC > 0
        ids_N = (up_NC.long() << shift_C).sum(dim=-1)
        code_NC = torch.where(up_NC, self.scale, -self.scale).to(z_NC)
        if not self.training:
            return Quantized(straight_through(z_NC, code_NC), ids_N, z_NC.new_zeros(()))
        loss = self.config.commitment_weight * mse_loss(z_NC, code_NC)
        if self.config.entropy_weight:
            loss = loss + self.config.entropy_weight * self.entropy_loss(z_NC)
        return Quantized(straight_through(z_NC, code_NC), ids_N, loss)

    def entropy_loss(self, z_NC: Tensor) -> Tensor:
        """[] mean entropy of the rows' codes less ``diversity`` times that of their mean.

        A code's probability is the softmax of 2 ``inv_temperature`` times its product with the
        row, over all codes; bits are independent in it, so all are made by one outer product.
        """
        mean_K = z_NC.new_zeros(self.config.num_codes)
        single = z_NC.new_zeros(())
        for z in torch.split(z_NC, max(1, BLOCK >> self.config.bits)):
            chance_NK = self._chances(z)
            mean_K = mean_K + chance_NK.sum(dim=0) / len(z_NC)
            single = single + _entropy(chance_NK).sum() / len(z_NC)
        return single - self.config.diversity * _entropy(mean_K)

    def _chances(self, z_NC: Tensor) -> Tensor:
        up_NC = (4 * self.config.inv_temperature * self.scale * z_NC).sigmoid()
        both_NC2 = torch.stack([1 - up_NC, up_NC], dim=-1)
        chance_NK = both_NC2.new_ones(len(z_NC), 1)
        for bit_N2 in both_NC2.unbind(dim=1):
            chance_NK = (chance_NK[:, :, None] * bit_N2[:, None]).flatten(1)
        return chance_NK


_TABLES = {"mask", "zero", "codebook"}
"""Buffers of LFQ checkpoints that follow from the settings."""


def _entropy(chance: Tensor) -> Tensor:
    """[...] of [..., K]; logarithms end at that of 1e-5, as the original's."""
    return -(chance * chance.clamp(min=1e-5).log()).sum(dim=-1)
