"""Published algorithms as their authors describe them, to be timed; answers are not compared."""

from collections.abc import Callable

from torch import Tensor

from vidcomp.types import VideoTokens

__all__ = ["PUBLISHED"]

PUBLISHED: dict[str, Callable[[VideoTokens, int], Tensor]] = {}
