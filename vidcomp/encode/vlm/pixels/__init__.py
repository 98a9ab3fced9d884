"""What the video processor of each family does to frames, without torchvision."""

from vidcomp.encode.vlm.pixels.base import Prepared
from vidcomp.encode.vlm.pixels.processor import Pixels

__all__ = ["Pixels", "Prepared"]
