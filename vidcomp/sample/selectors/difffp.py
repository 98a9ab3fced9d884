"""Patches that differ from the frame before, as VideoLLaMA 3's frame pruner.

"VideoLLaMA 3: Frontier Multimodal Foundation Models for Image and Video Understanding" (Zhang et
al., 2025).

Legend: C channels, h w cells.
"""

from pydantic import Field
from torch import Tensor

from vidcomp.registry import SELECTORS
from vidcomp.sample.selectors._pixels import PixelSelector

__all__ = ["DiffFP"]


@SELECTORS.add("difffp")
class DiffFP(PixelSelector):
    """Patches whose normalised pixels changed by more than a threshold, in grey levels.

    From VideoLLaMA 3's DiffFP, which drops tokens after the encoder; here they are never computed.
    The change is the mean absolute difference of normalised pixels times 255, so that a threshold
    of 0.1 with a deviation of 0.5 is a twentieth of a grey level: all that is not quite still.  The
    first frame is kept whole.
    """

    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    """Deviation of each channel by which the encoder divides pixels (0..1)."""
    min_tokens: int = Field(1, ge=0)
    """Patches of each step of the grid that are kept at least: its first ones, as published; with
    ``retention`` those that changed most."""

    @property
    def scale(self) -> tuple[float, ...]:
        """Grey levels of normalised pixels."""
        return tuple(255 / value for value in self.std)

    def keeps(self, change_hw: Tensor, valid_hw: Tensor) -> Tensor:  # noqa: ARG002
        """[h, w] bool: changes above the threshold."""
        return change_hw > self.threshold
