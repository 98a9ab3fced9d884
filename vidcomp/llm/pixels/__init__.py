"""What the video processor of each family does to frames, without torchvision."""

from vidcomp.llm.pixels.base import Prepared
from vidcomp.llm.pixels.processor import Pixels

__all__ = ["Pixels", "Prepared"]
