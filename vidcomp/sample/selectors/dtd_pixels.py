"""Patches that differ from the frame before, as TimeChat-Online's differential token drop.

"TimeChat-Online: 80% Visual Tokens are Naturally Redundant in Streaming Videos" (Yao et al., 2025).

Legend: h w cells, P patches of a step.
"""

import math
from decimal import Decimal
from typing import Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from vidcomp.errors import ConfigError
from vidcomp.registry import SELECTORS
from vidcomp.sample.selectors._pixels import PixelSelector

__all__ = ["DtdPixels"]


@SELECTORS.add("dtd_pixels")
class DtdPixels(PixelSelector):
    """Patches whose pixels (0..1) changed by a threshold or more, or a fixed share of each frame.

    The pixel form of TimeChat-Online's DTD, which drops tokens after their embedding; here they are
    never computed.  With tubelets of two frames the last frame of one is compared with the first
    frame of the one before, and what lies between is never looked at, as in the original.  The
    first step is kept whole.
    """

    share: float | None = Field(None, ge=0, lt=1)
    """Share of each later step's patches that is dropped (rounded down), those that changed least,
    whatever the threshold."""

    @model_validator(mode="after")
    def _check_ways(self) -> Self:
        if self.share is not None and self.retention is not None:
            raise ConfigError(
                f"'dtd_pixels' keeps a share of each frame or of the video, got share={self.share} "
                f"and retention={self.retention}: leave one out"
            )
        return self

    @property
    def scale(self) -> tuple[float, ...]:
        """Differences are those of pixels in 0..1."""
        return (1.0, 1.0, 1.0)

    def keeps(self, change_hw: Tensor, valid_hw: Tensor) -> Tensor:
        """[h, w] bool: changes of the threshold or more, or all but the least ones."""
        if self.share is None:
            return change_hw >= self.threshold
        if bool(change_hw.isinf().all()):
            return torch.ones_like(valid_hw)
        change_P = change_hw.masked_fill(~valid_hw, torch.inf).flatten()
        dropped = math.floor(Decimal(str(self.share)) * int(valid_hw.sum()))
        kept_P = torch.ones_like(change_P, dtype=torch.bool)
        kept_P[change_P.argsort(stable=True)[:dropped]] = False
        return kept_P.reshape(change_hw.shape)
